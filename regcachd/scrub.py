"""Scrub: everything in the store is read and hashed again from time to time, so that rot is found before a client does.

A pass goes through the blobs in the order of their digests, at `scrub_rate` bytes per second, and begins
`scrub_interval` after the one before it began. Where it is, it keeps in the index, and goes on there after a restart.
The operator can have a pass at full speed, which takes the place of one under way. What is not what its name says is
removed, with its row, and fetched again on demand. All of it happens in one thread, in steps of a quarter of a second
or less, with an Index of its own.
"""

from collections.abc import Callable, Iterator
from typing import Any

from attrs import asdict, define, evolve, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .chore import Chore, Steps, after
from .disk import InThread
from .errors import RegcachdError
from .examine import STEP, Examination, discard, is_medium, remove_rotten
from .index import PATIENCE_IN_THREAD, Index, ScrubRecord
from .reference import Digest
from .shelves import BlobFile, contents, shelves
from .store import Store

log = Logger()

_LEAST = 64 * 1024
"""Bytes that a blob counts for the rate at least: finding a small one costs the disk about as much."""
_STEP_TIME = 0.25
"""Seconds of reading at the rate set that make one step."""
_LARGEST_STEP = 16 * STEP
_SAVED = 1000
"""Blobs after which the position is saved, or ..."""
_SAVED_BYTES = 1024**3
"""... bytes: what a crash makes a pass do twice."""
_NAMED = 100
"""Rotten blobs whose digests a pass remembers."""


@define
class Pass:
    """One pass and how far it is. `rate` is in bytes per second and may change on the way; None is full speed."""

    record: ScrubRecord
    rate: int | None
    rotten: list[Digest] = field(factory=list)


def scrub(store: Store, current: Pass) -> Steps:
    """Do what is left of a pass. Raises StoreUnusable, DatabaseUnusable, and OSError when the store fails."""
    index = Index(store.index_path, PATIENCE_IN_THREAD)
    index.open()
    saved = current.record
    try:
        for blob in _blobs_after(store, current.record.position):
            yield from _scrub_one(store, index, blob, current)
            record = current.record
            if record.blobs >= saved.blobs + _SAVED or record.bytes >= saved.bytes + _SAVED_BYTES:
                index.record_scrub(record)
                saved = record
    finally:
        index.record_scrub(current.record)
        index.close()


def _blobs_after(store: Store, position: str | None) -> Iterator[BlobFile]:
    after = position or ""
    for shelf in shelves(store):
        if shelf.key >= after[: len(shelf.key)]:
            for blob in contents(shelf).blobs:
                if str(blob.digest) > after:
                    yield blob


def _scrub_one(store: Store, index: Index, blob: BlobFile, current: Pass) -> Steps:
    try:
        opened = store.open(blob.digest)
    except OSError as error:
        _pass_by(store, index, blob, current, error)
        yield _pace(_LEAST, current.rate)
        return
    if opened is None:
        return  # evicted meanwhile
    in_step = 0
    try:
        examination = Examination(blob.digest, opened.fd)
        for count in examination:
            in_step += count
            current.record = evolve(current.record, bytes=current.record.bytes + count)
            rate = current.rate
            if in_step >= (_LARGEST_STEP if rate is None else min(_LARGEST_STEP, rate * _STEP_TIME)):
                yield _pace(in_step, rate)
                in_step = 0
        rotten = not examination.right
        if rotten:
            remove_rotten(store, index, blob.digest, opened.fd, examination.why)
    finally:
        opened.close()
    _count(current, blob.digest, rotten)
    yield _pace(max(in_step, _LEAST - (opened.size - in_step)), current.rate)


def _pass_by(store: Store, index: Index, blob: BlobFile, current: Pass, error: OSError) -> None:
    """A blob cannot be opened: one such file must not keep the pass from all that come after it. Raises the error when
    it is not of that file."""
    if is_medium(error):
        index.remove([blob.digest])
        discard(store, blob.digest, f"it cannot be opened: {error.strerror}")
        _count(current, blob.digest, rotten=True)
    elif isinstance(error, PermissionError):
        log.error("{digest} was not checked: {why}", digest=str(blob.digest), why=error)
        current.record = evolve(current.record, position=str(blob.digest))
    else:
        raise error


def _count(current: Pass, digest: Digest, rotten: bool) -> None:
    """One more blob has been checked."""
    if rotten and len(current.rotten) < _NAMED:
        current.rotten.append(digest)
    current.record = evolve(
        current.record,
        position=str(digest),
        blobs=current.record.blobs + 1,
        rotten=current.record.rotten + rotten,
    )


def _pace(count: int, rate: int | None) -> float:
    return 0.0 if rate is None else count / rate


class Scrub:
    """The passes over one store. `rate` is in bytes per second, 0 for none but those that the operator wants;
    `interval` is in seconds. `done` is told when a pass has been through everything."""

    def __init__(
        self,
        reactor: Any,
        store: Store,
        index: Index,
        in_thread: InThread,
        rate: int,
        interval: float,
        now: Callable[[], float],
        done: Callable[[], None],
    ) -> None:
        self._store = store
        self._index = index
        self._new_chore = lambda: Chore(reactor, in_thread)
        self._chore: Chore | None = None
        self._rate = rate
        self._interval = interval
        self._now = now
        self._done = done
        self._running: Deferred[None] | None = None
        self._stopping = False
        self.current: Pass | None = None
        """The pass under way."""
        self.last: Pass | None = None
        """The pass that ended last since the daemon's start."""
        self.rotten = 0
        """Rotten blobs found since the daemon's start, by passes that have ended."""

    def look(self) -> None:
        """Begin, or go on with, a pass that is due; for every minute."""
        if not self._rate or self._running is not None or self._stopping:
            return
        latest = next(iter(self._index.scrubs()), None)
        if latest is not None and latest.finished is None:
            self._begin(Pass(latest, self._rate))
        elif latest is None or self._now() >= latest.started + self._interval:
            self._begin(Pass(ScrubRecord(self._now()), self._rate))

    async def hurry(self) -> Pass:
        """Begin a pass at full speed, instead of the one under way unless that is one already. Returns it."""
        if self.current is not None and self.current.rate is not None:
            await self._end()
        if self.current is not None:
            return self.current
        current = Pass(ScrubRecord(self._now()), None)
        self._begin(current)
        return current

    async def calm_down(self) -> None:
        """Let a pass at full speed go on at the rate that is set; end it when there is none."""
        if not self._rate:
            await self._end()
        elif self.current is not None:
            self.current.rate = self._rate

    def _begin(self, current: Pass) -> None:
        self.current = current
        self._chore = self._new_chore()
        self._running = Deferred.fromCoroutine(self._run(current, self._chore)).addErrback(self._failed)
        self._running.addCallback(self._over)

    async def _run(self, current: Pass, chore: Chore) -> None:
        before = current.record.rotten
        try:
            complete = await chore.run(scrub(self._store, current))
        finally:
            self.rotten += current.record.rotten - before
            self.last = current
        if complete:
            current.record = evolve(current.record, finished=self._now())
            self._index.record_scrub(current.record)
            log.info(
                "a scrub has read {blobs} blobs, {bytes} bytes; {rotten} were rotten",
                **asdict(current.record),
            )
            self._done()

    def _failed(self, failure: Failure) -> None:
        if failure.check(RegcachdError, OSError):
            log.error("the scrub ended early: {why}", why=failure.getErrorMessage())
        else:
            log.failure("the scrub ended early", failure)

    def _over(self, _: None) -> None:
        self._running = self.current = None

    async def _end(self) -> None:
        if self._chore is not None:
            self._chore.end()
        await after(self._running)

    async def stop(self) -> None:
        """End the pass after its step; the next daemon goes on with it."""
        self._stopping = True
        await self._end()
