"""Fills that break and go on: by Range, by comparing what comes again, in another process, without the store."""

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from regcachd.reference import Digest
from regcachd.testing import (
    CutAfter,
    FakeRegistry,
    IgnoreRange,
    RedirectTo,
    StallAfter,
    Status,
    Throttle,
    WrongBytes,
)
from tests.world import Reply, World, reactor, until

SIZE = 3_000_000
REPOSITORY = "team/app"


async def start(
    directory: Path, settings: str = 'timeout = "1s"\nretry_delay = "20ms"', retries: int = 8
) -> World:
    """A daemon that does not wait long."""
    tables = '[limits]\nstop_timeout = "0s"'
    world = World(directory, FakeRegistry(reactor), settings=settings, tables=tables, retries=retries)
    return await world.start()


def blob(world: World, size: int = SIZE) -> tuple[Digest, bytes]:
    """A new blob upstream."""
    data = os.urandom(size)
    return world.registry.add_blob(REPOSITORY, data), data


async def pull(world: World, digest: Digest, **headers: str) -> Reply:
    """GET it with a new client."""
    return await world.client().get(f"/v2/{REPOSITORY}/blobs/{digest}", **headers)


def sent_by_upstream(world: World) -> list[str]:
    """The Range of every blob GET upstream, "" for none."""
    return [
        {name.lower(): value for name, value in request.headers.items()}.get("range", "")
        for request in world.registry.requests.matching("GET", "/blobs/")
    ]


@pytest.mark.parametrize("offset", [SIZE * i // 20 for i in range(20)])
async def test_cut_anywhere(tmp_path: Path, offset: int) -> None:
    """A connection cut at any offset is resumed from there; the client gets every byte in one response."""
    here = await start(tmp_path)
    digest, data = blob(here)
    here.registry.fault(digest, CutAfter(offset), times=1)
    reply = await pull(here, digest)
    assert (reply.status, reply.broken) == (200, False)
    assert reply.body == data
    await until(lambda: here.stored() == [digest.hex])
    ranges = sent_by_upstream(here)
    assert len(ranges) == 2
    if offset:
        assert ranges[1].startswith("bytes=")
    await here.stop()


async def test_range_ignored(tmp_path: Path) -> None:
    """200 instead of 206: what the clients have is compared with what comes again, and not sent twice."""
    here = await start(tmp_path)
    digest, data = blob(here)
    here.registry.fault(digest, CutAfter(SIZE // 2), times=1)
    here.registry.fault(digest, IgnoreRange())
    reply = await pull(here, digest)
    assert not reply.broken
    assert reply.body == data
    await until(lambda: here.stored() == [digest.hex])
    await here.stop()


async def test_other_bytes_the_second_time(tmp_path: Path) -> None:
    """Upstream that sends other bytes when asked again is not believed: the response is cut, nothing is stored."""
    here = await start(tmp_path)
    digest, data = blob(here)
    here.registry.fault(digest, CutAfter(SIZE // 2), times=1)
    here.registry.fault(digest, IgnoreRange(), WrongBytes(1000), times=1, skip=1)
    reply = await pull(here, digest)
    assert reply.broken
    assert data.startswith(reply.body)
    assert here.stored() == []
    assert (await pull(here, digest)).body == data
    await here.stop()


@pytest.mark.parametrize("fault", [Status(500), Status(429), Status(403)], ids=["500", "429", "403"])
async def test_errors_in_the_middle(tmp_path: Path, fault: Any) -> None:
    """An error when the rest is asked for is a reason to try again, not to give up."""
    here = await start(tmp_path)
    digest, data = blob(here)
    here.registry.fault(digest, CutAfter(SIZE // 2), times=1)
    here.registry.fault(digest, fault, times=3, skip=1)
    reply = await pull(here, digest)
    assert not reply.broken
    assert reply.body == data
    await here.stop()


async def test_stall(tmp_path: Path) -> None:
    """An upstream that falls silent in the middle is asked again after `timeout`."""
    here = await start(tmp_path, 'timeout = "300ms"\nretry_delay = "20ms"')
    digest, data = blob(here)
    here.registry.fault(digest, StallAfter(SIZE // 3), times=1)
    assert (await pull(here, digest)).body == data
    await here.stop()


async def test_redirect_expires(tmp_path: Path) -> None:
    """A presigned address is not kept: the registry is asked again for a new one."""
    here = await start(tmp_path)
    digest, data = blob(here)
    here.registry.fault(f"/v2/{REPOSITORY}/blobs/", RedirectTo(None))
    here.registry.fault("presigned", CutAfter(SIZE // 2), times=1)
    reply = await pull(here, digest)
    assert not reply.broken
    assert reply.body == data
    await here.stop()


async def test_gives_up(tmp_path: Path) -> None:
    """When nothing comes for `retries` tries in a row, the responses are cut, and the partial stays."""
    here = await start(tmp_path, retries=2)
    digest, data = blob(here)
    here.registry.fault(digest, CutAfter(SIZE // 2), times=1)
    rule = here.registry.fault(digest, Status(500), skip=1)
    reply = await pull(here, digest)
    assert reply.broken
    assert data.startswith(reply.body)
    assert digest.hex in here.partials()
    here.registry.heal(rule)
    assert (await pull(here, digest)).body == data
    assert sent_by_upstream(here)[-1] == f"bytes={SIZE // 2}-"
    await here.stop()


async def test_restart_resumes(tmp_path: Path) -> None:
    """A daemon that is stopped in the middle leaves a partial, and the next one goes on with it."""
    here = await start(tmp_path)
    digest, data = blob(here)
    rule = here.registry.fault(digest, StallAfter(SIZE // 2, 60))
    result = Deferred.fromCoroutine(pull(here, digest))
    path = tmp_path / "store/partial/sha256" / digest.hex
    await until(lambda: path.exists() and path.stat().st_size == SIZE // 2)
    await here.restart_daemon()
    assert (await result).broken
    here.registry.heal(rule)
    assert (await pull(here, digest)).body == data
    assert sent_by_upstream(here)[-1] == f"bytes={SIZE // 2}-"
    await until(lambda: here.partials() == [])
    await here.stop()


async def test_two_daemons_one_download(tmp_path: Path) -> None:
    """A client of one worker follows the fill of another, and both get everything from one download."""
    here = await start(tmp_path)
    digest, data = blob(here)
    here.registry.fault(digest, Throttle(SIZE))
    other = here.second()
    first = Deferred.fromCoroutine(pull(here, digest))
    await until(lambda: digest.hex in here.partials())
    second = Deferred.fromCoroutine(other.client().get(f"/v2/{REPOSITORY}/blobs/{digest}"))
    replies = await gatherResults([first, second])
    assert [reply.body == data for reply in replies] == [True, True]
    assert len(sent_by_upstream(here)) == 1
    await other.stop()
    await here.stop()


async def test_the_other_takes_over(tmp_path: Path) -> None:
    """When the worker that downloads goes away, another goes on where it stopped, and its clients notice nothing."""
    here = await start(tmp_path)
    digest, data = blob(here)
    rule = here.registry.fault(digest, StallAfter(SIZE // 2, 60), times=1)
    other = here.second()
    first = Deferred.fromCoroutine(pull(here, digest))
    path = tmp_path / "store/partial/sha256" / digest.hex
    await until(lambda: path.exists() and path.stat().st_size == SIZE // 2)
    second = Deferred.fromCoroutine(other.client().get(f"/v2/{REPOSITORY}/blobs/{digest}"))
    await until(lambda: other.service.fills.get(digest) is not None)
    here.registry.heal(rule)
    await here.service.stopService()
    assert (await first).broken
    reply = await second
    assert not reply.broken
    assert reply.body == data
    assert sent_by_upstream(here)[1:] == [f"bytes={SIZE // 2}-"]
    for client in here.clients:
        client.close()
    await other.stop()
    await here.registry.stop()


@pytest.mark.parametrize("when", [0, SIZE // 2], ids=["from the start", "in the middle"])
async def test_store_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int) -> None:
    """When the disk is full the client gets its layer all the same, and caching comes back with the space."""
    here = await start(tmp_path)
    digest, data = blob(here)
    write = os.pwrite

    def full(fd: int, view: Any, offset: int) -> int:
        if offset + len(view) > when and len(view) > 64:
            raise OSError(28, "No space left on device")
        return write(fd, view, offset)

    monkeypatch.setattr("regcachd.partial.os.pwrite", full)
    reply = await pull(here, digest)
    assert not reply.broken
    assert reply.body == data
    assert here.stored() == []
    monkeypatch.undo()
    assert (await pull(here, digest)).body == data
    await until(lambda: here.stored() == [digest.hex])
    await here.stop()
