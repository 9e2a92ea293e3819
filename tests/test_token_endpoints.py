"""Token endpoints: one anonymous token for all, and nobody's token for anybody else."""

import base64
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from regcachd.testing import FakeRegistry, GarbageResponse, StallBeforeHeaders, Status
from tests.test_registry import Wall
from tests.through import basic, blob_path, running, start, together
from tests.world import Client, Reply, World, until

reactor: Any = _reactor

DATA = random.Random(4).randbytes(100_000)
HIT, MISS, PASSED = "regcachd; hit", "regcachd; fwd=uri-miss; stored", "regcachd; fwd=bypass"
SCOPE = "repository:team/app:pull"
PATH = f"/token?service=fake-registry&scope={SCOPE}"


@asynccontextmanager
async def with_tokens(directory: Path, settings: str = "", **access: Any) -> AsyncIterator[World]:
    """A registry whose own host hands out the tokens."""
    registry = FakeRegistry(reactor, auth="token", users={"alice": "secret"}, **access)
    registry.add_blob("team/app", DATA)
    async with running(directory, registry, settings=settings) as world:
        yield world


@asynccontextmanager
async def with_token_host(directory: Path, **access: Any) -> AsyncIterator[World]:
    """A registry with a token server on another host, over TLS, as Docker Hub has it."""
    server = FakeRegistry(reactor, tls=True)
    await server.start()
    registry = FakeRegistry(reactor, auth="token", users={"alice": "secret"}, token_server=server, **access)
    registry.add_blob("team/app", DATA)
    ca = server.ca_file(directory / "token-ca.pem")
    settings = f'token_hosts = ["{server.authority}"]\nca = "{ca}"'
    try:
        async with running(directory, registry, settings=settings) as world:
            yield world
    finally:
        await server.stop()


def at_token_host(world: World) -> Client:
    """A client that has connected to the token server."""
    client = world.client()
    server = world.registry.token_server
    client.host, client.tunnel_port = "localhost", server.port
    return client


def fetches(world: World) -> int:
    return world.registry.token_server.requests.count("", "/token")


async def learned(world: World) -> World:
    """A challenge has gone through the daemon, so it knows the realm."""
    assert (await world.client().get("/v2/")).status == 401
    return world


def members(reply: Reply) -> dict[str, Any]:
    assert reply.status == 200, reply
    found: dict[str, Any] = json.loads(reply.body)
    return found


# -- sharing


async def test_all_who_want_the_same_get_the_same(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        first = await world.client().get(PATH)
        assert first.headers["cache-status"] == MISS
        for path in (PATH, f"/token?client_id=x&scope={SCOPE}&offline_token=false&service=fake-registry"):
            reply = await world.client().get(path)
            assert reply.headers["cache-status"] == HIT
            assert members(reply)["token"] == members(first)["token"]
        assert fetches(world) == 1
        other = await world.client().get(PATH.replace("team/app", "team/other"))
        assert members(other)["token"] != members(first)["token"]


async def test_the_token_works(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        (digest,) = world.registry.blobs["team/app"]
        token = members(await world.client().get(PATH))["token"]
        reply = await world.client().get(blob_path(digest), Authorization=f"Bearer {token}")
        assert reply.body == DATA


async def test_a_copy_says_how_long_it_lives_and_is_given_until_90_seconds_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with with_tokens(tmp_path, token_life=300.0) as world:
        await learned(world)
        first = members(await world.client().get(PATH))
        assert first["expires_in"] == 300
        wall.time += 209
        again = members(await world.client().get(PATH))
        assert (again["token"], again["expires_in"]) == (first["token"], 91)
        assert again["access_token"] == first["access_token"]
        wall.time += 1
        assert members(await world.client().get(PATH))["token"] != first["token"]
        assert fetches(world) == 2


@pytest.mark.parametrize("fault", [Status(503), Status(429), GarbageResponse()], ids=lambda f: repr(f)[:11])
async def test_a_token_is_given_beyond_its_end_while_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    wall = Wall(monkeypatch)
    async with with_tokens(tmp_path, token_life=300.0, settings='max_stale = "1h"') as world:
        await learned(world)
        first = members(await world.client().get(PATH))
        await world.registry.stop()
        await world.registry.start()
        rule = world.registry.fault("/token", fault)
        for past, left in ((290, 10), (10, 60), (3299, 60)):
            wall.time += past
            reply = await world.client().get(PATH)
            assert reply.headers["cache-status"] == "regcachd; fwd=stale"
            assert (members(reply)["token"], members(reply)["expires_in"]) == (first["token"], left)
        wall.time += 1
        assert (await world.client().get(PATH)).status in (503, 429, 502)
        world.registry.heal(rule)
        assert members(await world.client().get(PATH))["token"] != first["token"]


async def test_who_needs_a_token_pulls_what_is_stored_long_after_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cable out, also after a restart; and when it is back, the old token is nobody's any more."""
    wall = Wall(monkeypatch)
    async with with_tokens(tmp_path, token_life=300.0) as world:
        image = world.registry.add_image("team/app", "1", [DATA])
        paths = ["/v2/team/app/manifests/1", f"/v2/team/app/manifests/{image.manifest}"]
        paths += [blob_path(layer) for layer in image.layers]

        async def pull() -> list[tuple[int, str]]:
            assert (await world.client().get("/v2/")).status == 401
            bearer = f"Bearer {members(await world.client().get(PATH))['token']}"
            replies = [await world.client().get(path, Authorization=bearer) for path in paths]
            return [(reply.status, reply.headers.get("cache-status", "")) for reply in replies]

        assert {status for status, _ in await pull()} == {200}
        await until(lambda: image.layers[0].hex in world.stored())
        port = world.registry.port
        await world.registry.stop()
        stale, offline = "regcachd; fwd=stale", "regcachd; hit; detail=offline"
        for past in (400, 10 * 86400):
            wall.time += past
            await world.restart_daemon()
            is_hit = past == 400  # within public_ttl
            expected = [(200, stale), *[(200, HIT if is_hit else offline)] * (len(paths) - 1)]
            assert await pull() == expected
        world.registry.port = port
        await world.registry.start()
        for _ in range(1000):  # until upstream's return is noticed
            if (await pull())[0] == (200, "regcachd; hit; detail=revalidated"):
                break
        else:
            pytest.fail("the old token is still given")


async def test_a_refusal_goes_to_those_who_wait_and_is_not_kept(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        world.registry.fault("/token", StallBeforeHeaders(), Status(429, {"Retry-After": "7"}), times=1)
        asked = [start(world.client(), PATH) for _ in range(5)]
        await world.registry.until(lambda registry: bool(registry.stalls))
        await until(lambda: world.service.door.connections == 6)
        world.registry.release()
        replies = await together(*asked)
        assert {(reply.status, reply.headers.get("retry-after")) for reply in replies} >= {(429, "7")}
        assert members(await world.client().get(PATH))["token"]


@pytest.mark.parametrize(
    "body",
    [b"", b"not JSON", b"[]", b'{"token": ""}', b'{"token": "t", "refresh_token": "r"}', b"x" * 70_000],
)
async def test_what_is_no_plain_token_goes_through_as_it_is(tmp_path: Path, body: bytes) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        world.registry.fault("/token", Status(200, {"Content-Type": "application/json"}, body))
        for _ in range(2):
            reply = await world.client().get(PATH)
            assert (reply.status, reply.body) == (200, body)
        assert fetches(world) == 2


async def test_a_token_without_a_measure_is_a_502(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        world.registry.fault("/token", Status(200, {}, b"x" * (1024 * 1024 + 1)))
        assert (await world.client().get(PATH)).status == 502


async def test_no_cookie_goes_to_another_client(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        body = b'{"token": "t", "expires_in": 300}'
        world.registry.fault("/token", Status(200, {"Set-Cookie": "session=1"}, body))
        for _ in range(2):
            assert "set-cookie" not in (await world.client().get(PATH)).headers


# -- what is not shared


@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", PATH, {"Authorization": basic("alice", "secret")}),
        ("GET", PATH, {"Authorization": ""}),
        ("GET", PATH, {"Cookie": "session=alice"}),
        ("GET", PATH + "&account=alice", {}),
        ("GET", PATH + "&offline_token=true", {}),
        ("GET", PATH + "&x=y", {}),
        ("GET", "/token?service=a&service=b", {}),
        ("HEAD", PATH, {}),
        ("POST", PATH, {}),
        ("POST", "/token", {}),
    ],
)
async def test_a_request_that_may_be_somebodys_is_passed_on_and_nothing_of_it_is_kept(
    tmp_path: Path, host: bool, method: str, path: str, headers: dict[str, str]
) -> None:
    async with (with_token_host if host else with_tokens)(tmp_path) as world:
        await learned(world)
        server = world.registry.token_server
        for number in (1, 2):
            reply = await (at_token_host(world) if host else world.client()).do(method, path, **headers)
            assert reply.headers["cache-status"] == PASSED
            request = server.requests[-1]
            assert (request.line, fetches(world)) == (f"{method} {path}", number)
            assert request.authorization == headers.get("Authorization")
            assert request.headers.get("cookie") == headers.get("Cookie")
        assert members(await (at_token_host(world) if host else world.client()).get(PATH))["token"]
        assert fetches(world) == 3


async def test_no_token_of_a_user_is_kept_given_away_or_taken_for_nobodys(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        registry = world.registry
        registry.private("team/app", {"alice"})
        alice = members(await world.client().get(PATH, Authorization=basic("alice", "secret")))["token"]
        anybody = members(await world.client().get(PATH))["token"]
        assert alice != anybody
        anonymity = world.service.anonymity
        assert anonymity.standing(f"Bearer {anybody}").is_anonymous
        assert not anonymity.standing(f"Bearer {alice}").is_anonymous
        (digest,) = registry.blobs["team/app"]
        reply = await world.client().get(blob_path(digest), Authorization=f"Bearer {alice}")
        assert reply.body == DATA
        await until(lambda: digest.hex in world.stored())
        for authorization in (f"Bearer {anybody}", "Bearer x"):
            assert (await world.client().get(blob_path(digest), Authorization=authorization)).status == 401
        await world.restart_daemon()
        files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert alice.encode() not in files
        assert base64.b64encode(b"alice:secret") not in files


async def test_a_path_that_is_no_realm_is_not_shared(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        world.registry.fault("", Status(200, {}, b'{"token": "t", "expires_in": 300}'))
        for path in ("/tokens", "/token/", "/v2/token", "/oauth2/token", "//token", "/v2/_catalog"):
            for _ in range(2):
                assert (await world.client().get(path)).headers["cache-status"] == PASSED


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="https://evil.test/token"',
        'Bearer realm="https://registry.test:8443/token"',
        'Bearer realm="https://user@registry.test/token"',
        'Bearer realm="registry.test/token"',
        'Bearer realm="ftp://registry.test/token"',
        'Basic realm="https://registry.test/token"',
        "Bearer",
        'Bearer realm="https://registry.test/v2/team/app/manifests/1"',
    ],
)
async def test_a_realm_elsewhere_makes_no_realm_here(tmp_path: Path, challenge: str) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/v2/", Status(401, {"WWW-Authenticate": challenge}))
        world.registry.fault("/token", Status(200, {}, b'{"token": "t", "expires_in": 300}'))
        await learned(world)
        for _ in range(2):
            assert (await world.client().get(PATH)).headers["cache-status"] == PASSED


@pytest.mark.parametrize("path", ["/v2/", "/v2/team/app/manifests/1", "/v2/team/app/tags/list"])
@pytest.mark.parametrize(
    ("realm", "asked"),
    [
        ("https://registry.test/token", "/token"),
        ("http://registry.test:443/token", "/token"),
        ("https://REGISTRY.test/a/b?x=y#z", "/a/b"),
        ("https://registry.test", "/"),
    ],
)
async def test_realms_are_learned_from_whatever_challenge_is_relayed(
    tmp_path: Path, path: str, realm: str, asked: str
) -> None:
    async with running(tmp_path) as world:
        rule = world.registry.fault(path, Status(401, {"WWW-Authenticate": f'Basic, Bearer realm="{realm}"'}))
        assert (await world.client().get(path)).status == 401
        world.registry.heal(rule)
        world.registry.fault("", Status(200, {}, b'{"token": "t", "expires_in": 300}'))
        assert (await world.client().get(f"{asked}?service=s")).headers["cache-status"] == MISS
        assert (await world.client().get(f"{asked}?service=s")).headers["cache-status"] == HIT


# -- hosts


async def test_a_token_host_is_intercepted_and_asked_itself(tmp_path: Path) -> None:
    async with with_token_host(tmp_path) as world:
        await learned(world)
        first = members(await at_token_host(world).get(PATH))
        again = await at_token_host(world).get(PATH)
        assert (members(again)["token"], again.headers["cache-status"]) == (first["token"], HIT)
        assert fetches(world) == 1
        assert world.registry.requests.count("", "/token") == 0
        (digest,) = world.registry.blobs["team/app"]
        reply = await world.client().get(blob_path(digest), Authorization=f"Bearer {first['token']}")
        assert reply.body == DATA


async def test_a_token_host_is_no_registry(tmp_path: Path) -> None:
    """Whatever is asked there is asked of it alone, and nothing of the registry is served there, or the other way."""
    async with with_token_host(tmp_path) as world:
        await learned(world)
        (digest,) = world.registry.blobs["team/app"]
        token = members(await at_token_host(world).get(PATH))["token"]
        await world.client().get(blob_path(digest), Authorization=f"Bearer {token}")
        await until(lambda: digest.hex in world.stored())
        reply = await at_token_host(world).get(blob_path(digest), Authorization=f"Bearer {token}")
        assert DATA not in reply.body
        assert reply.headers["cache-status"] == PASSED
        assert (await at_token_host(world).get("/v2/")).headers["cache-status"] == PASSED
        assert (await at_token_host(world).get("/token", Host="registry.test")).status == 421
        assert (await world.client().get("/token", Host="localhost")).status == 421
        for method in ("PUT", "DELETE"):
            assert (await at_token_host(world).do(method, "/v2/")).status == 405


async def test_a_token_host_that_is_added_later_is_believed_by_the_clients_of_before(tmp_path: Path) -> None:
    """The issuing CA is made anew, with its name in it; the root that clients trust stays."""
    server = FakeRegistry(reactor, tls=True)
    await server.start()
    try:
        async with running(tmp_path, FakeRegistry(reactor)) as world:
            root = world.service.ca.root_pem
            world.settings = (
                f'token_hosts = ["{server.authority}"]\nca = "{server.ca_file(tmp_path / "ca.pem")}"'
            )
            await world.restart_daemon()
            assert world.service.ca.root_pem == root
            client = world.client()
            client.host, client.tunnel_port = "localhost", server.port
            assert (await client.get("/v2/")).status == 200
            assert server.requests.count("GET", "/v2/") == 1
    finally:
        await server.stop()


# -- nobody's tokens


async def test_a_thousand_tokens_are_one_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was handed out at another time; whoever has one is served what another one's holder was."""
    wall = Wall(monkeypatch)
    async with with_tokens(tmp_path, token_life=300.0) as world:
        await learned(world)
        (digest,) = world.registry.blobs["team/app"]
        older = members(await world.client().get(PATH))["token"]
        wall.time += 215
        newer = members(await world.client().get(PATH))["token"]
        assert older != newer
        await world.client().get(blob_path(digest), Authorization=f"Bearer {newer}")
        await until(lambda: digest.hex in world.stored())
        world.registry.requests.clear()
        for authorization in (f"Bearer {older}", f"bearer {newer}"):
            reply = await world.client().get(blob_path(digest), Authorization=authorization)
            assert (reply.body, reply.headers["cache-status"]) == (DATA, HIT)
        assert not world.registry.requests
        wall.time += 86  # the older has ended, and is what any unknown token is: somebody's
        assert not world.service.anonymity.standing(f"Bearer {older}").is_anonymous
        assert world.service.anonymity.standing(f"Bearer {newer}").is_anonymous


async def test_a_token_that_upstream_calls_invalid_is_given_to_nobody_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server has changed its key: who asks again would get the same useless token for as long as it lives."""
    wall = Wall(monkeypatch)
    async with with_tokens(tmp_path) as world:
        await learned(world)
        (digest,) = world.registry.blobs["team/app"]
        token = members(await world.client().get(PATH))["token"]
        wall.time += 20
        world.registry.expire_tokens()
        assert (await world.client().get(blob_path(digest), Authorization=f"Bearer {token}")).status == 401
        renewed = members(await world.client().get(PATH))["token"]
        assert renewed != token
        assert (await world.client().get(blob_path(digest), Authorization=f"Bearer {renewed}")).body == DATA


async def test_a_refused_client_without_a_token_does_no_harm_to_one_that_has_it(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        (digest,) = world.registry.blobs["team/app"]
        token = members(await world.client().get(PATH))["token"]
        await world.client().get(blob_path(digest), Authorization=f"Bearer {token}")
        await until(lambda: digest.hex in world.stored())
        assert (await world.client().get("/v2/team/app/manifests/1")).status == 401
        world.registry.requests.clear()
        for headers in ({"Authorization": f"Bearer {token}"}, {}):  # public is public
            reply = await world.client().get(blob_path(digest), **headers)
            assert (reply.body, reply.headers["cache-status"]) == (DATA, HIT)
        assert not world.registry.requests


# -- the storm


async def cold_node(world: World, *workers: World) -> str:
    """What a client does before its first manifest: a ping, then a token."""
    worker = workers[0] if workers else world
    client = worker.client()
    reply = await client.get("/v2/")
    assert reply.status == 401
    assert f'realm="{world.registry.token_server.url}/token"' in reply.headers["www-authenticate"]
    token: str = members(await at_token_host(worker).get(PATH))["token"]
    return token


async def test_fifty_cold_clients_are_one_ping_and_one_token(tmp_path: Path) -> None:
    async with with_token_host(tmp_path) as world:
        nodes = [Deferred.fromCoroutine(cold_node(world)) for _ in range(50)]
        tokens = {await node for node in nodes}
        assert len(tokens) == 1
        assert world.registry.requests.count("", "/v2/") == 1
        assert fetches(world) == 1


async def test_so_they_are_for_two_workers(tmp_path: Path) -> None:
    async with with_token_host(tmp_path) as world:
        second = world.second()
        try:
            nodes = [
                Deferred.fromCoroutine(cold_node(world, worker))
                for _ in range(15)
                for worker in (world, second)
            ]
            tokens = {await node for node in nodes}
            assert len(tokens) == 1
            assert world.registry.requests.count("", "/v2/") == 1
            assert fetches(world) == 1
        finally:
            await second.stop()


async def test_what_one_worker_has_learned_the_other_knows(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        second = world.second()
        try:
            await learned(world)
            assert (await second.client().get(PATH)).headers["cache-status"] == MISS
            assert (await world.client().get(PATH)).headers["cache-status"] == HIT
        finally:
            await second.stop()


async def test_a_client_that_leaves_takes_no_token_with_it(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as world:
        await learned(world)
        world.registry.fault("/token", StallBeforeHeaders(), times=1)
        leaving = world.client()

        def leave() -> None:
            connection = leaving.connection()
            connection.request("GET", PATH)
            connection.close()

        await deferToThread(leave)
        await world.registry.until(lambda registry: bool(registry.stalls))
        staying = start(world.client(), PATH)
        await until(lambda: world.service.door.connections >= 2)
        world.registry.release()
        assert members(await staying)["token"]
        assert fetches(world) == 1
