"""A worker as its parent sees it: the place it has, its pipes, its pulse, and how it ended."""

from contextlib import suppress
from signal import Signals
from typing import Any, Protocol

from attrs import define
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from .inheritance import Inheritance
from .logpipe import Lines, decode, heartbeat
from .pulse import Pulse

FIRST_PAUSE = 0.25
"""Seconds before a dead worker is replaced, the first time."""


@define(eq=False)
class Place:
    """One of the workers' places: who has it, and for how long."""

    number: int
    worker: "Worker | None" = None
    pause: float = FIRST_PAUSE
    """Seconds that the place stays empty after the next early death."""
    replacement: Any = None
    """The delayed call that fills an empty place."""


class Parent(Protocol):
    """What a worker needs of its parent."""

    def inheritance(self, number: int) -> Inheritance:
        """What worker `number` gets."""

    def ended(self, worker: "Worker", reason: Failure) -> None:
        """A worker has ended, and all it had to say has been logged."""


class Worker(ProcessProtocol):
    """The parent's view of one worker process."""

    transport: Any

    def __init__(self, parent: Parent, place: Place, born: float) -> None:
        self._parent = parent
        self.place = place
        self.born = born
        self.pid = 0
        self.pulse = Pulse()
        self._pipes = {1: Lines(self._log), 2: Lines(self._log)}

    def connectionMade(self) -> None:
        self.pid = self.transport.pid
        self.follow()

    def follow(self) -> None:
        """Hand down what the parent has."""
        self.transport.write(self._parent.inheritance(self.place.number).line())

    @property
    def serves(self) -> bool:
        """Does it accept connections?"""
        return self.pulse.edition is not None

    def _log(self, line: bytes) -> None:
        edition = heartbeat(line)
        if edition is not None:
            self.pulse.beat(edition)
            return
        event: LogEvent = decode(line, self.place.number)
        globalLogPublisher(event)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._pipes[childFD].feed(data)

    def processEnded(self, reason: Failure) -> None:
        for pipe in self._pipes.values():
            pipe.end()
        self._parent.ended(self, reason)

    def end(self, signal: Signals) -> None:
        """Have it end by a signal."""
        with suppress(ProcessExitedAlready):  # and we are about to hear of it
            self.transport.signalProcess(signal)


def how(status: Any) -> str:
    """How a process has ended; `status` is a ProcessDone or ProcessTerminated."""
    if status.signal:
        return f"by {Signals(status.signal).name}"
    return f"with status {status.exitCode or 0}"
