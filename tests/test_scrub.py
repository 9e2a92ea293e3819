"""scrub.py: everything stored is hashed again, gently, and what is rotten goes."""

import ctypes
import errno
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from twisted.internet.defer import Deferred

from regcachd import examine
from regcachd.index import ScrubRecord
from regcachd.partial import Partial
from regcachd.reference import Digest
from regcachd.scrub import Pass, Scrub, scrub
from regcachd.store import Store
from regcachd.testing import StallAfter
from tests.stores import NOW, Shop, at_once, finish
from tests.through import Download, blob_path, logged, running, start, together
from tests.world import World, until

DAY = 86400.0
MIB = 1024 * 1024


@define(eq=False)
class Keeper:
    """A shop with its scrub, on a clock."""

    shop: Shop
    scrub: Scrub
    passes: int = 0

    @classmethod
    def of(cls, shop: Shop, rate: int = 10 * MIB) -> "Keeper":
        self: Keeper

        def done() -> None:
            self.passes += 1

        def now() -> float:
            return NOW + shop.clock.seconds()

        self = cls(shop, Scrub(shop.clock, shop.store, shop.index, at_once, rate, 7 * DAY, now, done))
        return self

    def run(self, seconds: float = 3600.0) -> float:
        """Let time pass until the pass under way is through, or `seconds`. Returns how long it took."""
        began = self.shop.clock.seconds()
        while self.scrub.current is not None and self.shop.clock.seconds() - began < seconds:
            calls = self.shop.clock.getDelayedCalls()
            wait = min(call.getTime() for call in calls) - self.shop.clock.seconds()
            self.shop.clock.advance(max(0.0, wait) + 1e-6)  # floats do not always add up
        return self.shop.clock.seconds() - began


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "store")


def whole_pass(shop: Shop) -> Pass:
    current = Pass(ScrubRecord(NOW), None)
    finish(scrub(shop.store, current))
    return current


@pytest.mark.parametrize(
    "rotten",
    [
        pytest.param(None, id="one bit has changed"),
        pytest.param(b"x" * 2999, id="it is too short"),
        pytest.param(b"x" * 3001, id="it is too long"),
        pytest.param(b"", id="it is empty"),
    ],
)
def test_rot_is_removed(shop: Shop, rotten: bytes | None) -> None:
    bad, good = shop.put(b"x" * 3000), shop.put(b"good")
    shop.rot(bad, rotten)
    current = whole_pass(shop)
    assert current.rotten == [bad]
    assert (current.record.blobs, current.record.rotten) == (2, 1)
    assert shop.files() == {str(good): 4}
    shop.check()


def test_everything_is_looked_at(shop: Shop) -> None:
    """Whatever its algorithm and size, with a row or without."""
    blobs = [os.urandom(size) for size in (1, 65536, examine.STEP, examine.STEP + 1, 3 * examine.STEP)]
    for data in blobs:
        shop.put(data)
    orphan = os.urandom(10)
    shop.store.put(Digest.of(orphan, "sha512"), orphan)
    record = whole_pass(shop).record
    assert (record.blobs, record.rotten) == (6, 0)
    assert record.bytes == sum(map(len, blobs)) + 10


def test_a_medium_that_cannot_be_read_is_rot(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = shop.put(b"bad")

    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(examine, "read_quietly", fail)
    assert whole_pass(shop).rotten == [bad]
    assert shop.files() == {}


@pytest.mark.parametrize(("code", "rotten"), [(errno.EUCLEAN, 1), (errno.EACCES, 0)])
def test_a_blob_that_cannot_be_opened_is_passed_by(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, code: int, rotten: int
) -> None:
    """It goes if that is the medium's fault, and all the others are checked either way."""
    digests = sorted((shop.put(bytes([number])) for number in range(5)), key=str)
    opened = Store.open

    def fail(store: Store, digest: Digest) -> Any:
        if digest == digests[2]:
            raise OSError(code, os.strerror(code))
        return opened(store, digest)

    monkeypatch.setattr(Store, "open", fail)
    current = whole_pass(shop)
    assert current.rotten == digests[2:3] * rotten
    assert (current.record.blobs, current.record.position) == (4 + rotten, str(digests[4]))
    assert len(shop.files()) == 5 - rotten
    shop.check()


def test_a_store_that_fails_is_not_rot(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put(b"good")

    def fail(*_: Any) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(examine, "read_quietly", fail)
    with pytest.raises(OSError, match="Stale"):
        whole_pass(shop)
    assert len(shop.files()) == 1


def test_a_blob_that_was_replaced_meanwhile_stays(shop: Shop) -> None:
    """Rot was found in a file that is there no more; the name now has another one."""
    data = b"x" * 3000
    digest = shop.put(data)
    shop.rot(digest)
    opened = shop.store.open(digest)
    assert opened is not None
    shop.store.remove(digest)
    shop.store.put(digest, data)
    examine.remove_rotten(shop.store, shop.index, digest, opened.fd, "it is rotten")
    assert os.fstat(opened.fd).st_size == 0  # whoever reads the rotten one gets no further
    opened.close()
    shop.check()
    assert len(shop.files()) == 1


def cached(path: Path) -> bool:
    """Is all of the file in the page cache? Asked so that the asking brings nothing in (mincore(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        view = (ctypes.c_char * len(mapped)).from_buffer(mapped)
        answer = libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(mapped)), pages)
        del view
    assert answer == 0
    return all(page & 1 for page in pages)


def test_the_page_cache_stays_as_it_was(shop: Shop) -> None:
    """What was not in it is not there after a scrub; what was, is."""
    cold, warm = shop.put(os.urandom(2 * MIB)), shop.put(os.urandom(2 * MIB))
    paths = [shop.store.blob_path(digest) for digest in (cold, warm)]
    with paths[0].open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(paths[0]) or not cached(paths[1]):
        pytest.skip("this filesystem does not let go of pages")
    assert whole_pass(shop).record.rotten == 0
    assert [cached(path) for path in paths] == [False, True]


# -- passes


def test_a_pass_keeps_to_its_rate(shop: Shop) -> None:
    """40 MiB at 10 MiB per second are four seconds, in steps of a quarter of a second or less."""
    for _ in range(5):
        shop.put(os.urandom(8 * MIB))
    keeper = Keeper.of(shop)
    keeper.scrub.look()
    assert 3.9 <= keeper.run() <= 4.3
    assert keeper.passes == 1
    assert shop.index.scrubs()[0].bytes == 40 * MIB


def test_small_blobs_do_not_make_it_a_burst(shop: Shop) -> None:
    """Each counts as 64 KiB: 160 of them are one second at 10 MiB per second."""
    for number in range(160):
        shop.put(b"%d" % number)
    keeper = Keeper.of(shop)
    keeper.scrub.look()
    assert 0.9 <= keeper.run() <= 1.1
    assert shop.index.scrubs()[0].blobs == 160


def test_passes_come_at_their_interval(shop: Shop) -> None:
    """Never scrubbed is due at once; then a week after the last one began."""
    shop.put(b"x")
    keeper = Keeper.of(shop)
    for days, passes in ((0, 1), (1, 1), (6, 2), (6.9, 2), (1, 3)):
        shop.clock.advance(days * DAY)
        keeper.scrub.look()
        keeper.run()
        assert keeper.passes == passes, days


def test_off_is_off(shop: Shop) -> None:
    """But the operator may have one all the same."""
    shop.put(b"x")
    keeper = Keeper.of(shop, rate=0)
    keeper.scrub.look()
    assert keeper.scrub.current is None
    Deferred.fromCoroutine(keeper.scrub.hurry())
    assert keeper.run() < 0.001
    assert keeper.passes == 1


def test_a_pass_goes_on_after_a_restart(shop: Shop) -> None:
    """Where it was, with what it had counted."""
    for _ in range(20):
        shop.put(os.urandom(MIB))
    first = Keeper.of(shop)
    first.scrub.look()
    first.run(1.0)
    Deferred.fromCoroutine(first.scrub.stop())
    assert first.passes == 0
    done = shop.index.scrubs()[0]
    assert 8 <= done.blobs <= 12
    assert done.finished is None
    second = Keeper.of(shop)
    second.scrub.look()
    assert 0.7 <= second.run() <= 1.3
    (record,) = shop.index.scrubs()
    assert (record.started, record.blobs, record.bytes) == (done.started, 20, 20 * MIB)


def test_the_operator_s_pass_is_at_full_speed(shop: Shop) -> None:
    """It begins anew, takes no time but the disk's, and takes the place of the one under way; asking twice is asking
    once."""
    for _ in range(20):
        shop.put(os.urandom(MIB))
    keeper = Keeper.of(shop)
    keeper.scrub.look()
    keeper.run(1.0)
    Deferred.fromCoroutine(keeper.scrub.hurry())
    began = keeper.scrub.current
    Deferred.fromCoroutine(keeper.scrub.hurry())
    assert keeper.scrub.current is began
    assert keeper.run() < 0.001
    assert keeper.passes == 1
    (record,) = shop.index.scrubs()
    assert record.blobs == 20
    assert keeper.scrub.last is began


def test_a_pass_at_full_speed_can_be_slowed_down(shop: Shop) -> None:
    for _ in range(40):
        shop.put(os.urandom(MIB))
    keeper = Keeper.of(shop)
    Deferred.fromCoroutine(keeper.scrub.hurry())
    Deferred.fromCoroutine(keeper.scrub.calm_down())
    assert 2.3 <= keeper.run() <= 4.1
    assert keeper.passes == 1


def test_without_a_rate_it_is_ended_instead(shop: Shop) -> None:
    for number in range(40):
        shop.put(b"%d" % number)
    keeper = Keeper.of(shop, rate=0)
    Deferred.fromCoroutine(keeper.scrub.hurry())
    Deferred.fromCoroutine(keeper.scrub.calm_down())
    assert keeper.scrub.current is None
    assert keeper.passes == 0


def test_a_store_that_goes_away_ends_the_pass_only(shop: Shop) -> None:
    shop.put(b"x")
    keeper = Keeper.of(shop)
    (shop.path / "blobs").rename(shop.path / "elsewhere")
    keeper.scrub.look()
    assert keeper.scrub.current is None
    (shop.path / "elsewhere").rename(shop.path / "blobs")
    keeper.scrub.look()
    keeper.run()
    assert keeper.passes == 1


def rot(world: World, digest: Digest) -> None:
    """Change the last byte of a stored blob behind everybody's back, as a disk does."""
    path = world.directory / "store/blobs/sha256" / digest.hex[:2] / digest.hex
    data = path.read_bytes()
    path.chmod(0o640)
    with path.open("r+b") as file:
        file.seek(len(data) - 1)
        file.write(bytes([data[-1] ^ 1]))


async def scrubbed(world: World) -> None:
    """A pass has found the one blob rotten, and nothing is stored any more."""
    scrub = world.care.scrub
    await scrub.hurry()
    await until(lambda: scrub.current is None)
    assert scrub.rotten == 1
    assert world.stored() == []


async def test_rot_is_fetched_again(tmp_path: Path) -> None:
    """The client that asks after the scrub gets the right bytes, from upstream, and the next one from the store."""
    async with running(tmp_path) as here:
        data = os.urandom(100_000)
        digest = here.registry.add_blob("team/app", data)
        client = here.client()
        await client.get(blob_path(digest))
        await until(lambda: here.service._index.totals() == (1, len(data)))
        rot(here, digest)
        await scrubbed(here)
        assert (await client.get(blob_path(digest))).body == data
        await until(lambda: here.service._index.totals() == (1, len(data)))
        reply = await client.get(blob_path(digest))
        assert "hit" in reply.headers["cache-status"]


async def test_rot_is_not_read_from_the_fill_that_brought_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fill holds its file open until a disk thread has the time to close it, and so do the workers that follow
    it."""
    gate, close = threading.Event(), Partial.close

    def slow(partial: Partial) -> None:
        gate.wait(60)
        close(partial)

    async with running(tmp_path) as here:
        data = os.urandom(400_000)
        digest = here.registry.add_blob("team/app", data)
        here.registry.fault(digest, StallAfter(200_000), times=1)
        monkeypatch.setattr(Partial, "close", slow)
        other = here.second()
        try:
            first = start(here.client(), blob_path(digest))
            await here.registry.until(lambda r: len(r.stalls) == 1)
            second = start(other.client(), blob_path(digest))
            await until(lambda: (f := other.service.fills.get(digest)) is not None and f.readers == 1)
            here.registry.release()
            assert [reply.body for reply in await together(first, second)] == [data] * 2
            await until(lambda: here.service._index.totals() == (1, len(data)))
            rot(here, digest)
            await scrubbed(here)
            assert [world.service.fills.get(digest) for world in (here, other)] == [None, None]
            assert (await other.client().get(blob_path(digest))).body == data
            await until(lambda: here.stored() == [digest.hex])
            rot(here, digest)
            here.care.scrub.rotten = 0
            await scrubbed(here)
            again = start(here.client(), blob_path(digest))
            gate.set()
            assert (await again).body == data
        finally:
            gate.set()
            await other.stop()


async def test_who_is_reading_rot_does_not_come_to_its_end(tmp_path: Path) -> None:
    """The file has gone from the store, but they have it open: their responses are cut."""
    async with running(tmp_path) as here:
        digest = here.registry.add_blob("team/app", os.urandom(16 * MIB))
        filled = await Download(here, blob_path(digest), buffer=65536).begin()
        await until(lambda: here.stored() == [digest.hex] and here.partials() == [])
        stored = await Download(here, blob_path(digest), buffer=65536).begin()
        rot(here, digest)
        with logged() as lines:
            await scrubbed(here)
            for download in (filled, stored):
                await download.rest()
                assert not download.whole
        assert len([line for line in lines if "shorter" in line]) == 2
        assert "hit" in stored.header("cache-status")[0]
