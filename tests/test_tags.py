"""Tags: one question for all, the access rule, what upstream cannot say, and what it says of its limits."""

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.governor import Kind
from regcachd.index import Index
from regcachd.reference import Repository, Tag
from regcachd.tag_table import MOST_ENTRIES
from regcachd.testing import (
    DOCKER_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    CloseAtAccept,
    CutAfter,
    ExtraHeaders,
    FakeRegistry,
    GarbageResponse,
    Image,
    NoContentLength,
    NoDigestHeader,
    StallBeforeHeaders,
    Status,
    WrongBytes,
    WrongDigestHeader,
    WrongLength,
)
from tests.test_registry import Wall
from tests.through import basic, limits, logged, running, start, together
from tests.world import NAME, Reply, World, until

reactor: Any = _reactor

TAG = "/v2/team/app/manifests/1"
HIT, REVALIDATED, STALE = "regcachd; hit", "regcachd; hit; detail=revalidated", "regcachd; fwd=stale"
PULLS = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'
USERS = {"alice": "a", "bob": "b"}
ALICE, BOB = basic("alice", "a"), basic("bob", "b")


def add(world: World, layer: bytes = b"layer") -> Image:
    return world.registry.add_image("team/app", "1", [layer])


def lines(world: World) -> list[str]:
    """What upstream was asked since the last call, but for pings."""
    found = [request.line for request in world.registry.requests if request.path != "/v2/"]
    world.registry.requests.clear()
    return found


def status(reply: Reply) -> str:
    return reply.headers["cache-status"]


# -- policies


async def test_a_tag_is_asked_for_once_in_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = add(world)
        client = world.client()
        await client.get(TAG)
        lines(world)
        wall.time += 4
        for method in ("GET", "HEAD", "GET"):
            reply = await client.do(method, TAG)
            assert (reply.status, status(reply), reply.headers["age"]) == (200, HIT, "4")
            assert reply.headers["docker-content-digest"] == str(image.manifest)
            assert reply.headers["content-length"] == str(len(image.data))
            assert reply.body == (image.data if method == "GET" else b"")
        assert lines(world) == []
        wall.time += 1
        reply = await client.get(TAG)
        assert (reply.body, status(reply), reply.headers["age"]) == (image.data, REVALIDATED, "0")
        assert lines(world) == [f"HEAD {TAG}"]
        assert "warning" not in reply.headers


async def test_a_tag_that_moved_is_served_within_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        first = add(world, b"one")
        assert (await world.client().get(TAG)).body == first.data
        second = add(world, b"two")
        wall.time += 4.9
        assert (await world.client().get(TAG)).body == first.data
        wall.time += 0.1
        for method in ("HEAD", "GET", "HEAD"):
            reply = await world.client().do(method, TAG)
            assert reply.headers["docker-content-digest"] == str(second.manifest)
        assert lines(world) == [f"GET {TAG}", f"HEAD {TAG}", f"GET {TAG}"]


async def test_ttl_by_default_and_by_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)
    rules = 'tags = "ttl"\ntag_ttl = "1h"\ntag_rules = [{match = "*/app:2*", ttl = "1m"}]'
    async with running(tmp_path, settings=rules) as world:
        add(world)
        world.registry.add_image("team/app", "22", [b"x"])
        for tag in ("1", "22"):
            await world.client().get(f"/v2/team/app/manifests/{tag}")
        lines(world)
        wall.time += 60
        for tag in ("1", "22"):
            await world.client().get(f"/v2/team/app/manifests/{tag}")
        assert lines(world) == ["HEAD /v2/team/app/manifests/22"]
        wall.time += 3540
        await world.client().get(TAG)
        assert lines(world) == [f"HEAD {TAG}"]


async def test_never_is_a_get_each_time_that_need_not_bring_the_bytes(tmp_path: Path) -> None:
    async with running(tmp_path, settings='tags = "never"') as world:
        image = add(world)
        for _ in range(3):
            assert (await world.client().get(TAG)).body == image.data
        asked = [(r.method, r.headers.get("if-none-match")) for r in world.registry.requests]
        assert asked == [("GET", None), ("GET", f'"{image.manifest}"'), ("GET", f'"{image.manifest}"')]
        moved = add(world, b"moved")
        assert (await world.client().get(TAG)).body == moved.data
        lines(world)
        await world.client().do("HEAD", TAG)
        assert lines(world) == [f"HEAD {TAG}"]


async def test_if_none_match_is_answered_from_the_entry(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(TAG)
        for method in ("GET", "HEAD"):
            reply = await world.client().do(method, TAG, If_None_Match=f'"{image.manifest}"')
            assert (reply.status, reply.body, status(reply)) == (304, b"", HIT)
            assert "content-length" not in reply.headers
        assert lines(world) == [f"GET {TAG}"]


# -- one question for all


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_many_who_ask_at_once_and_soon_after_are_one_question(tmp_path: Path, method: str) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        stall = world.registry.fault(TAG, StallBeforeHeaders())
        asked = [start(world.client(), TAG, method) for _ in range(20)]
        await until(lambda: len(world.service.door.busy()) == 20)
        world.registry.heal(stall)
        world.registry.release()
        replies = [*await together(*asked), await world.client().do(method, TAG)]
        assert {reply.headers["docker-content-digest"] for reply in replies} == {str(image.manifest)}
        assert {reply.headers["content-length"] for reply in replies} == {str(len(image.data))}
        assert lines(world) == [f"{method} {TAG}"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("is_known", [False, True])
async def test_two_workers_ask_one_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, is_known: bool
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = add(world)
        if is_known:
            await world.client().get(TAG)
            lines(world)
            wall.time += 5
        second = world.second()
        try:
            stall = world.registry.fault(TAG, StallBeforeHeaders())
            asked = [start(each.client(), TAG, method) for each in (world, second) for _ in range(3)]
            await until(lambda: len([*world.service.door.busy(), *second.service.door.busy()]) == 6)
            wall.time += 1
            world.registry.heal(stall)
            world.registry.release()
            replies = await together(*asked)
            assert {reply.headers["docker-content-digest"] for reply in replies} == {str(image.manifest)}
            assert lines(world) == [f"{'HEAD' if is_known else method} {TAG}"]
        finally:
            await second.stop()


async def test_a_head_and_a_pull_by_digest_are_two_questions_for_all(tmp_path: Path) -> None:
    """As containerd does it."""
    async with running(tmp_path) as world:
        image = add(world)
        path = f"/v2/team/app/manifests/{image.manifest}"
        for _ in range(3):
            assert (await world.client().do("HEAD", TAG)).status == 200
        for _ in range(3):
            assert (await world.client().get(path)).body == image.data
            reply = await world.client().do("HEAD", TAG)
            assert (status(reply), reply.headers["content-type"]) == (HIT, OCI_MANIFEST)
        assert (await world.client().get(TAG)).body == image.data
        assert lines(world) == [f"HEAD {TAG}", f"GET {path}"]


async def test_entries_of_one_tag_are_bounded_and_alike_lists_are_one(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        add(world)
        await world.client().get(TAG, Accept=f"{OCI_INDEX}, {OCI_MANIFEST}")
        await world.client().get(TAG, Accept=f"{OCI_MANIFEST};q=0.5,{OCI_INDEX}")
        assert lines(world) == [f"GET {TAG}"]
        for number in range(40):
            await world.client().get(TAG, Accept=f"text/{number}, */*")
        index = Index(tmp_path / "store/index.sqlite3")
        index.open()
        assert len(index.tags.all(Repository(NAME, "team/app"), Tag("1"))) == MOST_ENTRIES
        index.close()


# -- the access rule


def private() -> FakeRegistry:
    registry = FakeRegistry(reactor, auth="basic", users=USERS)
    registry.private("team/app", {"alice"})
    return registry


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_fresh_entry_is_nothing_to_who_may_not_read_the_repository(
    tmp_path: Path, method: str
) -> None:
    async with running(tmp_path, private()) as world:
        image = add(world)
        assert (await world.client().do(method, TAG, Authorization=ALICE)).status == 200
        for headers, refusal in (({"Authorization": BOB}, 403), ({}, 401), ({"Authorization": "x"}, 401)):
            for way in ("GET", "HEAD"):
                reply = await world.client().do(way, TAG, **headers)
                assert reply.status == refusal
                assert "docker-content-digest" not in reply.headers
                assert image.data[:20] not in reply.body
        lines(world)
        assert (await world.client().get(TAG, Authorization=ALICE)).body == image.data
        assert len(lines(world)) == (method == "HEAD")


async def test_a_refusal_is_for_who_was_refused_only(tmp_path: Path) -> None:
    async with running(tmp_path, private()) as world:
        image = add(world)
        stall = world.registry.fault(TAG, StallBeforeHeaders())
        bob = [start(world.client(), TAG, Authorization=BOB) for _ in range(3)]
        await world.registry.until(lambda r: len(r.stalls) == 1)
        alice = [start(world.client(), TAG, Authorization=ALICE) for _ in range(3)]
        await until(lambda: len(world.service.door.busy()) == 6)
        world.registry.heal(stall)
        world.registry.release()
        assert {reply.status for reply in await together(*bob)} == {403}
        assert {reply.body for reply in await together(*alice)} == {image.data}
        assert lines(world) == [f"GET {TAG}"] * 2


async def test_a_tag_that_a_stranger_is_not_told_of_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private()) as world:
        image = add(world)
        await world.client().get(TAG, Authorization=ALICE)
        wall.time += 10
        bobs = world.registry.fault(lambda r: r.authorization == BOB, Status(404))
        assert (await world.client().get(TAG, Authorization=BOB)).status == 404
        world.registry.heal(bobs)
        world.registry.fault(TAG, Status(500))
        reply = await world.client().get(TAG, Authorization=ALICE)
        assert (reply.body, status(reply)) == (image.data, STALE)
        world.registry.heal()
        world.registry.remove("team/app", "1")
        assert (await world.client().get(TAG, Authorization=ALICE)).status == 404
        world.registry.fault(TAG, Status(500))
        assert (await world.client().get(TAG, Authorization=ALICE)).status == 500


# -- stale if error


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "fault",
    [
        Status(429),
        Status(429, {"Retry-After": "1"}, b"Too Many Requests"),
        Status(500),
        Status(502),
        Status(503, {"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}),
        GarbageResponse(),
        CloseAtAccept(),
        StallBeforeHeaders(),
    ],
    ids=lambda fault: f"{type(fault).__name__}{getattr(fault, 'code', '')}",
)
async def test_when_upstream_fails_a_tag_is_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, method: str
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, settings='timeout = "300ms"') as world:
        image = add(world)
        await world.client().get(TAG)
        wall.time += 100
        if isinstance(fault, CloseAtAccept):
            await world.registry.stop()
            await world.registry.start()
        world.registry.fault("/v2/", fault)
        with logged() as told:
            reply = await world.client().do(method, TAG)
        assert (reply.status, status(reply), reply.headers["age"]) == (200, STALE, "100")
        assert reply.headers["docker-content-digest"] == str(image.manifest)
        assert reply.headers["content-length"] == str(len(image.data))
        assert reply.body == (image.data if method == "GET" else b"")
        assert any("is served as it was" in line for line in told)
        assert world.service.edition.registries["registry.test"].endpoints._registry.served_stale == 1
        world.registry.heal()
        world.registry.release()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_upstream_that_hangs_is_not_waited_for_long_and_asked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Who has nothing else to get waits for `timeout`; here that is never over."""
    wall = Wall(monkeypatch)
    monkeypatch.setattr("regcachd.tag_lookups.HURRY", 0.1)
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(TAG)
        moved = add(world, b"moved")
        wall.time += 100
        lines(world)
        stall = world.registry.fault(TAG, StallBeforeHeaders())
        with logged() as told:
            replies = await together(*(start(world.client(), TAG, method) for _ in range(5)))
            replies.append(await world.client().do(method, TAG))
        assert {reply.headers["docker-content-digest"] for reply in replies} == {str(image.manifest)}
        assert {status(reply) for reply in replies} == {STALE}
        assert any("there was no answer within 0.1 s" in line for line in told)
        assert lines(world) == [f"HEAD {TAG}"]
        world.registry.heal(stall)
        world.registry.release()
        await until(
            lambda: (
                not world.service.edition.registries[
                    NAME
                ].endpoints._manifests._tags._lookups._flights._waiting
            )
        )
        assert (await world.client().get(TAG)).body == moved.data
        assert lines(world) == [f"GET {TAG}"]  # the answer to the first question has counted


async def test_what_was_public_is_not_held_back_by_an_upstream_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it still is, is asked on; who has lost a right of his own keeps nothing by a slow answer."""
    wall = Wall(monkeypatch)
    monkeypatch.setattr("regcachd.registry.HURRY", 0.1)
    async with running(tmp_path) as world:
        image = add(world)
        path = f"/v2/team/app/manifests/{image.manifest}"
        assert (await world.client().get(path)).body == image.data
        wall.time += 7200
        world.registry.fault("/v2/", StallBeforeHeaders())
        reply = await world.client().get(path)
        assert (reply.body, status(reply)) == (image.data, "regcachd; hit; detail=offline")
        world.registry.heal()
        world.registry.release()
        await until(lambda: not world.service.edition.registries[NAME].endpoints._registry._probes._waiting)
        assert status(await world.client().get(path)) == HIT


async def test_the_refused_connection_is_noticed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(TAG)
        port = world.registry.port
        await world.registry.stop()
        wall.time += 100
        for _ in range(10):
            reply = await world.client().get(TAG)
            assert (reply.body, status(reply)) == (image.data, STALE)
        for _ in range(2):  # one of them may be the one that tries whether upstream is back
            missing = await world.client().get("/v2/team/app/manifests/other")
            assert missing.status == 502
        assert b"has been unreachable for" in missing.body
        world.registry.port = port
        await world.registry.start()
        moved = add(world, b"moved")

        async def is_new() -> bool:
            return (await world.client().get(TAG)).body == moved.data

        for _ in range(1000):
            if await is_new():
                break
        else:
            pytest.fail("upstream's return is not noticed")


async def test_too_old_is_not_served_and_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, settings='max_stale = "1h"') as world:
        add(world)
        await world.client().get(TAG)
        wall.time += 3599
        world.registry.fault(TAG, GarbageResponse())
        assert status(await world.client().get(TAG)) == STALE
        wall.time += 1
        reply = await world.client().get(TAG)
        assert reply.status == 502
        assert b"the last good copy is" in reply.body
        assert b"max_stale" in reply.body
        world.registry.heal()
        world.registry.fault(TAG, Status(500))
        assert (await world.client().get(TAG)).status == 500


async def test_offline_terms_hold_for_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private(), settings='offline_grace = "2h"') as world:
        image = add(world)
        await world.client().get(TAG, Authorization=ALICE)
        await world.registry.stop()
        wall.time += 7199
        assert (await world.client().get(TAG, Authorization=ALICE)).body == image.data
        for headers in ({"Authorization": BOB}, {}):
            reply = await world.client().get(TAG, **headers)
            assert reply.status == 502
            assert "docker-content-digest" not in reply.headers
        wall.time += 2
        reply = await world.client().get(TAG, Authorization=ALICE)
        assert reply.status == 502
        assert b"offline_grace" in reply.body


async def test_other_lists_of_media_types_serve_in_need_what_they_would_have_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        world.registry.add_manifest("team/app", "1", b'{"manifests":[]}', OCI_INDEX)
        await world.client().get(TAG, Accept=f"{OCI_INDEX},{DOCKER_LIST},{OCI_MANIFEST}")
        wall.time += 100
        await world.registry.stop()
        for accept in (OCI_INDEX, "*/*", f"{OCI_MANIFEST},{OCI_INDEX}"):
            assert (await world.client().get(TAG, Accept=accept)).body == b'{"manifests":[]}'
        assert (await world.client().get(TAG, Accept=OCI_MANIFEST)).status == 502


async def test_what_was_moved_to_and_cannot_be_fetched_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(TAG)
        moved = add(world, b"moved")
        wall.time += 10
        gets = world.registry.fault(f"GET {TAG}", Status(500))
        for _ in range(2):
            reply = await world.client().get(TAG)
            assert (reply.body, status(reply)) == (image.data, STALE)
        world.registry.heal(gets)
        assert (await world.client().get(TAG)).body == moved.data


@pytest.mark.parametrize(
    "fault", [WrongDigestHeader(), WrongBytes(3), WrongLength(5), CutAfter(5)], ids=lambda f: type(f).__name__
)
async def test_a_manifest_that_comes_wrong_is_an_error_and_one_that_breaks_off_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(TAG)
        add(world, b"moved")
        wall.time += 10
        world.registry.fault(f"GET {TAG}", fault)
        with logged():
            reply = await world.client().get(TAG)
        is_wrong = isinstance(fault, WrongDigestHeader | WrongBytes)
        assert reply.status == (502 if is_wrong else 200)
        assert is_wrong or (reply.body == image.data and status(reply) == STALE)
        assert len(world.stored()) == 1


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_huge_manifest_is_an_error_though_there_is_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_length: bool
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, tables=limits(manifest_size="1KiB")) as world:
        world.registry.add_manifest("team/app", "1", b"{}")
        await world.client().get(TAG)
        world.registry.add_manifest("team/app", "1", b"x" * 1025)
        wall.time += 10
        if not with_length:
            world.registry.fault(TAG, NoContentLength())
        reply = await world.client().get(TAG)
        assert reply.status == 502
        assert b"limits.manifest_size" in reply.body


async def test_a_head_that_says_nothing_of_use_is_followed_by_a_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(TAG)
        for fault in (Status(405), NoDigestHeader(), Status(404)):
            wall.time += 10
            rule = world.registry.fault(f"HEAD {TAG}", fault)
            lines(world)
            assert (await world.client().get(TAG)).body == image.data
            assert lines(world) == [f"HEAD {TAG}", f"GET {TAG}"]
            world.registry.heal(rule)


# -- limits


async def test_who_has_no_pulls_left_gets_what_was_and_asks_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(TAG)
        moved = add(world, b"moved")
        wall.time += 10
        limit = Status(429, {"Retry-After": "60", "RateLimit-Remaining": "0;w=21600"}, PULLS)
        rule = world.registry.fault("GET /v2/team", limit)
        lines(world)
        reply = await world.client().get(TAG)
        assert (reply.body, status(reply)) == (image.data, STALE)
        assert lines(world) == [f"HEAD {TAG}", f"GET {TAG}"]
        wall.time += 10
        assert status(await world.client().get(TAG)) == STALE
        assert lines(world) == [f"HEAD {TAG}"]  # which is free
        for _ in range(2):
            head = await world.client().do("HEAD", TAG)
            assert (head.headers["docker-content-digest"], status(head)) == (str(image.manifest), STALE)
        reply = await world.client().get("/v2/team/app/manifests/other")
        assert (reply.status, reply.headers["retry-after"]) == (429, "50")
        assert b"TOOMANYREQUESTS" in reply.body
        assert lines(world) == []
        governor = world.service.edition.registries["registry.test"].endpoints._registry.restraint.governor
        assert governor.limited[Kind.PULLS] == 1
        world.registry.heal(rule)
        wall.time += 50
        assert (await world.client().get(TAG)).body == moved.data


async def test_who_asks_too_fast_is_kept_back_with_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(TAG)
        wall.time += 10
        world.registry.fault("/v2/team", Status(429, {"Retry-After": "60"}, b"slow down"))
        lines(world)
        for _ in range(5):
            for method in ("GET", "HEAD"):
                reply = await world.client().do(method, TAG)
                assert (status(reply), reply.headers["content-length"]) == (STALE, str(len(image.data)))
        assert lines(world) == [f"HEAD {TAG}"]


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v2/", "GET"),
        ("/v2/team/app/blobs/sha256:" + "0" * 64, "GET"),
        ("/v2/team/app/blobs/sha256:" + "0" * 64, "HEAD"),
    ],
)
async def test_limits_are_heard_in_all_answers_and_by_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, method: str
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        add(world)
        await world.client().get(TAG)
        wall.time += 10
        second = world.second()
        try:
            world.registry.fault(path, Status(429, {"Retry-After": "60"}, b"slow down"), times=1)
            assert (await world.client().do(method, path)).status == 429
            lines(world)
            for worker in (world, second):
                assert status(await worker.client().get(TAG)) == STALE
            assert lines(world) == []
        finally:
            await second.stop()


async def test_the_last_pulls_are_for_what_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = add(world)
        world.registry.add_image("team/app", "2", [b"x"])
        await world.client().get(TAG)
        add(world, b"moved")
        wall.time += 10
        headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "2;w=21600"}
        world.registry.fault("/manifests/", ExtraHeaders(headers))
        lines(world)
        reply = await world.client().get(TAG)
        assert (reply.body, status(reply)) == (image.data, STALE)
        assert lines(world) == [f"HEAD {TAG}"]
        assert (await world.client().get("/v2/team/app/manifests/2")).status == 200
