"""The parent of several workers: binds the port, starts them, replaces those that die, and stops them.

    twistd regcache  -- holds the sockets, the pipes and the log; takes care of the store; serves no client itself
      +- python -m regcachd.worker  (1)   accept from the same sockets, share the store
      +- python -m regcachd.worker  (2)

A dead worker's connections are lost and nothing else: its locks are freed by the kernel, those who wait to be
accepted are taken by the others. A worker whose parent dies finishes its responses and ends; one whose heartbeats
(logpipe.py) do not come is taken for dead.
"""

import os
import sys
import time
from pathlib import Path
from signal import SIGABRT, SIGKILL, SIGTERM
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from .authentication import find_plugins
from .care import Care
from .checkups import Checkups
from .child import FIRST_PAUSE, Place, Worker, how
from .config import Config, Sources
from .errors import RegcachdError
from .greeting import greet, serving
from .index import Index
from .inheritance import FIRST_SOCKET, Inheritance
from .listening import withdraw
from .mirror_door import bind_doors
from .notify import ServiceManager
from .preparation import make_secrets, open_configured_ca, prepare
from .pulse import Sign
from .reloading import Next, Reloading, Reread
from .service import RENEWAL
from .store import Store

log = Logger()

MOST = 8
"""The most workers that "auto" stands for; more of them wait for the same disks and network cards."""
LONGEST_PAUSE = 30.0
"""Seconds, at most, before a dead worker is replaced: twice as long each time."""
SETTLED = 60.0
"""Seconds a worker must have lived for its death to count as the first."""
GRACE = 5.0
"""Seconds that workers get beyond `limits.stop_timeout` to end."""
SILENCE = 60.0
"""Seconds without a heartbeat after which a worker hangs, unless the service manager says what it thinks of us."""
BIRTH = 60.0
"""Seconds, at least, until a worker's first one."""
LOOKS = 6
"""Looks at the heartbeats in that time."""
FOLLOWING = 15.0
"""Seconds in which workers take up what is handed down to them."""


def how_many(configured: int | None) -> int:
    """The number of workers: as configured, or one per processor that this process may use."""
    return configured or min(MOST, len(os.sched_getaffinity(0)))


class Workers(Service):
    """A daemon of several processes; raises what `prepare` and Care do. `sources` are those of `config`."""

    name = "regcache"

    def __init__(
        self,
        reactor: Any,
        sources: Sources,
        config: Config,
        count: int,
        reread: Reread | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        self._reactor = reactor
        self._began = self._sources = sources
        self._edition = 1
        self.config = config
        self.ca = prepare(config)
        store = Store(Path(config.store.path))
        self._index = Index(store.index_path)
        # a worker evicts within a minute, so nobody has to be told when there is more to evict
        plugins = find_plugins()
        commands = [*Checkups(reactor, lambda: self.config, plugins, time.time).commands()]
        self.reloading: Reloading | None = None
        if reread is not None:
            self.reloading = Reloading(
                reactor, plugins, reread, lambda: self.config, self._hand_down, manager
            )
            commands += self.reloading.commands()
        self.care = Care(reactor, lambda: self.config, store, self._index, time.time, lambda: None, commands)
        self._secrets = make_secrets(config)
        self.places = [Place(number) for number in range(1, count + 1)]
        self.ports: list[Any] = []
        self._silence = (manager and manager.watchdog) or SILENCE
        self._chores = {
            LoopingCall(self._look): self._silence / LOOKS,
            LoopingCall(self._renew_ca): RENEWAL,
        }

    def inheritance(self, number: int) -> Inheritance:
        """What worker `number` gets."""
        return Inheritance(
            number=number,
            of=len(self.places),
            sockets=len(self.ports),
            reactor=type(self._reactor).__module__,
            sources=self._sources,
            secrets=self._secrets,
            began=None if self._began is self._sources else self._began,
            edition=self._edition,
            ca=self.ca,
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
        for chore, interval in self._chores.items():
            chore.clock = self._reactor
            chore.start(interval, now=False)
        if self.reloading is not None:
            self.reloading.listen()
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
            why = f"(process {worker.pid}) ended {how(status)}"
            self._replace(place, self._reactor.seconds() - worker.born, why)
        elif status.exitCode or status.signal not in (None, SIGTERM):
            log.warn("worker {number} ended {how}", number=place.number, how=how(status))

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

    # -- what workers are told, and what is heard of them

    async def _hand_down(self, following: Next) -> None:
        """Have all workers serve by this from now on; new ones do anyway."""
        self._sources, self.config, self.ca = following.sources, following.config, following.ca
        self._edition += 1
        for place in self.places:
            if place.worker is not None:
                place.worker.follow()
        deadline = self._reactor.seconds() + FOLLOWING
        while behind := self._behind():
            if self._reactor.seconds() > deadline:
                log.warn("worker {behind} does not follow yet", behind=", ".join(map(str, behind)))
                break
            await deferLater(self._reactor, 0.02, lambda: None)

    def _behind(self) -> list[int]:
        """The workers that serve by something older."""
        return [
            place.number
            for place in self.places
            if place.worker is not None and (place.worker.pulse.edition or 0) < self._edition
        ]

    def _renew_ca(self) -> "Deferred[None] | None":
        """The issuing certificate lives a year; a daemon may run longer."""
        try:
            ca = open_configured_ca(self.config)
        except RegcachdError as error:
            log.error("the CA could not be looked after, trying again tomorrow: {why}", why=error)
            return None
        if ca.handed_over() == self.ca.handed_over():
            return None
        return Deferred.fromCoroutine(self._hand_down(Next(self._sources, self.config, ca)))

    def _look(self) -> None:
        """See that workers live, and end those that hang: first so that they say where, then whatever they do."""
        for worker in [place.worker for place in self.places if place.worker is not None]:
            silence = self._silence if worker.serves else max(self._silence, BIRTH)
            sign = worker.pulse.look(round(silence * LOOKS / self._silence))
            if sign is Sign.HANGS:
                log.error(
                    "worker {number} (process {pid}) has not been heard of for {silence:g} s, it is ended",
                    number=worker.place.number,
                    pid=worker.pid,
                    silence=silence,
                )
                worker.end(SIGABRT)
            elif sign is Sign.LOST:
                worker.end(SIGKILL)

    # -- for a service manager (heartbeat.py)

    def is_serving(self) -> bool:
        """Does a worker accept connections?"""
        return self._serving() > 0

    def condition(self) -> str:
        """Its trouble, or what it does."""
        if self.care.trouble:
            return f"trouble: {self.care.trouble}"
        refusal = self.reloading and self.reloading.refusal
        said = serving(self.config, self.ports) + (f"; not reloaded: {refusal}" if refusal else "")
        return f"{self._serving()} of {len(self.places)} workers: {said}"

    def patience(self) -> float:
        """How long workers may take to end, and those to die that do not."""
        return self.config.limits.stop_timeout + 2 * GRACE

    def _serving(self) -> int:
        return sum(place.worker is not None and place.worker.serves for place in self.places)

    # -- the end

    def stopService(self) -> "Deferred[None]":
        """Stop: nobody accepts any more, workers finish their responses as one process would."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for chore in self._chores:
            if chore.running:
                chore.stop()
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
                    place.worker.end(SIGKILL)
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


async def _own(result: Any) -> None:
    if isinstance(result, Deferred):
        await result
