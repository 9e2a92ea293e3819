"""How long the pauses before the next try are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.patience import Patience


@pytest.mark.parametrize(
    ("failures", "chance", "delay"),
    [(1, 0.0, 0.125), (1, 1.0, 0.25), (2, 1.0, 0.5), (5, 0.5, 3.0), (8, 1.0, 15.0), (8, 0.0, 7.5)],
)
def test_each_pause_is_twice_the_last_up_to_the_longest(failures: int, chance: float, delay: float) -> None:
    assert Patience().delay(failures, chance) == delay


@given(failures=st.integers(1, 100), chance=st.floats(0, 1), longest=st.floats(0, 60))
def test_no_pause_is_longer_than_the_longest(failures: int, chance: float, longest: float) -> None:
    assert 0 <= Patience(longest_delay=longest).delay(failures, chance) <= longest
