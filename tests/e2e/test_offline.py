"""With the cable out: what was pulled once is pulled again, and what is missing fails at once and says why."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from itertools import count
from pathlib import Path

import pytest
from attrs import define, evolve, frozen

from tests.e2e import mirrors
from tests.e2e.certificates import NAMES, ServerCertificate
from tests.e2e.clients import Client, User, ask, buildah_pull, podman_pull, skopeo_copy
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import MIB, Image, make_image
from tests.e2e.programs import ProgramError, wait_until
from tests.e2e.regcache import Daemon
from tests.e2e.token_server import Grants, TokenServer

pytestmark = pytest.mark.e2e

LOCALHOST, UPSTREAM, REALM = NAMES
EVERYBODY = f"127.0.0.1 {' '.join(NAMES)}\n"
"""A hosts file in which both can be found."""
REPOSITORY = "offline/app"
AT_ONCE = 5.0
"""Seconds in which a client hears that upstream is away, once that is known."""
NOTICED = 15.0
"""Seconds in which upstream's return is noticed: regcachd.breaker.LONGEST_HOLD."""
SETTINGS = """
workers = 1
[limits]
connect_timeout = "1s"
[defaults]
timeout = "1s"
revalidate_interval = "0s"
"""

StartDaemon = Callable[..., Daemon]


@frozen
class Way:
    """How clients come to the daemon: which they are, and lines of the registry's table."""

    clients: tuple[Client, Client, Client]
    table: str = ""


def mirrored(client: mirrors.MirrorClient) -> Client:
    """One that takes the daemon for a mirror."""

    def pull(daemon: Daemon, image: Image, directory: Path, user: User | None = None) -> None:
        client(mirrors.Endpoint(daemon.url), image, directory)

    return pull


CONNECT = Way((skopeo_copy, podman_pull, buildah_pull))
MIRROR = Way(
    (mirrored(mirrors.skopeo), mirrored(mirrors.podman), mirrored(mirrors.containerd)),
    f'hosts = ["{mirrors.PREFIX}"]',
)


class Outage(Enum):
    """What has become of upstream."""

    ENDED = "the processes have ended"
    SILENT = "they take connections, and say nothing"
    NAMELESS = "nobody knows their names any more"


@define
class Site:
    """A registry and, perhaps, who hands out its tokens; by names that are in a file."""

    registry: DockerRegistry
    tokens: TokenServer | None
    hosts: Path

    @property
    def upstream(self) -> str:
        return f"https://{UPSTREAM}:{self.registry.port}"

    @property
    def table(self) -> str:
        """Lines of the registry's table."""
        if self.tokens is None:
            return ""
        realm = f'["{REALM}:{self.tokens.port}"]'
        return f"token_hosts = {realm}\nrealm_hosts = {realm}"

    @contextmanager
    def unplugged(self, outage: Outage) -> Iterator[None]:
        """For a while nobody gets through to it."""
        if outage is Outage.SILENT:
            self._fall_silent(signal.SIGSTOP)
        else:
            self.registry.stop()
            if self.tokens is not None:
                self.tokens.stop()
        if outage is Outage.NAMELESS:
            self.hosts.write_text("127.0.0.1 localhost\n")
        try:
            yield
        finally:
            self.hosts.write_text(EVERYBODY)
            if outage is Outage.SILENT:
                self._fall_silent(signal.SIGCONT)
            else:
                self.registry = self.registry.restarted()
                if self.tokens is not None:
                    self.tokens.serve()

    def _fall_silent(self, what: signal.Signals) -> None:
        """Or speak again: connections are made all the same, by the kernel."""
        os.kill(self.registry.server.process.pid, what)
        if self.tokens is not None and what is signal.SIGSTOP:
            self.tokens.is_awake.clear()
        elif self.tokens is not None:
            self.tokens.is_awake.set()


@pytest.fixture(scope="module")
def images(shared: Path) -> tuple[Image, Image]:
    """Two images that have the same tag, one after the other."""
    first = make_image(shared / "offline-first", REPOSITORY, "1", (MIB, 10_000))
    return first, make_image(shared / "offline-second", REPOSITORY, "1", (5_000,), base=first)


@pytest.fixture
def site(
    request: pytest.FixtureRequest, room: Path, certificate: ServerCertificate, registry: DockerRegistry
) -> Iterator[Site]:
    """A registry over the storage of the one that tests push to; whether it wants tokens is the parameter."""
    directory = room / "site"
    grants = Grants({}, {"": {REPOSITORY: frozenset({"pull"})}})
    tokens = None
    if request.param == "tokens":
        tokens = TokenServer.start(directory / "tokens", certificate, grants, "ES256", life=1, name=REALM)
    running = DockerRegistry.start(directory / "registry", certificate, registry.storage, tokens=tokens)
    found = Site(running, tokens, directory / "hosts")
    found.hosts.write_text(EVERYBODY)
    yield found
    found.registry.stop()
    if found.tokens is not None:
        found.tokens.stop()


def pulled(client: Client, daemon: Daemon, image: Image, directory: Path) -> bool:
    """Does a client get this image, and no other?"""
    try:
        client(daemon, image, directory)
    except ProgramError:
        return False
    return True


@pytest.mark.parametrize(
    ("way", "site", "outage"),
    [
        pytest.param(CONNECT, "tokens", Outage.ENDED, id="connect-tokens-ended"),
        pytest.param(CONNECT, "tokens", Outage.SILENT, id="connect-tokens-silent"),
        pytest.param(CONNECT, "open", Outage.NAMELESS, id="connect-open-nameless"),
        pytest.param(MIRROR, "tokens", Outage.ENDED, id="mirror-tokens-ended"),
        pytest.param(MIRROR, "open", Outage.SILENT, id="mirror-open-silent"),
    ],
    indirect=["site"],
)
def test_the_cable(
    way: Way,
    outage: Outage,
    site: Site,
    registry: DockerRegistry,
    images: tuple[Image, Image],
    start_daemon: StartDaemon,
    room: Path,
) -> None:
    """It is pulled once, and then out for a while, in which the daemon is restarted; when it is back there is a new
    image under the tag. No client has anything but the daemon, and with tokens theirs have long ended."""
    first, second = images
    by_digest = evolve(first, is_named_by_digest=True)
    registry.push(first)
    skopeo, podman, third = way.clients

    def start() -> Daemon:
        table = f"{way.table}\n{site.table}"
        return start_daemon(site.registry, site.upstream, SETTINGS, table, site.hosts)

    daemon = start()
    skopeo(daemon, first, room / "before")
    with site.unplugged(outage):
        skopeo(daemon, first, room / "skopeo")
        podman(daemon, first, room / "podman")
        third(daemon, by_digest, room / "third")
        missing(daemon, skopeo, first, room / "missing")
        daemon.stop()
        daemon = start()
        skopeo(daemon, first, room / "again-tag")
        podman(daemon, by_digest, room / "again")

    registry.push(second)
    fresh = (room / f"new-{number}" for number in count())
    wait_until(lambda: pulled(skopeo, daemon, second, next(fresh)), "the tag to move", NOTICED)


def missing(daemon: Daemon, client: Client, image: Image, directory: Path) -> None:
    """What is not there is asked for until the daemon has understood, and then fails at once, and says why."""
    other = f"/v2/{REPOSITORY}/manifests/other"

    def is_known() -> bool:
        return b"has been unreachable for" in ask(daemon, "GET", other).body

    wait_until(is_known, "the outage to be known")
    unknown = "sha256:" + "0" * 64
    for path in ("manifests/other", f"manifests/{unknown}", f"blobs/{unknown}", "tags/list"):
        for method in ("GET", "HEAD"):
            began = time.monotonic()
            answer = ask(daemon, method, f"/v2/{REPOSITORY}/{path}")
            assert answer.status in (502, 504), path
            assert time.monotonic() - began < AT_ONCE
    with pytest.raises(
        ProgramError, match=r"registry\.test:5443 (has been unreachable for|cannot be reached)"
    ):
        client(daemon, evolve(image, tag="other"), directory)
    assert re.search(rb"registry\.test:5443 has been unreachable for \d+ s", daemon.page("/healthz")[1])


def test_a_tag_that_moves_is_served_within_the_interval(
    registry: DockerRegistry, images: tuple[Image, Image], start_daemon: StartDaemon, room: Path
) -> None:
    """Pushed past the daemon, while it has the old one."""
    interval = 1.0
    daemon = start_daemon(
        registry, settings=f'workers = 2\n[defaults]\nrevalidate_interval = "{interval:g}s"'
    )
    for number, image in enumerate((*images, *images)):
        registry.push(image)
        pushed = began = time.monotonic()
        while not pulled(skopeo_copy, daemon, image, room / f"{number}-{began}"):
            assert began - pushed < interval, "the old image is still served"
            began = time.monotonic()
