"""Clouds' credentials from where they are made to a registry that asks for them, every hop over a real socket."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.authentication import find_plugins, kinds_of, open_sessions
from regcachd.aws import missing
from regcachd.config import Limits, parse_config
from regcachd.interfaces import Scope
from regcachd.session import Session
from regcachd.testing import FakeRegistry
from regcachd.testing.access import Auth
from regcachd.upstream import Upstream
from tests.cloud import Said, Seen, serve

reactor: Any = _reactor

REPOSITORY = "team/app"
MANIFEST = b"/v2/team/app/manifests/1"


@asynccontextmanager
async def private(auth: Auth, user: str, password: str) -> AsyncIterator[FakeRegistry]:
    """A registry with one private repository and one user."""
    registry = FakeRegistry(reactor, auth=auth, users={user: password})
    registry.add_image(REPOSITORY, "1", [b"layer"])
    registry.private(REPOSITORY, {user})
    await registry.start()
    try:
        yield registry
    finally:
        await registry.stop()


@asynccontextmanager
async def session(registry: FakeRegistry, *lines: str) -> AsyncIterator[Session]:
    """A daemon's session with the registry, on the credential that these lines of its table make."""
    plugins = find_plugins()
    text = "\n".join(['[registries."registry.test"]', f'upstream = "{registry.url}"', *lines])
    found = parse_config([("test", text)], kinds_of(plugins)).registries["registry.test"]
    upstream = Upstream(reactor, found, Limits())
    try:
        own = open_sessions(reactor, upstream, plugins).own
        assert own is not None
        yield own
    finally:
        upstream.close()


async def status(own: Session) -> int:
    response = await own.request(b"GET", MANIFEST, [], scope=Scope(REPOSITORY))
    response.abandon()
    return response.status


@pytest.mark.skipif(missing() is not None, reason="botocore is not installed")
async def test_ecr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    data = [{"authorizationToken": b64encode(b"AWS:of twelve hours").decode()}]
    said = Said(json.dumps({"authorizationData": data}).encode())
    (tmp_path / "key").write_text("AKIA")
    async with (
        serve(lambda seen: said) as api,
        private("basic", "AWS", "of twelve hours") as registry,
        session(
            registry,
            'auth = "ecr"',
            'region = "eu-central-1"',
            f'endpoint = "{api.url}"',
            f'access_key_id = "file:{tmp_path}/key"',
            f'secret_access_key = "file:{tmp_path}/key"',
        ) as own,
    ):
        assert [await status(own), await status(own)] == [200, 200]
    assert len(api.seen) == 1


async def test_google() -> None:
    def metadata(seen: Seen) -> Said:
        body = {"access_token": "google-1", "expires_in": 3599}
        return Said(json.dumps(body).encode(), headers={"Metadata-Flavor": "Google"})

    async with (
        serve(metadata) as service,
        private("token", "oauth2accesstoken", "google-1") as registry,
        session(registry, 'auth = "google"', f'metadata = "{service.url}"') as own,
    ):
        assert [await status(own), await status(own)] == [200, 200]
    assert len(service.seen) == 1


@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_docker_config_with_a_program(tmp_path: Path, auth: Auth) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "lab"}')
    program = tmp_path / "docker-credential-lab"
    program.write_text(
        f'#!/bin/sh\necho >> {tmp_path}/runs\necho \'{{"Username": "ada", "Secret": "of the program"}}\'\n'
    )
    program.chmod(0o700)
    async with (
        private(auth, "ada", "of the program") as registry,
        session(
            registry,
            'auth = "docker-config"',
            f'config = "file:{tmp_path}/config.json"',
            f'helpers = ["{tmp_path}"]',
        ) as own,
    ):
        assert [await status(own), await status(own)] == [200, 200]
    assert (tmp_path / "runs").read_text() == "\n"
