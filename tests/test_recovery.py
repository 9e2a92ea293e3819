"""recovery.py and what it is made of: after a start the index agrees with the files, whatever happened before it."""

import fcntl
import os
import sqlite3
import struct
from pathlib import Path

import pytest

from regcachd.index import Index
from regcachd.leftovers import partials
from regcachd.lock import StoreInUse, StoreLock
from regcachd.recovery import Recovery
from regcachd.reference import Digest
from regcachd.store import Store, StoreUnusable
from regcachd.testing import FakeRegistry
from tests.stores import NOW, Shop, at_once, finish
from tests.world import World, reactor, until

DAY = 86400.0


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "store")


# -- rows and files


def test_a_file_without_a_row_is_adopted(shop: Shop) -> None:
    """With its size, and the time it was last read or written as its last use."""
    digest = Digest.of(b"orphan", "sha512")
    shop.store.put(digest, b"orphan")
    os.utime(shop.store.blob_path(digest), (NOW - 5, NOW - 9))
    assert shop.recover().adopted == 1
    assert shop.rows() == {str(digest): 6}
    assert shop.index.oldest_use() == NOW - 5
    shop.check()


def test_a_row_without_its_file_is_dropped(shop: Shop) -> None:
    digest = shop.put(b"gone")
    shop.put(b"there")
    shop.store.remove(digest)
    assert shop.recover().dropped == 1
    shop.check()


def test_what_agrees_is_left_as_it_is(shop: Shop) -> None:
    digest = shop.put(b"manifest")
    shop.index.add(digest, 8, "application/json", NOW)
    assert not shop.recover().changed
    assert shop.index.media_type(digest) == "application/json"


def test_a_file_of_another_size_than_its_row_is_hashed(shop: Shop) -> None:
    """A truncated one is removed; where the row was wrong, the row is made right."""
    truncated, right = shop.put(b"x" * 1000), shop.put(b"right")
    shop.rot(truncated, b"x" * 999)
    shop.index.remove([right])
    shop.index.add(right, 4, None, NOW)
    tally = shop.recover()
    assert tally.rotten == 1
    assert shop.files() == {str(right): 5}
    shop.check()


def test_many_are_done_in_small_transactions(shop: Shop) -> None:
    """1,000 orphans of one shelf are all adopted, and no step changes more than 200 rows."""
    directory = shop.path / "blobs/sha256/ab"
    directory.mkdir()
    for number in range(1000):
        (directory / f"ab{number:062x}").touch()
    from regcachd.recovery import Tally, reconcile

    tally, before = Tally(), 0
    for _ in reconcile(shop.store, shop.index, tally):
        assert tally.adopted - before <= 200
        before = tally.adopted
    assert shop.index.totals()[0] == 1000


def test_foreign_files_are_left_alone(shop: Shop) -> None:
    """They are named; a name that is nearly a digest, a link and a directory are foreign too."""
    blobs, partial = shop.path / "blobs/sha256", shop.path / "partial/sha256"
    digits = Digest.of(b"x").hex
    (blobs / "aa").mkdir()
    (blobs / "ff").mkdir()
    foreign = [
        blobs / "README",
        blobs.parent / "lost",
        blobs / "aa" / digits,  # another shelf's
        blobs / "aa" / ("A" * 64),
        blobs / "aa" / ("aa" + "0" * 63),
        blobs / digits[:2],
        partial / "core",
    ]
    for path in foreign:
        path.write_text("mine")
    link = blobs / "ff" / ("ff" + "0" * 62)
    link.symlink_to(foreign[0])
    directory = blobs / "ff" / ("ff" + "1" * 62)
    directory.mkdir()
    tally = shop.recover()
    assert set(tally.foreign) == {*foreign, link, directory}
    assert not tally.changed
    assert all(path.read_text() == "mine" for path in foreign)


def test_a_store_that_has_gone_keeps_its_rows(shop: Shop) -> None:
    """An unmounted disk is not a store from which everything was deleted."""
    shop.put(b"one")
    from regcachd.recovery import Tally, reconcile

    (shop.path / "blobs").rename(shop.path / "elsewhere")
    with pytest.raises(StoreUnusable, match="is its filesystem mounted"):
        finish(reconcile(shop.store, shop.index, Tally()))
    assert shop.index.totals() == (1, 3)


# -- partials


def partial(store: Store, digest: Digest, age: float = 0.0, state: bool = True, total: int = 100) -> Path:
    path = store.partial_path(digest)
    path.write_bytes(b"0123456789")
    os.utime(path, (NOW - age, NOW - age))
    if state:
        path.with_name(path.name + ".state").write_bytes(struct.pack("<QQ", total, 10))
    return path


def test_partials_are_kept_while_they_can_be_resumed(shop: Shop) -> None:
    """Those too old, those without a state and states without a partial go; one that is being filled stays."""
    digests = [Digest.of(bytes([number])) for number in range(5)]
    young = partial(shop.store, digests[0], age=6.9 * DAY)
    partial(shop.store, digests[1], age=7.1 * DAY)
    partial(shop.store, digests[2], age=1, state=False)
    busy = partial(shop.store, digests[3], age=8 * DAY)
    alone = shop.store.partial_path(digests[4]).with_suffix(".state")
    alone.write_bytes(b"")
    os.utime(alone, (NOW - 1, NOW - 1))
    with busy.open("rb") as filler:
        fcntl.flock(filler, fcntl.LOCK_EX)
        shop.recover()
    left = {path.name for path in (shop.path / "partial").rglob("*") if path.is_file()}
    assert left == {young.name, young.name + ".state", busy.name, busy.name + ".state"}


def test_partials_are_listed_with_their_progress(shop: Shop) -> None:
    known, unknown = Digest.of(b"a"), Digest.of(b"b")
    partial(shop.store, known)
    partial(shop.store, unknown, total=2**64 - 1)
    partial(shop.store, Digest.of(b"c"), state=False)
    found = {each.digest: each for each in partials(shop.store)}
    assert set(found) == {known, unknown}
    assert (found[known].committed, found[known].total, found[known].changed) == (10, 100, NOW)
    assert found[unknown].total is None


# -- the index


def damage_header(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 400)


def damage_root(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def other_version(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.commit()
    database.close()


def other_tables(path: Path) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE blobs (other)")
    database.commit()
    database.close()


@pytest.mark.parametrize("damage", [damage_header, damage_root, cut, other_version, other_tables])
def test_a_damaged_index_is_set_aside_and_rebuilt(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    shop = Shop(tmp_path)
    for number in range(50):
        shop.put(bytes([number]) * (number + 1))
    shop.index.close()
    aside = tmp_path / "index.sqlite3.bad-20200101T000000Z"
    aside.touch()
    damage(shop.store.index_path)
    shop.open()
    assert shop.index.totals() == (0, 0)
    assert not aside.exists()  # one is enough
    assert len(list(tmp_path.glob("index.sqlite3.bad-*Z"))) == 1
    assert shop.recover().adopted == 50
    shop.check()


def test_damage_that_is_seen_late_is_seen(tmp_path: Path) -> None:
    """Deep inside a large index nothing is noticed at the start; the check of the whole file does, and everybody who
    has the file open changes over to the new one."""
    shop = Shop(tmp_path)
    some = [(Digest("sha256", f"{number:064x}"), 1, NOW + number) for number in range(5000)]
    shop.index.adopt(some)
    shop.index.checkpoint()
    shop.index.close()
    with shop.store.index_path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for page in range(size // 3 // 4096, size // 2 // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    shop.open()
    digest = Digest.of(b"there")
    shop.store.put(digest, b"there")
    shop.recover(check=True)
    assert shop.rows() == {str(digest): 5}
    assert list(tmp_path.glob("index.sqlite3.bad-*Z"))
    shop.index.add(Digest.of(b"later"), 5, None, NOW)
    assert shop.index.totals() == (2, 10)
    shop.index.close()


def test_damage_that_is_met_is_no_error(tmp_path: Path) -> None:
    """Whoever meets it finds nothing, and the next tick replaces the file."""
    shop = Shop(tmp_path)
    shop.index.adopt((Digest("sha256", f"{number:064x}"), 1, NOW) for number in range(5000))
    shop.index.close()
    shop.open()
    with shop.store.index_path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 40)
    os.truncate(shop.store.index_path.with_name("index.sqlite3-wal"), 0)
    found = [shop.index.media_type(Digest("sha256", f"{number:064x}")) for number in range(5000)]
    assert found == [None] * 5000
    assert shop.index.tick()
    assert shop.index.totals() == (0, 0)
    assert not shop.index.tick()


def test_a_deleted_index_comes_back(shop: Shop) -> None:
    """Also one that is deleted under a running daemon."""
    shop.put(b"one")
    shop.store.index_path.unlink()
    assert shop.index.tick()
    shop.recover()
    shop.check()


def test_last_uses_are_written_together(shop: Shop) -> None:
    """They count at once for eviction, and survive an orderly end."""
    first, second = shop.put(b"1", NOW), shop.put(b"2", NOW + 1)
    shop.index.used(first, NOW + 2)
    assert [digest for digest, _ in shop.index.least_recently_used(2)] == [second, first]
    shop.index.used(second, NOW + 3)
    shop.index.close()
    shop.open()
    assert [digest for digest, _ in shop.index.least_recently_used(2)] == [first, second]


def test_a_use_after_eviction_makes_no_row(shop: Shop) -> None:
    digest = shop.put(b"1")
    shop.index.used(digest, NOW)
    shop.index.remove([digest])
    shop.store.remove(digest)
    shop.index.flush()
    shop.check()


def test_a_full_disk_does_not_stop_the_index(shop: Shop) -> None:
    """Writes are dropped, reads go on, and it works again by itself when there is room."""
    kept = shop.put(b"kept")
    connection = shop.index._db._db
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    shop.index.adopt((Digest("sha256", f"{number:064x}"), 1, NOW) for number in range(5000))
    assert shop.index.totals() == (1, 4)
    assert not shop.index.tick()
    connection.execute("PRAGMA max_page_count = 100000")
    shop.index.adopt([(Digest.of(b"later"), 5, NOW)])
    assert set(shop.rows()) == {str(kept), str(Digest.of(b"later"))}


# -- the lock


def test_a_store_has_one_daemon(tmp_path: Path) -> None:
    """The second is told who has it; the lock is free when the first has gone."""
    lock = StoreLock(tmp_path)
    lock.sign()
    with pytest.raises(StoreInUse, match=rf"another regcachd, process {os.getpid()}, works on the store"):
        StoreLock(tmp_path)
    assert lock.is_in_place()
    lock.release()
    again = StoreLock(tmp_path)
    assert not again.was_left
    again.sign()
    os.close(again._fd)  # killed
    after = StoreLock(tmp_path)
    assert after.was_left
    after.release()


def test_a_store_that_was_moved_away_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    lock = StoreLock(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "gone")
    assert not lock.is_in_place()
    (tmp_path / "store").mkdir()
    assert not lock.is_in_place()
    lock.release()


# -- in the daemon


async def test_a_second_daemon_refuses_to_start(tmp_path: Path) -> None:
    here = await World(tmp_path, FakeRegistry(reactor)).start()
    with pytest.raises(StoreInUse):
        World(tmp_path, here.registry).start_daemon()
    await here.stop()


async def test_a_daemon_that_lost_its_index_serves_and_rebuilds(tmp_path: Path) -> None:
    """What is stored is served as before, once upstream has said yes again; nothing is downloaded."""
    here = await World(tmp_path, FakeRegistry(reactor)).start()
    digest = here.registry.add_blob("team/app", os.urandom(100_000))
    assert (await here.client().get(f"/v2/team/app/blobs/{digest}")).status == 200
    await until(lambda: digest.hex in here.stored())
    for client in here.clients:
        client.close()
    await here.service.stopService()
    index = tmp_path / "store/index.sqlite3"
    damage_header(index)
    here.start_daemon()
    reply = await here.client().get(f"/v2/team/app/blobs/{digest}")
    assert len(reply.body) == 100_000
    assert "hit" in reply.headers["cache-status"]
    await until(lambda: here.care.recovery.running is None)
    assert here.service._index.totals() == (1, 100_000)
    await here.stop()


async def test_an_index_that_vanishes_is_rebuilt_while_serving(tmp_path: Path) -> None:
    here = await World(tmp_path, FakeRegistry(reactor)).start()
    digest = here.registry.add_blob("team/app", os.urandom(1000))
    await here.client().get(f"/v2/team/app/blobs/{digest}")
    await until(lambda: here.service._index.totals() == (1, 1000))
    (tmp_path / "store/index.sqlite3").unlink()
    here.care.tick()
    assert (tmp_path / "store/index.sqlite3").exists()
    await until(lambda: here.service._index.totals() == (1, 1000))
    await here.stop()


def test_what_goes_wrong_is_logged_and_tried_again(shop: Shop) -> None:
    """A store that is gone for a while ends the comparison, not the daemon."""
    told = []
    recovery = Recovery(shop.clock, shop.store, at_once, DAY, lambda: NOW, lambda: told.append(True))
    (shop.path / "blobs").rename(shop.path / "elsewhere")
    recovery.start()
    shop.clock.advance(1)
    assert recovery.running is None
    (shop.path / "elsewhere").rename(shop.path / "blobs")
    digest = Digest.of(b"x")
    shop.store.put(digest, b"x")
    recovery.start()
    while recovery.running is not None:
        shop.clock.advance(1)
    assert told == [True, True]
    assert set(shop.rows()) == {str(digest)}


def test_it_ends_when_told(shop: Shop) -> None:
    recovery = Recovery(shop.clock, shop.store, at_once, DAY, lambda: NOW, lambda: None)
    recovery.start()
    assert recovery.running is not None
    from twisted.internet.defer import Deferred

    stopped = Deferred.fromCoroutine(recovery.stop())
    assert stopped.called
    assert not shop.clock.getDelayedCalls()


def test_an_index_needs_its_directory(tmp_path: Path) -> None:
    from regcachd.database import DatabaseUnusable

    with pytest.raises(DatabaseUnusable, match=r"index\.sqlite3 cannot be used"):
        Index(tmp_path / "absent" / "index.sqlite3").open()
