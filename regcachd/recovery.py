"""Recovery: after every start the index is made to agree with the files, while the daemon serves.

The files are the truth. A file without a row is adopted, with the time it was last read or written as its last
use; a row without a file is dropped; a file whose size is not what its row says is hashed, and removed if it is
wrong. Leftovers of fills go (leftovers.py). All of it is done in small steps with rests, a million blobs in a few
minutes; lookups need none of it, since blobs are found by their files.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .chore import Chore, Steps, after
from .disk import InThread
from .errors import RegcachdError
from .examine import Examination, remove_rotten
from .index import PATIENCE_IN_THREAD, Index
from .leftovers import names, sweep
from .reference import Digest
from .shelves import BlobFile, Shelf, contents, shelves, strangers
from .store import Store

log = Logger()

T = TypeVar("T")

_CHANGES = 200
"""Rows that are changed in one transaction, for which others may have to wait: a few milliseconds."""
_CHANGING = 0.01
"""Seconds a step that changes rows may take up."""
_LOOKING = 2e-5
"""Seconds for each file of a shelf that is only looked at."""
_SYNCING = 20
"""Steps with changes after which the index's log is moved into its file, lest it grow large."""
_SHOWN = 5
"""Foreign files that are named; of the others there is a count."""


@define
class Tally:
    """What one reconciliation came to."""

    adopted: int = 0
    dropped: int = 0
    rotten: int = 0
    foreign: list[Path] = field(factory=list)

    @property
    def changed(self) -> bool:
        """Did the index differ from the files?"""
        return bool(self.adopted or self.dropped or self.rotten)


def reconcile(store: Store, index: Index, tally: Tally) -> Steps:
    """Make the index agree with the files. Raises StoreUnusable when the store is gone, OSError when it fails."""
    tally.foreign += strangers(store)
    steps = 0
    for shelf in shelves(store):
        found = contents(shelf)
        tally.foreign += found.foreign
        yield _LOOKING * len(found.blobs)
        for change in _changes(store, index, shelf, found.blobs, tally):
            yield change
            steps += 1
            if steps % _SYNCING == 0:
                index.checkpoint()
                yield 0.0


def _changes(store: Store, index: Index, shelf: Shelf, blobs: list[BlobFile], tally: Tally) -> Steps:
    rows = index.sizes(shelf.key)
    orphans = []
    for blob in blobs:
        size = rows.pop(str(blob.digest), None)
        if size is None:
            orphans.append(blob)
        elif size != blob.size:
            yield from _judge(store, index, blob, tally)
    for some in _by(_CHANGES, iter(orphans)):
        # once more: one that was evicted since has lost its file and its row, in this order or the other
        there = [blob for blob in some if store.blob_path(blob.digest).exists()]
        index.adopt((blob.digest, blob.size, blob.last_use) for blob in there)
        tally.adopted += len(there)
        yield _CHANGING
    for texts in _by(_CHANGES, iter(rows)):
        # once more: a blob may have been stored since the directory was read
        gone = [digest for digest in map(Digest.parse, texts) if not store.blob_path(digest).exists()]
        index.remove(gone)
        tally.dropped += len(gone)
        yield _CHANGING


def _judge(store: Store, index: Index, blob: BlobFile, tally: Tally) -> Steps:
    """A file has another size than its row: is it the file that is wrong?"""
    opened = store.open(blob.digest)
    if opened is None:
        return
    try:
        examination = Examination(blob.digest, opened.fd)
        for _ in examination:
            yield 0.0
        if examination.right:
            index.remove([blob.digest])
            index.adopt([(blob.digest, opened.size, blob.last_use)])
            tally.adopted += 1
        else:
            remove_rotten(store, index, blob.digest, opened.fd, examination.why)
            tally.rotten += 1
    finally:
        opened.close()
    yield _CHANGING


def _by(count: int, items: Iterator[T]) -> Iterator[list[T]]:
    while some := list(islice(items, count)):
        yield some


def recover(store: Store, now: float, partial_ttl: float, check: bool, tally: Tally) -> Steps:
    """All of it, with an index of its own. `check` is for when the daemon before did not stop in an orderly way: all of
    the index is read then, to see whether it is damaged. Raises as `reconcile` does, and DatabaseUnusable."""
    index = Index(store.index_path, PATIENCE_IN_THREAD)
    index.open()
    try:
        if check:
            index.check()
            index.tick()  # sets a damaged one aside, so that what follows builds another
            yield 0.0
        sweep(store, now - partial_ttl, now)
        tally.foreign += names(store).foreign
        yield 0.0
        yield from reconcile(store, index, tally)
        index.checkpoint()
    finally:
        index.close()


class Recovery:
    """Runs `recover` at the start, and again when the index has been replaced. `done` is told of each end."""

    def __init__(
        self,
        reactor: Any,
        store: Store,
        in_thread: InThread,
        partial_ttl: float,
        now: Callable[[], float],
        done: Callable[[], None],
    ) -> None:
        self._store = store
        self._new_chore = lambda: Chore(reactor, in_thread)
        self._chore: Chore | None = None
        self._partial_ttl = partial_ttl
        self._now = now
        self._done = done
        self._wanted = False
        self._stopping = False
        self._named: set[Path] = set()
        self.running: Deferred[None] | None = None
        """Fires with None when it is over; None when it is."""

    def start(self, *, check: bool = False) -> None:
        """Begin; once more after that, if it is running."""
        self._wanted = True
        if self.running is None:
            self.running = Deferred.fromCoroutine(self._run(check)).addErrback(self._failed)
            self.running.addCallback(self._over)

    async def _run(self, check: bool) -> None:
        while self._wanted and not self._stopping:
            self._wanted = False
            tally = Tally()
            work = recover(self._store, self._now(), self._partial_ttl, check, tally)
            self._chore = self._new_chore()
            if await self._chore.run(work):
                self._report(tally)
            check = False

    def _report(self, tally: Tally) -> None:
        if tally.changed:
            log.info(
                "the index agrees with the files again: {adopted} blobs adopted, {dropped} rows without a blob "
                "dropped, {rotten} rotten blobs removed",
                adopted=tally.adopted,
                dropped=tally.dropped,
                rotten=tally.rotten,
            )
        foreign = sorted(set(tally.foreign) - self._named)
        if foreign:
            self._named.update(foreign)
            log.warn(
                "the store holds {count} files that are not ours, which are left alone: {names}",
                count=len(foreign),
                names=", ".join(map(str, foreign[:_SHOWN])) + (" ..." if len(foreign) > _SHOWN else ""),
            )

    def _failed(self, failure: Failure) -> None:
        if failure.check(RegcachdError, OSError):
            log.error("the index was not compared with the files: {why}", why=failure.getErrorMessage())
        else:
            log.failure("the index was not compared with the files", failure)

    def _over(self, _: None) -> None:
        self.running = None
        if not self._stopping:
            self._done()

    async def stop(self) -> None:
        """End it after the step under way."""
        self._stopping = True
        if self._chore is not None:
            self._chore.end()
        await after(self.running)
