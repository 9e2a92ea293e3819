"""eviction.py: the store stays within its limits, and what was used last stays in it."""

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from regcachd.testing import FakeRegistry
from tests.world import World, reactor, until

BLOB = 100_000


async def test_oldest_go_first(tmp_path: Path) -> None:
    """Over max_size the least recently used blobs go, down to 95 % of it; the others are still hits."""
    here = await World(tmp_path, FakeRegistry(reactor), max_size=10 * BLOB).start()
    digests = [here.registry.add_blob("team/app", os.urandom(BLOB)) for _ in range(12)]
    client = here.client()
    for digest in digests[:10]:
        assert len((await client.get(f"/v2/team/app/blobs/{digest}")).body) == BLOB
        # one after the other, so that the order of their uses is that of the list
        await until(lambda hex=digest.hex: hex in here.stored() and here.partials() == [])  # type: ignore[misc]
    await client.get(f"/v2/team/app/blobs/{digests[0]}")  # used again: not the oldest any more
    await client.get(f"/v2/team/app/blobs/{digests[10]}")
    await until(lambda: len(here.stored()) == 9)
    stored = here.stored()
    assert digests[0].hex in stored
    assert digests[10].hex in stored
    assert digests[1].hex not in stored
    assert digests[2].hex not in stored
    await here.stop()


async def test_reader_keeps_an_evicted_blob(tmp_path: Path) -> None:
    """A client in the middle of a blob that is evicted gets every byte."""
    here = await World(tmp_path, FakeRegistry(reactor)).start()
    data = os.urandom(30_000_000)
    digest = here.registry.add_blob("team/app", data)
    client = here.client()
    await client.get(f"/v2/team/app/blobs/{digest}")
    await until(lambda: digest.hex in here.stored())
    connection = client.connection()

    def begin() -> Any:
        connection.request("GET", f"/v2/team/app/blobs/{digest}")
        response = connection.getresponse()
        return response, response.read(1000)

    response, start = await deferToThread(begin)
    (tmp_path / "store/blobs/sha256" / digest.hex[:2] / digest.hex).unlink()
    rest = await deferToThread(response.read)
    assert hashlib.sha256(start + rest).hexdigest() == digest.hex
    await here.stop()


async def test_one_worker_evicts_at_a_time(tmp_path: Path) -> None:
    """While another process holds the store's eviction lock nothing is evicted here; after that it is."""
    here = await World(tmp_path, FakeRegistry(reactor), max_size=BLOB).start()
    with (tmp_path / "store/evict.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        digest = here.registry.add_blob("team/app", os.urandom(2 * BLOB))
        await here.client().get(f"/v2/team/app/blobs/{digest}")
        await until(lambda: digest.hex in here.stored())
        here.service.eviction.wake()
        await here.service.eviction.idle()
        assert here.stored() == [digest.hex]
    here.service.eviction.wake()
    await until(lambda: here.stored() == [])
    await here.stop()


async def test_a_blob_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When unlinking fails, that is logged and eviction tries again later; serving goes on."""
    here = await World(tmp_path, FakeRegistry(reactor), max_size=BLOB).start()
    digests = [here.registry.add_blob("team/app", os.urandom(BLOB)) for _ in range(2)]

    def refuse(self: Any, digest: Any) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr("regcachd.store.Store.remove", refuse)
    client = here.client()
    for digest in digests:
        assert (await client.get(f"/v2/team/app/blobs/{digest}")).status == 200
    await until(lambda: len(here.stored()) == 2)
    assert (await client.get(f"/v2/team/app/blobs/{digests[0]}")).status == 200
    monkeypatch.undo()
    here.service.eviction.wake()
    await until(lambda: len(here.stored()) == 0)  # one blob is more than 95 % of the limit
    await here.stop()
