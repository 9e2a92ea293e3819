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
NAME = "registry.test"
"""What clients call it, whichever server answers for it."""
IMAGE, TAG = "team/app", "latest"
CONFIG = b"{}"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_OPEN = 'location = /v2/ { return 200 "{}"; }'
"""What a registry without a gate has instead of one."""


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
class Asked:
    """A request that a gated registry has answered: the path without the query, the bytes of the response's body."""

    method: str
    path: str
    size: int


@frozen
class Origin:
    """The registry that both servers cache. `line` is what its bytes come through, if that is slow."""

    url: str
    authority: Path
    blobs: tuple[Blob, ...]
    manifest: str
    line: Line | None = None
    _log: Path | None = None
    _taken: dict[str, int] = field(factory=dict)

    def requests(self) -> list[Asked]:
        """What a gated registry was asked so far."""
        assert self._log is not None
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return [Asked(method, path, int(size)) for method, path, size in lines]

    def next_blob(self, who: str) -> Blob:
        """The next blob that `who` has not asked for."""
        number = self._taken.get(who, 0)
        if number >= len(self.blobs):
            raise BenchError(f"{who} has had all blobs")
        self._taken[who] = number + 1
        return self.blobs[number]


@contextmanager
def origin(
    directory: Path,
    sizes: Sequence[int],
    rate: int | None = None,
    line_rate: int | None = None,
    gated: bool = False,
) -> Iterator[Origin]:
    """A registry over TLS with one blob of each of these sizes.

    `rate` limits every connection, `line_rate` all of them together; both are bytes per second. One that is `gated`
    wants a token, which it gives to anybody, as public registries do; it has the image IMAGE:TAG, and counts.
    """
    files = directory / "registry"
    (files / "blobs").mkdir(parents=True)
    (files / "manifests").mkdir()
    blobs = tuple(_blob(files, size) for size in sizes)
    manifest = _manifest(files, blobs)
    gate = _gate(directory, manifest) if gated else _OPEN
    port = free_port()
    certificate, key = make_certificate(directory / "registry-tls", "localhost")
    configuration = directory / "registry.conf"
    configuration.write_text(_conf(directory, port, certificate, key, rate, gate))
    command = [program("nginx", "nginx-light"), "-c", str(configuration), "-p", str(directory)]
    log = directory / "registry.log"
    with ExitStack() as stack:
        stack.enter_context(running("the registry", [*command, "-e", str(log)], log, lambda: accepts(port)))
        line = None
        if line_rate is not None:
            line = stack.enter_context(slow_line(directory, port, line_rate))
        url = f"https://localhost:{line.port if line else port}"
        counted = directory / "registry.requests" if gated else None
        yield Origin(url, certificate, blobs, manifest, line, counted)


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
    config = descriptor("config.v1+json", _name(CONFIG), len(CONFIG))
    (files / "blobs" / _name(CONFIG)).write_bytes(CONFIG)
    document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
    data = json.dumps(document).encode()
    (files / "manifests" / _name(data)).write_bytes(data)
    return f"/v2/{IMAGE}/manifests/{_name(data)}"


def _name(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _gate(directory: Path, manifest: str) -> str:
    """The challenge, the token and the count, and an index with one manifest, which is what TAG names."""
    manifests = directory / "registry" / "manifests"
    name = manifest.rpartition("/")[2]
    entry = {
        "mediaType": MANIFEST_TYPE,
        "digest": name,
        "size": (manifests / name).stat().st_size,
        "platform": {"architecture": "amd64", "os": "linux"},
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}).encode()
    (manifests / _name(index)).write_bytes(index)
    return f"""
        access_log {directory}/registry.requests counted;
        add_header WWW-Authenticate $challenge always;
        if ($challenge) {{ return 401 "{{}}"; }}
        location = /v2/ {{ return 200 "{{}}"; }}
        location = /token {{
            default_type application/json;
            return 200 '{{"token":"anybodys","expires_in":3600}}';
        }}
        location ~ ^/v2/{IMAGE}/manifests/({TAG}|{_name(index)})$ {{
            alias {manifests}/{_name(index)};
            default_type {INDEX_TYPE};
            add_header Docker-Content-Digest {_name(index)};
        }}
"""


def _conf(directory: Path, port: int, certificate: Path, key: Path, rate: int | None, gate: str) -> str:
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
    log_format counted '$request_method $uri $body_bytes_sent';
    map "$uri $http_authorization" $challenge {{
        "/token " "";
        "~^[^ ]* $" 'Bearer realm="https://{NAME}/token",service="{NAME}"';
    }}
{temporary}
    server {{
        listen 127.0.0.1:{port} ssl backlog=1024;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {directory}/registry;
        default_type application/octet-stream;
        {gate}
        location /v2/team/app/blobs/ {{ alias {directory}/registry/blobs/; }}
        location /v2/team/app/manifests/ {{
            alias {directory}/registry/manifests/;
            default_type {MANIFEST_TYPE};
        }}
    }}
}}
"""
