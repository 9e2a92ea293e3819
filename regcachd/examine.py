"""Is a stored blob still what its name says? Read and hashed without disturbing whoever else uses the disk.

Pages that were not in the page cache are dropped again when they have been hashed, so that looking at everything does
not push out what clients want.
"""

import errno
import os

from twisted.logger import Logger

from .index import Index
from .partial import MODE, is_at
from .reference import Digest
from .store import Store

log = Logger()

STEP = 1024 * 1024
"""Bytes read and hashed in one step."""
_NOT_CACHED = (errno.EAGAIN, errno.EOPNOTSUPP)
_MEDIUM = (errno.EIO, errno.ENODATA, errno.EBADMSG, errno.EUCLEAN)
"""What a bad sector is to disks and filesystems; the last two, a checksum that is wrong."""


def is_medium(error: BaseException | None) -> bool:
    """Is it the medium under one file that fails, rather than the store as a whole?"""
    return isinstance(error, OSError) and error.errno in _MEDIUM


class Examination:
    """Hashes a blob's file step by step: an iterator over the bytes (a number) of each step. Then `right` says what
    came out, and `why` what is wrong. A medium that cannot be read any more is as wrong as other bytes. Iterating
    raises OSError when it is not the medium that fails but the store as a whole."""

    def __init__(self, digest: Digest, fd: int) -> None:
        self._digest = digest
        self._fd = fd
        self._hasher = digest.hasher()
        self._offset = 0
        self._buffer = memoryview(bytearray(STEP))
        self.right = False
        self.why = ""
        # no reading ahead: what the kernel reads for us unasked could not be told from what others have read
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def __iter__(self) -> "Examination":
        return self

    def __next__(self) -> int:
        if self.why:
            raise StopIteration
        try:
            count = read_quietly(self._fd, self._offset, self._buffer)
        except OSError as error:
            if not is_medium(error):
                raise
            self.why = f"it cannot be read at byte {self._offset}: {error.strerror}"
            raise StopIteration from None
        if not count:
            self.right = self._hasher.hexdigest() == self._digest.hex
            self.why = "" if self.right else f"its {self._offset} bytes have another digest"
            raise StopIteration
        self._hasher.update(self._buffer[:count])
        self._offset += count
        return count


def read_quietly(fd: int, offset: int, buffer: memoryview) -> int:
    """Read at most len(buffer) bytes from `offset` on and leave the page cache as it was; 0 at the end."""
    try:
        cached = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        if cached == len(buffer):
            return cached
    except OSError as error:
        if error.errno not in _NOT_CACHED:
            raise
        cached = 0
    start = offset + cached
    count = os.preadv(fd, [buffer[cached:]], start)
    if count:
        os.posix_fadvise(fd, start, count, os.POSIX_FADV_DONTNEED)
    return cached + count


def remove_rotten(store: Store, index: Index, digest: Digest, fd: int, why: str) -> None:
    """Remove a blob that is not what its name says, and leave the name if another file has taken it. Raises OSError.

    Whoever is reading the file, in this process or another, does not come to its end: that response is cut.
    """
    if is_at(fd, store.blob_path(digest)):
        index.remove([digest])
        discard(store, digest, why)
    _empty(digest, fd)


def _empty(digest: Digest, fd: int) -> None:
    """Take the bytes from under all descriptors of a file that has no name any more."""
    try:
        os.fchmod(fd, MODE)
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC))
    except OSError as error:
        log.error(
            "{digest}, which was rotten, may still be read to its end: {why}", digest=str(digest), why=error
        )


def discard(store: Store, digest: Digest, why: str) -> None:
    """Remove the file of a rotten blob, whose row is gone. Raises OSError."""
    store.remove(digest)
    log.error(
        "{digest} was rotten and is removed: {why}; it is fetched again on demand",
        digest=str(digest),
        why=why,
    )
