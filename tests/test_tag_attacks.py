"""What a client may try with tags: to learn of what it may not read, and to spoil what others get."""

import re
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.reference import Digest
from regcachd.testing import (
    DOCKER_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    ExtraHeaders,
    FakeRegistry,
    GarbageResponse,
    NoDigestHeader,
    StallBeforeHeaders,
    Status,
)
from regcachd.testing.faults import Fault
from regcachd.testing.message import Body
from regcachd.testing.message import Reply as Sent
from regcachd.testing.message import Request as Asked
from tests.test_registry import Wall
from tests.through import basic, logged, running, start, together
from tests.world import Reply, until

reactor: Any = _reactor

TAG = "/v2/team/app/manifests/1"
HIT, STALE = "regcachd; hit", "regcachd; fwd=stale"
USERS = {"alice": "a", "bob": "b"}
ALICE, BOB = basic("alice", "a"), basic("bob", "b")
STRANGERS = pytest.mark.parametrize("stranger", [{"Authorization": BOB}, {}], ids=["bob", "nobody"])
METHODS = pytest.mark.parametrize("method", ["GET", "HEAD"])


class Discreet(FakeRegistry):
    """A registry that tells strangers that there is nothing, and of what, as some do."""

    def _reply(self, request: Asked, faults: Any) -> Sent:
        is_stranger = request.path.startswith("/v2/team/app/") and request.authorization != ALICE
        if is_stranger and not any(isinstance(fault, Status) for fault in faults):
            return Sent.error(404, "MANIFEST_UNKNOWN", f"nobody knows {request.path}", {"X-Of": request.path})
        return super()._reply(request, faults)


def discreet() -> FakeRegistry:
    return Discreet(reactor, auth="basic", users=USERS)


def private() -> FakeRegistry:
    registry = FakeRegistry(reactor, auth="basic", users=USERS)
    registry.private("team/app", {"alice"})
    return registry


def told(reply: Reply) -> tuple[int, dict[str, str], str]:
    """All that a reply tells; but for how late it is."""
    headers = {name: value for name, value in reply.headers.items() if name not in ("date", "content-length")}
    return reply.status, headers, re.sub(r"[0-9]+ m?s", "some time", reply.body.decode())


# -- to learn of what it may not read


@STRANGERS
@METHODS
@pytest.mark.parametrize(
    ("settings", "later"), [("", 1), ("", 100_000), ('tags = "never"', 10), ('offline_grace = "0s"', 10)]
)
async def test_a_refusal_is_about_the_tag_and_the_same_whether_it_is_known_or_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stranger: dict[str, str],
    method: str,
    settings: str,
    later: float,
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, discreet(), settings=settings) as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        before = await world.client().do(method, TAG, **stranger)
        for each in ("GET", "HEAD"):
            assert (await world.client().do(each, TAG, Authorization=ALICE)).status == 200
        wall.time += later
        for _ in range(2):
            after = await world.client().do(method, TAG, **stranger)
            assert told(after) == told(before)
        assert before.status == 404
        assert image.manifest.hex not in str(before)
        assert image.manifest.hex not in str(after)
        assert (await world.client().get(TAG, Authorization=ALICE)).body == image.data


@STRANGERS
@METHODS
@pytest.mark.parametrize(
    "fault",
    [Status(500), Status(429, {}, b"slow down"), GarbageResponse(), None],
    ids=["500", "429", "garbage", "down"],
)
@pytest.mark.parametrize("later", [1, 10])
async def test_an_upstream_that_fails_does_not_tell_a_stranger_what_is_known(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stranger: dict[str, str],
    method: str,
    fault: Fault | None,
    later: float,
) -> None:
    wall = Wall(monkeypatch)

    async def asked(directory: Path, is_known: bool) -> Reply:
        directory.mkdir()
        registry = private()
        async with running(directory, registry) as world:
            registry.add_image("team/app", "1", [b"layer"])
            for each in ("GET", "HEAD"):
                path = TAG if is_known else "/v2/team/app/manifests/none"
                await world.client().do(each, path, Authorization=ALICE)
            wall.time += later
            if fault is None:
                await registry.stop()
            else:
                registry.fault("/v2/", fault)
            with logged():
                return await world.client().do(method, TAG, **stranger)

    known, unknown = await asked(tmp_path / "known", True), await asked(tmp_path / "unknown", False)
    ports = re.compile(r"127\.0\.0\.1:[0-9]+")
    assert ports.sub("", str(told(known))) == ports.sub("", str(told(unknown)))
    assert known.status >= 400


@STRANGERS
@METHODS
async def test_what_is_only_named_is_named_to_who_may_read_it(
    tmp_path: Path, stranger: dict[str, str], method: str
) -> None:
    async with running(tmp_path, private()) as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        assert (await world.client().do("HEAD", TAG, Authorization=ALICE)).status == 200
        reply = await world.client().do(method, TAG, **stranger)
        assert reply.status in (401, 403)
        assert image.manifest.hex not in str(reply)
        assert "age" not in reply.headers


@STRANGERS
async def test_how_old_a_copy_is_that_is_too_old_is_told_to_who_might_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: dict[str, str]
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private(), settings='max_stale = "10m"\noffline_grace = "1h"') as world:
        world.registry.add_image("team/app", "1", [b"layer"])
        await world.client().get(TAG, Authorization=ALICE)
        wall.time += 1000
        await world.registry.stop()
        assert b"last good copy" in (await world.client().get(TAG, Authorization=ALICE)).body
        reply = await world.client().get(TAG, **stranger)
        assert (reply.status, b"copy" in reply.body) == (502, False)
        wall.time += 3600
        late = await world.client().get(TAG, Authorization=ALICE)  # who was let in once, and is not any more
        assert (late.status, b"last good copy is 76 min old" in late.body) == (502, True)


@STRANGERS
async def test_few_pulls_left_are_no_reason_to_serve_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: dict[str, str]
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private()) as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        few = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "1;w=21600"}
        world.registry.fault("/manifests/", ExtraHeaders(few))
        await world.client().get(TAG, Authorization=ALICE)
        for later in (1, 10):
            wall.time += later
            for accept in (OCI_MANIFEST, f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_LIST}"):
                reply = await world.client().get(TAG, Accept=accept, **stranger)
                assert reply.status in (401, 403)
                assert image.data[:20] not in reply.body


@STRANGERS
@pytest.mark.parametrize("way", ["down", "500", "404"])
async def test_an_upstream_that_fails_does_not_tell_a_stranger_of_referrers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: dict[str, str], way: str
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private(), settings='tag_ttl = "1s"') as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        await world.client().get(TAG, Authorization=ALICE)
        known, unknown = (f"/v2/team/app/referrers/{d}" for d in (image.manifest, Digest.of(b"other")))
        assert (await world.client().get(known, Authorization=ALICE)).status == 200
        wall.time += 10
        if way == "down":
            await world.registry.stop()
            await world.client().get("/v2/_catalog")
        else:
            rule = world.registry.fault("/v2/", Status(int(way)))
        replies = [await world.client().get(path, **stranger) for path in (known, unknown)]
        assert replies[0].status in (404, 500, 502)
        assert told(replies[0]) == told(replies[1])
        if way == "404":
            world.registry.heal(rule)
            world.registry.fault("/v2/", Status(500))
        assert (await world.client().get(known, Authorization=ALICE)).headers["cache-status"] == STALE


async def test_who_is_known_to_read_the_repository_costs_no_question_though_nothing_counts_offline(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, private(), settings='offline_grace = "0s"') as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        await world.client().get(TAG, Authorization=ALICE)
        world.registry.requests.clear()
        reply = await world.client().get(TAG, Authorization=ALICE)
        assert (reply.body, reply.headers["cache-status"]) == (image.data, HIT)
        assert world.registry.requests.count("", TAG) == 0


# -- to spoil what others get


OLD = b'{"schemaVersion": 2}'


class Strict(FakeRegistry):
    """A registry that does not see a member of Accept whose parameters it cannot read, as Distribution; who accepts
    nothing that it has gets something old."""

    def _reply(self, request: Asked, faults: Any) -> Sent:
        if request.path == TAG and ";" in request.headers.get("accept", ""):
            named = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": str(Digest.of(OLD))}
            return Sent(200, named, Body.of(OLD))
        return super()._reply(request, faults)


@pytest.mark.parametrize("policy", ["revalidate", "ttl", "never"])
async def test_how_one_client_writes_its_accept_decides_nothing_for_others(
    tmp_path: Path, policy: str
) -> None:
    async with running(tmp_path, Strict(reactor), settings=f'tags = "{policy}"') as world:
        world.registry.add_manifest("team/app", "1", b'{"manifests":[]}', OCI_INDEX)
        for accept in (f"{OCI_INDEX};=, {OCI_MANIFEST};=", f'{OCI_INDEX};q=0.1;x="', OCI_INDEX.upper() + ";"):
            for method in ("GET", "HEAD"):
                await world.client().do(method, TAG, Accept=accept)
        reply = await world.client().get(TAG, Accept=f"{OCI_INDEX}, {OCI_MANIFEST}")
        assert (reply.body, reply.headers["content-type"]) == (b'{"manifests":[]}', OCI_INDEX)


async def test_what_is_not_there_for_one_accept_is_still_there_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """enroot asks for an index first, and registries answer 404 where there is an image only."""
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        both = f"{OCI_INDEX}, {OCI_MANIFEST}"
        assert (await world.client().get(TAG, Accept=both)).body == image.data
        assert (await world.client().get(TAG, Accept=OCI_INDEX)).status == 404
        world.registry.requests.clear()
        assert (await world.client().get(TAG, Accept=both)).headers["cache-status"] == HIT
        wall.time += 10
        rule = world.registry.fault(TAG, Status(500))
        assert (await world.client().get(TAG, Accept=both)).headers["cache-status"] == STALE
        world.registry.heal(rule)
        world.registry.remove("team/app", "1")
        assert (await world.client().get(TAG)).status == 404
        world.registry.fault(TAG, Status(500))
        assert (await world.client().get(TAG, Accept=both)).status == 500


@pytest.mark.parametrize(
    "fault", [Status(500), Status(429), GarbageResponse()], ids=["500", "429", "garbage"]
)
@METHODS
async def test_who_asks_so_that_upstream_fails_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, method: str
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private()) as world:
        world.registry.add_image("team/app", "1", [b"layer"])
        await world.client().get(TAG, Authorization=ALICE)
        moved = world.registry.add_image("team/app", "1", [b"moved"])
        wall.time += 10
        bobs = world.registry.fault(lambda r: r.authorization == BOB, StallBeforeHeaders(), fault)
        bob = start(world.client(), TAG, method, Authorization=BOB)
        await world.registry.until(lambda r: len(r.stalls) == 1)
        alice = start(world.client(), TAG, method, Authorization=ALICE)
        await until(lambda: len(world.service.door.busy()) == 2)
        world.registry.heal(bobs)
        world.registry.release()
        with logged():
            replies = await together(bob, alice)
        assert replies[0].status >= 400
        assert replies[1].headers["docker-content-digest"] == str(moved.manifest)


# -- HEAD and GET agree


async def test_a_head_names_the_old_manifest_while_the_new_one_is_better_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For clients that ask for the digest that HEAD has named."""
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        await world.client().get(TAG)
        world.registry.add_image("team/app", "1", [b"moved"])
        wall.time += 10
        limit = Status(429, {"Retry-After": "60", "RateLimit-Remaining": "0;w=21600"}, b"TOOMANYREQUESTS")
        world.registry.fault("GET /v2/team", limit)
        for _ in range(2):
            for method in ("GET", "HEAD", "HEAD"):
                reply = await world.client().do(method, TAG)
                assert reply.headers["docker-content-digest"] == str(image.manifest)
                assert reply.headers["cache-status"] == STALE
            wall.time += 10


@pytest.mark.parametrize("fault", [NoDigestHeader(), Status(405)], ids=["no digest", "405"])
async def test_a_head_that_upstream_does_not_answer_is_answered_by_a_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        world.registry.fault(f"HEAD {TAG}", fault)
        for _ in range(2):
            for method in ("HEAD", "GET"):
                reply = await world.client().do(method, TAG)
                assert reply.headers["docker-content-digest"] == str(image.manifest)
                assert reply.headers["content-length"] == str(len(image.data))
                assert reply.headers["etag"] == f'"{image.manifest}"'
                assert reply.body == (image.data if method == "GET" else b"")
            wall.time += 10


async def test_what_a_manifest_is_called_does_not_depend_on_whether_it_was_here(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        world.registry.fault("/manifests/", ExtraHeaders({"ETag": 'W/"its own"'}))
        for path in (TAG, TAG, f"/v2/team/app/manifests/{image.manifest}"):
            for known in ("", "x"):
                reply = await world.client().get(path, If_None_Match=known)
                assert (reply.status, reply.headers["etag"]) == (200, f'"{image.manifest}"')
                reply = await world.client().get(path, If_None_Match=reply.headers["etag"])
                assert (reply.status, reply.headers["etag"]) == (304, f'"{image.manifest}"')
