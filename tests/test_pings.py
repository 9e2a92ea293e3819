"""The ping: one question in five minutes, and every client gets upstream's own words."""

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.testing import CutAfter, FakeRegistry, GarbageResponse, StallBeforeHeaders, Status
from tests.test_registry import Wall
from tests.through import Download, basic, running, start, together
from tests.world import World

reactor: Any = _reactor

HIT, MISS, PASSED = "regcachd; hit", "regcachd; fwd=uri-miss; stored", "regcachd; fwd=bypass"


def pings(world: World) -> int:
    return world.registry.requests.count("", "/v2/")


@pytest.mark.parametrize("auth", ["none", "basic", "token"])
async def test_upstream_is_asked_once_in_five_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: Any
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, FakeRegistry(reactor, auth=auth)) as world:
        first = await world.client().get("/v2/")
        assert first.headers["cache-status"] == MISS
        wall.time += 299
        for method in ("GET", "HEAD"):
            again = await world.client().do(method, "/v2/")
            assert (again.status, again.headers["cache-status"]) == (first.status, HIT)
            assert again.headers.get("www-authenticate") == first.headers.get("www-authenticate")
            assert again.headers["content-length"] == first.headers["content-length"]
            assert again.body == (first.body if method == "GET" else b"")
        assert pings(world) == 1
        wall.time += 1
        assert (await world.client().get("/v2/")).headers["cache-status"] == MISS
        assert pings(world) == 2


async def test_many_at_once_are_one(tmp_path: Path) -> None:
    async with running(tmp_path, FakeRegistry(reactor, auth="token")) as world:
        world.registry.fault("/v2/", StallBeforeHeaders())
        asked = [start(world.client(), "/v2/") for _ in range(20)]
        await world.registry.until(lambda registry: bool(registry.stalls))
        world.registry.release()
        assert {reply.status for reply in await together(*asked)} == {401}
        assert pings(world) == 1


async def test_two_workers_have_one_answer(tmp_path: Path) -> None:
    async with running(tmp_path, FakeRegistry(reactor, auth="token")) as world:
        second = world.second()
        try:
            first = await world.client().get("/v2/")
            again = await second.client().get("/v2/")
            assert again.headers["www-authenticate"] == first.headers["www-authenticate"]
            assert pings(world) == 1
        finally:
            await second.stop()


@pytest.mark.parametrize(
    "headers", [{"Authorization": basic("alice", "secret")}, {"Authorization": ""}, {"Cookie": "a=b"}]
)
async def test_whoever_says_who_it_is_is_answered_by_upstream(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    registry = FakeRegistry(reactor, auth="basic", users={"alice": "secret"})
    async with running(tmp_path, registry) as world:
        assert (await world.client().get("/v2/")).status == 401
        reply = await world.client().get("/v2/", **headers)
        assert reply.headers["cache-status"] == PASSED
        assert reply.status == (200 if headers.get("Authorization") else 401)
        assert pings(world) == 2
        # and its answer is nobody else's
        assert (await world.client().get("/v2/")).status == 401


@pytest.mark.parametrize("path", ["/v2/?ns=docker.io", "/v2", "/v2/?"])
async def test_what_is_not_quite_a_ping_is_upstreams_to_answer(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as world:
        for _ in range(2):
            assert (await world.client().get(path)).headers["cache-status"] == PASSED
        assert [request.line for request in world.registry.requests] == [f"GET {path.rstrip('?')}"] * 2


@pytest.mark.parametrize("code", [301, 403, 404, 429, 500, 503])
async def test_only_yes_and_a_challenge_are_kept(tmp_path: Path, code: int) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/v2/", Status(code), times=1)
        reply = await world.client().get("/v2/")
        assert (reply.status, reply.headers["cache-status"]) == (code, "regcachd; fwd=uri-miss")
        assert (await world.client().get("/v2/")).status == 200


@pytest.mark.parametrize(
    "fault", [Status(500), Status(429), CutAfter(1), GarbageResponse()], ids=lambda fault: repr(fault)[:12]
)
async def test_while_upstream_fails_its_last_answer_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    """Also after a restart: it is in the index."""
    wall = Wall(monkeypatch)
    async with running(tmp_path, FakeRegistry(reactor, auth="token")) as world:
        first = await world.client().get("/v2/")
        wall.time += 3600
        await world.restart_daemon()
        world.registry.fault("/v2/", fault)
        reply = await world.client().get("/v2/")
        assert (reply.status, reply.body) == (401, first.body)
        assert reply.headers["www-authenticate"] == first.headers["www-authenticate"]
        assert reply.headers["cache-status"] == "regcachd; fwd=stale"


CHALLENGES = [
    'Bearer realm="https://auth.test/token",service="a b",scope="repository:a,b:pull,push"',
    "Bearer realm=https://icr.test/oauth/token,  service=registry",
    'Basic realm="a\\"b", Bearer  realm="x" ,service=gcr.io',
    "Basic",
    "bearer REALM='odd\xe9'",
    'Basic realm="not closed',
]


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/team/app/manifests/1", "/v2/team/app/blobs/sha256:" + "0" * 64]
)
async def test_challenges_go_to_clients_as_upstream_wrote_them(tmp_path: Path, path: str) -> None:
    """All of them, in their order, with their quotes, whether relayed or reused."""
    lines = "".join(
        f"{name}: {value}\r\n"
        for name, value in zip(["WWW-Authenticate", "www-authenticate"] * 3, CHALLENGES, strict=True)
    )
    raw = f"HTTP/1.1 401 Unauthorized\r\n{lines}Content-Length: 2\r\n\r\nno".encode("latin-1")
    async with running(tmp_path) as world:
        world.registry.fault(path, GarbageResponse(raw))
        for _ in range(2):
            download = await Download(world, path).begin()
            assert await download.rest() == b"no"
            assert download.header("www-authenticate") == CHALLENGES


async def test_nothing_that_is_for_one_client_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/v2/", Status(200, {"Set-Cookie": "session=1", "X-Odd": "kept"}, b"{}"))
        for _ in range(2):
            reply = await world.client().get("/v2/")
            assert "set-cookie" not in reply.headers
            assert reply.headers["x-odd"] == "kept"
            assert "date" in reply.headers


async def test_an_upstream_that_hangs_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    monkeypatch.setattr("regcachd.commons.HURRY", 0.1)
    async with running(tmp_path, FakeRegistry(reactor, auth="token")) as world:
        first = await world.client().get("/v2/")
        wall.time += 3600
        world.registry.fault("/v2/", StallBeforeHeaders())
        for _ in range(3):
            reply = await world.client().get("/v2/")
            assert (reply.status, reply.body) == (401, first.body)
            assert reply.headers["cache-status"] == "regcachd; fwd=stale"
        assert pings(world) == 2


async def test_an_old_answer_is_given_for_max_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, FakeRegistry(reactor, auth="token"), settings='max_stale = "1h"') as world:
        await world.client().get("/v2/")
        world.registry.fault("/v2/", Status(500))
        wall.time += 3599
        assert (await world.client().get("/v2/")).status == 401
        wall.time += 1
        assert (await world.client().get("/v2/")).status == 500
