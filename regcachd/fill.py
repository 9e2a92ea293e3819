"""A fill: one download of one blob from upstream into the store, and the readers that follow it.

    upstream --body_received--> queue --disk thread: hash, write--> partial file --readers--> clients

The watermark is how many bytes are in the file. Readers see at most that, and while the digest is not
known to be right at most `total - HELD_BACK`, so that no client ever has a complete wrong body. Bytes are
written and hashed in a thread in batches: while one batch is on its way the next gathers, and when too
much gathers upstream is paused.

A fill belongs to nobody: it goes on when the client that caused it leaves.
"""

import os
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .errors import RegcachdError
from .http1 import Response, UpstreamFailed
from .partial import Partial
from .reference import Digest
from .store import Store
from .transport import InThread

log = Logger()

HELD_BACK = 64 * 1024
"""Bytes at the end that readers get only when the digest is right."""
QUEUE_HIGH = 4 * 1024 * 1024
"""Bytes waiting for the disk at which upstream is paused, "what we hold in memory for one fill"."""
QUEUE_LOW = 1024 * 1024
"""Bytes at which it is resumed."""


class FillFailed(RegcachdError):
    """The blob did not come, or came wrong. Responses that follow the fill are cut."""


@define(eq=False)
class Reader:
    """One client's view of a fill, from `position` on. It has a descriptor of its own, for `send_file`."""

    fd: int
    position: int
    _fill: "Fill"
    waiting: "Deferred[int] | None" = None

    def edge(self) -> "Deferred[int]":
        """How far the file may be read now, as soon as that is past `position`; FillFailed when it never will be.

        One call at a time; fires at once when there is something to read.
        """
        waiting: Deferred[int] = Deferred()
        self.waiting = waiting
        self._fill.look(self)
        return waiting

    def close(self) -> None:
        """Leave. A wait under way fails with FillFailed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._fill.leave(self)
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.errback(Failure(FillFailed("the client has gone")))


@define(eq=False)
class Fill:
    """A download in progress. `ended` fires with None when it is over and everything is cleaned up, well or not."""

    digest: Digest
    total: int | None
    """Bytes of the whole blob, when upstream says."""
    _response: Response
    _partial: Partial
    _store: Store
    _in_thread: InThread
    _abandon_below: float
    """When nobody reads any more and less than this fraction is there, the fill is given up."""
    _stored: "Callable[[Fill], None]"
    ended: "Deferred[None]" = field(factory=Deferred, init=False)
    watermark: int = field(default=0, init=False)
    _verified: bool = field(default=False, init=False)
    _error: FillFailed | None = field(default=None, init=False)
    _readers: "set[Reader]" = field(factory=set, init=False)
    _queue: list[bytes] = field(factory=list, init=False)
    _queued: int = field(default=0, init=False)
    _writing: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _complete: bool = field(default=False, init=False)

    def begin(self) -> None:
        """Let the body flow."""
        self._response.deliver(self)

    # -- readers

    def reader(self, position: int) -> Reader:
        """A new reader, from byte `position` on."""
        reader = Reader(os.dup(self._partial.fd), position, self)
        self._readers.add(reader)
        return reader

    @property
    def failed(self) -> bool:
        """Is it over, without a blob?"""
        return self._error is not None

    @property
    def size(self) -> int | None:
        """Bytes of the whole blob: known from the start, or else when it is verified."""
        return self.watermark if self._verified else self.total

    def _released(self) -> int:
        if self._verified:
            return self.watermark
        held_from = self.watermark if self.total is None else self.total
        return min(self.watermark, max(0, held_from - HELD_BACK))

    def look(self, reader: Reader) -> None:
        """Fire `reader.waiting` if there is an answer for it."""
        if reader.waiting is None:
            return
        edge = self._released()
        if edge > reader.position or self._verified:
            waiting, reader.waiting = reader.waiting, None
            waiting.callback(edge)
        elif self._error is not None:
            waiting, reader.waiting = reader.waiting, None
            waiting.errback(Failure(self._error))

    def _tell_readers(self) -> None:
        for reader in list(self._readers):
            self.look(reader)

    def leave(self, reader: Reader) -> None:
        """A reader has closed."""
        self._readers.discard(reader)
        if self._readers or self._verified or self._error is not None or not self.total:
            return
        if self.watermark < self._abandon_below * self.total:
            self.stop("nobody reads it any more")

    # -- the body (http1.BodyConsumer)

    def body_received(self, data: bytes) -> None:
        self._queue.append(data)
        self._queued += len(data)
        if self._queued > QUEUE_HIGH and not self._paused:
            self._paused = True
            self._response.pause()
        self._write()

    def body_done(self) -> None:
        self._complete = True
        self._write()

    def body_failed(self, error: UpstreamFailed) -> None:
        self._fail(FillFailed(str(error)))

    def stop(self, why: str) -> None:
        """Give the download up; what is on the disk stays there."""
        self._fail(FillFailed(f"the fill of {self.digest} was stopped: {why}"))
        self._response.abandon()

    # -- the disk

    def _write(self) -> None:
        if self._writing:
            return
        if self._error is not None:
            self._finish()
        elif self._queue:
            batch, self._queue = self._queue, []
            self._writing = True
            self._in_thread(self._partial.append, batch).addCallbacks(self._written, self._disk_failed)
        elif self._complete:
            self._writing = True
            self._verify()

    def _written(self, count: int) -> None:
        self._writing = False
        self._queued -= count
        self.watermark += count
        if self._paused and self._queued < QUEUE_LOW:
            self._paused = False
            self._response.resume()
        self._tell_readers()
        self._write()

    def _disk_failed(self, failure: Failure) -> None:
        self._writing = False
        log.error(
            "the store failed while {digest} was filled: {why}",
            digest=str(self.digest),
            why=failure.getErrorMessage(),
        )
        self._fail(FillFailed(f"the store failed: {failure.getErrorMessage()}"))
        self._response.abandon()

    def _verify(self) -> None:
        if not self._partial.verified() or self.total not in (None, self.watermark):
            log.error(
                "upstream sent wrong bytes for {digest}: {count} bytes with another digest; nothing was stored",
                digest=str(self.digest),
                count=self.watermark,
            )
            self._partial.discard()
            self._writing = False
            self._fail(FillFailed(f"upstream sent wrong bytes for {self.digest}"))
            return
        self._verified = True
        self._tell_readers()
        self._in_thread(self._store.commit, self._partial).addCallbacks(self._committed, self._disk_failed)

    def _committed(self, _: None) -> None:
        self._stored(self)
        self._finish()

    # -- ends

    def _fail(self, error: FillFailed) -> None:
        if self._error is None and not self._verified:
            self._error = error
            self._queue.clear()
            self._tell_readers()
        if not self._writing:
            self._finish()

    def _finish(self) -> None:
        if not self.ended.called:
            self._partial.close()
            self.ended.callback(None)


class Fills:
    """The fills of this process, by digest."""

    def __init__(
        self, store: Store, in_thread: InThread, abandon_below: float, stored: Callable[[Fill], None]
    ) -> None:
        self._store = store
        self._in_thread = in_thread
        self._abandon_below = abandon_below
        self._stored = stored
        self._under_way: dict[Digest, Fill] = {}
        self.wrong_digests = 0

    def get(self, digest: Digest) -> Fill | None:
        """The fill of a digest, while it can be followed."""
        fill = self._under_way.get(digest)
        return None if fill is None or fill.failed else fill

    async def start(self, digest: Digest, response: Response) -> Fill:
        """Begin to store the body of `response`. Raises OSError when the store does not take it."""
        earlier = self._under_way.get(digest)
        if earlier is not None:
            await _after(earlier.ended)  # a failed one that still holds the file
        partial: Any = await self._in_thread(self._store.start, digest, response.length)
        fill = Fill(
            digest,
            response.length,
            response,
            partial,
            self._store,
            self._in_thread,
            self._abandon_below,
            self._stored,
        )
        self._under_way[digest] = fill
        fill.ended.addCallback(self._over, fill)
        fill.begin()
        return fill

    def _over(self, _: None, fill: Fill) -> None:
        if self._under_way.get(fill.digest) is fill:
            del self._under_way[fill.digest]

    async def stop(self) -> None:
        """Stop all of them, leaving their partials."""
        for fill in list(self._under_way.values()):
            fill.stop("regcachd is stopping")
        for fill in list(self._under_way.values()):
            await _after(fill.ended)


def _after(event: "Deferred[None]") -> "Deferred[None]":
    """A Deferred of one's own that fires when `event` has."""
    waiter: Deferred[None] = Deferred()

    def tell(_: None) -> None:
        waiter.callback(None)

    event.addCallback(tell)
    return waiter
