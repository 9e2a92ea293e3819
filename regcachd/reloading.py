"""Reloading: takes up a changed configuration on SIGHUP, or when asked on the admin socket.

    read the files again -> decide (reload.py) -> vet -> the daemon takes it up
             |                                     |
             +-- broken: said in the log, and the old configuration stays -+

One reload at a time. A service manager is told when one begins and when it is over.
"""

import signal
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from .admin import Command, Document
from .authentication import Plugins
from .config import Config, Sources
from .errors import RegcachdError
from .notify import ServiceManager
from .pki import CA
from .preparation import vet_again
from .reload import Reload, decide
from .safekeeping import report

log = Logger()

Reread = Callable[[], tuple[Sources, Config]]
"""Reads the files again. Raises RegcachdError, UsageError and OSError."""


class ReloadRefused(RegcachdError):
    """The configuration cannot be taken up; the daemon goes on under the one it has."""


@frozen
class Next:
    """What a daemon is to take up."""

    sources: Sources
    config: Config
    ca: CA


@define(eq=False)
class Reloading:
    """The reloads of one daemon. `running` is the configuration it has, `take_up` gives it another."""

    _reactor: Any
    _plugins: Plugins
    _reread: Reread
    _running: Callable[[], Config]
    _take_up: Callable[[Next], Awaitable[None]]
    _manager: ServiceManager | None = None
    _one_at_a_time: DeferredLock = field(factory=DeferredLock, init=False)
    refusal: str | None = field(default=None, init=False)
    """Why the last reload was refused; None if it was not."""

    def commands(self) -> tuple[Command, ...]:
        """For the admin socket."""
        return (Command("POST", "/reload", self._command),)

    async def _command(self, _: Document) -> Document:
        done = await self.reload()
        return {"changed": list(done.changed), "waiting": list(done.waiting)}

    def listen(self) -> None:
        """Reload on SIGHUP from now on."""
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self._hung_up))

    def _hung_up(self) -> None:
        if self._one_at_a_time.waiting:
            return  # a reload that has not begun yet sees what this one would
        Deferred.fromCoroutine(self.reload()).addErrback(self._failed)

    @staticmethod
    def _failed(failure: Failure) -> None:
        if not failure.check(ReloadRefused):  # which has been said
            log.failure("the reload failed", failure)

    async def reload(self) -> Reload:
        """Read the files again and take up what can be. Raises ReloadRefused."""
        await self._one_at_a_time.acquire()
        try:
            # sd_notify(3): a service manager takes READY=1 after these for the end of this reload
            self._tell(RELOADING=1, MONOTONIC_USEC=int(monotonic() * 1e6))
            return await self._reload()
        finally:
            self._tell(READY=1)
            self._one_at_a_time.release()

    async def _reload(self) -> Reload:
        try:
            sources, wanted = self._reread()
            decided = decide(self._running(), wanted)
            ca = vet_again(self._reactor, decided.config, self._plugins)
            await self._take_up(Next(sources, decided.config, ca))
        except (RegcachdError, UsageError, OSError) as error:
            self.refusal = str(error)
            log.error("the configuration is not taken up, the old one stays in force: {why}", why=error)
            raise ReloadRefused(
                f"the configuration is not taken up, the old one stays in force: {error}"
            ) from None
        self.refusal = None
        log.info("the configuration is reloaded, {what}", what=decided)
        if decided.waiting:
            log.info(
                "what has changed, too, and waits for a restart: {keys}",
                keys=", ".join(decided.waiting),
                notice=True,
            )
        report(decided.config)
        return decided

    def _tell(self, **states: object) -> None:
        if self._manager is not None:
            self._manager.tell(**states)
