"""The parent of several workers: binds the port, starts them, replaces those that die, and stops them.

    twistd regcache  -- holds the sockets, the pipes and the log; takes care of the store; serves no client itself
      +- python -m regcachd.worker  (1)   accept from the same sockets, share the store
      +- python -m regcachd.worker  (2)

A dead worker's connections are lost and nothing else: its locks are freed by the kernel, those who wait to be
accepted are taken by the others. A worker whose parent dies finishes its responses and ends.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any

from attrs import define
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, Logger, globalLogPublisher
from twisted.python.failure import Failure

from .authentication import find_plugins
from .care import Care
from .checkups import Checkups
from .config import Config, Sources
from .errors import RegcachdError
from .greeting import greet
from .index import Index
from .inheritance import FIRST_SOCKET, Inheritance
from .listening import withdraw
from .logpipe import Lines, decode
from .mirror_door import bind_doors
from .service import make_secrets, prepare
from .store import Store

log = Logger()

MOST = 8
"""The most workers that "auto" stands for; more of them wait for the same disks and network cards."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
"""Seconds before a dead worker is replaced: twice as long each time."""
SETTLED = 60.0
"""Seconds a worker must have lived for its death to count as the first."""
GRACE = 5.0
"""Seconds that workers get beyond `limits.stop_timeout` to end."""


def how_many(configured: int | None) -> int:
    """The number of workers: as configured, or one per processor that this process may use."""
    return configured or min(MOST, len(os.sched_getaffinity(0)))


@define(eq=False)
class Place:
    """One of the workers' places: who has it, and for how long."""

    number: int
    worker: "Worker | None" = None
    pause: float = FIRST_PAUSE
    """Seconds that the place stays empty after the next early death."""
    replacement: Any = None
    """The delayed call that fills an empty place."""


class Worker(ProcessProtocol):
    """The parent's view of one worker process."""

    transport: Any

    def __init__(self, workers: "Workers", place: Place, born: float) -> None:
        self._workers = workers
        self.place = place
        self.born = born
        self.pid = 0
        self._pipes = {1: Lines(self._log), 2: Lines(self._log)}

    def connectionMade(self) -> None:
        self.pid = self.transport.pid
        self.transport.write(self._workers.inheritance(self.place.number).line())

    def _log(self, line: bytes) -> None:
        event: LogEvent = decode(line, self.place.number)
        globalLogPublisher(event)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._pipes[childFD].feed(data)

    def processEnded(self, reason: Failure) -> None:
        for pipe in self._pipes.values():
            pipe.end()
        self._workers.ended(self, reason)


class Workers(Service):
    """A daemon of several processes; raises what `prepare` and Care do. `sources` are those of `config`."""

    name = "regcache"

    def __init__(self, reactor: Any, sources: Sources, config: Config, count: int) -> None:
        self._reactor = reactor
        self._sources = sources
        self.config = config
        self.ca = prepare(config)
        store = Store(Path(config.store.path))
        self._index = Index(store.index_path)
        # a worker evicts within a minute, so nobody has to be told when there is more to evict
        checkups = Checkups(reactor, config, find_plugins(), time.time).commands()
        self.care = Care(reactor, config, store, self._index, time.time, lambda: None, checkups)
        self._secrets = make_secrets(config)
        self.places = [Place(number) for number in range(1, count + 1)]
        self.ports: list[Any] = []

    def inheritance(self, number: int) -> Inheritance:
        """What worker `number` gets."""
        return Inheritance(
            number=number,
            of=len(self.places),
            sockets=len(self.ports),
            reactor=type(self._reactor).__module__,
            sources=self._sources,
            secrets=self._secrets,
        )

    def privilegedStartService(self) -> None:
        """Bind, while there may still be privileges to bind low ports. Exits with a line that says why it cannot."""
        try:
            self.care.begin()
            self.ports = bind_doors(self._reactor, self.config, _Nobody(), _Nobody())
        except RegcachdError as error:
            raise SystemExit(f"regcachd does not start: {error}") from None
        withdraw(self.ports)

    def startService(self) -> None:
        """Start the workers. Who connects before they are there waits in the sockets' queues."""
        if not self.ports:
            self.privilegedStartService()
        super().startService()
        self.care.start()
        for place in self.places:
            self._fill(place)
        greet(self.config, self.ca, self.ports, len(self.places))

    def _fill(self, place: Place) -> None:
        place.replacement = None
        place.worker = worker = Worker(self, place, self._reactor.seconds())
        descriptors: dict[int, Any] = {0: "w", 1: "r", 2: "r"}
        for descriptor, port in enumerate(self.ports, start=FIRST_SOCKET):
            descriptors[descriptor] = port.fileno()
        # -P: the directory twistd was started in is no place to import from
        command = [sys.executable, "-P", "-m", "regcachd.worker"]
        try:
            self._reactor.spawnProcess(worker, sys.executable, command, env=None, childFDs=descriptors)
        except OSError as error:  # no memory, no processes left
            place.worker = None
            self._replace(place, lived=0.0, why=f"cannot be started: {error}")

    def ended(self, worker: Worker, reason: Failure) -> None:
        """A worker has ended, and all it had to say has been logged."""
        place = worker.place
        place.worker = None
        status: Any = reason.value
        if self.running:
            why = f"(process {worker.pid}) ended {_how(status)}"
            self._replace(place, self._reactor.seconds() - worker.born, why)
        elif status.exitCode or status.signal not in (None, SIGTERM):
            log.warn("worker {number} ended {how}", number=place.number, how=_how(status))

    def _replace(self, place: Place, lived: float, why: str) -> None:
        if lived >= SETTLED:
            place.pause = FIRST_PAUSE
        pause, place.pause = place.pause, min(2 * place.pause, LONGEST_PAUSE)
        log.error(
            "worker {number} {why}; another takes its place in {pause:g} s",
            number=place.number,
            why=why,
            pause=pause,
        )
        place.replacement = self._reactor.callLater(pause, self._fill, place)

    # -- the end

    def stopService(self) -> "Deferred[None]":
        """Stop: nobody accepts any more, workers finish their responses as one process would."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for place in self.places:
            if place.replacement is not None:
                place.replacement.cancel()
                place.replacement = None
            if place.worker is not None:
                place.worker.transport.closeStdin()
        await self.care.stop()
        ports, self.ports = self.ports, []
        for port in ports:
            await _own(port.stopListening())
        if not await self._empty(self.config.limits.stop_timeout + GRACE):
            for place in self.places:
                if place.worker is not None:
                    log.error("worker {number} does not stop, killing it", number=place.number)
                    _kill(place.worker)
            await self._empty(GRACE)
        self._index.close()
        self.care.release()

    async def _empty(self, seconds: float) -> bool:
        """Wait until all workers have ended, at most so long; says whether they have."""
        deadline = self._reactor.seconds() + seconds
        while any(place.worker for place in self.places):
            if self._reactor.seconds() > deadline:
                return False
            await deferLater(self._reactor, 0.02, lambda: None)
        return True


class _Nobody(Factory):
    """Answers nobody: the parent accepts no connection."""

    noisy = False

    def logPrefix(self) -> str:
        return "regcachd"


def _how(status: Any) -> str:
    """How a process has ended; `status` is a ProcessDone or ProcessTerminated."""
    if status.signal:
        return f"by {Signals(status.signal).name}"
    return f"with status {status.exitCode or 0}"


def _kill(worker: Worker) -> None:
    with suppress(ProcessExitedAlready):  # and we are about to hear of it
        worker.transport.signalProcess("KILL")


async def _own(result: Any) -> None:
    if isinstance(result, Deferred):
        await result
