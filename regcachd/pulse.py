"""A worker's pulse: whether its heartbeats come, as its parent hears them.

Time is counted in the parent's own looks, and not by a clock: where all processes were stopped for a while, as those
of a virtual machine are when it is moved, nobody is to blame for the silence.
"""

from enum import Enum

from attrs import define, field

AGONY = 2
"""Looks that a worker which hangs gets to say where."""


class Sign(Enum):
    """What a look at a worker finds."""

    ALIVE = "alive"
    HANGS = "hangs"
    """It has not been heard of for too long: said once."""
    LOST = "lost"
    """And has not ended by itself since."""


@define(eq=False)
class Pulse:
    """Of one worker. `edition` is what it serves by; None before its first heartbeat."""

    edition: int | None = field(default=None, init=False)
    _unheard: int = field(default=0, init=False)

    def beat(self, edition: int) -> None:
        """A heartbeat has come."""
        self.edition = edition
        self._unheard = 0

    def look(self, patience: int) -> Sign:
        """Look once more, when `patience` looks in a row may find no heartbeat."""
        self._unheard += 1
        if self._unheard == patience + 1:
            return Sign.HANGS
        return Sign.LOST if self._unheard > patience + AGONY else Sign.ALIVE
