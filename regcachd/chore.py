"""A chore: long work of the daemon's own, done in small steps in a disk thread with rests between them.

The work is a generator. Each `next` runs in the thread, and what it yields is the time, in seconds, that this step may
take up together with the rest after it: 0 is "as fast as the disk allows". Short steps are done several at a time,
since going to the thread and back costs as much as the shortest of them.
"""

from collections.abc import Generator
from typing import Any, TypeAlias

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from .disk import InThread

Steps: TypeAlias = Generator[float, None, None]
"""The work."""

_TOGETHER = 16
"""Steps done at a time, at most, while they are ..."""
_SHORT = 0.01
"""... allowed no more than these seconds, and take no more than that."""


@define(eq=False)
class Chore:
    """Runs one work, once; `reactor` is for its clock (IReactorTime)."""

    _reactor: Any
    _in_thread: InThread
    _rest: "Deferred[None] | None" = field(default=None, init=False)
    _call: "IDelayedCall | None" = field(default=None, init=False)
    _ended: bool = field(default=False, init=False)

    async def run(self, work: Steps) -> bool:
        """Do all of it; False when `end` came before. Raises what the work raises."""
        try:
            while not self._ended:
                began = self._reactor.seconds()
                allowed, over = await self._in_thread(self._some, work)
                if over:
                    return True
                await self._pause(allowed - (self._reactor.seconds() - began))
            return False
        finally:
            await self._in_thread(work.close)

    def _some(self, work: Steps) -> tuple[float, bool]:
        """In the thread: some steps; what they are allowed, and whether they were the last."""
        began, allowed = self._reactor.seconds(), 0.0
        for _ in range(_TOGETHER):
            step = next(work, None)
            if step is None:
                return allowed, True
            allowed += step
            if allowed > _SHORT or self._reactor.seconds() - began > _SHORT:
                break
        return allowed, False

    def _pause(self, seconds: float) -> "Deferred[None]":
        rest: Deferred[None] = Deferred()
        if self._ended:
            rest.callback(None)
        else:
            self._rest = rest
            self._call = self._reactor.callLater(max(0.0, seconds), self._go_on)
        return rest

    def _go_on(self) -> None:
        call, self._call = self._call, None
        rest, self._rest = self._rest, None
        if call is not None and call.active():
            call.cancel()
        if rest is not None:
            rest.callback(None)

    def end(self) -> None:
        """Let `run` return when the step under way is done, and a rest at once."""
        self._ended = True
        self._go_on()


def after(event: "Deferred[None] | None") -> "Deferred[None]":
    """A Deferred of one's own that fires when `event` has; at once when there is none."""
    waiter: Deferred[None] = Deferred()

    def tell(_: None) -> None:
        waiter.callback(None)

    if event is None:
        tell(None)
    else:
        event.addCallback(tell)
    return waiter
