"""Without the store: clients get their layers straight from upstream, and wrong ones as little as ever."""

import errno
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from regcachd.growing import HELD_BACK
from regcachd.partial import Partial
from regcachd.reference import Digest
from regcachd.testing import (
    CutAfter,
    ExtraHeaders,
    Fault,
    IgnoreRange,
    NoContentLength,
    StallAfter,
    Status,
    Throttle,
    WrongBytes,
    WrongLength,
)
from tests.through import blob_path, limits, logged, running, start, together
from tests.world import Reply, World, until

reactor: Any = _reactor

DATA = random.Random(7).randbytes(1_000_000)


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store takes nothing from the start."""
    monkeypatch.setattr(Partial, "acquire", full)


def add(world: World, *faults: Fault, data: bytes = DATA) -> Digest:
    digest = world.registry.add_blob("team/app", data)
    if faults:
        world.registry.fault(digest, *faults)
    return digest


# -- from the first byte


@pytest.mark.usefixtures("no_store")
@pytest.mark.parametrize("fault", [None, NoContentLength()], ids=["length", "no length"])
@pytest.mark.parametrize("size", [0, 1, HELD_BACK, HELD_BACK + 1, len(DATA)])
async def test_every_client_gets_its_layer(tmp_path: Path, size: int, fault: Fault | None) -> None:
    async with running(tmp_path) as world:
        digest = add(world, *([fault] if fault else []), data=DATA[:size])
        with logged() as lines:
            replies = await together(*(start(world.client(), blob_path(digest)) for _ in range(3)))
        for reply in replies:
            assert (reply.status, reply.body, reply.broken) == (200, DATA[:size], False)
            assert reply.headers["docker-content-digest"] == str(digest)
            assert reply.headers["cache-status"] == "regcachd; fwd=uri-miss"
        assert len(lines) == 1, "it is said once a minute"
        assert world.stored() == world.partials() == []


@pytest.mark.usefixtures("no_store")
@pytest.mark.parametrize("fault", [WrongBytes(0), WrongBytes(len(DATA) - 1), WrongLength(1), WrongLength(-1)])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "no length"])
async def test_wrong_bytes_are_never_whole(tmp_path: Path, fault: Fault, chunked: bool) -> None:
    async with running(tmp_path) as world:
        digest = add(world, fault, *([NoContentLength()] if chunked else []))
        if isinstance(fault, WrongLength) and chunked:
            return  # such an answer has no length that could be wrong
        with logged():
            reply = await world.client().get(blob_path(digest))
        assert reply.broken
        assert len(reply.body) <= len(DATA) - HELD_BACK + 1


@pytest.mark.usefixtures("no_store")
async def test_an_empty_body_for_another_digest_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = add(world, WrongLength(-len(DATA)))
        with logged():
            reply = await world.client().get(blob_path(digest))
        assert reply.status == 502


@pytest.mark.usefixtures("no_store")
async def test_what_upstream_refuses_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = add(world, Status(403))
        with logged():
            assert (await world.client().get(blob_path(digest))).status == 403


@pytest.mark.usefixtures("no_store")
async def test_what_upstream_has_encoded_goes_through_as_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = add(world, ExtraHeaders({"Content-Encoding": "gzip"}))
        with logged():
            reply = await world.client().get(blob_path(digest))
        assert (reply.headers["content-encoding"], reply.body) == ("gzip", DATA)


@pytest.mark.usefixtures("no_store")
async def test_an_upstream_that_breaks_off_cuts_the_response(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = add(world, CutAfter(500_000))
        with logged():
            reply = await world.client().get(blob_path(digest))
        assert reply.broken
        assert DATA.startswith(reply.body)


@pytest.mark.usefixtures("no_store")
async def test_a_client_that_leaves_stops_its_download(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = add(world, Throttle(200_000))
        client = world.client()
        with logged():
            asked = start(client, blob_path(digest))
            await until(lambda: world.registry.connections == 1 and len(world.service.door.busy()) == 1)
            client._connection.sock.shutdown(2)  # type: ignore[union-attr]
            asked.addErrback(lambda _: None)
            await asked
            await until(lambda: world.registry.connections == 0)


# -- a stored blob that cannot be opened


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
async def test_a_stored_blob_that_cannot_be_opened_comes_from_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, method: str
) -> None:
    async with running(tmp_path) as world:
        digest = add(world)
        await world.client().get(blob_path(digest))
        await until(lambda: world.stored() == [digest.hex])
        really_open = os.open

        def fail(path: Any, *rest: Any, **named: Any) -> int:
            if "/blobs/sha256/" in str(path):
                raise OSError(number, os.strerror(number))
            return really_open(path, *rest, **named)

        with logged() as lines, monkeypatch.context() as patched:
            patched.setattr("regcachd.store.os.open", fail)
            reply = await world.client().do(method, blob_path(digest))
        assert (reply.status, reply.broken) == (200, False)
        assert reply.body == (DATA if method == "GET" else b"")
        assert os.strerror(number) in lines[0]
        assert (await world.client().get(blob_path(digest))).headers["cache-status"] == "regcachd; hit"


# -- in the middle of a response


class Disk:
    """A disk that becomes full when it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.is_full = threading.Event()
        pwrite = os.pwrite

        def write(fd: int, data: Any, offset: int) -> int:
            if self.is_full.is_set() and len(data) > 24:  # what is overwritten needs no more room
                full()
            return pwrite(fd, data, offset)

        patch.setattr(os, "pwrite", write)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def fail_in_the_middle(world: World, disk: Disk, digest: Digest, *ranges: str) -> list[Reply]:
    """Clients that have 400,000 bytes when the disk becomes full."""
    world.registry.fault(digest, StallAfter(400_000), times=1)
    first = start(world.client(), blob_path(digest))
    await until(lambda: (f := world.service.fills.get(digest)) is not None and f.watermark == 400_000)
    others = [start(world.client(), blob_path(digest), Range=each) for each in ranges]
    await until(lambda: len(world.service.door.busy()) == 1 + len(ranges))
    disk.is_full.set()
    world.registry.release()
    return await together(first, *others)


async def test_the_rest_comes_from_upstream_by_range(tmp_path: Path, disk: Disk) -> None:
    async with running(tmp_path) as world:
        digest = add(world)
        with logged() as lines:
            replies = await fail_in_the_middle(world, disk, digest, "bytes=300000-899999", "bytes=900000-")
            await until(lambda: world.service.fills.get(digest) is None)
        assert [reply.broken for reply in replies] == [False] * 3
        assert replies[0].body == DATA
        assert replies[1].body == DATA[300_000:900_000]
        assert replies[2].body == DATA[900_000:]
        assert len(lines) == 1
        ranges = [
            request.headers.get("range") for request in world.registry.requests.matching("GET", "/blobs/")
        ]
        assert ranges[0] is None
        assert None not in ranges[1:]


async def test_the_rest_comes_from_an_upstream_without_ranges(tmp_path: Path, disk: Disk) -> None:
    """What the client has is downloaded again and hashed, but not sent twice."""
    async with running(tmp_path) as world:
        digest = add(world, IgnoreRange())
        with logged():
            (reply,) = await fail_in_the_middle(world, disk, digest)
        assert (reply.body, reply.broken) == (DATA, False)


async def test_right_bytes_do_not_make_wrong_ones_whole_that_came_before(tmp_path: Path, disk: Disk) -> None:
    """Upstream sends again what the client has had from it, and differently."""
    async with running(tmp_path) as world:
        digest = add(world, IgnoreRange())
        world.registry.fault(digest, WrongBytes(1000), times=1)
        with logged():
            (reply,) = await fail_in_the_middle(world, disk, digest)
        assert reply.body[:1000] == DATA[:1000]
        assert reply.body[1000] != DATA[1000]
        assert reply.broken


async def test_a_file_that_cannot_be_read_back_is_no_obstacle(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as world:
        digest = add(world)
        with logged():
            monkeypatch.setattr("regcachd.passing._hash", full)
            (reply,) = await fail_in_the_middle(world, disk, digest)
        assert (reply.body, reply.broken) == (DATA, False)


@pytest.mark.parametrize("fault", [WrongBytes(len(DATA) - 1), WrongBytes(450_000), Status(404), CutAfter(10)])
async def test_a_rest_that_is_wrong_or_does_not_come_cuts_the_response(
    tmp_path: Path, disk: Disk, fault: Fault
) -> None:
    async with running(tmp_path) as world:
        digest = add(world)
        world.registry.fault(digest, fault, skip=1)
        with logged():
            (reply,) = await fail_in_the_middle(world, disk, digest)
        assert reply.broken
        assert len(reply.body) <= len(DATA) - HELD_BACK


async def test_clients_of_another_worker_are_told_that_it_is_the_store(tmp_path: Path, disk: Disk) -> None:
    """They, too, get the rest from upstream."""
    async with running(tmp_path) as world:
        digest = add(world)
        world.registry.fault(digest, StallAfter(400_000), times=1)
        other = world.second()
        first = start(world.client(), blob_path(digest))
        await until(lambda: (f := world.service.fills.get(digest)) is not None and f.watermark == 400_000)
        second = start(other.client(), blob_path(digest))
        await until(lambda: (f := other.service.fills.get(digest)) is not None and f.readers == 1)
        with logged():
            disk.is_full.set()
            world.registry.release()
            replies = await together(first, second)
            await until(lambda: other.service.fills.get(digest) is None)
        assert [(reply.body == DATA, reply.broken) for reply in replies] == [(True, False)] * 2
        disk.is_full.clear()
        assert (await world.client().get(blob_path(digest))).body == DATA
        await until(lambda: world.stored() == [digest.hex])
        await other.stop()


# -- a disk that is really full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 8 MiB, and a way to fill it."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a filesystem")
    directory = tmp_path / "store"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "regcachd-test", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.parametrize("left", [0, 4096, 1_000_000, 3_000_000])
async def test_a_full_disk_is_done_without_and_used_again_when_it_has_room(
    tmp_path: Path, small_disk: Path, left: int
) -> None:
    async with running(tmp_path, tables=limits(stop_timeout="1s")) as world:
        data = random.Random(left).randbytes(5_000_000)
        digest = world.registry.add_blob("team/app", data)
        world.registry.fault(digest, Throttle(20_000_000))
        ballast = small_disk / "ballast"
        space = os.statvfs(small_disk)
        ballast.write_bytes(bytes(space.f_bavail * space.f_frsize - left))
        with logged() as lines:
            for _ in range(2):
                replies = await together(*(start(world.client(), blob_path(digest)) for _ in range(4)))
                for reply in replies:
                    assert (reply.status, reply.broken) == (200, False)
                    assert reply.body == data
            health = await plain(world, "/healthz")
        (line,) = (line for line in lines if "straight from upstream" in line)
        assert "No space left on device" in line
        assert "No space left on device" in health
        assert world.stored() == []
        ballast.unlink()
        assert (await world.client().get(blob_path(digest))).body == data
        await until(lambda: world.stored() == [digest.hex])
        assert world.partials() == []
        assert "No space left" not in await plain(world, "/healthz")
        assert (await world.client().get(blob_path(digest))).headers["cache-status"] == "regcachd; hit"


@pytest.mark.parametrize("left", ["nothing", "the index", "blobs"])
async def test_a_daemon_starts_on_a_full_disk(tmp_path: Path, small_disk: Path, left: str) -> None:
    """Without an index, which has no room. Clients get their layers. When blobs take up the room, some go."""
    async with running(tmp_path, tables=limits(stop_timeout="1s")) as world:
        data = random.Random(1).randbytes(100_000)
        digests = [add(world, data=data[number:]) for number in range(3)]
        if left == "blobs":
            assert (await world.client().get(blob_path(digests[0]))).body == data
        await world.service.stopService()
        if left != "the index":
            (small_disk / "index.sqlite3").unlink()
        ballast = small_disk / "ballast"
        space = os.statvfs(small_disk)
        ballast.write_bytes(bytes(space.f_bavail * space.f_frsize))
        with logged() as lines:
            world.start_daemon()
            assert world.stored() == []
            assert (await world.client().get(blob_path(digests[1]))).body == data[1:]
        assert "there is no room for" in lines[0]
        ballast.unlink()
        world.care.tick()
        await until(lambda: world.care.recovery.running is None)
        assert (await world.client().get(blob_path(digests[2]))).body == data[2:]
        await until(lambda: digests[2].hex in world.stored())
        await until(lambda: world.service._index.totals()[0] == len(world.stored()))


async def plain(world: World, path: str) -> str:
    """A page of the daemon itself."""

    def get() -> bytes:
        with urlopen(f"http://127.0.0.1:{world.port}{path}", timeout=10) as response:
            data: bytes = response.read()
            return data

    result: Deferred[bytes] = deferToThread(get)
    return (await result).decode()
