"""A partial: the file of a blob that is being filled, and how far it is.

    <hex>          the bytes so far
    <hex>.state    two little-endian 64-bit numbers, total and committed (both bytes; total is 2**64-1 while
                   unknown); committed never exceeds what is in the file

The file is locked (flock) by whoever fills it, so that a digest is downloaded once, and a lock whose
holder was killed is freed by the kernel.
"""

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from .reference import Digest

_STATE = struct.Struct("<QQ")
_UNKNOWN = 2**64 - 1


class Partial:
    """An open, locked partial. Its methods wait for the disk and belong into a disk thread."""

    def __init__(self, path: Path, digest: Digest, fd: int, state: mmap.mmap) -> None:
        self.path = path
        self.digest = digest
        self.fd = fd
        self.size = 0
        self._state = state
        self._hasher = digest.hasher()

    @classmethod
    def create(cls, path: Path, digest: Digest, total: int | None) -> "Partial":
        """Open and lock the file at `path`, emptying what an earlier fill has left.

        Raises BlockingIOError when another process fills it, OSError when the disk does not let us.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            state_fd = os.open(_state_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.pwrite(
                    state_fd, _STATE.pack(_UNKNOWN if total is None else total, 0), 0
                )  # so that ENOSPC is here
                state = mmap.mmap(state_fd, _STATE.size)
            finally:
                os.close(state_fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, digest, fd, state)

    def append(self, pieces: Sequence[bytes]) -> int:
        """Write and hash the next bytes; returns how many they were. Raises OSError."""
        views = [memoryview(piece) for piece in pieces]
        for piece in pieces:
            self._hasher.update(piece)
        written = 0
        while views:
            count = os.pwritev(self.fd, views[:512], self.size + written)
            if not count:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            written += count
            while views and count >= len(views[0]):
                count -= len(views.pop(0))
            if count:
                views[0] = views[0][count:]
        self.size += written
        self._state[8:16] = self.size.to_bytes(8, "little")
        return written

    def verified(self) -> bool:
        """Do the bytes so far have the digest?"""
        return self._hasher.hexdigest() == self.digest.hex

    def sync(self) -> None:
        """Make the bytes durable, and read-only. Raises OSError."""
        os.fchmod(self.fd, 0o440)
        os.fsync(self.fd)

    def forget_state(self) -> None:
        """Remove the state file: the blob is stored."""
        _state_path(self.path).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the files: the bytes were wrong."""
        self.path.unlink(missing_ok=True)
        self.forget_state()

    def close(self) -> None:
        """Give up the lock and the descriptor; the files stay as they are."""
        if self.fd >= 0:
            self._state.close()
            os.close(self.fd)
            self.fd = -1


def _state_path(path: Path) -> Path:
    return path.with_name(path.name + ".state")
