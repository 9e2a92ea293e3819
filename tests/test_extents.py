"""Sets of bytes, against sets of integers."""

from hypothesis import given
from hypothesis import strategies as st

from regcachd.extents import Extents

stretches = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    max_size=12,
)


def built(added: list[tuple[int, int]]) -> tuple[Extents, set[int]]:
    extents, model = Extents(), set[int]()
    for start, stop in added:
        whole = extents.add(start, stop)
        model |= set(range(start, stop))
        assert whole in extents.stretches
        assert whole[0] <= start < stop <= whole[1]
    return extents, model


@given(stretches)
def test_the_stretches_are_the_set_sorted_and_apart(added: list[tuple[int, int]]) -> None:
    extents, model = built(added)
    assert {n for start, stop in extents.stretches for n in range(start, stop)} == model
    ends = [end for stretch in extents.stretches for end in stretch]
    assert ends == sorted(set(ends)), "stretches that touch are one"


@given(stretches, st.integers(0, 90))
def test_one_reaches_to_the_first_byte_that_is_missing(added: list[tuple[int, int]], offset: int) -> None:
    extents, model = built(added)
    end = offset
    while end in model:
        end += 1
    assert extents.reach(offset) == end


@given(stretches, st.integers(0, 90))
def test_a_hole_is_from_the_first_missing_byte_to_the_next_that_is_there(
    added: list[tuple[int, int]], offset: int
) -> None:
    extents, model = built(added)
    start = extents.reach(offset)
    stop = next((n for n in range(start, 100) if n in model), None)
    assert extents.hole(offset) == (start, stop)


def test_of_nothing_everything_is_a_hole() -> None:
    assert Extents().hole(0) == (0, None)
    assert Extents().reach(5) == 5
