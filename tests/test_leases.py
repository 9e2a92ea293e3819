"""leases.py: one fetch for all, renewal in time and in the background, patience with failures."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from regcachd.errors import RegcachdError
from regcachd.interfaces import AuthFailed
from regcachd.leases import PAUSE, YOUNG, Lease, Leased

LIFE = 1000.0


class Source:
    """Gives out `credential 1`, `credential 2` and so on, when told to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[Deferred[None]] = []
        self.leased = Leased(self.clock, "the credential", self.obtain)

    async def obtain(self) -> Lease[str]:
        self.asked.append(Deferred())
        number = len(self.asked)
        await self.asked[-1]
        return Lease(f"credential {number}", LIFE)

    def get(self) -> Deferred[str]:
        return Deferred.fromCoroutine(self.leased.get())

    def give(self) -> None:
        self.asked[-1].callback(None)

    def fail(self, error: Exception) -> None:
        self.asked[-1].errback(error)


def result(deferred: Deferred[str]) -> str:
    found: list[str] = []
    deferred.addCallback(found.append)
    assert found, "nothing yet"
    return found[0]


def failure(deferred: Deferred[str]) -> AuthFailed:
    found: list[Failure] = []
    deferred.addErrback(found.append)
    error = found[0].value
    assert isinstance(error, AuthFailed)
    return error


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def held(source: Source) -> Source:
    """A source whose first credential is in use."""
    waiting = source.get()
    source.give()
    assert result(waiting) == "credential 1"
    return source


def test_all_who_wait_get_what_was_asked_for_once(source: Source) -> None:
    waiting = [source.get() for _ in range(5)]
    source.give()
    assert [result(each) for each in waiting] == ["credential 1"] * 5
    assert len(source.asked) == 1


def test_a_credential_is_used_until_80_percent_of_its_life(held: Source) -> None:
    held.clock.advance(LIFE * 0.79)
    assert result(held.get()) == "credential 1"
    assert len(held.asked) == 1


def test_nobody_waits_for_a_renewal(held: Source) -> None:
    held.clock.advance(LIFE * 0.81)
    assert result(held.get()) == result(held.get()) == "credential 1"
    assert len(held.asked) == 2
    held.give()
    assert result(held.get()) == "credential 2"


def test_the_old_credential_stays_when_renewals_fail_and_ends_when_its_life_does(held: Source) -> None:
    held.clock.advance(LIFE * 0.81)
    assert result(held.get()) == "credential 1"
    held.fail(AuthFailed("the service is down"))
    assert result(held.get()) == "credential 1"
    assert len(held.asked) == 2, "not asked again at once"
    held.clock.advance(PAUSE)
    assert result(held.get()) == "credential 1"
    assert len(held.asked) == 3
    held.fail(AuthFailed("the service is still down"))
    held.clock.advance(LIFE)
    waiting = held.get()
    held.give()
    assert result(waiting) == "credential 4"


def test_a_failure_is_told_to_all_for_a_while_before_anybody_is_asked_again(source: Source) -> None:
    waiting = [source.get(), source.get()]
    source.fail(AuthFailed("wrong password", refused=True))
    for error in (*map(failure, waiting), failure(source.get())):
        assert str(error) == "wrong password"
        assert error.refused
    assert len(source.asked) == 1
    source.clock.advance(PAUSE)
    again = source.get()
    source.give()
    assert result(again) == "credential 2"


def test_a_secret_that_cannot_be_read_is_a_failure_to_authenticate(source: Source) -> None:
    waiting = source.get()
    source.fail(RegcachdError("file:/x: cannot be read"))
    error = failure(waiting)
    assert str(error) == "file:/x: cannot be read"
    assert not error.refused


def test_a_refused_credential_is_replaced_but_not_a_young_one(held: Source) -> None:
    assert not held.leased.drop()
    assert result(held.get()) == "credential 1"
    held.clock.advance(YOUNG)
    assert held.leased.drop()
    assert not held.leased.drop(), "once"
    waiting = held.get()
    held.give()
    assert result(waiting) == "credential 2"


def test_what_is_leased_is_not_shown() -> None:
    assert "hunter2" not in repr(Lease("hunter2", 1.0))
