"""Single flight: many ask for one thing at once, it is done once, and everybody gets the outcome.

The work is detached from those who wait: it goes on when its first asker leaves. Every waiter has a
Deferred of its own (two coroutines must never await one), so one that is cancelled disturbs nobody.
"""

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from .response import UpstreamFailed

HURRY = 3.0
"""Seconds that upstream is waited for by who has something older to give."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class TooSlow(UpstreamFailed):
    """There was no answer yet when it was waited for no longer."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"there was no answer within {seconds:g} s", status=504)


def _too_slow(outcome: Any, seconds: float) -> Any:
    """What a cancelled wait fails with."""
    if isinstance(outcome, Failure) and outcome.check(CancelledError):
        raise TooSlow(seconds)
    return outcome


class SingleFlight(Generic[K, T]):
    """Flights under way, by key."""

    def __init__(self) -> None:
        self._waiting: dict[K, list[Deferred[T]]] = {}
        self._began: dict[K, float] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._waiting

    def run(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> "Deferred[T]":
        """Join the flight of `key`, starting it with `work()` when there is none.

        The Deferred fires with what the work returns or raises, the same for all who joined before it ended.
        """
        waiter: Deferred[T] = Deferred(lambda gone: self._leave(key, gone))
        if key in self._waiting:
            self._waiting[key].append(waiter)
        else:
            self._waiting[key] = [waiter]
            Deferred.fromCoroutine(work()).addBoth(self._landed, key)
        return waiter

    def run_within(
        self, seconds: float, clock: Any, key: K, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> "Deferred[T]":
        """The same, for who has something else to do when that takes long.

        Fails with TooSlow so many seconds after the first to hurry has joined; the flight goes on.
        """
        now = clock.seconds()
        left = self._began.get(key, now) + seconds - now
        waiter = self.run(key, work)
        if key in self._waiting:
            self._began.setdefault(key, now)
            waiter.addTimeout(max(0.0, left), clock, lambda outcome, _: _too_slow(outcome, seconds))
        return waiter

    def _landed(self, outcome: "T | Failure", key: K) -> None:
        self._began.pop(key, None)
        for waiter in self._waiting.pop(key):
            if waiter.called:
                continue  # cancelled by one that was told before it
            waiter.callback(outcome)  # a Failure makes it an errback

    def _leave(self, key: K, gone: "Deferred[T]") -> None:
        waiting = self._waiting.get(key, [])
        if gone in waiting:
            waiting.remove(gone)
