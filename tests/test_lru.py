"""lru.py: how much must go, and what goes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.lru import choose, excess

SIZES = st.integers(0, 2**50)


@pytest.mark.parametrize(
    ("stored", "max_size", "free", "min_free", "expected"),
    [
        pytest.param(100, 100, 1000, 10, 0, id="exactly full is not over"),
        pytest.param(101, 100, 1000, 10, 6, id="over the limit it shrinks to 95 %"),
        pytest.param(50, 100, 9, 19, 11, id="under min_free the missing bytes go, and a little more"),
        pytest.param(5, 100, 0, 950, 5, id="never more than there is"),
        pytest.param(0, 0, 0, 10, 0, id="an empty store has nothing to give"),
    ],
)
def test_excess(stored: int, max_size: int, free: int, min_free: int, expected: int) -> None:
    """The table above."""
    assert excess(stored, max_size, free, min_free) == expected


@given(SIZES, SIZES, SIZES, SIZES)
def test_excess_is_enough_and_possible(stored: int, max_size: int, free: int, min_free: int) -> None:
    """After eviction of the excess the limits hold, as far as evicting can make them hold."""
    gone = excess(stored, max_size, free, min_free)
    assert 0 <= gone <= stored
    assert stored - gone <= max_size
    assert free + gone >= min_free or gone == stored


@given(st.lists(st.tuples(st.integers(), st.integers(0, 1000))), st.integers(-5, 20_000))
def test_choose_takes_a_sufficient_prefix(candidates: list[tuple[int, int]], need: int) -> None:
    """The oldest go first, no more than needed, and enough when there is enough."""
    chosen = choose(candidates, need)
    count = len(chosen)
    assert chosen == [what for what, _ in candidates[:count]]
    total = sum(size for _, size in candidates[:count])
    assert total >= need or count == len(candidates)
    assert count == 0 or total - candidates[count - 1][1] < need
