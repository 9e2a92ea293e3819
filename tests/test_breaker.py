"""The circuit breaker: when it opens, for how long, whom it lets through, and what closes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.breaker import ENOUGH, FIRST_HOLD, LONG, LONGEST_HOLD, Admission, Breaker


def opened(now: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(ENOUGH):
        breaker.failed(now, now, "refused", 502, 1.0)
    assert breaker.is_open
    return breaker


def test_failures_in_a_row_open_it_and_the_first_says_since_when() -> None:
    breaker = Breaker()
    assert not breaker.failed(10.0, 11.0, "refused", 502, 0.5)
    assert not breaker.failed(20.0, 21.0, "refused", 502, 0.5)
    assert breaker.admit(21.0) is Admission.PASS
    assert breaker.failed(30.0, 31.0, "no route", 502, 0.5)
    assert (breaker.since, breaker.why) == (11.0, "no route")
    assert breaker.admit(31.0) is Admission.REFUSED


def test_a_success_in_between_forgets_them() -> None:
    breaker = Breaker()
    for at in range(0, 100, 10):
        assert not breaker.failed(at, at + 1, "refused", 502, 0.5)
        assert not breaker.failed(at, at + 1, "refused", 502, 0.5)
        assert breaker.succeeded(at + 2) is None


def test_two_timeouts_are_enough() -> None:
    breaker = Breaker()
    assert not breaker.failed(0.0, 30.0, "timed out", 504, 0.5)
    assert breaker.failed(30.0, 60.0, "timed out", 504, 0.5)
    assert breaker.status == 504


def test_two_failures_that_took_long_are_enough() -> None:
    """A name server's silence is no timeout of ours, and is waited for as long."""
    breaker = Breaker()
    assert not breaker.failed(0.0, LONG, "no such name", 502, 0.5)
    assert breaker.failed(LONG, 2 * LONG, "no such name", 502, 0.5)


def test_when_the_hold_is_over_one_is_let_through() -> None:
    breaker = opened(100.0)
    assert breaker.admit(100.0 + FIRST_HOLD - 0.01) is Admission.REFUSED
    assert breaker.admit(100.0 + FIRST_HOLD) is Admission.PROBE
    assert breaker.admit(100.0 + FIRST_HOLD) is Admission.REFUSED
    assert breaker.admit(1000.0) is Admission.REFUSED


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = opened(100.0)
    assert breaker.admit(150.0) is Admission.PROBE
    assert breaker.succeeded(151.0) == 51.0
    assert not breaker.is_open
    assert breaker.since is None
    assert breaker.admit(151.0) is Admission.PASS
    assert not breaker.failed(152.0, 152.0, "refused", 502, 0.5)  # and it counts from the beginning


def test_a_probe_that_finds_nothing_out_leaves_it_to_the_next() -> None:
    breaker = opened(100.0)
    assert breaker.admit(150.0) is Admission.PROBE
    breaker.gave_up()
    assert breaker.admit(150.0) is Admission.PROBE


def test_each_probe_that_fails_doubles_the_hold_up_to_a_bound() -> None:
    breaker, now, holds = opened(0.0), 0.0, []
    for _ in range(100):
        holds.append(breaker.until - now)
        now = breaker.until
        assert breaker.admit(now) is Admission.PROBE
        assert not breaker.failed(now, now, "refused", 502, 1.0, probe=True)
    assert holds[:6] == [1, 2, 4, 8, LONGEST_HOLD, LONGEST_HOLD]
    assert breaker.since == 0.0


@pytest.mark.parametrize(("chance", "hold"), [(0.0, 0.5), (1.0, 1.0)])
def test_holds_have_jitter(chance: float, hold: float) -> None:
    breaker = Breaker()
    for _ in range(ENOUGH):
        breaker.failed(0.0, 0.0, "refused", 502, chance)
    assert breaker.until == hold * FIRST_HOLD


def test_those_who_did_not_ask_close_it_but_do_not_make_it_longer() -> None:
    breaker = opened(100.0)
    until = breaker.until
    breaker.failed(100.1, 100.2, "again", 502, 1.0)
    assert (breaker.until, breaker.why) == (until, "again")
    assert breaker.succeeded(100.3) is not None
    assert breaker.admit(100.3) is Admission.PASS


def test_what_began_before_the_host_came_back_says_nothing() -> None:
    """A hundred requests that time out after the cable is in again do not pull it out once more."""
    breaker = opened(100.0)
    breaker.succeeded(120.0)
    for _ in range(100):
        assert not breaker.failed(100.0, 130.0, "timed out", 504, 0.5)
    assert breaker.admit(130.0) is Admission.PASS


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "fail", "succeed", "give up"]), st.floats(0, 40), st.floats(0, 1))
    )
)
def test_whatever_happens_there_is_one_probe_at_most_and_always_another_chance(
    steps: list[tuple[str, float, float]],
) -> None:
    breaker, now, probing = Breaker(), 0.0, False
    for what, later, chance in steps:
        now += later
        if what == "ask":
            admission = breaker.admit(now)
            assert not (admission is Admission.PROBE and probing)
            probing = probing or admission is Admission.PROBE
        elif what == "fail":
            breaker.failed(now, now, "refused", 502, chance, probe=probing)
            probing = False
        elif what == "succeed":
            breaker.succeeded(now)
            probing = False
        elif probing:
            breaker.gave_up()
            probing = False
    if not probing:
        assert breaker.admit(now + LONGEST_HOLD) is not Admission.REFUSED
