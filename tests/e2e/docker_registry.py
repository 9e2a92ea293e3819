"""Debian's docker-registry over TLS, and its access log as a list of requests that a test can count."""

from __future__ import annotations

import http.client
import re
import ssl
from pathlib import Path

from attrs import evolve, field, frozen

from tests.e2e.certificates import ServerCertificate
from tests.e2e.images import Image
from tests.e2e.programs import Server, environment, free_port, run, wait_until
from tests.e2e.token_server import ISSUER, SERVICE, TokenServer

# Combined log form, as docker-registry writes it to standard output once a request is done:
# 127.0.0.1 - - [23/Nov/2026:21:10:00 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "curl/7.88.1"
ACCESS_LINE = re.compile(r'^\S+ \S+ \S+ \[[^]]+\] "([A-Z]+) (\S+) HTTP/[0-9.]+" (\d+) (\d+) ', re.MULTILINE)


@frozen
class Request:
    """One request that reached the registry; `size` is the body's length in bytes."""

    method: str
    path: str
    status: int
    size: int

    @property
    def is_for_blob(self) -> bool:
        return "/blobs/" in self.path


@frozen
class DockerRegistry:
    """
    A running docker-registry. Its storage directory may be shared by several, one with and one without
    passwords.
    """

    server: Server
    port: int
    certificate: ServerCertificate
    storage: Path
    _home: Path
    _probes: list[int] = field(factory=list)

    @classmethod
    def start(
        cls,
        directory: Path,
        certificate: ServerCertificate,
        storage: Path,
        htpasswd: Path | None = None,
        tokens: TokenServer | None = None,
    ) -> DockerRegistry:
        """
        Start one on a free port; with `htpasswd`, a file of that name's form, it asks for Basic
        credentials, with `tokens` for a token of that server.
        """
        directory.mkdir(parents=True)
        port = free_port()
        auth = f"auth: {{htpasswd: {{realm: private, path: '{htpasswd}'}}}}\n" if htpasswd else ""
        if tokens is not None:
            auth = (
                f"auth: {{token: {{realm: '{tokens.realm}', service: {SERVICE}, issuer: {ISSUER},"
                f" rootcertbundle: '{tokens.bundle}'}}}}\n"
            )
        configuration = directory / "registry.yml"
        configuration.write_text(
            "version: 0.1\n"
            "log: {level: warn}\n"
            f"storage: {{filesystem: {{rootdirectory: '{storage}'}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}', secret: end-to-end,"
            f" tls: {{certificate: '{certificate.certificate}', key: '{certificate.key}'}}}}\n" + auth
        )
        return cls(_serve(directory), port, certificate, storage, directory / "home")._ready()

    def restarted(self) -> DockerRegistry:
        """The same once more, on the same port, after `stop`."""
        return evolve(self, server=_serve(self.server.log.parent))._ready()

    def _ready(self) -> DockerRegistry:
        self.server.wait_until_ready(lambda: self._ask("/v2/") in (200, 401))
        return self

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def push(self, image: Image) -> None:
        """Put an image in, straight from its layout, without the proxy."""
        run(
            environment(self._home),
            *("skopeo", "copy", "--quiet", "--dest-cert-dir", self.certificate.directory),
            f"oci:{image.layout}:{image.tag}",
            f"docker://localhost:{self.port}/{image.reference}",
        )

    def requests(self) -> list[Request]:
        """
        Every request so far, but for those of this class.

        A line is written just after its response. So a request of our own is sent first and waited for:
        what was answered before it is then in the log too.
        """
        self._probes.append(len(self._probes))
        path = f"/v2/?probe={self._probes[-1]}"
        self._ask(path)
        wait_until(lambda: f'"GET {path} ' in self.server.output(), "the registry's access log")
        found = ACCESS_LINE.findall(self.server.output())
        return [
            Request(method, path, int(status), int(size))
            for method, path, status, size in found
            if "?probe=" not in path
        ]

    def requests_since(self, earlier: list[Request]) -> list[Request]:
        """The requests after those of an `earlier` call of requests()."""
        return self.requests()[len(earlier) :]

    def stop(self) -> None:
        self.server.stop(patience=5.0)

    def connect(self, port: int | None = None) -> http.client.HTTPSConnection:
        """A connection straight to the registry, or by way of a relay on `port`."""
        context = ssl.create_default_context(cafile=str(self.certificate.authority))
        return http.client.HTTPSConnection("localhost", port or self.port, context=context, timeout=60)

    def _ask(self, path: str) -> int | None:
        """The status that a GET of `path` gets, None when nobody answers yet."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()


def _serve(directory: Path) -> Server:
    """The process that does what the configuration in a directory says."""
    return Server.start(
        "docker-registry",
        ["docker-registry", "serve", directory / "registry.yml"],
        environment(directory / "home"),
        directory / "registry.log",
    )
