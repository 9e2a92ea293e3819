"""The writer of a fill: the half of it that has to do with the disk, up to the blob in the store.

    queue --disk thread: write, hash--> partial --watermark--> growing blob --> readers

Bytes are written and hashed in a thread in batches: while one batch is on its way the next gathers, and
when too much gathers, upstream is paused. One thing at a time is done in a thread, and `write` says what is next: a
batch, the look whether it is the blob, or the end.
"""

from collections.abc import Callable
from contextlib import closing

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .disk import InThread
from .extents import Extents
from .growing import FillFailed, Growing, StoreFailed
from .partial import Conflict, Partial, Phase
from .store import Store

log = Logger()

QUEUE_HIGH = 4 * 1024 * 1024
"""Bytes waiting for the disk at which upstream is paused: what one fill holds in memory."""
QUEUE_LOW = 1024 * 1024
"""Bytes at which it is resumed."""
BATCH_CATCH_UP = 16
"""Megabytes hashed again per batch, so that the watermark is told about in between."""


@define
class _Run:
    """Bytes that belong one behind the other, waiting for the disk."""

    start: int
    stop: int
    pieces: list[bytes]


@define(eq=False)
class Writer:
    """Writes one partial. `over` fires with None when it has ended, well or not, and the partial is closed."""

    growing: Growing
    _partial: Partial
    _store: Store
    _in_thread: InThread
    _stored: Callable[[Growing], None]
    """Called when it has become a blob."""
    _count_wrong: Callable[[], None]
    _pause: Callable[[bool], None]
    """Called with True while too much waits for the disk, with False when upstream may go on."""
    _ended: Callable[[], None]
    """Called when no more bytes are wanted."""
    _closing: Callable[[], None]
    """Called when the partial is about to be closed."""
    over: "Deferred[None]" = field(factory=Deferred, init=False)
    is_ending: bool = field(default=False, init=False)
    taken: Extents = field(factory=Extents, init=False)
    """What is on the disk or on its way there."""
    bytes_taken: int = field(default=0, init=False)
    """Bytes that upstream has brought, some of them perhaps twice."""
    queued: int = field(default=0, init=False)
    """Bytes that wait for the disk."""
    _queue: list[_Run] = field(factory=list, init=False)
    _writing: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _phase: Phase | None = field(default=None, init=False)
    """What to tell the followers in other processes at the end; None leaves the fill to them."""
    _discard: bool = field(default=False, init=False)
    """Is what is on the disk worthless?"""

    @property
    def committed(self) -> int:
        """Bytes from the start that are there and hashed."""
        return self._partial.committed

    def take_stock(self) -> None:
        """Of what the partial has already."""
        for stretch in self._partial.there.stretches:
            self.taken.add(*stretch)
        self.growing.total = self._partial.total
        self.growing.grown(max(self._partial.committed, self.growing.watermark))

    def take(self, offset: int, data: bytes) -> None:
        """Upstream has brought bytes that belong at `offset`."""
        if self.is_ending or not data:
            return
        self.bytes_taken += len(data)
        self.taken.add(offset, offset + len(data))
        if self._queue and self._queue[-1].stop == offset:
            self._queue[-1].pieces.append(data)
            self._queue[-1].stop += len(data)
        else:
            self._queue.append(_Run(offset, offset + len(data), [data]))
        self.queued += len(data)
        if self.queued > QUEUE_HIGH:
            self._paused = True
            self._pause(True)  # each time: a stream that has begun meanwhile flows
        if not self._writing:
            self.write()

    def write(self) -> None:
        """Go on with what is next, if there is anything."""
        if self._writing or self.over.called:
            return
        if self.is_ending:
            self._close()
        elif self._queue:
            batch, self._queue = self._queue, []
            self._writing = True
            self._in_thread(self._write_batch, batch).addCallbacks(self._written, self._disk_failed)
        elif self.growing.total is not None and self.taken.reach(0) >= self.growing.total:
            self._writing = True
            self._in_thread(self._finish).addCallbacks(self._verified, self._disk_failed)

    def _write_batch(self, batch: list[_Run]) -> int:
        """In a thread. Returns how many bytes of the queue that was."""
        self._partial.expect(self.growing.total)
        count = 0
        for run in batch:
            self._partial.write(run.start, b"".join(run.pieces))
            count += run.stop - run.start
        for _ in range(BATCH_CATCH_UP):
            if not self._partial.catch_up():
                break
        return count

    def _written(self, count: int) -> None:
        self._writing = False
        self.queued -= count
        self.growing.grown(self._partial.committed)
        if self._paused and self.queued < QUEUE_LOW:
            self._paused = False
            self._pause(False)
        self.write()

    def _finish(self) -> bool:
        """In a thread: is it the blob?"""
        self._partial.expect(self.growing.total)
        while self._partial.catch_up():
            pass
        right = self._partial.is_right()
        if right:
            self._partial.verified()
        return right

    def _verified(self, right: bool) -> None:
        self.growing.grown(self._partial.committed)
        if not right:
            self._wrong(f"{self.growing.watermark} bytes with another digest")
            return
        self.is_ending = True
        self._ended()
        self.growing.verified()
        self._in_thread(self._store.commit, self._partial).addCallbacks(self._committed, self._not_committed)

    def _committed(self, _: None) -> None:
        self._writing = False
        self._stored(self.growing)
        self._close()

    def _not_committed(self, failure: Failure) -> None:
        self._writing = False
        log.error(
            "{digest} could not be stored: {why}",
            digest=str(self.growing.digest),
            why=failure.getErrorMessage(),
        )
        self._close()

    # -- ends

    def _disk_failed(self, failure: Failure) -> None:
        self._writing = False
        if failure.check(Conflict):
            self._wrong(failure.getErrorMessage())
            return
        if not failure.check(OSError):
            log.failure("writing {digest} failed", failure, digest=str(self.growing.digest))
        self.end(StoreFailed(f"the store failed: {failure.getErrorMessage()}"), Phase.STORE_FAILED)

    def _wrong(self, what: str) -> None:
        log.error(
            "upstream sent wrong bytes for {digest}: {what}; nothing was stored",
            digest=str(self.growing.digest),
            what=what,
        )
        self._writing = False
        self._discard = True
        self._count_wrong()
        self.end(FillFailed(f"upstream sent wrong bytes for {self.growing.digest}"), Phase.GIVEN_UP)

    def end(self, error: FillFailed, phase: Phase | None) -> None:
        """It will not become a blob: readers hear the error, other processes the phase; None leaves it to them."""
        if not self.is_ending:
            self.is_ending, self._phase = True, phase
            self.growing.failed(error)
            self._ended()
        self.write()

    def _close(self) -> None:
        self._closing()
        self._writing = True
        self._in_thread(self._let_go).addBoth(self._closed)

    def _let_go(self) -> None:
        """In a thread."""
        with closing(self._partial):
            try:
                if self._phase is not None:
                    self._partial.give_up(self._phase)
            finally:
                if self._discard or (self._phase is not None and self._partial.is_empty):
                    self._partial.discard()

    def _closed(self, result: "Failure | None") -> None:
        if isinstance(result, Failure):
            log.error("a partial could not be closed: {why}", why=result.getErrorMessage())
        self.over.callback(None)
