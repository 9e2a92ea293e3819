"""`share = true`: clients without a credential use regcachd's own; nobody else ever does, and nobody learns it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread

from regcachd.testing import ExtraHeaders, FakeRegistry, RedirectTo, Status
from regcachd.testing.message import Request
from tests.through import basic, blob_path, running
from tests.world import World, until

reactor: Any = _reactor

DATA = random.Random(12).randbytes(50_000)
USERS = {"robot": "own-secret", "alice": "alices", "mallory": "mallorys"}
ROBOT, ALICE, MALLORY = (basic(*each) for each in USERS.items())
SHARED, ALICES = "team/shared", "alice/own"
"""What the cache's own credential can read, and what alice alone can."""


@asynccontextmanager
async def sharing(directory: Path, auth: Any, settings: str = "") -> AsyncIterator[World]:
    registry = FakeRegistry(reactor, auth=auth, users=USERS)
    registry.private(SHARED, {"robot", "alice"})
    registry.private(ALICES, {"alice"})
    for repository in (SHARED, ALICES):
        registry.add_image(repository, "1", [repository.encode() * 100])
        registry.add_blob(repository, DATA)
    password = directory / "password"
    password.write_text(USERS["robot"])
    password.chmod(0o600)
    lines = f'username = "robot"\npassword = "file:{password}"\nshare = true\n{settings}'
    async with running(directory, registry, settings=lines) as world:
        yield world


def of_the_robot(request: Request) -> bool:
    """Was this asked with the cache's own credential? These tests show no other token that is good."""
    authorization = request.authorization or ""
    return authorization == ROBOT or (authorization.startswith("Bearer ") and "alices" not in authorization)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_a_client_without_a_credential_is_not_challenged(
    tmp_path: Path, auth: str, method: str
) -> None:
    """So docker and containerd go on without one; upstream need not be asked."""
    async with sharing(tmp_path, auth) as world:
        for path in ("/v2/", "/v2"):
            reply = await world.client().do(method, path)
            assert (reply.status, reply.body) == (200, b"{}" if method == "GET" else b"")
            assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
            assert reply.headers["content-length"] == "2"
            assert "www-authenticate" not in reply.headers
        assert not world.registry.requests


@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_a_client_that_brings_its_own_is_challenged_by_upstream(tmp_path: Path, auth: str) -> None:
    async with sharing(tmp_path, auth) as world:
        for authorization in (basic("alice", "wrong"), "Bearer alices-wrong", ""):
            reply = await world.client().get("/v2/", Authorization=authorization)
            assert (reply.status, "www-authenticate" in reply.headers) == (401, True)
            assert world.registry.requests[-1].authorization == authorization


@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_an_image_that_the_credential_can_read_is_for_all_without_one(
    tmp_path: Path, auth: str
) -> None:
    async with sharing(tmp_path, auth) as world:
        (digest, *_) = [d for d, body in world.registry.blobs[SHARED].items() if body.size == len(DATA)]
        for _ in range(2):
            client = world.client()
            assert (await client.get(f"/v2/{SHARED}/manifests/1")).status == 200
            reply = await client.get(blob_path(digest, SHARED))
            assert reply.body == DATA
            await until(lambda: digest.hex in world.stored())
        assert reply.headers["cache-status"] == "regcachd; hit"
        assert world.registry.requests.count("GET", "/blobs/") == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("auth", ["basic", "token"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/v2/{SHARED}/tags/list?n=1", 200),
        (f"/v2/{SHARED}/referrers/sha256:{'a' * 64}", 200),
        ("/v2/_catalog?n=2", 404),  # the registry has none
    ],
)
async def test_what_there_is_is_listed_with_it(
    tmp_path: Path, auth: str, path: str, status: int, method: str
) -> None:
    async with sharing(tmp_path, auth) as world:
        reply = await world.client().do(method, path)
        assert reply.status == status
        asked = world.registry.requests[-1]
        assert of_the_robot(asked)
        assert asked.line == f"{method} {path}"


@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_the_credential_goes_with_nothing_else(tmp_path: Path, auth: str) -> None:
    """What no endpoint of the specification is, and how far an upload is, are asked in the client's name."""
    async with sharing(tmp_path, auth) as world:
        client = world.client()
        for path in (
            f"/v2/{SHARED}/extension",
            f"/v2/{SHARED}/blobs/uploads/1",
            f"/v2/{SHARED}%2Fx/tags/list",
            f"/v2/x/../{SHARED}/tags/list",
            "/v2//_catalog",
            "/api/v2.0/users",
            f"/token?service=fake-registry&scope=repository:{SHARED}:pull",
        ):
            await client.get(path)
            assert world.registry.requests[-1].authorization is None, path


@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_it_is_never_sent_for_a_client_with_its_own(tmp_path: Path, auth: str) -> None:
    """Whatever that is, and whatever it asks for; upstream's answer to it is what it gets."""
    async with sharing(tmp_path, auth) as world:
        digest, *_ = world.registry.blobs[SHARED]
        paths = [
            "/v2/",
            f"/v2/{SHARED}/manifests/1",
            f"/v2/{SHARED}/manifests/{next(iter(world.registry.manifests[SHARED]))}",
            blob_path(digest, SHARED),
            f"/v2/{SHARED}/tags/list",
            f"/v2/{SHARED}/referrers/{digest}",
            "/v2/_catalog",
        ]
        for authorization in (MALLORY, basic("alice", "wrong"), "Bearer alices-wrong", "Bearer", ""):
            for path in paths:
                for method in ("GET", "HEAD"):
                    reply = await world.client().do(method, path, Authorization=authorization)
                    if path != "/v2/" and "_catalog" not in path:
                        assert reply.status in (401, 403), (authorization, path)
        asked = {each.authorization for each in world.registry.requests if each.path != "/token"}
        # whether anybody may read it was asked in nobody's name
        assert asked <= {None, MALLORY, basic("alice", "wrong"), "Bearer alices-wrong", "Bearer", ""}
        assert world.registry.requests.count("GET", "/token") == 0


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_a_client_with_its_own_is_refused_what_others_have_through_it(
    tmp_path: Path, auth: str, cached: bool
) -> None:
    async with sharing(tmp_path, auth) as world:
        digest, *_ = world.registry.blobs[SHARED]
        if cached:
            assert (await world.client().get(blob_path(digest, SHARED))).status == 200
            await until(lambda: digest.hex in world.stored())
        reply = await world.client().get(blob_path(digest, SHARED), Authorization=MALLORY)
        assert reply.status == (403 if auth == "basic" else 401)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_what_it_cannot_read_is_not_served_through_it_whoever_can(
    tmp_path: Path, auth: str, method: str
) -> None:
    """Alice's yes links the layer to her repository; those without a credential have no proof for that."""
    async with sharing(tmp_path, auth) as world:
        digest = next(d for d, body in world.registry.blobs[ALICES].items() if body.size == len(DATA))
        own = ALICE
        if auth == "token":
            path = f"/token?service=fake-registry&scope=repository:{ALICES}:pull"
            own = f"Bearer {(await world.client().get(path, Authorization=ALICE)).body.decode().split(chr(34))[3]}"
        manifest = await world.client().get(f"/v2/{ALICES}/manifests/1", Authorization=own)
        assert manifest.status == 200
        assert (await world.client().get(blob_path(digest, ALICES), Authorization=own)).body == DATA
        await until(lambda: digest.hex in world.stored())
        # the same layer, where the credential can read it, is no reason either
        assert (await world.client().get(blob_path(digest, SHARED))).body == DATA
        named = manifest.headers["docker-content-digest"]
        for path in (
            blob_path(digest, ALICES),
            f"/v2/{ALICES}/manifests/1",
            f"/v2/{ALICES}/manifests/{named}",
            f"/v2/{ALICES}/tags/list",
        ):
            reply = await world.client().do(method, path)
            assert reply.status in (401, 403), path
            assert DATA[:32] not in reply.body


@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_it_is_not_told_to_where_redirects_lead(tmp_path: Path, auth: str) -> None:
    storage = FakeRegistry(reactor)
    await storage.start()
    async with sharing(tmp_path, auth) as world:
        digest, *_ = world.registry.blobs[SHARED]
        world.registry.fault("/blobs/", RedirectTo(storage))
        assert (await world.client().do("HEAD", blob_path(digest, SHARED))).status == 200
        assert (await world.client().get(blob_path(digest, SHARED))).status == 200
        assert storage.requests
        assert all(each.authorization is None for each in storage.requests)
        # elsewhere the redirect is the client's to follow
        world.registry.fault("/tags/", Status(307, {"Location": f"{storage.url}/x"}))
        reply = await world.client().get(f"/v2/{SHARED}/tags/list")
        assert (reply.status, reply.headers["location"]) == (307, f"{storage.url}/x")
        assert storage.requests.count("", "/x") == 0
    await storage.stop()


async def test_no_cookie_that_stands_for_it_goes_to_a_client(tmp_path: Path) -> None:
    """Harbor opens a web session for whoever shows a password: with its cookie one would be the robot."""
    async with sharing(tmp_path, "basic", "allow_push = true\npush_with_shared = true") as world:
        digest, *_ = world.registry.blobs[SHARED]
        world.registry.fault("/v2/", ExtraHeaders({"Set-Cookie": "sid=robots"}))
        for method, path in (
            ("GET", f"/v2/{SHARED}/manifests/1"),
            ("HEAD", f"/v2/{SHARED}/manifests/1"),
            ("HEAD", blob_path(digest, SHARED)),
            ("GET", blob_path(digest, SHARED)),
            ("GET", f"/v2/{SHARED}/tags/list"),
            ("GET", f"/v2/{SHARED}/manifests/none"),
            ("POST", f"/v2/{SHARED}/blobs/uploads/"),
        ):
            reply = await world.client().do(method, path, Cookie="sid=mine")
            assert "set-cookie" not in reply.headers, path
            assert "cookie" not in world.registry.requests[-1].headers
        reply = await world.client().get(f"/v2/{SHARED}/tags/list", Authorization=ALICE)
        assert reply.headers["set-cookie"] == "sid=robots"  # what is told alice is hers


# -- pushes


WRITES = [
    ("POST", f"/v2/{SHARED}/blobs/uploads/", "pull,push"),
    ("PATCH", f"/v2/{SHARED}/blobs/uploads/1?_state=x", "pull,push"),
    ("PUT", f"/v2/{SHARED}/manifests/2", "pull,push"),
    ("GET", f"/v2/{SHARED}/blobs/uploads/1", "pull,push"),
    ("DELETE", f"/v2/{SHARED}/manifests/2", "pull,push,delete"),
]


@pytest.mark.parametrize("auth", ["basic", "token"])
@pytest.mark.parametrize(("method", "path", "actions"), WRITES)
async def test_a_push_uses_it_only_where_that_is_wanted(
    tmp_path: Path, auth: str, method: str, path: str, actions: str
) -> None:
    """By default a client that brings no credential pushes with none, though it may read with the shared one."""
    for settings, is_used in (("", False), ("\npush_with_shared = true", True)):
        directory = tmp_path / str(is_used)
        directory.mkdir()
        async with sharing(directory, auth, "allow_push = true" + settings) as world:
            await world.client().do(method, path)
            asked = world.registry.requests[-1]
            assert asked.line == f"{method} {path}"
            assert of_the_robot(asked) is is_used
            assert asked.authorization is not None or not is_used
            scopes = [
                parse_qs(each.query)["scope"] for each in world.registry.requests.matching("", "/token")
            ]
            assert scopes == ([[f"repository:{SHARED}:{actions}"]] if is_used and auth == "token" else [])


@pytest.mark.parametrize("auth", ["basic", "token"])
@pytest.mark.parametrize(("method", "path", "actions"), WRITES)
async def test_a_push_of_a_client_with_its_own_is_its_own(
    tmp_path: Path, auth: str, method: str, path: str, actions: str
) -> None:
    async with sharing(tmp_path, auth, "allow_push = true\npush_with_shared = true") as world:
        for authorization in (MALLORY, basic("alice", "wrong"), "Bearer alices-wrong", ""):
            reply = await world.client().do(method, path, Authorization=authorization)
            assert reply.status in (401, 403, 404, 405)
            assert [each.authorization for each in world.registry.requests] == [authorization]
            world.registry.requests.clear()


async def test_a_push_is_sent_once_and_a_refused_token_is_not_used_again(tmp_path: Path) -> None:
    async with sharing(tmp_path, "token", "allow_push = true\npush_with_shared = true") as world:
        client, path = world.client(), f"/v2/{SHARED}/manifests/2"

        def put() -> int:
            return client.ask("PUT", path, {}, b"{}").status

        assert await deferToThread(put) == 405  # the registry takes no writes, but lets this one come so far
        world.registry.expire_tokens()
        assert await deferToThread(put) == 401
        assert await deferToThread(put) == 405
        assert [each.body for each in world.registry.requests.matching("PUT")] == ["{}"] * 3
        assert world.registry.token_fetches == 2


async def test_without_allow_push_nothing_is_written(tmp_path: Path) -> None:
    async with sharing(tmp_path, "basic") as world:
        reply = await world.client().do("PUT", f"/v2/{SHARED}/manifests/2")
        assert (reply.status, len(world.registry.requests)) == (405, 0)
