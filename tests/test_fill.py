"""Fills, end to end: what is stored, what clients get, and what they never get."""

import os
import random
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults

from regcachd.growing import HELD_BACK
from regcachd.testing import (
    CutAfter,
    GarbageChunks,
    NoContentLength,
    StallAfter,
    StallBeforeHeaders,
    Throttle,
    WrongBytes,
    WrongLength,
)
from tests.through import Download, add_sha512, blob_path, fill_of, limits, logged, running, start, together
from tests.world import until

reactor: Any = _reactor

DATA = random.Random(2).randbytes(500_000)
SIZES = [0, 1, HELD_BACK - 1, HELD_BACK, HELD_BACK + 1, 2 * HELD_BACK, 300_001]
LENGTH = pytest.mark.parametrize("with_length", [True, False], ids=["length", "no length"])


# -- the right bytes


@LENGTH
@pytest.mark.parametrize("size", SIZES)
async def test_every_size_is_delivered_stored_and_delivered_again(
    tmp_path: Path, size: int, with_length: bool
) -> None:
    async with running(tmp_path) as world:
        data = DATA[:size]
        digest = world.registry.add_blob("team/app", data)
        if not with_length:
            world.registry.fault(digest, NoContentLength())
        client = world.client()
        first = await client.get(blob_path(digest))
        assert (first.status, first.body, first.broken) == (200, data, False)
        assert first.headers["cache-status"] == "regcachd; fwd=uri-miss; stored"
        assert first.headers.get("content-length") == (str(size) if with_length else None)
        await until(lambda: world.stored() == [digest.hex] and world.partials() == [])
        second = await client.get(blob_path(digest))
        assert (second.status, second.body) == (200, data)
        assert second.headers["cache-status"] == "regcachd; hit"
        assert second.headers["content-length"] == str(size)
        assert second.headers["docker-content-digest"] == str(digest)
        assert world.registry.requests.count() == 1


async def test_sha512_is_as_good(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = add_sha512(world.registry, DATA)
        client = world.client()
        for _ in range(2):
            assert (await client.get(blob_path(digest))).body == DATA
            await until(lambda: world.stored() == [digest.hex])
        assert world.registry.requests.count() == 1


async def test_bytes_flow_while_upstream_is_still_sending(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(100_000))
        download = await Download(world, blob_path(digest)).begin()
        assert await download.read(100_000) == DATA[:100_000]
        world.registry.release()
        assert await download.rest() == DATA


async def test_a_late_reader_gets_everything_from_the_first_byte(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(300_000))
        first = await Download(world, blob_path(digest)).begin()
        await first.read(300_000)
        second = await Download(world, blob_path(digest)).begin()
        assert second.header("cache-status") == ["regcachd; fwd=uri-miss; collapsed"]
        assert await second.read(300_000) == DATA[:300_000]
        world.registry.release()
        assert await first.rest() == DATA
        assert await second.rest() == DATA
        assert world.registry.requests.count() == 1


async def test_twenty_readers_at_their_own_speeds_cost_one_download(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        data = random.Random(3).randbytes(3_000_000)
        digest = world.registry.add_blob("team/app", data)
        world.registry.fault(digest, Throttle(10_000_000))
        readers = [Download(world, blob_path(digest), buffer=65536 if n % 2 else None) for n in range(20)]

        async def read(number: int, reader: Download) -> None:
            await until(lambda: number == 0 or world.service.fills.get(digest) is not None)
            await reader.begin()
            while await reader.read(50_000 + 20_000 * number):
                pass

        await gatherResults([Deferred.fromCoroutine(read(n, each)) for n, each in enumerate(readers)])
        assert all(each.body == data for each in readers)
        assert world.registry.requests.count("GET") == 1


async def test_many_at_the_same_moment_are_one_request_upstream(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallBeforeHeaders())
        asked = [start(world.client(), blob_path(digest)) for _ in range(20)]
        await until(lambda: len(world.service.door.busy()) == 20 and len(world.registry.stalls) == 1)
        world.registry.release()
        replies = await together(*asked)
        assert all(reply.body == DATA for reply in replies)
        assert world.registry.requests.count("GET") == 1


async def test_a_fill_outlives_its_first_client(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(len(DATA) // 2))
        download = await Download(world, blob_path(digest)).begin()
        await download.read(1000)
        download.close()
        await until(lambda: world.service.door.connections == 0)
        assert world.stored() == []
        world.registry.release()
        await until(lambda: world.stored() == [digest.hex])
        assert world.registry.requests.count() == 1


async def test_a_client_that_leaves_before_upstream_answers_does_not_stop_the_fill(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallBeforeHeaders())
        client = world.client()
        asked = start(client, blob_path(digest))
        await world.registry.until(lambda r: len(r.stalls) == 1)
        client._connection.sock.shutdown(2)  # type: ignore[union-attr]
        asked.addErrback(lambda _: None)
        await asked
        world.registry.release()
        await until(lambda: world.stored() == [digest.hex])
        await until(lambda: world.service.door.connections == 0)


# -- wrong bytes


def never_whole(body: bytes, size: int = len(DATA)) -> bool:
    return len(body) <= size - HELD_BACK


@LENGTH
@pytest.mark.parametrize("offset", [0, len(DATA) // 2, len(DATA) - 1])
async def test_wrong_bytes_are_not_stored_never_whole_and_logged_once(
    tmp_path: Path, offset: int, with_length: bool
) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, WrongBytes(offset))
        if not with_length:
            world.registry.fault(digest, NoContentLength())
        client = world.client()
        with logged() as lines:
            replies = await together(*(start(world.client(), blob_path(digest)) for _ in range(3)))
        for reply in replies:
            assert reply.broken
            assert never_whole(reply.body)
        (line,) = {line for line in lines if "wrong bytes" in line}
        assert str(digest) in line
        assert len(lines) == world.registry.requests.count("GET")
        await until(lambda: world.partials() == [])
        assert world.stored() == []
        world.registry.heal()
        reply = await client.get(blob_path(digest))
        assert (reply.body, reply.broken) == (DATA, False)


@pytest.mark.parametrize("size", [1, 1000, HELD_BACK])
async def test_of_a_small_wrong_blob_nothing_at_all_is_released(tmp_path: Path, size: int) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA[:size])
        world.registry.fault(digest, WrongBytes(size - 1))
        with logged():
            reply = await world.client().get(blob_path(digest))
        assert (reply.status, reply.body, reply.broken) == (200, b"", True)


async def test_an_empty_body_for_another_digest_is_not_whole_either(tmp_path: Path) -> None:
    """Content-Length: 0 would be a complete response the moment its head is sent."""
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, WrongLength(-len(DATA)))
        with logged():
            reply = await world.client().do("GET", blob_path(digest))
        assert reply.broken or reply.status >= 500
        assert world.stored() == []


@pytest.mark.parametrize("delta", [-1, -100_000, 1, 100_000])
async def test_a_wrong_length_is_never_whole(tmp_path: Path, delta: int) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, WrongLength(delta))
        with logged():
            reply = await world.client().get(blob_path(digest))
        assert reply.broken
        assert world.stored() == []
        world.registry.heal()
        assert (await world.client().get(blob_path(digest))).body == DATA


async def test_nobody_gets_the_last_64_kib_before_the_digest_is_right(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(len(DATA) - 1))
        readers = [await Download(world, blob_path(digest)).begin() for _ in range(2)]
        await until(lambda: fill_of(world, digest).watermark == len(DATA) - 1)
        for reader in readers:
            assert await reader.read(len(DATA) - HELD_BACK) == DATA[:-HELD_BACK]
            assert await reader.quiet()
        world.registry.release()
        for reader in readers:
            assert await reader.rest() == DATA


async def test_of_a_blob_without_length_the_last_64_kib_are_held_back_too(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, NoContentLength(), StallAfter(200_000))
        download = await Download(world, blob_path(digest)).begin()
        await until(lambda: fill_of(world, digest).watermark == 200_000)
        chunked = await download.read(200_000 - HELD_BACK) + await download.available()
        assert 0 <= len(chunked) - (200_000 - HELD_BACK) < 200  # the sizes of chunks
        world.registry.release()
        await download.rest()
        assert download.whole


# -- broken off


@pytest.mark.parametrize(
    "fault",
    [
        CutAfter(100_000),
        CutAfter(100_000, reset=True),
        CutAfter(0),
        CutAfter(len(DATA) - 1),
        GarbageChunks(100_000),
    ],
)
async def test_when_upstream_breaks_off_so_do_we_and_the_next_request_starts_anew(
    tmp_path: Path, fault: Any
) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(0), fault)
        asked = [start(world.client(), blob_path(digest)) for _ in range(3)]
        await until(lambda: len(world.service.door.busy()) == 3 and len(world.registry.stalls) == 1)
        world.registry.heal()
        world.registry.release()
        replies = await together(*asked)
        assert all(reply.broken and DATA.startswith(reply.body) for reply in replies)
        assert world.stored() == []
        reply = await world.client().get(blob_path(digest))
        assert (reply.body, reply.broken) == (DATA, False)
        await until(lambda: world.stored() == [digest.hex])


async def test_an_upstream_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, settings='timeout = "400ms"') as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(100_000), times=1)
        reply = await world.client().get(blob_path(digest))
        assert reply.broken
        assert (await world.client().get(blob_path(digest))).body == DATA


async def test_what_came_before_the_break_stays_for_later(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(100_000), CutAfter(200_000))
        asked = start(world.client(), blob_path(digest))
        await until(lambda: (f := world.service.fills.get(digest)) is not None and f.watermark == 100_000)
        fill = fill_of(world, digest)
        world.registry.release()
        assert (await asked).broken
        await until(lambda: fill.is_over)
        assert world.partials() == [digest.hex, f"{digest.hex}.state"]
        partial = tmp_path / "store/partial/sha256" / digest.hex
        total, committed = struct.unpack_from("<QQ", partial.with_suffix(".state").read_bytes())
        assert total == len(DATA)
        assert 100_000 <= committed <= 200_000
        assert DATA.startswith(partial.read_bytes()[:committed])


async def test_a_slow_reader_of_a_failed_fill_is_in_nobodys_way(tmp_path: Path) -> None:
    """It still holds the file of the fill that failed, and the next fill begins anew all the same."""
    async with running(tmp_path) as world:
        data = random.Random(4).randbytes(20_000_000)
        digest = world.registry.add_blob("team/app", data)
        world.registry.fault(digest, CutAfter(19_000_000), times=1)
        slow = await Download(world, blob_path(digest), buffer=65536).begin()
        await until(lambda: world.service.fills.get(digest) is None)
        with logged() as lines:
            reply = await world.client().get(blob_path(digest))
        assert (reply.body == data, reply.headers["cache-status"]) == (True, "regcachd; fwd=uri-miss; stored")
        assert lines == []
        await until(lambda: world.stored() == [digest.hex])
        assert await slow.rest() != data
        assert not slow.whole
        assert data.startswith(slow.body)


# -- leaving


async def test_below_the_mark_a_fill_that_nobody_reads_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, tables=limits(fill_abandon="50%")) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(100_000), times=1)
        readers = [await Download(world, blob_path(digest)).begin() for _ in range(2)]
        for reader in readers:
            await reader.read(1000)
        readers[0].close()
        await until(lambda: world.service.door.connections == 1)
        assert world.service.fills.get(digest) is not None
        readers[1].close()
        await until(lambda: world.service.fills.get(digest) is None)
        await until(lambda: world.registry.connections == 0)
        assert world.partials() == [digest.hex, f"{digest.hex}.state"]
        assert (await world.client().get(blob_path(digest))).body == DATA


async def test_above_the_mark_it_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, tables=limits(fill_abandon="50%")) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(300_000))
        reader = await Download(world, blob_path(digest)).begin()
        await reader.read(300_000)
        reader.close()
        await until(lambda: world.service.door.connections == 0)
        assert world.stored() == []
        world.registry.release()
        await until(lambda: world.stored() == [digest.hex])


# -- the end of the daemon


async def test_a_stop_in_the_middle_leaves_a_partial_and_is_over_in_time(tmp_path: Path) -> None:
    async with running(tmp_path, tables=limits(stop_timeout="200ms")) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(200_000), times=1)
        download = await Download(world, blob_path(digest)).begin()
        await download.read(200_000)
        before = reactor.seconds()
        await world.service.stopService()
        assert 0.15 < reactor.seconds() - before < 10
        await download.rest()
        assert not download.whole
        assert world.stored() == []
        assert world.partials() == [digest.hex, f"{digest.hex}.state"]
        world.start_daemon()
        assert (await world.client().get(blob_path(digest))).body == DATA


def threads() -> list[threading.Thread]:
    """Those of daemons."""
    return [thread for thread in threading.enumerate() if "regcachd" in thread.name]


async def test_a_stop_while_upstream_has_not_answered_leaves_nothing_running(tmp_path: Path) -> None:
    before = set(threads())
    async with running(tmp_path, tables=limits(stop_timeout="0s")) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallBeforeHeaders())
        asked = start(world.client(), blob_path(digest))
        await world.registry.until(lambda r: len(r.stalls) == 1)
        asked.addErrback(lambda _: None)
        await world.service.stopService()
        await asked
        assert not set(threads()) - before
        world.start_daemon()


async def test_a_fill_that_is_whole_is_stored_even_if_the_daemon_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is under way in a thread when the stop comes: it is waited for."""
    async with running(tmp_path, tables=limits(stop_timeout="0s")) as world:
        digest = world.registry.add_blob("team/app", DATA)
        gate, begun, fsync = threading.Event(), threading.Event(), os.fsync

        def slow(fd: int) -> None:
            begun.set()
            gate.wait(60)
            fsync(fd)

        monkeypatch.setattr(os, "fsync", slow)
        assert (await world.client().get(blob_path(digest))).body == DATA
        await until(begun.is_set)
        stopping: Deferred[None] = world.service.stopService()
        reactor.callLater(0.02, gate.set)
        await stopping
        assert world.stored() == [digest.hex]
        assert world.partials() == []
        world.start_daemon()


# -- permission asked while things change


@pytest.mark.parametrize("size", [1000, len(DATA)])
async def test_a_fill_that_ends_while_a_second_client_is_being_checked(tmp_path: Path, size: int) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA[:size])
        world.registry.fault("GET /v2/team", StallAfter(size // 2))
        world.registry.fault("HEAD /v2/team", StallBeforeHeaders())
        first = start(world.client(), blob_path(digest), Authorization="Basic b25lOg==")
        await until(lambda: (f := world.service.fills.get(digest)) is not None and f.watermark > 0)
        second = start(world.client(), blob_path(digest), Authorization="Basic b3RoZXI6")
        await world.registry.until(lambda r: len(r.stalls) == 2)
        get, head = sorted(
            world.registry.stalls, key=lambda stall: world.registry.requests.count("HEAD") == 0
        )
        for stall in (get, head):
            if stall._resume.__name__ == "_go_on":
                stall.end()
        assert (await first).body == DATA[:size]
        await until(lambda: world.stored() == [digest.hex] and world.service.fills.get(digest) is None)
        world.registry.release()
        reply = await second
        assert (reply.status, reply.body, reply.broken) == (200, DATA[:size], False)
        assert world.registry.requests.count("GET", "/blobs/") == 1


async def test_a_fill_that_fails_while_a_second_client_is_being_checked(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault("GET /v2/team", StallAfter(100_000), CutAfter(100_001), times=1)
        world.registry.fault("HEAD /v2/team", StallBeforeHeaders())
        first = start(world.client(), blob_path(digest), Authorization="Basic b25lOg==")
        await until(lambda: (f := world.service.fills.get(digest)) is not None and f.watermark > 0)
        second = start(world.client(), blob_path(digest), Authorization="Basic b3RoZXI6")
        await world.registry.until(lambda r: len(r.stalls) == 2)
        for stall in list(world.registry.stalls):
            if stall._resume.__name__ == "_go_on":
                stall.end()
        assert (await first).broken
        world.registry.heal()  # what was asked about is gone: there is another question
        world.registry.release()
        reply = await second
        assert (reply.status, reply.body, reply.broken) == (200, DATA, False)


# -- parts of a blob that is on its way


async def test_a_range_is_sent_as_soon_as_its_bytes_are_there(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(200_000))
        first = start(world.client(), blob_path(digest))
        await until(lambda: (f := world.service.fills.get(digest)) is not None and f.watermark == 200_000)
        part = await world.client().get(blob_path(digest), Range="bytes=1000-150000")
        assert (part.status, part.body) == (206, DATA[1000:150_001])
        assert part.headers["content-range"] == f"bytes 1000-150000/{len(DATA)}"
        tail = start(world.client(), blob_path(digest), Range="bytes=-10")
        ahead = start(world.client(), blob_path(digest), Range="bytes=199990-200009")
        await until(lambda: len(world.service.door.busy()) == 3)
        world.registry.release()
        assert (await tail).body == DATA[-10:]
        assert (await ahead).body == DATA[199_990:200_010]
        assert (await first).body == DATA
        assert world.registry.requests.count("GET") == 1


async def test_a_range_of_the_held_back_end_of_wrong_bytes_is_never_sent(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, WrongBytes(0), StallAfter(len(DATA) - 1), times=1)
        first = start(world.client(), blob_path(digest))
        await until(
            lambda: (f := world.service.fills.get(digest)) is not None and f.watermark == len(DATA) - 1
        )
        tail = start(world.client(), blob_path(digest), Range="bytes=-20")
        await until(lambda: len(world.service.door.busy()) == 2)
        with logged():
            world.registry.release()
            reply = await tail
            assert (await first).broken
        assert (reply.status, reply.body, reply.broken) == (206, b"", True)
