"""The fills of this process: its own downloads, and those of other workers that clients here follow.

For each digest there is at most one, and exactly one process downloads it: the one that holds the lock on its
partial. The others follow; when the downloading process dies, one of them takes over where it stopped, with
the credentials of its own clients.
"""

import os
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .fill import Fill, Patience, Source, begins_at, total_of
from .follow import Follower, Watches
from .growing import FillFailed, Growing
from .http1 import Response, UpstreamFailed
from .parallel import Parallel
from .partial import Conflict, Partial
from .reference import Digest
from .store import Store
from .transport import InThread

log = Logger()

SOURCES = 4
"""Credentials remembered for a fill, should the first one's expire."""


@frozen
class Settings:
    """How a registry wants to be downloaded from."""

    patience: Patience
    connections: int
    abandon_below: float
    """When nobody reads any more and less than this fraction is there, a fill is stopped."""


@frozen
class Started:
    """A fill has begun with the asker's own credential."""

    growing: Growing


@frozen
class Followed:
    """The digest is being filled already, elsewhere: the asker's right to it is still to be shown."""

    growing: Growing


@frozen
class Stored:
    """The digest is stored already: another process has just done so."""


@frozen
class NotGiven:
    """Upstream answered with something other than the blob."""

    response: Response


@define(eq=False)
class _Entry:
    growing: Growing
    driver: Fill | Follower
    sources: "deque[Source]"
    settings: Settings


class Fills:
    """All fills here. `stored` is called when one of our own has become a blob."""

    def __init__(
        self, clock: Any, store: Store, in_thread: InThread, stored: "Callable[[Growing], None]"
    ) -> None:
        self._clock = clock
        self._store = store
        self._in_thread = in_thread
        self._stored = stored
        self._entries: dict[Digest, _Entry] = {}
        self._watches = Watches(clock)

    def get(self, digest: Digest) -> Growing | None:
        """The growing blob of a digest, while it can be followed."""
        entry = self._entries.get(digest)
        return None if entry is None or entry.growing.error is not None else entry.growing

    def offer(self, digest: Digest, source: Source) -> None:
        """Somebody whom upstream accepts asks for it, too: remember how to ask on."""
        entry = self._entries.get(digest)
        if entry is not None and source not in entry.sources:
            entry.sources.append(source)

    async def open(
        self, digest: Digest, source: Source, settings: Settings
    ) -> Started | Followed | Stored | NotGiven:
        """Begin to fill, go on with what is left of an earlier fill, or follow another process.

        Raises OSError when the store does not take it, UpstreamFailed. One call at a time for a digest.
        """
        while True:
            earlier = self._entries.get(digest)
            if earlier is not None:
                if earlier.growing.error is None:
                    return Followed(earlier.growing)
                await _after(earlier)
            partial: Partial | None = await self._in_thread(self._acquire, digest)
            if partial is not None:
                return await self._start(partial, source, settings)
            if self._store.has(digest):
                return Stored()
            follower = Follower.open(
                self._store.partial_path(digest),
                digest,
                watches=self._watches,
                clock=self._clock,
                ended=self._follower_ended,
                orphaned=self._take_over,
            )
            if follower is not None:
                sources = deque([source], SOURCES)
                self._entries[digest] = _Entry(follower.growing, follower, sources, settings)
                follower.begin()
                return Followed(follower.growing)

    def _acquire(self, digest: Digest) -> Partial | None:
        """In a thread: the lock on the partial, unless another has it, or has stored the blob before we got it."""
        partial = self._store.acquire(digest)
        if partial is not None and self._store.has(digest):
            partial.discard()
            partial.close()
            return None
        return partial

    async def _start(self, partial: Partial, source: Source, settings: Settings) -> Started | NotGiven:
        response = None
        try:
            response, start = await self._first_answer(partial, source)
            if response.status not in (200, 206):
                await self._in_thread(partial.close)
                return NotGiven(response)
            growing = Growing(partial.digest, os.open(partial.path, os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            if response is not None:
                response.abandon()
            await self._in_thread(partial.close)
            raise
        fill = self._begin(growing, partial, deque([source], SOURCES), settings)
        fill.begin(response, start)
        return Started(growing)

    async def _first_answer(self, partial: Partial, source: Source) -> tuple[Response, int]:
        """An answer that goes on where the partial ends, from the file's start should upstream not do ranges."""
        have: int = await self._in_thread(partial.resume)
        # when all is there but was not stored, one byte is asked for all the same: only upstream can say yes
        wanted = max(0, have - 1) if have == partial.total else have
        response = await source.open(wanted, None)
        if response.status == 416 or (response.status == 206 and begins_at(response) != wanted):
            response.abandon()
            response = await source.open(0, None)
        if response.status in (200, 206):
            try:
                await self._in_thread(partial.expect, total_of(response))
            except Conflict as error:
                log.warn("what was left of an earlier download is thrown away: {why}", why=error)
                await self._in_thread(partial.restart)
                if response.status == 206:
                    response.abandon()
                    response = await source.open(0, None)
                if response.status == 200:
                    await self._in_thread(partial.expect, total_of(response))
        return response, begins_at(response) or 0

    def _begin(
        self, growing: Growing, partial: Partial, sources: "deque[Source]", settings: Settings
    ) -> Fill:
        fill = Fill(
            growing,
            partial,
            sources,
            self._store,
            self._in_thread,
            self._clock,
            random.random,
            settings.patience,
            Parallel(settings.connections),
            self._stored,
        )
        entry = _Entry(growing, fill, sources, settings)
        self._entries[growing.digest] = entry
        growing.left = lambda: self._unread(entry)
        fill.over.addCallback(self._fill_over, entry)
        return fill

    def _unread(self, entry: _Entry) -> None:
        growing = entry.growing
        wanted = entry.settings.abandon_below * (growing.total or 0)
        if isinstance(entry.driver, Fill) and not growing.is_over and growing.watermark < wanted:
            entry.driver.stop("nobody reads it any more")

    # -- taking over

    def _take_over(self, follower: Follower, lock_fd: int) -> None:
        """The process that filled what we follow is gone, and we hold its lock."""
        entry = self._entries[follower.growing.digest]
        log.info(
            "going on with the fill of {digest}: its worker is gone", digest=str(follower.growing.digest)
        )
        Deferred.fromCoroutine(self._go_on(entry, lock_fd)).addErrback(self._lost, entry)

    async def _go_on(self, entry: _Entry, lock_fd: int) -> None:
        growing = entry.growing
        try:
            partial: Partial = await self._in_thread(
                Partial, self._store.partial_path(growing.digest), growing.digest, lock_fd
            )
        except OSError:
            os.close(lock_fd)
            raise
        await self._in_thread(partial.resume)
        self._begin(growing, partial, entry.sources, entry.settings).go_on()

    def _lost(self, failure: Failure, entry: _Entry) -> None:
        if not failure.check(OSError, UpstreamFailed):
            log.failure("taking over a fill failed", failure)
        entry.growing.failed(FillFailed(f"the fill could not be taken over: {failure.getErrorMessage()}"))
        self._forget(entry)

    # -- ends

    def _fill_over(self, _: None, entry: _Entry) -> None:
        self._forget(entry)

    def _follower_ended(self, follower: Follower) -> None:
        entry = self._entries.get(follower.growing.digest)
        if entry is not None and entry.driver is follower:
            self._forget(entry)

    def _forget(self, entry: _Entry) -> None:
        if self._entries.get(entry.growing.digest) is entry:
            del self._entries[entry.growing.digest]
        os.close(entry.growing.fd)

    async def stop(self) -> None:
        """Stop all of them, leaving their partials."""
        for entry in list(self._entries.values()):
            if isinstance(entry.driver, Fill):
                entry.driver.stop("regcachd is stopping")
            else:
                entry.driver.stop()
        for entry in list(self._entries.values()):
            await _after(entry)
        self._watches.stop()


def _after(entry: _Entry) -> "Deferred[None]":
    """A Deferred of one's own that fires when the entry's fill has let go of its partial."""
    waiter: Deferred[None] = Deferred()

    def tell(_: None) -> None:
        waiter.callback(None)

    if isinstance(entry.driver, Fill):
        entry.driver.over.addCallback(tell)
    else:
        waiter.callback(None)
    return waiter
