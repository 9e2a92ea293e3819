"""The file of a blob that is being filled: what is on the disk after every step, and what is made of it later."""

import errno
import fcntl
import os
import random
import struct
from collections.abc import Callable, Iterator
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regcachd import partial as module
from regcachd.partial import STATE_SIZE, Conflict, Partial, Phase, State, state_path, try_lock, unlock
from regcachd.reference import Digest

UNKNOWN = 2**64 - 1
DATA = random.Random(1).randbytes(3000)
DIGEST = Digest.of(DATA)
PIECE = 500
"""Bytes of a piece in these tests."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", PIECE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / DIGEST.hex


Make = Callable[..., Partial]


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    """Open a partial, as a fill begins or goes on with one."""
    made: list[Partial] = []

    def make(digest: Digest = DIGEST, total: int | None = len(DATA)) -> Partial:
        partial = Partial.acquire(path, digest)
        assert partial is not None
        made.append(partial)
        partial.resume()
        partial.expect(total)
        return partial

    yield make
    for partial in made:
        partial.close()


def state(path: Path) -> State:
    """The numbers, as another process reads them."""
    fd = os.open(state_path(path), os.O_RDONLY)
    try:
        return State.read(fd)
    finally:
        os.close(fd)


def fail_with(number: int) -> Any:
    def fail(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    return fail


# -- writing


def test_the_state_file_says_total_and_committed(make: Make, path: Path) -> None:
    partial = make()
    assert state(path) == State(len(DATA), 0, Phase.FILLING)
    partial.write(0, DATA[:300])
    assert state(path) == State(len(DATA), 300, Phase.FILLING)
    assert path.read_bytes() == DATA[:300]
    partial.write(300, DATA[300:])
    assert state(path) == State(len(DATA), len(DATA), Phase.FILLING)
    assert partial.is_right()
    partial.verified()
    assert state(path) == State(len(DATA), len(DATA), Phase.VERIFIED)


def test_the_state_file_is_as_documented(make: Make, path: Path) -> None:
    """Other versions of the daemon read it after an update."""
    partial = make(total=None)
    assert state_path(path).stat().st_size == STATE_SIZE
    assert struct.unpack_from("<QQQ", state_path(path).read_bytes()) == (UNKNOWN, 0, 0)
    partial.write(0, DATA[:10])
    partial.give_up(Phase.GIVEN_UP)
    assert struct.unpack_from("<QQQ", state_path(path).read_bytes()) == (UNKNOWN, 10, 2)


@pytest.mark.parametrize("phase", [Phase.GIVEN_UP, Phase.STORE_FAILED])
def test_giving_up_is_told_and_leaves_what_is_there(make: Make, path: Path, phase: Phase) -> None:
    partial = make()
    partial.write(0, DATA[:300])
    partial.give_up(phase)
    partial.close()
    assert state(path) == State(len(DATA), 300, phase)
    assert path.read_bytes() == DATA[:300]


def test_bytes_ahead_of_the_front_count_when_it_reaches_them(make: Make, path: Path) -> None:
    partial = make()
    partial.write(1000, DATA[1000:])
    assert partial.committed == state(path).committed == 0
    assert not partial.catch_up()
    partial.write(0, DATA[:1000])
    assert partial.committed == 1000
    assert partial.catch_up()
    assert partial.committed == state(path).committed == len(DATA)
    assert not partial.catch_up()
    assert partial.is_right()


def test_what_is_caught_up_with_is_read_from_the_file(make: Make, path: Path) -> None:
    """The disk may not have what was written: then the digest must be wrong."""
    partial = make()
    partial.write(1000, DATA[1000:])
    with path.open("r+b") as file:
        file.seek(2000)
        file.write(b"rot")
    partial.write(0, DATA[:1000])
    while partial.catch_up():
        pass
    assert not partial.is_right()


def test_a_partial_that_shrinks_under_us_is_an_error_not_a_loop(make: Make, path: Path) -> None:
    partial = make()
    partial.write(1000, DATA[1000:])
    partial.write(0, DATA[:1000])
    os.truncate(path, 1000)
    with pytest.raises(OSError, match="shorter than it was"):
        partial.catch_up()


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 10), (0, 1000), (0, 1500), (500, 2000), (999, 1001), (1000, 1100)]
)
def test_the_same_bytes_again_are_compared_and_change_nothing(make: Make, start: int, stop: int) -> None:
    partial = make()
    partial.write(0, DATA[:1000])
    partial.write(start, DATA[start:stop])
    assert partial.committed == max(1000, stop)
    partial.write(partial.committed, DATA[partial.committed :])
    assert partial.is_right()


@pytest.mark.parametrize("at", [0, 500, 999])
def test_other_bytes_than_before_are_a_conflict(make: Make, path: Path, at: int) -> None:
    partial = make()
    partial.write(0, DATA[:1000])
    other = bytearray(DATA)
    other[at] ^= 1
    with pytest.raises(Conflict, match="sends other bytes"):
        partial.write(0, bytes(other))
    assert path.read_bytes() == DATA[:1000]


def test_another_total_than_before_is_a_conflict(make: Make) -> None:
    partial = make()
    partial.expect(None)
    partial.expect(len(DATA))
    with pytest.raises(Conflict, match=r"has 7 bytes; it said 3000 before"):
        partial.expect(7)


def test_a_total_below_what_is_there_is_a_conflict(make: Make) -> None:
    partial = make(total=None)
    partial.write(0, DATA[:1000])
    with pytest.raises(Conflict):
        partial.expect(999)
    partial.expect(1000)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_only_the_right_bytes_are_right(make: Make, algorithm: str) -> None:
    partial = make(Digest.of(DATA, algorithm), None)
    assert not partial.is_right()
    partial.write(0, DATA[:-1])
    assert not partial.is_right()
    partial.write(len(DATA) - 1, DATA[-1:])
    assert partial.is_right()
    partial.write(len(DATA), b"\0")
    assert not partial.is_right()


def test_fewer_bytes_than_the_total_are_not_right(make: Make) -> None:
    partial = make(total=len(DATA) + 1)
    partial.write(0, DATA)
    assert not partial.is_right()


def test_nothing_to_write_is_written_at_once(make: Make, path: Path) -> None:
    partial = make(Digest.of(b""), 0)
    partial.write(0, b"")
    assert partial.is_right()
    assert path.read_bytes() == b""


@settings(deadline=None, max_examples=40)
@given(
    cuts=st.lists(st.integers(1, len(DATA) - 1), max_size=8, unique=True),
    order=st.randoms(use_true_random=False),
    takes=st.lists(st.integers(1, 900), min_size=1, max_size=20),
)
def test_in_whatever_order_and_portions_the_bytes_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], order: random.Random, takes: list[int]
) -> None:
    """Streams write their stretches in any order, and pwrite(2) may write any part of what it is given."""
    path = tmp_path_factory.mktemp("partial") / "file"
    partial = Partial.acquire(path, DIGEST)
    assert partial is not None
    edges = [0, *sorted(cuts), len(DATA)]
    stretches = list(pairwise(edges))
    order.shuffle(stretches)
    limits, pwrite = cycle(takes), os.pwrite

    def some(fd: int, view: Any, offset: int) -> int:
        return pwrite(fd, view[: next(limits)] if fd == partial.fd else view, offset)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "pwrite", some)
        partial.expect(len(DATA))
        for start, stop in stretches:
            partial.write(start, DATA[start:stop])
            while partial.catch_up():
                pass
            assert path.read_bytes()[: partial.committed] == DATA[: partial.committed]
            assert state(path).committed == partial.committed == partial.there.reach(0)
    assert partial.is_right()
    partial.close()


# -- the lock


def test_one_fills_it_and_the_others_are_told(make: Make, path: Path) -> None:
    """The lock is of the open file, so it keeps out this process and others alike."""
    first = make()
    first.write(0, DATA[:100])
    assert Partial.acquire(path, DIGEST) is None
    assert path.read_bytes() == DATA[:100], "the second must not have touched it"
    assert state(path) == State(len(DATA), 100, Phase.FILLING)
    first.close()
    make()


@pytest.mark.parametrize("which", ["fd", "lock_fd"])
def test_a_lock_is_free_when_it_is_closed_even_if_a_reader_goes_on(make: Make, which: str) -> None:
    first = make()
    reader = os.dup(getattr(first, which))
    try:
        first.close()
        make()
    finally:
        os.close(reader)


def test_the_lock_is_not_taken_on_a_file_that_has_become_a_blob(
    make: Make, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between open and flock another finishes its fill: what we have opened is its blob now."""
    blob = tmp_path / "blob"
    other = make()
    other.write(0, DATA)
    flock = fcntl.flock

    def slow_flock(fd: int, operation: int) -> None:
        if not blob.exists():
            other.forget_state()
            os.rename(path, blob)
            other.close()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", slow_flock)
    partial = make()
    assert partial.committed == 0
    partial.write(0, DATA[:5])
    assert blob.read_bytes() == DATA
    assert path.read_bytes() == DATA[:5]


def test_the_lock_of_another_can_be_taken_over(make: Make, path: Path) -> None:
    """As a follower does when the filler has died: it has the lock before it has a Partial."""
    first = make()
    first.write(0, DATA[:700])
    first.close()
    lock_fd = os.open(path, os.O_RDONLY)
    assert try_lock(lock_fd)
    second = Partial(path, DIGEST, lock_fd)
    assert Partial.acquire(path, DIGEST) is None
    assert second.resume() == 700
    second.close()
    fd = os.open(path, os.O_RDONLY)
    assert try_lock(fd)
    unlock(fd)
    os.close(fd)


# -- going on with what an earlier fill has left


def test_an_earlier_fill_is_gone_on_with(make: Make, path: Path) -> None:
    first = make()
    first.write(0, DATA[:1234])
    first.close()
    later = make(total=None)
    assert (later.committed, later.total) == (1234, len(DATA))
    later.write(1234, DATA[1234:])
    assert later.is_right()


def test_the_end_of_an_earlier_fill_is_not_that_of_this_one(make: Make, path: Path) -> None:
    """Followers that look before the first byte has come must not believe the fill given up, nor verified."""
    for phase in (Phase.GIVEN_UP, Phase.STORE_FAILED, Phase.VERIFIED):
        first = make()
        first.write(0, DATA[:100])
        first.give_up(phase)
        first.close()
        later = Partial.acquire(path, DIGEST)
        assert later is not None
        assert state(path) == State(len(DATA), 100, Phase.FILLING)
        later.close()


def test_a_crash_while_it_is_hashed_again_loses_nothing(make: Make, path: Path) -> None:
    first = make()
    first.write(0, DATA[:2000])
    first.close()
    second = Partial.acquire(path, DIGEST)
    assert second is not None
    second.close()  # before `resume`
    assert state(path).committed == 2000
    assert make().committed == 2000


def test_bytes_that_rotted_meanwhile_are_found_out(make: Make, path: Path) -> None:
    first = make()
    first.write(0, DATA[:1000])
    first.close()
    with path.open("r+b") as file:
        file.write(b"rot")
    later = make()
    later.write(1000, DATA[1000:])
    assert not later.is_right()


def test_whole_pieces_ahead_survive(make: Make, path: Path) -> None:
    first = make()
    first.write(0, DATA[:100])
    first.write(2 * PIECE, DATA[2 * PIECE : 3 * PIECE])
    first.write(4 * PIECE, DATA[4 * PIECE : 5 * PIECE - 1])  # not whole
    first.write(5 * PIECE, DATA[5 * PIECE :])
    first.close()
    later = make()
    assert later.committed == 100
    assert later.there.stretches == [(0, 100), (2 * PIECE, 3 * PIECE), (5 * PIECE, len(DATA))]
    later.write(100, DATA[100 : 2 * PIECE])
    while later.catch_up():
        pass
    assert later.committed == 3 * PIECE
    later.write(3 * PIECE, DATA[3 * PIECE : 5 * PIECE])
    while later.catch_up():
        pass
    assert later.is_right()


def test_the_last_piece_is_whole_though_it_is_shorter(make: Make, path: Path) -> None:
    short = DATA[: 2 * PIECE + 7]
    first = make(Digest.of(short), len(short))
    first.write(2 * PIECE, short[2 * PIECE :])
    first.close()
    assert make(Digest.of(short), len(short)).there.stretches == [(2 * PIECE, len(short))]


def test_pieces_that_come_in_crumbs_are_noted_when_they_are_whole(make: Make, path: Path) -> None:
    first = make()
    for start in range(PIECE, 2 * PIECE, 50):
        first.write(start, DATA[start : start + 50])
    first.close()
    assert make().there.stretches == [(PIECE, 2 * PIECE)]


def test_pieces_beyond_the_room_of_the_state_file_are_forgotten_but_not_wrong(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECES", 3)
    monkeypatch.setattr(module, "STATE_SIZE", 24 + 3)
    first = make()
    first.write(2 * PIECE, DATA[2 * PIECE :])
    first.close()
    later = make()
    assert later.there.stretches == [(2 * PIECE, 3 * PIECE)]
    later.write(0, DATA)
    assert later.is_right()


@pytest.mark.parametrize("size", [0, 999])
def test_a_file_shorter_than_its_state_says_is_believed(make: Make, path: Path, size: int) -> None:
    """After a loss of power the state may be ahead of the bytes."""
    first = make()
    first.write(0, DATA[:1000])
    first.write(2 * PIECE, DATA[2 * PIECE :])
    first.close()
    os.truncate(path, size)
    later = make()
    assert later.committed == size
    assert state(path).committed == size
    assert later.there.stretches == ([(0, size)] if size else [])


def damage(path: Path, data: bytes) -> None:
    state_path(path).write_bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 10,
        struct.pack("<QQQ", 3000, 1000, 0),
        struct.pack("<QQQ", 3000, 1000, 9).ljust(STATE_SIZE, b"\0"),
        struct.pack("<QQQ", 900, 1000, 0).ljust(STATE_SIZE, b"\0"),
        b"\xff" * STATE_SIZE,
        b"\xff" * (STATE_SIZE + 1),
    ],
    ids=["empty", "torn", "truncated", "no such phase", "more than all", "ones", "too long"],
)
def test_a_damaged_state_means_a_fill_from_the_beginning(make: Make, path: Path, data: bytes) -> None:
    first = make()
    first.write(0, DATA[:1000])
    first.close()
    damage(path, data)
    later = make()
    assert later.committed == 0
    assert state(path) == State(len(DATA), 0, Phase.FILLING)
    later.write(0, DATA)
    assert later.is_right()


def test_a_lost_state_means_a_fill_from_the_beginning(make: Make, path: Path) -> None:
    first = make()
    first.write(0, DATA[:1000])
    first.close()
    state_path(path).unlink()
    later = make()
    assert later.committed == 0


@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=40), tail=st.booleans())
def test_whatever_a_state_file_says_the_right_bytes_become_right(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, tail: bool
) -> None:
    path = tmp_path_factory.mktemp("partial") / "file"
    path.write_bytes(DATA[:800])
    state_path(path).write_bytes(data.ljust(STATE_SIZE if tail else 0, b"\1"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "PIECE", PIECE)
        partial = Partial.acquire(path, DIGEST)
        assert partial is not None
        partial.resume()
        assert DATA.startswith(path.read_bytes()[: partial.committed])
        try:
            partial.expect(len(DATA))
        except Conflict:
            partial.close()
            return
        partial.write(partial.committed, DATA[partial.committed :])
        while partial.catch_up():
            pass
        assert partial.is_right()
        partial.close()


# -- failing disks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_of_the_disk_is_raised_and_committed_stays_behind(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    partial = make()
    partial.write(0, DATA[:100])
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail_with(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            partial.write(100, DATA[100:200])
    assert state(path).committed == partial.committed == 100


def test_a_disk_that_takes_nothing_is_an_error_not_a_loop(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = make()
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        partial.write(0, DATA)


@pytest.mark.parametrize("call", ["pwrite", "pread", "fstat", "ftruncate"])
def test_no_descriptor_and_no_lock_is_left_when_it_cannot_be_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail_with(errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            Partial.acquire(path, DIGEST)
    assert len(os.listdir("/proc/self/fd")) == before
    partial = Partial.acquire(path, DIGEST)
    assert partial is not None
    partial.close()


# -- the end


def test_syncing_makes_it_read_only_and_as_long_as_it_is(make: Make, path: Path) -> None:
    partial = make(total=None)
    assert path.stat().st_mode & 0o007 == 0
    partial.write(0, DATA)
    os.truncate(path, len(DATA) + 100)  # an earlier fill was longer
    partial.sync()
    assert path.stat().st_mode & 0o777 == 0o440
    assert path.stat().st_size == len(DATA)


def test_a_commit_that_was_broken_off_leaves_what_can_be_gone_on_with(make: Make, path: Path) -> None:
    first = make()
    first.write(0, DATA)
    first.sync()
    first.close()
    later = make()
    assert path.stat().st_mode & 0o777 == 0o640, "only root may write to a read-only file"
    assert later.is_right()


def test_discarding_removes_both_files_the_state_first(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the partial's name is free another may fill under it, and the state must not be taken from that."""
    removed: list[str] = []
    unlink = os.unlink

    def note(path: Any, **kwargs: Any) -> None:
        removed.append(Path(path).suffix)
        unlink(path, **kwargs)

    partial = make()
    partial.write(0, b"wrong")
    monkeypatch.setattr(os, "unlink", note)
    partial.discard()
    assert list(tmp_path.iterdir()) == []
    assert removed == [".state", ""]
    partial.discard()
    partial.close()
    partial.close()


def test_closing_leaves_the_files(make: Make, path: Path) -> None:
    partial = make()
    assert partial.is_empty
    partial.write(0, DATA[:100])
    assert not partial.is_empty
    partial.close()
    assert path.read_bytes() == DATA[:100]
    assert state(path) == State(len(DATA), 100, Phase.FILLING)
