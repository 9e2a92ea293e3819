"""The disk's half of fills, end to end: disks that fail, and disks that are slow."""

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.fill import Fill
from regcachd.partial import Partial
from regcachd.testing import StallAfter
from regcachd.writer import QUEUE_HIGH
from tests.through import blob_path, logged, running, start, together
from tests.world import until

reactor: Any = _reactor

DATA = random.Random(2).randbytes(500_000)


def fail_with(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
async def test_a_disk_that_fails_in_the_middle_is_done_without_and_the_client_notices_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        pwrite, full = os.pwrite, threading.Event()

        def fill_up(fd: int, *rest: Any) -> int:
            written: int = fail_with(number)() if full.is_set() else pwrite(fd, *rest)
            return written

        world.registry.fault(digest, StallAfter(100_000), times=1)
        with logged() as lines, monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", fill_up)
            asked = start(world.client(), blob_path(digest))
            await world.registry.until(lambda r: len(r.stalls) == 1)
            await until(lambda: (f := world.service.fills.get(digest)) is not None and f.watermark > 0)
            full.set()
            world.registry.release()
            reply = await asked
            await until(lambda: world.service.fills.get(digest) is None)
        assert (reply.body, reply.broken) == (DATA, False)
        assert os.strerror(number) in lines[0]
        assert world.stored() == []
        assert (await world.client().get(blob_path(digest))).body == DATA
        await until(lambda: world.stored() == [digest.hex])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EWOULDBLOCK])
async def test_a_store_that_takes_nothing_is_passed_by_and_the_client_notices_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        with logged() as lines, monkeypatch.context() as patched:
            patched.setattr(Partial, "acquire", fail_with(number))
            replies = await together(*(start(world.client(), blob_path(digest)) for _ in range(4)))
        for reply in replies:
            assert (reply.status, reply.body, reply.broken) == (200, DATA, False)
            assert reply.headers["cache-status"] == "regcachd; fwd=uri-miss"
        assert os.strerror(number) in lines[0]
        await world.client().get(blob_path(digest))
        await until(lambda: world.stored() == [digest.hex])


@pytest.mark.parametrize("failing", ["rename", "fsync"])
async def test_when_the_commit_fails_clients_have_the_right_bytes_and_nothing_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        with logged() as lines, monkeypatch.context() as patched:
            patched.setattr(os, failing, fail_with(errno.EIO))
            reply = await world.client().get(blob_path(digest))
            await until(lambda: bool(lines) and world.service.fills.get(digest) is None)
        assert (reply.body, reply.broken) == (DATA, False)
        assert world.stored() == []
        assert (await world.client().get(blob_path(digest))).body == DATA
        await until(lambda: world.stored() == [digest.hex])


async def test_upstream_is_paused_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as world:
        path = tmp_path / "big"
        path.write_bytes(bytes(40_000_000))
        digest = world.registry.add_blob("team/app", path)
        gate, write = threading.Event(), Partial.write

        def slow(*args: Any) -> None:
            gate.wait(60)
            write(*args)

        try:
            monkeypatch.setattr(Partial, "write", slow)
            asked = start(world.client(), blob_path(digest))
            await until(lambda: world.service.fills.get(digest) is not None)
            fill = world.service.fills._entries[digest].driver
            assert isinstance(fill, Fill)
            await until(lambda: fill._writer.queued > QUEUE_HIGH)
            held = fill._writer.queued
            for _ in range(20):
                await until(lambda: True)
            assert fill._writer.queued == held
            assert held < QUEUE_HIGH + 1_000_000
        finally:
            gate.set()
        reply = await asked
        assert (len(reply.body), reply.broken) == (40_000_000, False)
