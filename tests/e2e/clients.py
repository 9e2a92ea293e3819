"""Clients of the daemon: the programs people use, and a plain HTTP client for what those cannot say."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from attrs import field, frozen

from tests.e2e.images import MANIFEST_TYPE, Image
from tests.e2e.programs import ProgramError, environment, kill_pid_in, run
from tests.e2e.regcache import REGISTRY, Daemon


@frozen
class User:
    """A name and a password for Basic authentication (RFC 7617)."""

    name: str
    password: str

    @property
    def pair(self) -> str:
        return f"{self.name}:{self.password}"

    @property
    def authorization(self) -> str:
        return f"Basic {base64.b64encode(self.pair.encode()).decode()}"


class Client(Protocol):
    """A program that pulls an image through the daemon into an empty place, and checks what came."""

    def __call__(self, daemon: Daemon, image: Image, directory: Path, user: User | None = None) -> None:
        """
        Pull into `directory`, a fresh one; ProgramError when the pull does not succeed or gives another
        image.
        """


def skopeo_copy(daemon: Daemon, image: Image, directory: Path, user: User | None = None) -> None:
    """`skopeo copy` to a directory, where every blob is then hashed anew."""
    target = directory / "image"
    credentials = ["--src-creds", user.pair] if user else []
    trust = {"SSL_CERT_FILE": str(daemon.authority), "SSL_CERT_DIR": str(daemon.authority.parent)}
    trusting = environment(directory / "home", HTTPS_PROXY=daemon.url, **trust)
    run(trusting, "skopeo", "copy", "--quiet", *credentials, _name(image), f"dir:{target}")
    image_of_directory(target, image)


def image_of_directory(target: Path, image: Image) -> None:
    """Is what skopeo has written there the image? ProgramError if not."""
    expected = {blob.hex for blob in image.blobs}
    found = {_sha256(file) for file in target.iterdir() if file.name not in ("manifest.json", "version")}
    if found != expected or _sha256(target / "manifest.json") != image.manifest.hex:
        raise ProgramError(f"skopeo got blobs {found} of an image that has {expected}")


def podman_pull(daemon: Daemon, image: Image, directory: Path, user: User | None = None) -> None:
    """
    `podman pull` into a storage of its own; podman checks the layers, the image's digest is checked here.
    """
    environ = environment(directory / "home", HTTPS_PROXY=daemon.url)
    podman = ["podman", *storage_of(directory), "--cgroup-manager", "cgroupfs", "--runtime", "runc"]
    try:
        run(environ, *podman, "pull", "--quiet", *_trust(daemon), *_credentials(user), _name(image))
        found = json.loads(run(environ, *podman, "images", "--format", "json"))[0]["Digest"]
    finally:
        kill_pid_in(directory / "home/run/libpod/tmp/pause.pid")
    if found != image.manifest.digest:
        raise ProgramError(f"podman got the image {found}, not {image.manifest.digest}")


def buildah_pull(daemon: Daemon, image: Image, directory: Path, user: User | None = None) -> None:
    """
    `buildah pull` into a storage of its own; buildah checks the layers, the image's digest is checked
    here.
    """
    environ = environment(directory / "home", HTTPS_PROXY=daemon.url)
    buildah = ["buildah", *storage_of(directory)]
    run(environ, *buildah, "pull", "--quiet", *_trust(daemon), *_credentials(user), _name(image))
    found = json.loads(run(environ, *buildah, "images", "--json"))[0]["digest"]
    if found != image.manifest.digest:
        raise ProgramError(f"buildah got the image {found}, not {image.manifest.digest}")


def skopeo_push(daemon: Daemon, image: Image, directory: Path, user: User | None = None) -> None:
    """`skopeo copy` of the image's layout into the registry."""
    environ = environment(directory / "home", HTTPS_PROXY=daemon.url, SSL_CERT_FILE=str(daemon.authority))
    credentials = ["--dest-creds", user.pair] if user else []
    run(environ, "skopeo", "copy", "--quiet", *credentials, _layout(image), _name(image))


def podman_push(daemon: Daemon, image: Image, directory: Path, user: User | None = None) -> None:
    """`podman push` of the image from a storage of its own, into which it is loaded first."""
    environ = environment(directory / "home", HTTPS_PROXY=daemon.url)
    podman = ["podman", *storage_of(directory), "--cgroup-manager", "cgroupfs", "--runtime", "runc"]
    try:
        loaded = run(environ, *podman, "pull", "--quiet", _layout(image)).strip()
        run(environ, *podman, "push", "--quiet", *_trust(daemon), *_credentials(user), loaded, _name(image))
    finally:
        kill_pid_in(directory / "home/run/libpod/tmp/pause.pid")


@frozen
class Transfer:
    """What curl says about one transfer: HTTP's version inside the tunnel, the status, the body's sha256."""

    version: str
    status: int
    sha256: str


def curl(daemon: Daemon, path: str, directory: Path, *options: str) -> Transfer:
    """Get `path` of the registry with curl, which offers h2 by ALPN; `options` are more of curl's."""
    body = directory / "body"
    environ = environment(directory / "home", HTTPS_PROXY=daemon.url, CURL_CA_BUNDLE=str(daemon.authority))
    report = ["--write-out", "%{http_version} %{http_code}"]
    url = f"https://{REGISTRY}{path}"
    written = run(environ, "curl", "--silent", "--show-error", "--output", body, *report, *options, url)
    version, status = written.split()
    return Transfer(version, int(status), _sha256(body))


@frozen
class Answer:
    """A response to the plain client; `headers` has lowercase names."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def connect(daemon: Daemon, seconds: float = 60.0) -> http.client.HTTPSConnection:
    """A connection to the registry through the daemon, trusting the daemon's authority alone."""
    context = ssl.create_default_context(cafile=str(daemon.authority))
    connection = http.client.HTTPSConnection("127.0.0.1", daemon.port, context=context, timeout=seconds)
    host, port = REGISTRY.split(":")
    connection.set_tunnel(host, int(port))
    return connection


def ask(
    daemon: Daemon, method: str, path: str, user: User | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Make one request of the registry through the daemon, on a connection of its own."""
    connection = connect(daemon)
    try:
        credentials = {"Authorization": user.authorization} if user else {}
        connection.request(method, path, headers={"Accept": MANIFEST_TYPE, **credentials, **(headers or {})})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def _layout(image: Image) -> str:
    return f"oci:{image.layout}:{image.tag}"


def _name(image: Image) -> str:
    return f"docker://{REGISTRY}/{image.reference}"


def storage_of(directory: Path) -> list[str | Path]:
    """Options of podman and buildah: keep all in `directory`, unpacked as plain files (no mounts needed)."""
    return ["--root", directory / "root", "--runroot", directory / "runroot", "--storage-driver", "vfs"]


def _trust(daemon: Daemon) -> list[str | Path]:
    return ["--cert-dir", daemon.authority.parent]


def _credentials(user: User | None) -> list[str]:
    return ["--creds", user.pair] if user else []


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
