"""What `skopeo login` has kept opens a real registry: kept in the file itself, and by docker-credential-pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.authentication import Sessions, find_plugins, kinds_of, open_sessions
from regcachd.config import Limits, parse_config
from regcachd.interfaces import Scope
from regcachd.session import Session
from regcachd.upstream import Upstream
from tests.e2e.conftest import USERS
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import MANIFEST_TYPE, Image
from tests.e2e.programs import environment, run

pytestmark = pytest.mark.e2e

reactor: Any = _reactor
ADA = USERS[0]


@pytest.fixture
def user(room: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A user with a password store, which needs a key of GnuPG: the user's environment."""
    for name in ("GNUPGHOME", "PASSWORD_STORE_DIR"):
        monkeypatch.delenv(name, raising=False)
    environ = environment(room / "h")
    (room / "h/.gnupg").mkdir(mode=0o700)
    run(
        environ,
        *("gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""),
        *("--quick-generate-key", "ada@test", "default", "default", "never"),
    )
    run(environ, "pass", "init", "ada@test")
    yield environ
    run(environ, "gpgconf", "--kill", "all")


@pytest.fixture
def sessions(room: Path, private_registry: DockerRegistry) -> Iterator[Sessions]:
    """A daemon's, for the registry that serves nobody but USERS."""
    plugins = find_plugins()
    text = "\n".join(
        [
            '[registries."registry.test"]',
            f"upstream = {json.dumps(private_registry.url)}",
            f"ca = {json.dumps(str(private_registry.certificate.authority))}",
            'auth = "docker-config"',
            f"config = {json.dumps(f'file:{room}/config.json')}",
            f"helper_home = {json.dumps(str(room / 'h'))}",
        ]
    )
    registry = parse_config([("test", text)], kinds_of(plugins)).registries["registry.test"]
    upstream = Upstream(reactor, registry, Limits())
    yield open_sessions(reactor, upstream, plugins)
    upstream.close()


async def status(session: Session, image: Image) -> int:
    target = f"/v2/{image.repository}/manifests/{image.tag}".encode()
    response = await session.request(
        b"GET", target, [(b"Accept", MANIFEST_TYPE.encode())], scope=Scope(image.repository)
    )
    response.abandon()
    return response.status


@pytest.mark.parametrize("program", [None, "pass"])
async def test_what_skopeo_login_has_kept_opens_the_registry(
    program: str | None,
    user: dict[str, str],
    room: Path,
    sessions: Sessions,
    private_registry: DockerRegistry,
    small_image: Image,
) -> None:
    host = private_registry.url.removeprefix("https://")
    config = room / "config.json"
    config.write_text(json.dumps({"credHelpers": {host: program}} if program else {}))
    trusting = {**user, "SSL_CERT_FILE": str(private_registry.certificate.authority)}
    login = ("skopeo", "login", "--authfile", config, "-u", ADA.name, "-p", ADA.password, host)
    run(trusting, *login)
    assert ("auth" in json.loads(config.read_text()).get("auths", {}).get(host, {})) is (program is None)

    assert sessions.own is not None
    assert await status(sessions.anonymous, small_image) == 401
    assert await status(sessions.own, small_image) == 200
