"""The file of a blob that is being filled: what is on the disk after every step."""

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regcachd.partial import Partial
from regcachd.reference import Digest

UNKNOWN = 2**64 - 1
DATA = bytes(range(256)) * 10
DIGEST = Digest.of(DATA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / DIGEST.hex


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., Partial]]:
    made: list[Partial] = []

    def make(digest: Digest = DIGEST, total: int | None = len(DATA)) -> Partial:
        partial = Partial.create(path, digest, total)
        made.append(partial)
        return partial

    yield make
    for partial in made:
        partial.close()


def state(path: Path) -> tuple[int, int]:
    """Total and committed, as another process reads them."""
    total, committed = struct.unpack("<QQ", path.with_name(path.name + ".state").read_bytes())
    return total, committed


def test_the_state_file_says_total_and_committed(make: Callable[..., Partial], path: Path) -> None:
    partial = make()
    assert state(path) == (len(DATA), 0)
    partial.append([DATA[:100], DATA[100:300]])
    assert state(path) == (len(DATA), 300)
    assert path.read_bytes() == DATA[:300]
    partial.append([DATA[300:]])
    assert state(path) == (len(DATA), len(DATA))
    assert partial.size == len(DATA)
    assert partial.verified()


def test_an_unknown_total_is_all_ones(make: Callable[..., Partial], path: Path) -> None:
    make(total=None)
    assert state(path) == (UNKNOWN, 0)


def test_what_an_earlier_fill_left_is_emptied(make: Callable[..., Partial], path: Path) -> None:
    earlier = make()
    earlier.append([b"x" * 5000])
    earlier.close()
    assert path.stat().st_size == 5000
    later = make(total=7)
    assert path.stat().st_size == 0
    assert state(path) == (7, 0)
    later.append([DATA])
    assert later.verified()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_only_the_right_bytes_are_verified(make: Callable[..., Partial], algorithm: str) -> None:
    partial = make(Digest.of(DATA, algorithm))
    assert not partial.verified()
    partial.append([DATA[:-1]])
    assert not partial.verified()
    partial.append([DATA[-1:]])
    assert partial.verified()
    partial.append([b"\0"])
    assert not partial.verified()


def test_one_fills_it_and_the_others_are_told(make: Callable[..., Partial], path: Path) -> None:
    """The lock is of the open file, so it keeps out this process and others alike."""
    first = make()
    first.append([DATA[:100]])
    with pytest.raises(BlockingIOError):
        make()
    assert path.read_bytes() == DATA[:100], "the second must not have emptied it"
    assert state(path) == (len(DATA), 100)
    first.close()
    make()


def test_a_lock_is_free_when_it_is_closed_even_if_a_reader_goes_on(make: Callable[..., Partial]) -> None:
    first = make()
    reader = os.dup(first.fd)
    try:
        first.close()
        make()
    finally:
        os.close(reader)


def test_the_lock_is_not_taken_on_a_file_that_has_become_a_blob(
    make: Callable[..., Partial], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between open and flock another finishes its fill: what we have opened is its blob now, not to be emptied."""
    blob = tmp_path / "blob"
    other = make()
    other.append([DATA])
    flock = fcntl.flock

    def slow_flock(fd: int, operation: int) -> None:
        if not blob.exists():
            os.rename(path, blob)
            other.close()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", slow_flock)
    partial = make()
    assert blob.read_bytes() == DATA
    partial.append([DATA[:5]])
    assert blob.read_bytes() == DATA
    assert path.read_bytes() == DATA[:5]


def test_nothing_to_write_is_written_at_once(make: Callable[..., Partial], path: Path) -> None:
    partial = make(Digest.of(b""), 0)
    assert partial.append([b""]) == 0
    assert partial.append([]) == 0
    assert partial.append([b"", b"", b""]) == 0
    assert partial.verified()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_of_the_disk_is_raised_and_committed_stays_behind(
    make: Callable[..., Partial], path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    partial = make()
    partial.append([DATA[:100]])

    def fail(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        partial.append([DATA[100:200]])
    assert state(path) == (len(DATA), 100)
    assert partial.size == 100


def test_a_disk_that_takes_nothing_is_an_error_not_a_loop(
    make: Callable[..., Partial], monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = make()
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        partial.append([DATA])


def test_no_descriptor_is_left_when_it_cannot_be_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            Partial.create(path, DIGEST, 5)
    assert len(os.listdir("/proc/self/fd")) == before
    Partial.create(path, DIGEST, 5).close()


def test_syncing_makes_it_read_only_for_group_and_owner_and_invisible_to_others(
    make: Callable[..., Partial], path: Path
) -> None:
    partial = make()
    assert path.stat().st_mode & 0o007 == 0
    partial.sync()
    assert path.stat().st_mode & 0o777 == 0o440


def test_wrong_bytes_are_discarded_with_their_state(make: Callable[..., Partial], tmp_path: Path) -> None:
    partial = make()
    partial.append([b"wrong"])
    partial.discard()
    assert list(tmp_path.iterdir()) == []
    partial.discard()
    partial.close()
    partial.close()


def test_closing_leaves_the_files(make: Callable[..., Partial], path: Path) -> None:
    partial = make()
    partial.append([DATA[:100]])
    partial.close()
    assert path.read_bytes() == DATA[:100]
    assert state(path) == (len(DATA), 100)


@settings(deadline=None)
@given(
    batches=st.lists(st.lists(st.binary(max_size=40), max_size=6), max_size=6),
    takes=st.lists(st.integers(1, 50), min_size=1, max_size=20),
)
def test_whatever_the_kernel_takes_at_a_time_the_bytes_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]], takes: list[int]
) -> None:
    """pwritev(2) may write any part of what it is given, in the middle of a piece or at its end."""
    data = b"".join(piece for batch in batches for piece in batch)
    path = tmp_path_factory.mktemp("partial") / "file"
    partial = Partial.create(path, Digest.of(data), len(data))
    limits = cycle(takes)

    def some(fd: int, views: Sequence[bytes | memoryview], offset: int) -> int:
        return os.pwrite(fd, b"".join(views)[: next(limits)], offset)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "pwritev", some)
        written = 0
        for batch in batches:
            count = partial.append(batch)
            assert count == sum(map(len, batch))
            written += count
            assert state(path)[1] == partial.size == written
            assert path.read_bytes() == data[:written]
    assert partial.verified()
    partial.close()


def test_more_pieces_than_one_call_may_have(make: Callable[..., Partial], path: Path) -> None:
    """IOV_MAX is 1024."""
    pieces = [DATA[i : i + 1] for i in range(len(DATA))]
    partial = make()
    assert partial.append(pieces) == len(DATA)
    assert partial.verified()
    assert path.read_bytes() == DATA
