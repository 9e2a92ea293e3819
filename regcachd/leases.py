"""Leases: credentials that are good for a while, renewed before they end, fetched once for all who wait.

AWS's passwords live twelve hours, Google's and Microsoft's access tokens one, what a credential program says some
minutes. Each is renewed in the background from 80 % of its life on: whoever asks gets the one there is, and where the
renewal fails it stays in use until its end.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from regcachd.errors import RegcachdError
from regcachd.interfaces import AuthFailed
from regcachd.singleflight import SingleFlight

log = Logger()

T = TypeVar("T")

RENEW_AT = 0.8
"""Of its life: from then on a lease is renewed."""
PAUSE = 10.0
"""Seconds between a failure and the next attempt: whoever asks in between is told of the last one, so that a cluster
that retries does not lock an account out."""
YOUNG = 60.0
"""Seconds. A lease that is refused at this age is kept: another one like it would be refused as well."""


@frozen
class Lease(Generic[T]):
    """A credential and its life in seconds, counted from when it was asked for."""

    value: T = field(repr=False)
    life: float


class Leased(Generic[T]):
    """A credential that `obtain` makes whenever it is needed; `what` it is, for the log."""

    def __init__(
        self, clock: IReactorTime, what: str, obtain: Callable[[], Coroutine[Any, Any, Lease[T]]]
    ) -> None:
        self._clock = clock
        self._what = what
        self._obtain = obtain
        self._flight: SingleFlight[str, T] = SingleFlight()
        self._lease: Lease[T] | None = None
        self._since = 0.0
        self._failure: AuthFailed | None = None
        self._again = 0.0
        """Not asked for before this time, which is PAUSE after the last failure."""

    async def get(self) -> T:
        """The credential. Raises AuthFailed when there is none, and none to be had."""
        now: float = self._clock.seconds()
        pausing = self._failure is not None and now < self._again
        if self._lease is not None and now < self._since + self._lease.life:
            if now >= self._since + self._lease.life * RENEW_AT and not pausing:
                self._flight.run(self._what, self._fetch).addErrback(self._not_renewed)
            return self._lease.value
        if pausing and self._failure is not None:
            raise AuthFailed(str(self._failure), refused=self._failure.refused)
        return await self._flight.run(self._what, self._fetch)

    def drop(self) -> bool:
        """What was given out is refused: will the next one who asks get another? Not while this one is YOUNG."""
        if self._lease is None or self._clock.seconds() < self._since + YOUNG:
            return False
        self._lease = None
        return True

    async def _fetch(self) -> T:
        since: float = self._clock.seconds()
        try:
            lease = await self._obtain()
        except RegcachdError as error:
            self._again = self._clock.seconds() + PAUSE
            self._failure = error if isinstance(error, AuthFailed) else AuthFailed(str(error))
            raise self._failure from None
        self._lease, self._since, self._failure = lease, since, None
        return lease.value

    def _not_renewed(self, failure: Failure) -> None:
        failure.trap(AuthFailed)
        log.warn("{what} is not renewed, the old one is used: {error}", what=self._what, error=failure.value)
