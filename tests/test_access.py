"""The access rule as a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.access import Access, decide_access

SERVE, ASK = Access.SERVE, Access.ASK
TTL = 300.0


@pytest.mark.parametrize(
    ("linked", "proved_at", "now", "ttl", "expected"),
    [
        (True, 1000.0, 1000.0, TTL, SERVE),
        (True, 1000.0, 1299.9, TTL, SERVE),
        (True, 1000.0, 1300.0, TTL, ASK),
        (True, 1000.0, 9999.0, TTL, ASK),
        (True, 1000.0, 999.0, TTL, ASK),  # the clock was set back: how old the proof is, nobody knows
        (True, None, 1000.0, TTL, ASK),
        (False, 1000.0, 1000.0, TTL, ASK),
        (False, None, 1000.0, TTL, ASK),
        (True, 1000.0, 1000.0, 0.0, ASK),  # access_ttl = "0s": ask each time
    ],
)
def test_the_table(linked: bool, proved_at: float | None, now: float, ttl: float, expected: Access) -> None:
    assert decide_access(linked, proved_at, now, ttl) is expected


@given(st.booleans(), st.none() | st.floats(), st.floats(), st.floats())
def test_nothing_is_served_without_link_and_proof(
    linked: bool, proved_at: float | None, now: float, ttl: float
) -> None:
    """Whatever the clock says, NaN included."""
    if decide_access(linked, proved_at, now, ttl) is SERVE:
        assert linked
        assert proved_at is not None
        assert proved_at <= now
        assert now - proved_at < ttl
