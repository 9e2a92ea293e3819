"""The list of what refers to a manifest: kept for a while, for clients that may read the repository."""

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.testing import FakeRegistry, StallBeforeHeaders, Status
from tests.test_registry import Wall
from tests.through import basic, running, start, together
from tests.world import Reply, World

reactor: Any = _reactor

HIT, MISS, STALE = "regcachd; hit", "regcachd; fwd=uri-miss; stored", "regcachd; fwd=stale"
ALICE, BOB = basic("alice", "a"), basic("bob", "b")


def signed(world: World) -> str:
    """An image and its signature; returns where its referrers are listed."""
    image = world.registry.add_image("team/app", "1", [b"layer"])
    sign(world, str(image.manifest), "one")
    return f"/v2/team/app/referrers/{image.manifest}"


def sign(world: World, subject: str, name: str) -> None:
    manifest = {"subject": {"digest": subject}, "artifactType": f"test/{name}"}
    world.registry.add_manifest("team/app", None, json.dumps(manifest).encode())


def count(reply: Reply) -> int:
    assert reply.status == 200, reply
    return len(json.loads(reply.body)["manifests"])


async def test_a_list_is_kept_for_tag_ttl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, settings='tag_ttl = "10m"') as world:
        path = signed(world)
        first = await world.client().get(path)
        assert (count(first), first.headers["cache-status"]) == (1, MISS)
        sign(world, path.rpartition("/")[2], "two")
        wall.time += 599
        for method in ("GET", "HEAD"):
            again = await world.client().do(method, path)
            assert (again.status, again.headers["cache-status"], again.headers["age"]) == (200, HIT, "599")
            assert again.headers["content-type"] == first.headers["content-type"]
            assert again.headers["content-length"] == str(len(first.body))
        assert count(await world.client().get(f"{path}?artifactType=test/two")) == 1
        wall.time += 1
        assert count(await world.client().get(path)) == 2
        assert world.registry.requests.count("GET", "/referrers/") == 3


async def test_the_query_goes_upstream_byte_for_byte(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        target = signed(world) + "?artifactType=a%2Fb%20c&x=+"
        assert count(await world.client().get(target)) == 0
        (request,) = world.registry.requests.matching("GET", "/referrers/")
        assert request.line == f"GET {target}"


async def test_upstream_failing_leaves_the_old_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, settings='tag_ttl = "10m"\nmax_stale = "1d"') as world:
        path = signed(world)
        await world.client().get(path.replace("referrers", "manifests"))
        await world.client().get(path)
        wall.time += 2000
        rule = world.registry.fault(path, Status(500))
        for _ in range(2):
            reply = await world.client().get(path)
            assert (count(reply), reply.headers["cache-status"]) == (1, STALE)
        world.registry.heal(rule)
        await world.registry.stop()
        for _ in range(3):
            assert count(await world.client().get(path)) == 1
        wall.time += 86400
        assert (await world.client().get(path)).status == 502


async def test_a_list_is_for_those_who_may_read_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    registry = FakeRegistry(reactor, auth="basic", users={"alice": "a", "bob": "b"})
    registry.private("team/app", {"alice"})
    async with running(tmp_path, registry, settings='offline_grace = "1h"') as world:
        path = signed(world)
        await world.client().get(path.replace("referrers", "manifests"), Authorization=ALICE)
        for _ in range(2):
            assert count(await world.client().get(path, Authorization=ALICE)) == 1
            assert (await world.client().get(path, Authorization=BOB)).status == 403
            assert (await world.client().get(path)).status == 401
        assert world.registry.requests.count("GET", "/referrers/") == 5
        await world.registry.stop()
        wall.time += 3599
        assert count(await world.client().get(path, Authorization=ALICE)) == 1
        assert (await world.client().get(path, Authorization=BOB)).status == 502
        wall.time += 1
        assert (await world.client().get(path, Authorization=ALICE)).status == 502


async def test_many_who_ask_at_once_are_one(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        path = signed(world)
        replies = await together(*(start(world.client(), path) for _ in range(10)))
        assert {count(reply) for reply in replies} == {1}
        assert world.registry.requests.count("GET", "/referrers/") <= 2


async def test_a_registry_without_the_list_has_a_tag_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, settings='tag_ttl = "10m"') as world:
        path = signed(world)
        world.registry.fault("/referrers/", Status(404))
        tag = path.rpartition("/")[2].replace(":", "-")
        world.registry.add_manifest("team/app", tag, b'{"manifests":[]}')
        for _ in range(2):
            assert (await world.client().get(path)).status == 404
            assert (await world.client().get(f"/v2/team/app/manifests/{tag}")).status == 200
            wall.time += 300
        assert world.registry.requests.count("", "/manifests/") == 1


async def test_whoever_pushes_sees_the_new_list(tmp_path: Path) -> None:
    async with running(tmp_path, settings="allow_push = true") as world:
        path = signed(world)
        assert count(await world.client().get(path)) == 1
        sign(world, path.rpartition("/")[2], "two")
        world.registry.fault("DELETE ", Status(202, {}, b""))
        assert (await world.client().do("DELETE", "/v2/team/app/manifests/1")).status == 202
        assert count(await world.client().get(path)) == 2


@pytest.mark.parametrize("path", ["/v2/team/app/tags/list", "/v2/_catalog"])
async def test_lists_of_tags_and_repositories_pass_through(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as world:
        signed(world)
        for _ in range(2):
            assert (await world.client().get(path)).headers["cache-status"] == "regcachd; fwd=bypass"
        assert world.registry.requests.count("GET", path) == 2


async def test_that_there_is_no_list_is_kept_for_those_who_may_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    registry = FakeRegistry(reactor, auth="basic", users={"alice": "a", "bob": "b"})
    registry.private("team/app", {"alice"})
    async with running(tmp_path, registry, settings='tag_ttl = "10m"\naccess_ttl = "1h"') as world:
        path = signed(world)
        hidden = registry.fault(lambda r: r.path == path and r.authorization == BOB, Status(404))
        for _ in range(2):  # what is hidden from one is no answer for anybody
            assert (await world.client().get(path, Authorization=BOB)).status == 404
        assert count(await world.client().get(path, Authorization=ALICE)) == 1
        registry.heal(hidden)
        registry.fault("/referrers/", Status(404))
        wall.time += 600
        registry.requests.clear()
        for _ in range(3):
            assert (await world.client().get(path, Authorization=ALICE)).status == 404
            wall.time += 200
        assert registry.requests.count("GET", "/referrers/") == 1
        assert (await world.client().get(path, Authorization=ALICE)).status == 404
        assert registry.requests.count("GET", "/referrers/") == 2


async def test_an_upstream_that_hangs_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    monkeypatch.setattr("regcachd.referrers.HURRY", 0.1)
    async with running(tmp_path, settings='tag_ttl = "10m"') as world:
        path = signed(world)
        await world.client().get(path.replace("referrers", "manifests"))
        await world.client().get(path)
        wall.time += 700
        world.registry.fault("/referrers/", StallBeforeHeaders())
        for _ in range(2):
            reply = await world.client().get(path)
            assert (count(reply), reply.headers["cache-status"]) == (1, STALE)
        assert world.registry.requests.count("GET", "/referrers/") == 2
