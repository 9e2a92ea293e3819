"""Keeps a service manager informed about the daemon: ready, alive, in trouble, stopping.

Each beat is a call of the reactor, so a reactor that hangs is silent. A daemon whose workers are all dead is silent,
too: then the service manager starts everything anew.
"""

from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from .notify import ServiceManager

PROMPT = 0.1
"""Seconds between beats until the daemon serves."""
CALM = 1.0
"""The most seconds between beats from then on."""
MARGIN = 5.0
"""Seconds that stopping may take beyond what the daemon itself expects."""


class Vital(Protocol):
    """A daemon, as seen from here."""

    def is_serving(self) -> bool:
        """Do clients get answers?"""

    def condition(self) -> str:
        """One line for people: what it does, or what its trouble is."""

    def patience(self) -> float:
        """The most seconds that stopping should take."""


class Heartbeat(Service):
    """Started after the daemon, and stopped at the same time."""

    name = "heartbeat"

    def __init__(self, clock: Any, manager: ServiceManager, daemon: Vital) -> None:
        self._clock = clock
        self._manager = manager
        self._daemon = daemon
        self._was_ready = False
        self._condition = ""
        self._next: Any = None

    def startService(self) -> None:
        """Begin when the reactor runs."""
        super().startService()
        self._next = self._clock.callLater(0, self._beat)

    def _beat(self) -> None:
        states: dict[str, object] = {}
        if self._daemon.is_serving():
            if not self._was_ready:
                self._was_ready = True
                states["READY"] = 1
            if self._manager.watchdog is not None:
                states["WATCHDOG"] = 1
        condition = self._daemon.condition()
        if condition != self._condition:
            self._condition = condition
            states["STATUS"] = condition
        self._manager.tell(**states)
        self._next = self._clock.callLater(self._pause(), self._beat)

    def _pause(self) -> float:
        if not self._was_ready:
            return PROMPT
        # sd_watchdog_enabled(3) advises half of the period; one beat may be late
        return min(CALM, (self._manager.watchdog or CALM) / 3)

    def stopService(self) -> "Deferred[None] | None":
        """Say that the end has begun."""
        super().stopService()
        self._next.cancel()
        patience = self._daemon.patience()
        self._manager.tell(
            STOPPING=1,
            STATUS=f"stopping; running responses get {patience:g} s",
            EXTEND_TIMEOUT_USEC=int((patience + MARGIN) * 1e6),
        )
        self._manager.close()
        return None
