"""Many askers, one flight."""

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from regcachd.errors import RegcachdError
from regcachd.singleflight import SingleFlight, TooSlow


class Work:
    """Work that takes until the test ends it, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate: Deferred[Any] = Deferred()

    async def __call__(self) -> Any:
        self.begun += 1
        return await self.gate


def outcomes(*waiters: "Deferred[Any]") -> list[Any]:
    """What the waiters get; an exception for a failure."""
    found: list[Any] = []
    for waiter in waiters:
        waiter.addCallbacks(found.append, lambda failure: found.append(failure.value))
    return found


@pytest.fixture
def flights() -> SingleFlight[str, Any]:
    return SingleFlight()


def test_all_who_ask_for_one_thing_get_the_outcome_of_one_run(flights: SingleFlight[str, Any]) -> None:
    work = Work()
    waiters = [flights.run("a", work) for _ in range(50)]
    assert len({id(waiter) for waiter in waiters}) == 50
    assert "a" in flights
    found = outcomes(*waiters)
    work.gate.callback("done")
    assert found == ["done"] * 50
    assert work.begun == 1
    assert "a" not in flights


def test_flights_of_different_keys_know_nothing_of_each_other(flights: SingleFlight[str, Any]) -> None:
    one, other = Work(), Work()
    found = outcomes(flights.run("a", one), flights.run("b", other))
    other.gate.callback("b")
    assert found == ["b"]
    one.gate.callback("a")
    assert found == ["b", "a"]


def test_the_next_call_after_the_end_runs_anew(flights: SingleFlight[str, Any]) -> None:
    for number in range(3):
        work = Work()
        found = outcomes(flights.run("a", work))
        work.gate.callback(number)
        assert (found, work.begun) == ([number], 1)


def test_an_error_reaches_everybody_and_is_not_remembered(flights: SingleFlight[str, Any]) -> None:
    work = Work()
    found = outcomes(*[flights.run("a", work) for _ in range(3)])
    error = RegcachdError("no")
    work.gate.errback(Failure(error))
    assert found == [error] * 3
    again = Work()
    outcomes(flights.run("a", again))
    assert again.begun == 1


def test_work_that_ends_at_once_is_fine(flights: SingleFlight[str, Any]) -> None:
    async def at_once() -> str:
        return "now"

    assert outcomes(flights.run("a", at_once)) == ["now"]
    assert "a" not in flights


def test_one_who_is_cancelled_disturbs_nobody(flights: SingleFlight[str, Any]) -> None:
    work = Work()
    first, second, third = (flights.run("a", work) for _ in range(3))
    found = outcomes(first, second, third)
    first.cancel()
    assert [type(each) for each in found] == [CancelledError]
    work.gate.callback("done")
    assert found[1:] == ["done", "done"]


def test_the_work_goes_on_when_nobody_waits_any_more(flights: SingleFlight[str, Any]) -> None:
    work = Work()
    only = flights.run("a", work)
    outcomes(only)
    only.cancel()
    assert "a" in flights
    late = outcomes(flights.run("a", work))
    work.gate.callback("done")
    assert late == ["done"]
    assert work.begun == 1


def test_one_waiter_may_cancel_the_next_when_it_is_told(flights: SingleFlight[str, Any]) -> None:
    work = Work()
    first, second, third = (flights.run("a", work) for _ in range(3))
    found = outcomes(second, third)
    first.addCallback(lambda _: second.cancel())
    work.gate.callback("done")
    assert isinstance(found[0], CancelledError)
    assert found[1:] == ["done"]


def test_a_waiter_that_asks_again_when_it_is_told_starts_a_new_flight(
    flights: SingleFlight[str, Any],
) -> None:
    """The others of the first flight are told first flight's outcome, not kept for the second."""
    work, again = Work(), Work()
    first, second = flights.run("a", work), flights.run("a", work)
    first.addCallback(lambda _: flights.run("a", again))
    found = outcomes(second)
    work.gate.callback("done")
    assert found == ["done"]
    assert again.begun == 1
    again.gate.callback("again")


def test_who_hurries_leaves_a_flight_that_goes_on(flights: SingleFlight[str, Any]) -> None:
    work, clock = Work(), Clock()
    patient = flights.run("a", work)
    hurried = outcomes(flights.run_within(3, clock, "a", work))
    clock.advance(2)
    later = outcomes(flights.run_within(3, clock, "a", work))
    found = outcomes(patient)
    clock.advance(1)
    assert [type(each) for each in hurried + later] == [
        TooSlow,
        TooSlow,
    ]  # neither waits longer than the first
    at_once = outcomes(flights.run_within(3, clock, "a", work))
    clock.advance(0)
    assert [type(each) for each in at_once] == [TooSlow]
    work.gate.callback("done")
    assert (found, work.begun) == (["done"], 1)


def test_who_hurries_gets_what_comes_in_time(flights: SingleFlight[str, Any]) -> None:
    for _ in range(2):
        work, clock = Work(), Clock()
        found = outcomes(*[flights.run_within(3, clock, "a", work) for _ in range(2)])
        clock.advance(2)
        work.gate.callback("done")
        assert found == ["done"] * 2
        assert not clock.getDelayedCalls()


def test_who_hurries_may_find_it_done(flights: SingleFlight[str, Any]) -> None:
    async def at_once() -> str:
        return "now"

    clock = Clock()
    assert outcomes(flights.run_within(3, clock, "a", at_once)) == ["now"]
    assert not clock.getDelayedCalls()
