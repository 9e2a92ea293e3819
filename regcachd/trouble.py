"""Trouble with the store: said in the log once a minute, and shown in the health page, until it is over."""

from collections.abc import Callable

from attrs import define, field
from twisted.logger import Logger

log = Logger()

INTERVAL = 60.0
"""Seconds between two lines of the log about the same trouble."""


@define(eq=False)
class Trouble:
    """What is wrong with the store, if anything. `now` gives seconds."""

    _now: Callable[[], float]
    what: str | None = None
    """The latest error, None when all is well."""
    _said_at: float | None = field(default=None, init=False)

    def report(self, error: Exception) -> None:
        """The store has failed; the clients have been served without it."""
        self.what = str(error)
        now = self._now()
        if self._said_at is None or now - self._said_at >= INTERVAL:
            self._said_at = now
            log.error("the store fails, and images come straight from upstream: {why}", why=self.what)

    def over(self) -> None:
        """The store has taken something."""
        if self.what is not None:
            self.what = self._said_at = None
            log.info("the store works again")
