"""The registry that everything comes from: an nginx that serves files, as fast as it can or as slowly as it is told."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import field, frozen

from bench.line import Line, slow_line
from bench.processes import BenchError, accepts, free_port, make_certificate, program, running

MIB = 1024 * 1024
PIECE = 4 * MIB


@frozen
class Blob:
    """A layer: its path in URLs, and the file the registry serves."""

    path: str
    file: Path
    size: int

    @property
    def hex(self) -> str:
        """Its sha256."""
        return self.path.rpartition(":")[2]


@frozen
class Origin:
    """The registry that both servers cache. `line` is what its bytes come through, if that is slow."""

    url: str
    authority: Path
    blobs: tuple[Blob, ...]
    manifest: str
    line: Line | None = None
    _taken: dict[str, int] = field(factory=dict)

    def next_blob(self, who: str) -> Blob:
        """The next blob that `who` has not asked for."""
        number = self._taken.get(who, 0)
        if number >= len(self.blobs):
            raise BenchError(f"{who} has had all blobs")
        self._taken[who] = number + 1
        return self.blobs[number]


@contextmanager
def origin(
    directory: Path, sizes: Sequence[int], rate: int | None = None, line_rate: int | None = None
) -> Iterator[Origin]:
    """A registry over TLS with one blob of each of these sizes.

    `rate` limits every connection, `line_rate` all of them together; both are bytes per second.
    """
    files = directory / "registry"
    (files / "blobs").mkdir(parents=True)
    (files / "manifests").mkdir()
    blobs = tuple(_blob(files, size) for size in sizes)
    port = free_port()
    certificate, key = make_certificate(directory / "registry-tls", "localhost")
    configuration = directory / "registry.conf"
    configuration.write_text(_conf(directory, port, certificate, key, rate))
    command = [program("nginx", "nginx-light"), "-c", str(configuration), "-p", str(directory)]
    log = directory / "registry.log"
    with ExitStack() as stack:
        stack.enter_context(running("the registry", [*command, "-e", str(log)], log, lambda: accepts(port)))
        line = None
        if line_rate is not None:
            line = stack.enter_context(slow_line(directory, port, line_rate))
        url = f"https://localhost:{line.port if line else port}"
        yield Origin(url, certificate, blobs, _manifest(files, blobs), line)


def _blob(files: Path, size: int) -> Blob:
    digest = hashlib.sha256()
    new = files / "new"
    with new.open("wb") as file:
        for start in range(0, size, PIECE):
            piece = os.urandom(min(PIECE, size - start))
            digest.update(piece)
            file.write(piece)
    name = f"sha256:{digest.hexdigest()}"
    new.rename(files / "blobs" / name)
    return Blob(f"/v2/team/app/blobs/{name}", files / "blobs" / name, size)


def _manifest(files: Path, blobs: Sequence[Blob]) -> str:
    """Put a manifest of an image with these layers into the registry; its path in URLs."""

    def descriptor(media_type: str, digest: str, size: int) -> dict[str, object]:
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": digest, "size": size}

    layers = [descriptor("layer.v1.tar", f"sha256:{blob.hex}", blob.size) for blob in blobs]
    config = descriptor("config.v1+json", f"sha256:{hashlib.sha256(b'{}').hexdigest()}", 2)
    document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
    data = json.dumps(document).encode()
    name = f"sha256:{hashlib.sha256(data).hexdigest()}"
    (files / "manifests" / name).write_bytes(data)
    return f"/v2/team/app/manifests/{name}"


MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def _conf(directory: Path, port: int, certificate: Path, key: Path, rate: int | None) -> str:
    temporary = "\n".join(
        f"    {kind}_temp_path {directory}/registry-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{"user root;" if os.getuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {directory}/registry.pid;
error_log {directory}/registry.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    output_buffers 2 256k;
    limit_rate {rate or 0};
{temporary}
    server {{
        listen 127.0.0.1:{port} ssl backlog=1024;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {directory}/registry;
        default_type application/octet-stream;
        location = /v2/ {{ return 200 "{{}}"; }}
        location /v2/team/app/blobs/ {{ alias {directory}/registry/blobs/; }}
        location /v2/team/app/manifests/ {{
            alias {directory}/registry/manifests/;
            default_type {MANIFEST_TYPE};
        }}
    }}
}}
"""
