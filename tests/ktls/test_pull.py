"""Pulls through the daemon with TLS in the kernel."""

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from regcachd.testing import FakeRegistry, StallAfter
from tests.ktls.conftest import taken
from tests.through import blob_path, running, start
from tests.wire import LogLines
from tests.world import NAME, World, reactor, until

SIZE = 5_000_011


@asynccontextmanager
async def daemon(directory: Path, tables: str = "") -> AsyncIterator[tuple[World, LogLines]]:
    """A running daemon, and its log from the first line."""
    log = LogLines()
    globalLogPublisher.addObserver(log)
    try:
        async with running(directory, FakeRegistry(reactor), tables=tables) as world:
            yield world, log
    finally:
        globalLogPublisher.removeObserver(log)


async def test_cold_and_stored_and_in_part(tmp_path: Path) -> None:
    """One kept connection: a download as it grows, the stored layer, a range of it, and a HEAD."""
    data = os.urandom(SIZE)
    async with daemon(tmp_path) as (world, log):
        assert log.has("kernel TLS is on")
        path = blob_path(world.registry.add_blob("team/app", data))
        client, before = world.client(), taken()
        for _ in range(3):
            assert (await client.get(path)).body == data
        part = await client.get(path, Range="bytes=1000000-4999999")
        assert (part.status, part.body) == (206, data[1_000_000:5_000_000])
        assert (await client.do("HEAD", path)).headers["content-length"] == str(SIZE)
        assert taken() == before + 1
        assert len(world.stored()) == 1


async def test_a_growing_file_has_many_readers(tmp_path: Path) -> None:
    """Clients that wait for a slow upstream get what is there and, later, the rest."""
    data = os.urandom(SIZE)
    async with daemon(tmp_path) as (world, _):
        digest = world.registry.add_blob("team/app", data)
        world.registry.fault(digest, StallAfter(SIZE // 2), times=1)
        replies = [start(world.client(), blob_path(digest)) for _ in range(4)]
        await until(lambda: world.service.fills.get(digest) is not None)
        world.registry.release()
        for reply in replies:
            assert (await reply).body == data


async def test_curl(tmp_path: Path) -> None:
    """Another TLS client than Python's, with both versions."""
    data = os.urandom(SIZE)
    async with daemon(tmp_path) as (world, _):
        url = f"https://{NAME}{blob_path(world.registry.add_blob('team/app', data))}"
        ca, body = str(world.service.ca.root_path), tmp_path / "body"
        for version in "1.2", "1.3":
            before = taken()
            command = ["curl", "-sS", "--fail", "--proxy", f"http://127.0.0.1:{world.port}", "--cacert", ca]
            command += ["--tls-max", version, "--output", str(body), url]
            await deferToThread(subprocess.run, command, check=True)
            assert body.read_bytes() == data
            assert taken() == before + 1


async def test_off(tmp_path: Path) -> None:
    """`tls.kernel = "off"`: the same bytes, and the kernel has no part in it."""
    data = os.urandom(SIZE)
    async with daemon(tmp_path, '[tls]\nkernel = "off"') as (world, log):
        assert log.has("kernel TLS is off")
        before = taken()
        path = blob_path(world.registry.add_blob("team/app", data))
        client = world.client()
        for _ in range(2):
            assert (await client.get(path)).body == data
        assert taken() == before
