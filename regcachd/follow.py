"""Following a fill of another process: its growing file is read here, and taken over should that process die.

The filler writes the state file at every step, which inotify tells at once and at no cost while nothing
happens. When the filler's last writing descriptor on the partial is closed, by itself or by the kernel
because the process is gone, inotify tells that too: if the state does not say how it ended, and the lock is free, the
fill has been orphaned, and `orphaned` is called with the lock held.

Where inotify cannot be had (its watches are limited per user), the files are looked at every POLL seconds.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.inotify import IN_CLOSE_WRITE, IN_MODIFY, IN_MOVE_SELF, INotify
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python._inotify import INotifyError
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

from .growing import FillFailed, Growing, StoreFailed
from .partial import Phase, State, is_at, state_path, try_lock, unlock
from .reference import Digest

log = Logger()

POLL = 0.02
"""Seconds between looks without inotify."""
SOON = (0.01, 0.03, 0.1, 0.3)
"""Seconds after which the lock is tried again when the filler has closed the file."""
CHECK = 1.0
"""Seconds between looks with it, in case something was missed."""


class Watches:
    """This process's inotify, made when first needed."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._inotify: Any = None

    def watch(self, path: Path, mask: int, call: Callable[[], None]) -> bool:
        """Call `call` at these events; False when the kernel gives no watch."""
        try:
            if self._inotify is None:
                self._inotify = INotify(self._reactor)
                self._inotify.startReading()
            self._inotify.watch(FilePath(str(path)), mask, callbacks=[lambda *_: call()])
        except (INotifyError, OSError) as error:
            log.warn(
                "no inotify watch, looking at a fill every {poll} s instead: {why}", poll=POLL, why=error
            )
            return False
        return True

    def forget(self, path: Path) -> None:
        """No more calls for this path."""
        if self._inotify is not None:
            with suppress(KeyError, INotifyError):  # the kernel has forgotten it with the file
                self._inotify.ignore(FilePath(str(path)))

    def stop(self) -> None:
        """Give the descriptor back."""
        if self._inotify is not None:
            self._inotify.connectionLost(Failure(CONNECTION_DONE))
            self._inotify = None


@define(eq=False)
class Follower:
    """One fill elsewhere, followed. Its `growing` is what readers see."""

    growing: Growing
    _path: Path
    _state_fd: int
    _watches: Watches
    _clock: Any
    _ended: "Callable[[Follower], None]"
    """Called when it is over: the growing blob has come to its end."""
    _orphaned: "Callable[[Follower, int], None]"
    """Called, instead, with a descriptor that holds the lock, when this process has to go on with the fill."""
    news: "Deferred[None]" = field(factory=Deferred, init=False)
    """Fires when anything is known of the fill; until then upstream may still say no to the filler."""
    _check: Any = field(default=None, init=False)
    _soon: list[Any] = field(factory=list, init=False)
    _is_over: bool = field(default=False, init=False)

    @classmethod
    def open(cls, path: Path, digest: Digest, **parts: Any) -> "Follower | None":
        """Follow the fill of the partial at `path`; None when that has gone. Raises OSError."""
        opened: list[int] = []
        try:
            for each in (path, state_path(path)):
                opened.append(os.open(each, os.O_RDONLY | os.O_CLOEXEC))
            if is_at(opened[0], path):  # else the state may be that of the next fill
                return cls(Growing(digest, opened[0]), path, opened[1], **parts)
        except FileNotFoundError:
            pass
        except OSError:
            _close_all(opened)
            raise
        _close_all(opened)
        return None

    def begin(self) -> None:
        """Begin to watch."""
        heard = self._watches.watch(state_path(self._path), IN_MODIFY, self.look)
        # not IN_DELETE_SELF: Twisted's INotify would close itself; a file that is deleted is closed, too
        heard &= self._watches.watch(self._path, IN_CLOSE_WRITE | IN_MOVE_SELF, self._closed)
        self._check = LoopingCall(self.look_closely)
        self._check.clock = self._clock
        self._check.start(CHECK if heard else POLL, now=True)

    def _closed(self) -> None:
        """The filler has closed it. One that is killed closes its descriptors in any order, the lock perhaps last."""
        self.look_closely()
        if not self._is_over and not any(call.active() for call in self._soon):
            self._soon = [self._clock.callLater(delay, self.look_closely) for delay in SOON]

    def look(self) -> None:
        """The state has changed."""
        if self._is_over:
            return
        try:
            state = State.read(self._state_fd)
        except OSError as error:
            self._end(FillFailed(f"the state of a fill cannot be read: {error}"))
            return
        self.growing.total = state.total
        if state.committed > self.growing.watermark:
            self.growing.grown(state.committed)
        if state.phase is Phase.VERIFIED and not self.growing.is_verified:
            self.growing.verified()  # it is followed on until it is stored, too
        elif state.phase is Phase.GIVEN_UP:
            self._end(FillFailed(f"the fill of {self.growing.digest} was given up; the log says why"))
        elif state.phase is Phase.STORE_FAILED:
            self._end(StoreFailed("the store failed; the log says how"))
        if self.growing.has_begun:
            self._tell()

    def look_closely(self) -> None:
        """Perhaps the filler is gone, or has made a blob of it."""
        self.look()
        if not self._is_over and self.growing.is_verified and not is_at(self.growing.fd, self._path):
            self._end(FillFailed("the blob is stored"))  # to nobody, since it is verified
        if self._is_over or not try_lock(self.growing.fd):
            return
        lock_fd = os.dup(self.growing.fd)
        self.look()  # what it said last, before it let go
        if not self._is_over and is_at(lock_fd, self._path):
            self._is_over = True
            self._leave()
            self._orphaned(self, lock_fd)
            self._tell()
            return
        unlock(lock_fd)
        os.close(lock_fd)
        if not self._is_over:
            self._end(FillFailed(f"the fill of {self.growing.digest} was removed"))

    def _end(self, error: FillFailed) -> None:
        """It is over; the error counts unless the digest is known to be right."""
        self._is_over = True
        self._leave()
        self.growing.failed(error)
        self._ended(self)
        self._tell()

    def _tell(self) -> None:
        if not self.news.called:
            self.news.callback(None)

    def _leave(self) -> None:
        self._watches.forget(self._path)
        self._watches.forget(state_path(self._path))
        os.close(self._state_fd)
        if self._check is not None and self._check.running:
            self._check.stop()
        for call in self._soon:
            if call.active():
                call.cancel()

    def stop(self) -> None:
        """Follow no longer."""
        if not self._is_over:
            self._end(FillFailed("regcachd is stopping"))


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
