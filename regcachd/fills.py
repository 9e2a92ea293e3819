"""The fills of this process: its own downloads, and those of other workers that clients here follow.

For each digest there is at most one, and exactly one process downloads it: the one that holds the lock on its
partial. The others follow; when the downloading process dies, one of them takes over where it stopped, with
the credentials of its own clients.
"""

import os
import random
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import define, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from .disk import InThread
from .fill import Fill
from .follow import Follower, Watches
from .growing import FillFailed, Growing, StoreFailed
from .http1 import Response, UpstreamFailed
from .parallel import Parallel
from .partial import Conflict, Partial, is_at, unlock
from .patience import Patience
from .reference import Digest
from .source import Source, begins_at, total_of
from .store import Store

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
    """Upstream answered with something other than the blob's bytes, even if with 200: they may be encoded."""

    response: Response


Given = Callable[[Growing], None]


def _nobody_wants_to_know(growing: Growing) -> None:
    """What a fill that nobody waits for begins with."""


@define(eq=False)
class _Entry:
    growing: Growing
    driver: Fill | Follower
    sources: "deque[Source]"
    settings: Settings

    def can_be_read(self, path: Path) -> bool:
        """Has upstream said yes to a filler, and nothing gone wrong since? `path` is the partial's.

        Once it has become a blob it is read as one, or not at all: one that was found rotten a moment later has been
        removed from the store, but not from under the descriptors of its fill.
        """
        has_begun = isinstance(self.driver, Fill) or self.growing.has_begun
        if not has_begun or self.growing.error is not None:
            return False
        try:
            return not self.growing.is_verified or is_at(self.growing.fd, path)
        except OSError:
            return False


class Fills:
    """All fills here. `stored` is called when one of our own has become a blob, `broke` when one that was read
    here has ended without its digest being right."""

    def __init__(
        self,
        clock: Any,
        store: Store,
        in_thread: InThread,
        stored: "Callable[[Growing], None]",
        broke: "Callable[[Growing], None]" = lambda growing: None,
    ) -> None:
        self._clock = clock
        self._store = store
        self._in_thread = in_thread
        self._stored = stored
        self._broke = broke
        self.wrong = 0
        """How often upstream has sent wrong bytes."""
        self._entries: dict[Digest, _Entry] = {}
        self._watches = Watches(clock)
        self._going_on: set[Deferred[None]] = set()
        """Fills that are being taken over."""
        self._stopping = False

    def _count_wrong(self) -> None:
        self.wrong += 1

    def get(self, digest: Digest) -> Growing | None:
        """The growing blob of a digest, while it can be followed."""
        entry = self._entries.get(digest)
        readable = entry is not None and entry.can_be_read(self._store.partial_path(digest))
        return entry.growing if entry is not None and readable else None

    def offer(self, digest: Digest, source: Source) -> None:
        """Somebody whom upstream accepts asks for it, too: remember how to ask on."""
        entry = self._entries.get(digest)
        if entry is not None and source not in entry.sources:
            entry.sources.append(source)

    async def open(
        self, digest: Digest, source: Source, settings: Settings, given: Given = _nobody_wants_to_know
    ) -> Started | Followed | Stored | NotGiven:
        """Begin to fill, go on with what is left of an earlier fill, or follow another process.

        `given` is called when upstream has begun to give the asker the blob, before anybody else can see that.
        Raises OSError when the store does not take it, UpstreamFailed. One call at a time for a digest.
        """
        while not self._stopping:
            earlier = self._entries.get(digest)
            if earlier is not None:
                if earlier.can_be_read(self._store.partial_path(digest)):
                    return Followed(earlier.growing)
                await _after(earlier)
            partial: Partial | None = await self._in_thread(self._acquire, digest)
            if partial is not None:
                opened = await self._start(partial, source, settings, given)
                if opened is None:
                    continue
                return opened
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
                self._entries[digest] = _Entry(follower.growing, follower, deque(maxlen=SOURCES), settings)
                follower.begin()
                await follower.news
        raise UpstreamFailed("regcachd is stopping", status=503)

    def _acquire(self, digest: Digest) -> Partial | None:
        """In a thread: the lock on the partial, unless another has it, or has stored the blob before we got it."""
        partial = self._store.acquire(digest)
        if partial is None or not self._store.has(digest):
            return partial
        try:
            partial.discard()
        finally:
            partial.close()
        return None

    async def _start(
        self, partial: Partial, source: Source, settings: Settings, given: Given
    ) -> Started | NotGiven | None:
        """None when what was left of an earlier fill has been thrown away: once more, then."""
        response = growing = None
        try:
            response = await self._first_answer(partial, source)
            start = begins_at(response) if response.status in (200, 206) else None
            if start is None:
                await self._in_thread(_let_go, partial)
                return NotGiven(response)
            total = total_of(response)
            if total is None and partial.committed:
                raise Conflict(
                    f"upstream does not say the size of {partial.digest}: it may be something else"
                )
            growing = Growing(partial.digest, os.open(partial.path, os.O_RDONLY | os.O_CLOEXEC))
            given(growing)
            await self._in_thread(partial.expect, total)  # from here on other processes see it
            if self._stopping:
                raise UpstreamFailed("regcachd is stopping", status=503)
        except Conflict as error:
            log.warn("what was left of an earlier download is thrown away: {why}", why=error)
            assert response is not None
            response.abandon()
            self._take_back(growing)
            await self._in_thread(_let_go, partial, True)
            return None
        except BaseException:
            self._take_back(growing)
            if response is not None:
                response.abandon()
            await self._in_thread(_let_go, partial)
            raise
        fill = self._begin(growing, partial, deque([source], SOURCES), settings)
        fill.begin(response, start)
        return Started(growing)

    def _take_back(self, growing: Growing | None) -> None:
        """It was given, and comes to nothing."""
        if growing is not None:
            self._broke(growing)
            growing.close()

    async def _first_answer(self, partial: Partial, source: Source) -> Response:
        """An answer that goes on where the partial ends, from the file's start should upstream not do ranges."""
        have: int = await self._in_thread(partial.resume)
        # when all is there but was not stored, one byte is asked for all the same: only upstream can say yes
        wanted = max(0, have - 1) if have == partial.total else have
        response = await source.open(wanted, None)
        if response.status == 416 or (response.status == 206 and begins_at(response) != wanted):
            response.abandon()
            response = await source.open(0, None)
        return response

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
            self._count_wrong,
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
        growing = follower.growing
        entry = self._entries[growing.digest]
        if not entry.sources:  # nobody here has been shown to be allowed to have it: that is for others
            unlock(lock_fd)
            os.close(lock_fd)
            growing.failed(FillFailed(f"nobody fills {growing.digest} any more"))
            self._forget(entry)
            return
        log.info("going on with the fill of {digest}: its worker is gone", digest=str(growing.digest))
        going_on = Deferred.fromCoroutine(self._go_on(entry, lock_fd)).addErrback(self._lost, entry)
        self._going_on.add(going_on)
        going_on.addCallback(lambda _: self._going_on.discard(going_on))

    async def _go_on(self, entry: _Entry, lock_fd: int) -> None:
        growing = entry.growing
        partial: Partial = await self._in_thread(self._adopt, growing.digest, lock_fd)
        if self._stopping or partial.committed < growing.watermark:
            await self._in_thread(partial.close)
            raise FillFailed("regcachd is stopping" if self._stopping else "the partial has lost bytes")
        self._begin(growing, partial, entry.sources, entry.settings).go_on()

    def _adopt(self, digest: Digest, lock_fd: int) -> Partial:
        """In a thread: the partial that the lock is for, ready to be gone on with. Raises OSError."""
        try:
            partial = Partial(self._store.partial_path(digest), digest, lock_fd)
        except OSError:
            unlock(lock_fd)
            os.close(lock_fd)
            raise
        try:
            partial.resume()
        except OSError:
            partial.close()
            raise
        return partial

    def _lost(self, failure: Failure, entry: _Entry) -> None:
        why = failure.getErrorMessage()
        if failure.check(OSError):
            entry.growing.failed(StoreFailed(f"the store failed: {why}"))
        else:
            if not failure.check(FillFailed):
                log.failure("taking over a fill failed", failure)
            entry.growing.failed(FillFailed(f"the fill could not be taken over: {why}"))
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
            if not entry.growing.is_verified:
                self._broke(entry.growing)
        entry.growing.close()

    async def stop(self) -> None:
        """Stop all of them, leaving their partials. No more can be opened."""
        self._stopping = True
        for entry in list(self._entries.values()):
            if isinstance(entry.driver, Fill):
                entry.driver.stop("regcachd is stopping")
            else:
                entry.driver.stop()
        await gatherResults(list(self._going_on))
        for entry in list(self._entries.values()):
            await _after(entry)
        self._watches.stop()


def _let_go(partial: Partial, discard: bool = False) -> None:
    """In a thread: close a partial, and remove it if there is nothing in it. Raises OSError."""
    with closing(partial):
        if discard or partial.is_empty:
            partial.discard()


def _after(entry: _Entry) -> "Deferred[None]":
    """A Deferred of one's own that fires when the entry's fill has let go of its partial."""
    waiter: Deferred[None] = Deferred()

    def tell(_: None) -> None:
        waiter.callback(None)

    if isinstance(entry.driver, Fill):
        entry.driver.over.addCallback(tell)
    else:
        entry.driver.look_closely()  # what is over elsewhere ends here now, before another fill begins
        waiter.callback(None)
    return waiter
