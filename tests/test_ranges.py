"""A Range header selects one part of a stored representation, or all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.ranges import Part, Unsatisfiable, Whole, content_range, decide_range, unsatisfied_range

DECISIONS: list[tuple[str | None, Whole | Part | Unsatisfiable]] = [
    (None, Whole()),
    ("bytes=0-0", Part(0, 1)),
    ("bytes=0-99", Part(0, 100)),
    ("bytes=10-19", Part(10, 20)),
    ("bytes=10-", Part(10, 100)),
    ("bytes=0-", Part(0, 100)),
    ("bytes=99-", Part(99, 100)),
    ("bytes=90-1000", Part(90, 100)),
    ("bytes=0-9999999999999999999", Part(0, 100)),
    ("bytes=-1", Part(99, 100)),
    ("bytes=-100", Part(0, 100)),
    ("bytes=-101", Part(0, 100)),
    ("BYTES=1-2", Part(1, 3)),
    (" bytes= 1-2\t", Part(1, 3)),
    ("bytes=007-008", Part(7, 9)),
    # nothing of it exists
    ("bytes=100-", Unsatisfiable()),
    ("bytes=100-200", Unsatisfiable()),
    ("bytes=-0", Unsatisfiable()),
    # several
    ("bytes=0-1,5-6", Whole()),
    ("bytes=0-1, -1", Whole()),
    ("bytes=0-1,", Whole()),
    # malformed or another unit
    ("", Whole()),
    ("bytes", Whole()),
    ("bytes=", Whole()),
    ("bytes=-", Whole()),
    ("bytes=5", Whole()),
    ("bytes=5-4", Whole()),
    ("bytes=200-100", Whole()),
    ("bytes=a-b", Whole()),
    ("bytes=1 - 2", Whole()),
    ("bytes=--5", Whole()),
    ("bytes=+1-2", Whole()),
    ("bytes=1_0-20", Whole()),
    ("bytes=\u0661-\u0662", Whole()),
    ("byte\u017f=0-1", Whole()),
    ("bytes =0-1", Whole()),
    ("items=0-1", Whole()),
    ("bytes=0-1\n", Whole()),
    ("bytes=0-" + "9" * 10_000, Whole()),
]


@pytest.mark.parametrize(("header", "decision"), DECISIONS)
def test_a_header_on_a_hundred_bytes(header: str | None, decision: Whole | Part | Unsatisfiable) -> None:
    assert decide_range(header, 100) == decision


@pytest.mark.parametrize("header", [header for header, _ in DECISIONS])
def test_an_empty_representation_is_sent_whole(header: str | None) -> None:
    assert decide_range(header, 0) == Whole()


@pytest.mark.parametrize(
    ("if_range", "etag", "decision"),
    [
        (None, None, Part(0, 2)),
        (None, '"a"', Part(0, 2)),
        ('"a"', '"a"', Part(0, 2)),
        (' "a" ', '"a"', Part(0, 2)),
        ('"b"', '"a"', Whole()),
        ('"A"', '"a"', Whole()),
        ("a", '"a"', Whole()),
        ('W/"a"', '"a"', Whole()),
        ('W/"a"', 'W/"a"', Whole()),
        ('"a"', 'W/"a"', Whole()),
        ('"a"', None, Whole()),
        ("", '"a"', Whole()),
        ("", "", Whole()),
        ("Sat, 29 Oct 1994 19:43:31 GMT", '"a"', Whole()),
    ],
)
def test_the_range_counts_only_if_if_range_is_strongly_equal(
    if_range: str | None, etag: str | None, decision: Whole | Part
) -> None:
    assert decide_range("bytes=0-1", 100, if_range, etag) == decision


def test_if_range_alone_changes_nothing_and_comes_before_416() -> None:
    assert decide_range(None, 100, '"a"', '"a"') == Whole()
    assert decide_range("bytes=100-", 100, '"b"', '"a"') == Whole()


def test_the_answers_headers_count_inclusively() -> None:
    assert content_range(Part(0, 500), 1234) == "bytes 0-499/1234"
    assert content_range(Part(1233, 1234), 1234) == "bytes 1233-1233/1234"
    assert unsatisfied_range(1234) == "bytes */1234"


numbers = st.one_of(st.just(""), st.integers(0, 300).map(str))


@given(numbers, numbers, st.integers(1, 200))
def test_a_part_is_never_empty_nor_outside_and_is_what_slicing_gives(
    first: str, last: str, size: int
) -> None:
    data = bytes(n % 256 for n in range(size))
    match decide_range(f"bytes={first}-{last}", size):
        case Part(start, stop):
            assert 0 <= start < stop <= size
            if first:
                assert data[start:stop] == data[int(first) : int(last) + 1 if last else None]
            else:
                assert data[start:stop] == data[-int(last) :]
        case Unsatisfiable():
            assert int(first) >= size if first else int(last) == 0
        case Whole():
            assert first == last == "" or int(last) < int(first)


@given(st.one_of(st.text(), st.text("bytes=0123-, ").map(lambda t: "bytes=" + t)), st.integers(0, 1 << 62))
def test_any_text_gets_a_decision(header: str, size: int) -> None:
    assert isinstance(decide_range(header, size), Whole | Part | Unsatisfiable)
