"""The fills of several processes on one store: who downloads, who follows, and who goes on."""

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from regcachd.index import Index
from regcachd.partial import Partial, Phase
from regcachd.reference import Digest, Repository
from regcachd.testing import (
    CutAfter,
    FakeRegistry,
    IgnoreRange,
    StallAfter,
    StallBeforeHeaders,
    Status,
    Throttle,
)
from tests.through import Download, basic, blob_path, limits, logged, running, start, together
from tests.world import NAME, Reply, World, until

reactor: Any = _reactor

DATA = random.Random(9).randbytes(800_000)
QUICK = limits(stop_timeout="0s")


def watermark(world: World, digest: Digest) -> int:
    growing = world.service.fills.get(digest)
    return 0 if growing is None else growing.watermark


async def followed(world: World, digest: Digest) -> "tuple[World, Deferred[Reply], Deferred[Reply]]":
    """Another worker, and a client of each: one whose fill stands still at 400,000 bytes, and one that follows it."""
    other = world.second()
    first = start(world.client(), blob_path(digest))
    await until(lambda: watermark(world, digest) == 400_000)
    second = start(other.client(), blob_path(digest))
    await until(lambda: (f := other.service.fills.get(digest)) is not None and f.readers == 1)
    return other, first, second


def gets(world: World) -> int:
    return world.registry.requests.count("GET", "/blobs/")


async def test_a_worker_follows_only_when_upstream_has_said_yes_to_the_other(tmp_path: Path) -> None:
    """Until then it cannot know how large the blob is, and has nothing that it could send."""
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault("GET /v2/team", StallBeforeHeaders(), times=1)
        other = world.second()
        first = start(world.client(), blob_path(digest))
        await world.registry.until(lambda r: len(r.stalls) == 1)
        second = start(other.client(), blob_path(digest))
        await until(lambda: digest in other.service.fills._entries)
        assert other.service.fills.get(digest) is None
        world.registry.release()
        replies = await together(first, second)
        assert [reply.body == DATA for reply in replies] == [True, True]
        assert replies[1].headers["content-length"] == str(len(DATA))
        assert gets(world) == 1
        await other.stop()


async def test_what_upstream_has_said_is_known_before_others_can_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of them would have to ask it once more for its own clients."""
    seen: list[bool] = []
    expect = Partial.expect
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)

        def look(partial: Partial, total: int | None) -> None:
            index = Index(world.directory / "store/index.sqlite3")
            index.open()
            seen.append(index.linked(Repository(NAME, "team/app"), digest))
            index.close()
            expect(partial, total)

        monkeypatch.setattr(Partial, "expect", look)
        assert (await world.client().get(blob_path(digest))).body == DATA
        assert seen[0]


async def test_what_was_promised_for_a_fill_that_never_began_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(partial: Partial, total: int | None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        monkeypatch.setattr(Partial, "expect", fail)
        taken_back: list[Digest] = []
        monkeypatch.setattr(world.service.fills, "_broke", lambda growing: taken_back.append(growing.digest))
        with logged():
            assert (await world.client().get(blob_path(digest))).body == DATA
        assert taken_back == [digest]
        assert world.service.fills.get(digest) is None


async def test_when_the_first_worker_is_refused_the_second_asks_for_its_own_client(tmp_path: Path) -> None:
    registry = FakeRegistry(reactor, auth="basic", users={"alice": "a"})
    async with running(tmp_path, registry) as world:
        digest = registry.add_blob("team/app", DATA)
        registry.private("team/app", {"alice"})
        registry.fault("GET /v2/team", StallBeforeHeaders(), times=1)
        other = world.second()
        first = start(world.client(), blob_path(digest), Authorization=basic("alice", "wrong"))
        await registry.until(lambda r: len(r.stalls) == 1)
        second = start(other.client(), blob_path(digest), Authorization=basic("alice", "a"))
        await until(lambda: digest in other.service.fills._entries)
        registry.release()
        refused, given = await together(first, second)
        assert refused.status == 401
        assert (given.status, given.body, given.broken) == (200, DATA, False)
        await until(lambda: world.partials() == [])
        await other.stop()


async def test_a_client_that_upstream_refuses_gets_nothing_of_another_workers_fill(tmp_path: Path) -> None:
    registry = FakeRegistry(reactor, auth="basic", users={"alice": "a"})
    async with running(tmp_path, registry, tables=QUICK) as world:
        digest = registry.add_blob("team/app", DATA)
        registry.private("team/app", {"alice"})
        registry.fault("GET /v2/team", StallAfter(400_000), times=1)
        other = world.second()
        first = start(world.client(), blob_path(digest), Authorization=basic("alice", "a"))
        await until(lambda: watermark(world, digest) == 400_000)
        refused = await other.client().get(blob_path(digest), Authorization=basic("alice", "wrong"))
        assert refused.status == 401
        # and its worker does not go on with it when the other stops
        await world.service.stopService()
        assert (await first).broken
        await until(lambda: digest not in other.service.fills._entries)
        assert gets(world) == 2  # the second is what the other client was refused
        given = await other.client().get(blob_path(digest), Authorization=basic("alice", "a"))
        assert (given.body, given.broken) == (DATA, False)
        assert registry.requests.matching("GET", "/blobs/")[-1].headers["range"] == "bytes=400000-"
        world.start_daemon()
        await other.stop()


async def test_a_refusal_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        for status in (401, 403, 404, 429, 500):
            digest = world.registry.add_blob("team/app", DATA[:status])
            world.registry.fault(digest, Status(status))
            assert (await world.client().get(blob_path(digest))).status == status
            assert world.partials() == []


async def test_an_upstream_that_sends_nothing_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, CutAfter(0))
        assert (await world.client().get(blob_path(digest))).broken
        await until(lambda: world.partials() == [])


async def test_what_another_process_has_just_stored_is_not_filled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for, and not there; then the other commits; then the lock is free."""
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        acquire = Partial.acquire
        store = world.service.fills._store

        def late(path: Path, wanted: Digest) -> Partial | None:
            monkeypatch.setattr(Partial, "acquire", acquire)
            store.put(digest, DATA)
            return acquire(path, wanted)

        monkeypatch.setattr(Partial, "acquire", late)
        assert (await world.client().get(blob_path(digest))).body == DATA
        assert gets(world) == 0
        assert world.partials() == []


async def test_a_partial_for_another_size_is_thrown_away(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        partial = world.service.fills._store.acquire(digest)
        assert partial is not None
        partial.expect(len(DATA) + 1)
        partial.write(0, b"x" * 1000)
        partial.close()
        with logged() as lines:
            assert (await world.client().get(blob_path(digest))).body == DATA
        assert "thrown away" in lines[0]
        await until(lambda: world.stored() == [digest.hex])


async def test_a_whole_partial_is_stored_when_upstream_says_yes(tmp_path: Path) -> None:
    """Killed between the last byte and the commit: one byte is asked for, since the bytes alone give no right."""
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        partial = world.service.fills._store.acquire(digest)
        assert partial is not None
        partial.expect(len(DATA))
        partial.write(0, DATA)
        partial.close()
        assert (await world.client().get(blob_path(digest))).body == DATA
        await until(lambda: world.stored() == [digest.hex])
        (request,) = world.registry.requests.matching("GET", "/blobs/")
        assert request.headers["range"] == f"bytes={len(DATA) - 1}-"


async def test_bytes_that_rotted_in_a_partial_are_never_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        partial = world.service.fills._store.acquire(digest)
        assert partial is not None
        partial.expect(len(DATA))
        partial.write(0, b"rot" + DATA[3:1000])
        partial.close()
        with logged():
            assert (await world.client().get(blob_path(digest))).broken
        assert world.stored() == []
        assert (await world.client().get(blob_path(digest))).body == DATA


async def test_clients_of_a_verified_fill_are_served_while_it_is_being_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may take seconds for its fsync; nobody waits for it, in no worker, nor downloads meanwhile."""
    gate, begun, fsync = threading.Event(), threading.Event(), os.fsync

    def slow(fd: int) -> None:
        begun.set()
        gate.wait(60)
        fsync(fd)

    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        other = world.second()
        monkeypatch.setattr(os, "fsync", slow)
        try:
            assert (await world.client().get(blob_path(digest))).body == DATA
            await until(begun.is_set)
            assert (await world.client().get(blob_path(digest))).body == DATA
            for _ in range(2):
                reply = await other.client().get(blob_path(digest))
                assert reply.body == DATA
                assert reply.headers["content-length"] == str(len(DATA))
            assert world.stored() == []
            assert gets(world) == 1
        finally:
            gate.set()
        await until(lambda: world.stored() == [digest.hex])
        await until(lambda: other.service.fills._entries == {})
        await other.stop()


async def test_a_fill_that_nobody_here_reads_goes_on_elsewhere(tmp_path: Path) -> None:
    """Its worker does not know of the readers of others: it stops, and one of those goes on."""
    async with running(tmp_path, tables=limits(fill_abandon="50%")) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(200_000), times=1)
        other = world.second()
        download = await Download(world, blob_path(digest)).begin()
        await until(lambda: watermark(world, digest) == 200_000)
        second = start(other.client(), blob_path(digest))
        await until(lambda: (f := other.service.fills.get(digest)) is not None and f.readers == 1)
        download.close()
        reply = await second
        assert (reply.body, reply.broken) == (DATA, False)
        assert [r.headers.get("range") for r in world.registry.requests.matching("GET", "/blobs/")] == [
            None,
            "bytes=200000-",
        ]
        await other.stop()


async def test_taking_over_from_an_upstream_without_ranges_compares(tmp_path: Path) -> None:
    async with running(tmp_path, tables=QUICK) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, IgnoreRange())
        world.registry.fault(digest, StallAfter(400_000), times=1)
        other, first, second = await followed(world, digest)
        await world.service.stopService()
        assert (await first).broken
        reply = await second
        assert (reply.body, reply.broken) == (DATA, False)
        world.start_daemon()
        await other.stop()


async def test_a_state_that_was_lost_with_bytes_clients_have_is_not_taken_over(tmp_path: Path) -> None:
    """What comes again could be something else than what they have."""
    async with running(tmp_path, tables=QUICK) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(400_000), times=1)
        other, first, second = await followed(world, digest)
        os.truncate(tmp_path / "store/partial/sha256" / digest.hex, 1000)
        await world.service.stopService()
        assert (await first).broken
        assert (await second).broken
        assert (await other.client().get(blob_path(digest))).body == DATA
        world.start_daemon()
        await other.stop()


@pytest.mark.parametrize("when", ["waiting to try again", "waiting for upstream"])
async def test_a_stop_in_the_middle_of_a_retry_leaves_nothing_running(tmp_path: Path, when: str) -> None:
    settings = 'retry_delay = "1h"' if when == "waiting to try again" else 'retry_delay = "10ms"'
    async with running(tmp_path, settings=settings, tables=QUICK, retries=8) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, CutAfter(400_000), times=1)
        world.registry.fault(digest, StallBeforeHeaders(), skip=1)
        first = start(world.client(), blob_path(digest))
        await until(lambda: watermark(world, digest) == 400_000)
        if when == "waiting for upstream":
            await world.registry.until(lambda r: len(r.stalls) == 1)
        await world.service.stopService()
        assert (await first).broken
        assert digest.hex in world.partials()
        world.start_daemon()


async def test_a_daemon_that_stops_does_not_take_over(tmp_path: Path) -> None:
    async with running(tmp_path, tables=QUICK) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(400_000), times=1)
        other, first, second = await followed(world, digest)
        stopping = world.service.stopService()
        await other.service.stopService()
        await stopping
        replies = await together(first, second)
        for client in other.clients:
            client.close()
        assert [reply.broken for reply in replies] == [True, True]
        assert digest.hex in world.partials()
        world.start_daemon()
        assert (await world.client().get(blob_path(digest))).body == DATA


async def test_an_upstream_that_ends_its_answers_early_in_good_order_is_not_asked_for_ever(
    tmp_path: Path,
) -> None:
    """Content-Range promises more than Content-Length brings, each time."""
    async with running(tmp_path, settings='retry_delay = "10ms"', retries=3) as world:
        digest = world.registry.add_blob("team/app", DATA)
        partial = world.service.fills._store.acquire(digest)
        assert partial is not None
        partial.expect(len(DATA))
        partial.write(0, DATA[:1000])
        partial.give_up(Phase.GIVEN_UP)
        partial.close()
        promise = {"Content-Range": f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"}
        world.registry.fault(digest, Status(206, promise, b""))
        reply = await world.client().get(blob_path(digest))
        assert reply.broken
        assert gets(world) <= 5
        world.registry.heal()
        assert (await world.client().get(blob_path(digest))).body == DATA


async def test_sixty_followers_in_another_worker_cost_one_download(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, Throttle(2_000_000))
        other = world.second()
        first = start(world.client(), blob_path(digest))
        await until(lambda: watermark(world, digest) > 0)
        replies = await together(first, *(start(other.client(), blob_path(digest)) for _ in range(60)))
        assert all(reply.body == DATA and not reply.broken for reply in replies)
        assert gets(world) == 1
        await other.stop()
