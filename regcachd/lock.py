"""The store's lock: one daemon at a time works on a store, however many workers that daemon has.

`<store>/lock` is locked (flock) for as long as the daemon's main process lives, and says its process id. The kernel
frees the lock of a process that was killed; the number it has left in the file then says that it did not stop
in an orderly way.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from .errors import RegcachdError


class StoreInUse(RegcachdError):
    """Another daemon works on this store."""


class StoreLock:
    """A lock that is held from the making of this object to `release`, over a fork into the background too."""

    def __init__(self, directory: Path) -> None:
        """Raises StoreInUse, and OSError when the directory does not let us."""
        self.path = directory / "lock"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._read()
            os.close(self._fd)
            raise StoreInUse(
                f"another regcachd{f', process {holder},' if holder else ''} works on the store {directory}; "
                "stop it first, or give this one a store of its own with --store or [store] path"
            ) from None
        except BaseException:
            os.close(self._fd)
            raise
        self.was_left = bool(self._read())
        """Did the daemon before us end without releasing it?"""

    def _read(self) -> str:
        return os.pread(self._fd, 20, 0).decode("ascii", "replace").strip()

    def sign(self) -> None:
        """Write our process id: when it is final, after a fork into the background. Raises OSError."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def is_in_place(self) -> bool:
        """Is the file still where we locked it? Not when the store's filesystem is gone, or hidden by another."""
        try:
            found, ours = os.stat(self.path), os.fstat(self._fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def release(self) -> None:
        """Let the next daemon have the store; the file stays, empty."""
        if self._fd >= 0:
            with suppress(OSError):  # on a failing disk the next daemon looks more closely than it has to
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1
