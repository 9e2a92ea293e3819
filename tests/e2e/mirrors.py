"""Clients that take the daemon for a mirror of their registry: how each is told so, and its pull."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.e2e.clients import User, image_of_directory, storage_of
from tests.e2e.images import Image
from tests.e2e.programs import ProgramError, Server, environment, kill_pid_in, run, wait_until
from tests.e2e.regcache import REGISTRY

PREFIX = REGISTRY.partition(":")[0]
"""What the registry is called in a mirror's path: podman and its kind allow no port there (`hosts` has it)."""


@frozen
class Endpoint:
    """Where the mirror is: `http://` or `https://`, and then with the file of its CA."""

    url: str
    authority: Path | None = None

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]


MirrorClient = Callable[[Endpoint, Image, Path], None]
"""Pulls an image into a directory, a fresh one; ProgramError if that fails or gives another image."""


def _containers(endpoint: Endpoint, directory: Path) -> dict[str, str]:
    """The environment of skopeo, podman and buildah, with a registries.conf; the registry itself is nowhere."""
    home = directory / "home"
    environ = environment(home)
    insecure = json.dumps(endpoint.authority is None)
    text = (
        f'[[registry]]\nlocation = "{REGISTRY}"\n'
        f'[[registry.mirror]]\nlocation = "{endpoint.host}/{PREFIX}"\ninsecure = {insecure}\n'
    )
    trust = endpoint.authority
    for config in (home / ".config/containers", home / "config/containers"):
        config.mkdir(parents=True)
        (config / "registries.conf").write_text(text)
        if trust is not None:
            certificates = config / "certs.d" / endpoint.host
            certificates.mkdir(parents=True)
            (certificates / "ca.crt").write_bytes(trust.read_bytes())
    return environ


def skopeo(endpoint: Endpoint, image: Image, directory: Path) -> None:
    environ, target = _containers(endpoint, directory), directory / "image"
    run(environ, "skopeo", "copy", "--quiet", f"docker://{REGISTRY}/{image.reference}", f"dir:{target}")
    image_of_directory(target, image)


def podman(endpoint: Endpoint, image: Image, directory: Path) -> None:
    environ = _containers(endpoint, directory)
    command = ["podman", *storage_of(directory), "--cgroup-manager", "cgroupfs", "--runtime", "runc"]
    try:
        run(environ, *command, "pull", "--quiet", f"{REGISTRY}/{image.reference}")
        _expect(json.loads(run(environ, *command, "images", "--format", "json"))[0]["Digest"], image)
    finally:
        kill_pid_in(directory / "home/run/libpod/tmp/pause.pid")


def buildah(endpoint: Endpoint, image: Image, directory: Path) -> None:
    environ, command = _containers(endpoint, directory), ["buildah", *storage_of(directory)]
    run(environ, *command, "pull", "--quiet", f"docker://{REGISTRY}/{image.reference}")
    _expect(json.loads(run(environ, *command, "images", "--json"))[0]["digest"], image)


def containerd(endpoint: Endpoint, image: Image, directory: Path, user: User | None = None) -> None:
    """ctr and a containerd of its own; the registry itself, as `server`, is a port that nobody has."""
    environ = environment(directory / "home")
    hosts = directory / "hosts" / REGISTRY
    hosts.mkdir(parents=True)
    trust = "" if endpoint.authority is None else f"  ca = {json.dumps(str(endpoint.authority))}\n"
    (hosts / "hosts.toml").write_text(
        f'server = "http://127.0.0.1:9"\n[host."{endpoint.url}"]\n  capabilities = ["pull", "resolve"]\n{trust}'
    )
    with _running_containerd(environ, directory) as socket:
        name = f"{REGISTRY}/{image.reference}"
        ctr: list[str | Path] = ["ctr", "--address", socket, "images"]
        credentials = ["--user", user.pair] if user else []
        hosts_dir: list[str | Path] = ["--hosts-dir", directory / "hosts"]
        run(environ, *ctr, "pull", "--snapshotter", "native", *credentials, *hosts_dir, name)
        found = run(environ, *ctr, "list", f"name=={name}").splitlines()[1].split()
        _expect(found[2], image)


@contextmanager
def _running_containerd(environ: dict[str, str], directory: Path) -> Iterator[Path]:
    """A containerd with all it has in `directory`, and without what needs more than root."""
    socket, configuration = directory / "containerd.sock", directory / "containerd.toml"
    configuration.write_text(
        f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{socket}"\n'
    )
    server = Server.start(
        "containerd", ["containerd", "--config", configuration], environ, directory / "containerd.log"
    )
    try:
        server.wait_until_ready(socket.exists)
        wait_until(lambda: "containerd successfully booted" in server.output(), "containerd")
        yield socket
    finally:
        server.stop()


def _expect(digest: str, image: Image) -> None:
    if digest != image.manifest.digest:
        raise ProgramError(f"got the image {digest}, not {image.manifest.digest}")
