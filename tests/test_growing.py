"""How far readers of a growing file are let, and what they are told in the end."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from regcachd.growing import HELD_BACK, FillFailed, Growing, Reader, StoreFailed
from regcachd.reference import Digest

TOTAL = 5 * HELD_BACK


@pytest.fixture
def blob(tmp_path: Path) -> Iterator[Growing]:
    path = tmp_path / "blob"
    path.write_bytes(b"x")
    growing = Growing(Digest.of(b"x"), os.open(path, os.O_RDONLY), TOTAL)
    yield growing
    growing.close()


def told(result: "Deferred[int]") -> Any:
    """What a Deferred has fired with: a number, an exception or None for nothing yet."""
    found: list[Any] = []
    result.addBoth(found.append)
    if not found:
        return None
    return found[0].value if isinstance(found[0], Failure) else found[0]


def edge(reader: Reader) -> Any:
    return told(reader.edge())


def test_a_reader_is_told_at_once_of_what_is_there(blob: Growing) -> None:
    blob.grown(1000)
    reader = blob.reader(0)
    assert edge(reader) == 1000
    assert edge(blob.reader(999)) == 1000


def test_a_reader_waits_for_what_is_past_its_position(blob: Growing) -> None:
    reader = blob.reader(1000)
    result = reader.edge()
    blob.grown(1000)
    assert reader.waiting is not None
    blob.grown(1001)
    assert told(result) == 1001


def test_the_end_is_held_back_until_the_digest_is_right(blob: Growing) -> None:
    reader = blob.reader(0)
    blob.grown(TOTAL)
    assert edge(reader) == TOTAL - HELD_BACK
    reader.position = TOTAL - HELD_BACK
    result = reader.edge()
    blob.grown(TOTAL)
    assert reader.waiting is not None
    blob.verified()
    assert told(result) == TOTAL


def test_of_unknown_size_the_latest_bytes_are_held_back(blob: Growing) -> None:
    blob.total = None
    reader = blob.reader(0)
    result = reader.edge()
    blob.grown(HELD_BACK)
    assert reader.waiting is not None
    blob.grown(HELD_BACK + 5)
    assert told(result) == 5
    assert blob.size is None
    blob.verified()
    assert blob.size == HELD_BACK + 5


def test_a_reader_at_the_end_of_a_verified_blob_does_not_wait(blob: Growing) -> None:
    blob.grown(TOTAL)
    blob.verified()
    assert edge(blob.reader(TOTAL)) == TOTAL


def test_readers_get_what_is_there_before_they_hear_that_there_is_no_more(blob: Growing) -> None:
    blob.grown(1000)
    reader, waiting = blob.reader(0), blob.reader(1000)
    result = waiting.edge()
    error = FillFailed("no more")
    blob.failed(error)
    assert told(result) is error
    assert edge(reader) == 1000
    reader.position = 1000
    assert edge(reader) is error


def test_the_first_error_stays_and_none_counts_once_it_is_verified(blob: Growing) -> None:
    first = StoreFailed("first")
    blob.failed(first)
    blob.failed(FillFailed("second"))
    assert blob.error is first


def test_after_it_is_verified_no_error_counts(blob: Growing) -> None:
    blob.grown(TOTAL)
    blob.verified()
    blob.failed(FillFailed("late"))
    assert blob.error is None
    assert blob.is_over


def test_a_reader_that_leaves_is_told_so_and_gives_its_descriptor_back(blob: Growing) -> None:
    before = len(os.listdir("/proc/self/fd"))
    reader = blob.reader(0)
    result = reader.edge()
    reader.close()
    reader.close()
    assert isinstance(told(result), FillFailed)
    assert len(os.listdir("/proc/self/fd")) == before
    blob.grown(1000)


def test_when_the_last_reader_leaves_the_driver_hears_of_it(blob: Growing) -> None:
    left: list[int] = []
    blob.left = lambda: left.append(blob.readers)
    one, two = blob.reader(0), blob.reader(0)
    one.close()
    assert left == []
    two.close()
    two.close()
    assert left == [0]


def test_a_reader_may_leave_while_others_are_told(blob: Growing) -> None:
    readers = [blob.reader(0) for _ in range(5)]
    results = [reader.edge() for reader in readers]
    for reader in readers:
        reader.waiting.addCallback(lambda value: [each.close() for each in readers] and value)  # type: ignore
    blob.grown(1000)
    outcomes = [told(result) for result in results]
    assert outcomes.count(1000) == 1
    assert blob.readers == 0


def test_it_has_begun_with_the_first_news(blob: Growing) -> None:
    assert blob.has_begun, "its size is known"
    blob.total = None
    assert not blob.has_begun
    blob.grown(1)
    assert blob.has_begun


def test_a_closed_one_has_no_more_readers(tmp_path: Path) -> None:
    """Its number may be another file's by now."""
    path = tmp_path / "blob"
    path.write_bytes(b"x")
    growing = Growing(Digest.of(b"x"), os.open(path, os.O_RDONLY))
    growing.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        growing.reader(0)
