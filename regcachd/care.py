"""What a daemon does once for a store, however many workers it has: its main process holds the store's lock, makes the
index agree with the files, scrubs, sweeps up, and answers on the admin socket."""

import errno
from collections.abc import Callable, Iterable
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from .admin import Admin, Command, Document
from .config import Config
from .disk import DiskThreads
from .eviction import evict_blindly
from .index import TICK, Index
from .leftovers import PartialFile, partials, sweep
from .lock import StoreLock
from .recovery import Recovery
from .scrub import Pass, Scrub
from .sockets import socket_path
from .store import Store, StoreUnusable

log = Logger()

_THREADS = 2
"""One for what takes long, and one for those who want to know about it."""
_LOOK = 60.0
"""Seconds between looks whether the store is where it was, and whether a scrub is due."""
_SWEEP = 3600.0
"""Seconds between sweeps of old partials."""
_GIVEN_UP = 8
"""Blobs, at most, that are given up on a full disk to make room for an index."""


class Care:
    """The store's keeper. `shrink` is called when blobs may have become known that count against the limits."""

    def __init__(
        self,
        reactor: Any,
        config: Callable[[], Config],
        store: Store,
        index: Index,
        now: Callable[[], float],
        shrink: Callable[[], None],
        commands: Iterable[Command] = (),
    ) -> None:
        """Takes the store's lock. `config` gives the configuration that holds; `commands` are what the daemon can be
        asked for besides those of the store.

        Raises StoreInUse and StoreUnusable.
        """
        self._config = config
        fixed = config()
        self._store = store
        self._index = index
        self._now = now
        self._threads = DiskThreads(reactor, "regcachd-care", _THREADS)
        run = self._threads.run
        try:
            self._lock = StoreLock(store.path)
        except OSError as error:
            raise StoreUnusable(
                f"the store {store.path} cannot be locked: {error.strerror or error}"
            ) from error
        self.recovery = Recovery(reactor, store, run, fixed.store.partial_ttl, now, shrink)
        self.scrub = Scrub(
            reactor,
            store,
            index,
            run,
            fixed.store.scrub_rate,
            fixed.store.scrub_interval,
            now,
            self.recovery.start,
        )
        self.admin = Admin(reactor, socket_path(fixed), (*self._commands(), *commands))
        self.trouble: str | None = None
        """What is wrong with the store as a whole."""
        self._chores = {
            LoopingCall(self.tick): TICK,
            LoopingCall(self._look): _LOOK,
            LoopingCall(self._sweep): _SWEEP,
        }
        for chore in self._chores:
            chore.clock = reactor

    def _commands(self) -> tuple[Command, ...]:
        return (
            Command("GET", "/store", self._say_store),
            Command("GET", "/scrub", self._say_scrub),
            Command("POST", "/scrub", self._begin_scrub),
            Command("DELETE", "/scrub", self._calm_scrub),
        )

    # -- from the start to the end

    def begin(self) -> None:
        """Before anything listens: sign the lock, open the index, open the admin socket. Raises RegcachdError."""
        try:
            self._lock.sign()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise StoreUnusable(
                    f"the store {self._store.path} cannot be written to: {error.strerror or error}"
                ) from error
        self._index.open(or_later=True)
        for _ in range(_GIVEN_UP):
            if self._index.is_open or not evict_blindly(self._store):
                break
            self._index.tick()
        self.admin.listen()

    def start(self) -> None:
        """Begin the work in the background."""
        if self._lock.was_left:
            log.info("the daemon before this one did not stop in an orderly way: the index is checked")
        if self._index.is_open:  # else that is what `tick` waits for
            if self._index.totals() == (0, 0):
                log.info(
                    "the store {path} is new, or has lost its index: what lies in it is entered",
                    path=str(self._store.path),
                )
            self.recovery.start(check=self._lock.was_left)
        for chore, interval in self._chores.items():
            chore.start(interval, now=False)

    def tick(self) -> None:
        """Look after the index; for every few seconds."""
        if self._index.tick():
            log.warn("the index is rebuilt from the files, while they are served")
            self.recovery.start()

    async def stop(self) -> None:
        """End everything. The lock goes last: then another daemon may have the store."""
        for chore in self._chores:
            if chore.running:
                chore.stop()
        await self.admin.stop()
        await self.scrub.stop()
        await self.recovery.stop()
        self._threads.stop()

    def release(self) -> None:
        """Let the next daemon have the store: when nothing of this one uses it any more."""
        self._lock.release()

    def _look(self) -> None:
        self._look_at_place()
        if self.trouble is None and self.recovery.running is None:
            self.scrub.look()

    def _look_at_place(self) -> None:
        """Said once a minute while it lasts."""
        self.trouble = None
        if not self._lock.is_in_place():
            self.trouble = (
                f"the store {self._store.path} is not the directory this daemon began with: was its filesystem "
                "unmounted, or the directory removed? Bring it back, or restart regcachd to begin with another"
            )
        elif not self._store.is_writable():
            self.trouble = (
                f"the store {self._store.path} cannot be written to: is its filesystem read-only now?"
            )
        if self.trouble is not None:
            log.error("{trouble}", trouble=self.trouble)

    def _sweep(self) -> "Deferred[None]":
        now = self._now()
        sweeping = self._threads.run(sweep, self._store, now - self._config().store.partial_ttl, now - _SWEEP)

        def failed(failure: Any) -> None:
            failure.trap(OSError)
            log.error("old partials were not removed: {why}", why=failure.getErrorMessage())

        return sweeping.addCallbacks(lambda _: None, failed)

    # -- commands

    async def _say_store(self, _: Document) -> Document:
        self._look_at_place()
        try:
            filesystem, free = await self._threads.run(self._store.space)
        except OSError as error:
            raise StoreUnusable(self.trouble or str(error)) from error
        waiting = await self._threads.run(partials, self._store)
        blobs, stored = self._index.totals()
        limits = self._config().store
        return {
            "path": str(self._store.path.absolute()),
            "blobs": blobs,
            "bytes": stored,
            "max_size": limits.max_size.resolve(filesystem),
            "min_free": limits.min_free.resolve(filesystem),
            "filesystem": {"size": filesystem, "free": free},
            "oldest_use": self._index.oldest_use(),
            "partials": [_describe(partial) for partial in waiting],
            "recovering": self.recovery.running is not None,
            "scrub": self._scrub_document(),
            "trouble": self.trouble,
            "now": self._now(),
        }

    async def _say_scrub(self, _: Document) -> Document:
        return self._scrub_document()

    async def _begin_scrub(self, _: Document) -> Document:
        self._look_at_place()
        if self.trouble is not None:
            raise StoreUnusable(self.trouble)
        await self.scrub.hurry()
        return self._scrub_document()

    async def _calm_scrub(self, _: Document) -> Document:
        await self.scrub.calm_down()
        return self._scrub_document()

    def _scrub_document(self) -> Document:
        """The pass under way, and those that are over; all times are seconds since the epoch."""
        blobs, stored = self._index.totals()
        finished = [record for record in self._index.scrubs() if record.finished is not None]
        return {
            "current": _describe_pass(self.scrub.current),
            "last": _describe_pass(self.scrub.last),
            "finished": [asdict(record) for record in finished],
            "blobs": blobs,
            "bytes": stored,
            "rate": self._config().store.scrub_rate,
            "interval": self._config().store.scrub_interval,
        }


def _describe(partial: PartialFile) -> Document:
    return {
        "digest": str(partial.digest),
        "bytes": partial.committed,
        "total": partial.total,
        "changed": partial.changed,
    }


def _describe_pass(current: Pass | None) -> Document | None:
    if current is None:
        return None
    return {
        **asdict(current.record),
        "full_speed": current.rate is None,
        "rotten_digests": [str(digest) for digest in current.rotten],
    }
