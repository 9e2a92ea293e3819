"""Eviction: keeps the store within its limits, least recently used first.

Blobs are unlinked in a disk thread in small batches, since unlinking a large file may take a while. Their rows go
first: a blob that is fetched again at that moment gets its row after that, and what a crash leaves without a
row is adopted by recovery.py. Readers of an evicted blob keep their descriptor and get every byte.

Of several workers one evicts at a time: it holds a lock on the store's file evict.lock. The others let it be, since
it looks at the whole store until nothing is left to do.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .config import StoreConfig
from .disk import InThread
from .index import Index
from .lru import choose, excess
from .reference import Digest
from .shelves import contents, shelves
from .store import Store, StoreUnusable

log = Logger()

BATCH = 100
"""Blobs unlinked in one go."""


@define(eq=False)
class Eviction:
    """One store's eviction: at most one round at a time."""

    _store: Store
    _index: Index
    _limits: Callable[[], StoreConfig]
    _in_thread: InThread
    _round: "Deferred[None] | None" = field(default=None, init=False)
    _stopping: bool = field(default=False, init=False)
    evicted: int = field(default=0, init=False)
    """Blobs evicted since the start."""

    def wake(self) -> None:
        """Look whether there is something to do, and do it."""
        if self._round is None and not self._stopping:
            self._round = Deferred.fromCoroutine(self._alone()).addErrback(self._failed)
            self._round.addCallback(self._over)

    def _over(self, _: None) -> None:
        self._round = None

    def _failed(self, failure: Failure) -> None:
        log.failure("eviction failed; it is tried again", failure)

    async def _alone(self) -> None:
        with _locked(self._store) as alone:
            if alone:
                await self._shrink()

    async def _shrink(self) -> None:
        while not self._stopping:
            try:
                total, free = await self._in_thread(self._store.space)
            except OSError as error:
                log.error("the store's filesystem does not say how full it is: {why}", why=error)
                return
            limits = self._limits()
            need = excess(
                self._index.bytes_stored(),
                limits.max_size.resolve(total),
                free,
                limits.min_free.resolve(total),
            )
            sizes = dict(self._index.least_recently_used(BATCH))
            digests = choose(sizes.items(), need)
            if not digests:
                return
            known = self._index.remove(digests)
            left = await self._in_thread(self._unlink, digests)
            if known:
                self._index.adopt((digest, sizes[digest], 0.0) for digest in left)
            else:  # on a full disk there may be room for it now
                known = self._index.remove(digests[: len(digests) - len(left)])
            evicted = len(digests) - len(left)
            self.evicted += evicted
            log.info("evicted {count} blobs to make room", count=evicted)
            if left or not known:
                return

    def _unlink(self, digests: list[Digest]) -> list[Digest]:
        """In a thread: remove the files, and say which are still there."""
        for done, digest in enumerate(digests):
            try:
                self._store.remove(digest)
            except OSError as error:
                log.error("{digest} cannot be evicted: {why}", digest=str(digest), why=error)
                return digests[done:]
        return []

    async def stop(self) -> None:
        """Wait for the round under way to end after its batch."""
        self._stopping = True
        await self.idle()

    async def idle(self) -> None:
        """Wait for the round under way."""
        if self._round is not None:
            await self._round


def evict_blindly(store: Store) -> bool:
    """Remove a large blob, whatever its last use, because not even the index that would know it has room. False when
    there is none, or it cannot be removed. Waits for the disk."""
    try:
        for shelf in shelves(store):
            blobs = contents(shelf).blobs
            if blobs:
                largest = max(blobs, key=lambda blob: blob.size)
                store.remove(largest.digest)
                log.warn("evicted {digest} to make room for the index", digest=str(largest.digest))
                return True
    except (StoreUnusable, OSError) as error:
        log.error("nothing can be evicted to make room for the index: {why}", why=error)
    return False


@contextmanager
def _locked(store: Store) -> Iterator[bool]:
    """Try to be the one who evicts; says whether that succeeded. The kernel frees a dead worker's lock."""
    try:
        lock = os.open(store.eviction_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError:  # a disk so full that it has no room for an empty file: two who evict do no harm
        yield True
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(lock)
