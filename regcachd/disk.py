"""Disk threads: where everything that may wait for a disk or hash many bytes is done.

The reactor's own thread never sleeps on a file. Two of these exist in a daemon: one for reading stored
blobs that are not in the page cache, one for writing, hashing and syncing fills, so that a burst of
the one never queues behind the other.
"""

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")

InThread = Callable[..., "Deferred[Any]"]
"""`DiskThreads.run`: calls a function in a thread."""


class DiskThreads:
    """A named pool of at most `size` threads, started on first use of `run`."""

    def __init__(self, reactor: IReactorFromThreads, name: str, size: int) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, size, name)
        # a thread that hangs on a dead disk must not keep the process from ending
        self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call `function` in a thread; the Deferred fires in the reactor's thread with what it returns or raises."""
        if not self._pool.started:
            self._pool.start()
        result: Deferred[T] = deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)
        return result

    def stop(self) -> None:
        """Wait for the running calls and end the threads. Calls that are still queued are done first."""
        if self._pool.started:
            self._pool.stop()
