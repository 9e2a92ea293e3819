"""Fixtures of the end-to-end tests: registries with images, daemons, and room on disk that is given back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.certificates import ServerCertificate, make_server_certificate
from tests.e2e.clients import User
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import MIB, Image, make_image
from tests.e2e.programs import environment, missing_programs, run
from tests.e2e.regcache import Daemon

LAYER_SIZES = (40_000, MIB, 4 * MIB, 16 * MIB, 200_000_000)
"""Bytes of the large image's layers: small, medium and one that takes a while; over 200 MB together."""

USERS = (User("ada", "correct horse"), User("grace", "battery staple"))


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """
    What the tests need is installed; where it is not, they are skipped.

    With REGCACHD_REQUIRE_E2E=1 in the environment they fail instead, so that a machine that is meant to run
    them cannot leave them out in silence.
    """
    missing = missing_programs()
    if missing:
        reason = f"not installed: {', '.join(missing)} (scripts/test-dependencies installs them)"
        if os.environ.get("REGCACHD_REQUIRE_E2E") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def shared(programs: None) -> Iterator[Path]:
    """A directory for what is made once; removed in the end."""
    yield from _room()


@pytest.fixture
def room(programs: None) -> Iterator[Path]:
    """A directory for one test; removed after it, since a test may leave a gigabyte behind."""
    yield from _room()


def _room() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="regcachd-e2e-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def certificate(shared: Path) -> ServerCertificate:
    """The registries' certificate, for localhost, by a private authority."""
    return make_server_certificate(shared / "tls")


@pytest.fixture(scope="session")
def registry(shared: Path, certificate: ServerCertificate) -> Iterator[DockerRegistry]:
    """A registry that serves everybody."""
    running = DockerRegistry.start(shared / "registry", certificate, shared / "storage")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def image(shared: Path, registry: DockerRegistry) -> Image:
    """An image of more than 200 MB in the registry."""
    made = make_image(shared / "large", "team/app", "1", LAYER_SIZES)
    registry.push(made)
    return made


@pytest.fixture(scope="session")
def small_image(shared: Path, registry: DockerRegistry) -> Image:
    """An image of about 1 MB in the registry."""
    made = make_image(shared / "small", "team/tool", "1", (MIB, 10_000, 300))
    registry.push(made)
    return made


@pytest.fixture(scope="session")
def private_registry(
    shared: Path, certificate: ServerCertificate, registry: DockerRegistry, small_image: Image
) -> Iterator[DockerRegistry]:
    """A registry with the small image that serves nobody but USERS."""
    lines = [
        run(environment(shared / "home"), "htpasswd", "-nbB", user.name, user.password) for user in USERS
    ]
    htpasswd = shared / "htpasswd"
    htpasswd.write_text("\n".join(line.strip() for line in lines) + "\n")
    running = DockerRegistry.start(shared / "private", certificate, registry.storage, htpasswd)
    yield running
    running.stop()


ONE_CONNECTION = "[defaults]\nconnections = 1"
"""For tests that count requests: a large layer that comes slowly is otherwise asked for in parts."""


@pytest.fixture
def start_daemon(room: Path) -> Iterator[Callable[[DockerRegistry], Daemon]]:
    """
    Starts a daemon for a registry: an empty one at first, then one with the store and state of the one
    before.

    Each that still runs after the test is stopped, and has to end cleanly.
    """
    started: list[Daemon] = []

    def start(
        registry: DockerRegistry,
        upstream: str | None = None,
        settings: str = ONE_CONNECTION,
        table: str = "",
        hosts: Path | None = None,
    ) -> Daemon:
        url, trusted = upstream or registry.url, registry.certificate.authority
        started.append(Daemon.start(room / "regcachd", url, trusted, settings, registry=table, hosts=hosts))
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop()


@pytest.fixture
def daemon(start_daemon: Callable[[DockerRegistry], Daemon], registry: DockerRegistry) -> Daemon:
    """A daemon with an empty store, for the registry that serves everybody."""
    return start_daemon(registry)
