"""Clients that must say who they are before the daemon lets them through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.clients import User
from tests.e2e.conftest import USERS
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import Image
from tests.e2e.programs import ProgramError, environment, run
from tests.e2e.regcache import REGISTRY, Daemon

pytestmark = pytest.mark.e2e

ADA, GRACE = USERS
SOMEBODY = User("ada", "guessed")


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon], registry: DockerRegistry, room: Path) -> Daemon:
    """One that only ada may use, by a file that htpasswd has made."""
    users = room / "users"
    users.write_text(run(environment(room / "home"), "htpasswd", "-nbB", ADA.name, ADA.password))
    return start_daemon(registry, settings=f'proxy_users = "file:{users}"')


def through(daemon: Daemon, user: User | None, room: Path, *command: str) -> str:
    """Run a client that is told to use the proxy as `user`."""
    name = f"{quote(user.name)}:{quote(user.password)}@" if user else ""
    trust = {name: str(daemon.authority) for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE")}
    proxy = f"http://{name}127.0.0.1:{daemon.port}"
    return run(environment(room / "home", HTTPS_PROXY=proxy, **trust), *command)


def test_skopeo(daemon: Daemon, small_image: Image, room: Path) -> None:
    """It pulls as a user; as nobody, or with a wrong password, it prints why not."""
    command = (
        "skopeo",
        "copy",
        "--quiet",
        f"docker://{REGISTRY}/{small_image.reference}",
        f"dir:{room}/image",
    )
    for stranger in None, SOMEBODY, GRACE:
        with pytest.raises(ProgramError, match="Proxy Authentication Required"):
            through(daemon, stranger, room, *command)
    through(daemon, ADA, room, *command)
    assert (room / "image" / small_image.largest.hex).read_bytes() == small_image.content(small_image.largest)


def test_curl(daemon: Daemon, small_image: Image, room: Path) -> None:
    """As in https_proxy, whether it says its password at once or when it is asked."""
    url = f"https://{REGISTRY}/v2/{small_image.repository}/blobs/{small_image.largest.digest}"
    curl = ("curl", "--silent", "--show-error", "--output", str(room / "body"), url)
    for options in (), ("--proxy-anyauth",):
        for stranger in None, SOMEBODY:
            with pytest.raises(ProgramError, match="407"):
                through(daemon, stranger, room, *curl, *options)
        through(daemon, ADA, room, *curl, *options)
        assert (room / "body").read_bytes() == small_image.content(small_image.largest)


def test_a_new_user_needs_no_restart(daemon: Daemon, small_image: Image, room: Path) -> None:
    """And one who has gone is refused: the file is read when it changes."""
    url = f"https://{REGISTRY}/v2/"
    command = ("curl", "--silent", "--show-error", "--output", str(room / "body"), url)
    through(daemon, ADA, room, *command)
    (room / "users").write_text(
        run(environment(room / "home"), "htpasswd", "-nbB", GRACE.name, GRACE.password)
    )
    patient = ("--retry", "10", "--retry-delay", "1", "--retry-all-errors")
    through(daemon, GRACE, room, *command, *patient)
    with pytest.raises(ProgramError, match="407"):
        through(daemon, ADA, room, *command)
