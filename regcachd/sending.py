"""A file on its way to a client, read and sent by turns.

    page cache --preadv--> one reused buffer --SSL_write--> socket          (TLS)
    page cache ----------------sendfile-------------------> socket          (plain HTTP, and TLS by the kernel)

The buffer is one per process, because each use of it ends before the next begins.

Rules that hold this together, and `transport` with it:

1. The reactor's thread never waits for a disk: files are read with RWF_NOWAIT, and what is not in the
   page cache is read by a disk thread while other connections go on.
2. One connection sends at most TURN bytes before the reactor looks at the others.
3. A blocked TLS connection keeps nothing: what the client has not taken is read again from the page cache when
   it takes more. OpenSSL demands that a write it could not finish is repeated with the same bytes, no
   fewer (SSL_write(3), SSL_ERROR_WANT_WRITE): `again` says how many. It need not be the same address, because every
   context used here has SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER (`tls.MODE`). Where the kernel encrypts (`kernel_tls`)
   nothing of this holds: the socket is written to as in plain.
"""

import errno
import os
from collections.abc import Callable

from twisted.internet.defer import Deferred

from .errors import RegcachdError

CHUNK = 128 * 1024
"""Bytes read from a file, and given to OpenSSL, at once: enough to make Python's part in it small, and little enough
to stay in the processor's L2 cache."""

TURN = 1024 * 1024
"""Bytes one connection may send per turn of the reactor."""

_buffer = memoryview(bytearray(CHUNK))


class FileUnreadable(RegcachdError):
    """The file behind a response could not be read to the end; the response must be cut. Its cause is an OSError, or
    none when the file has become shorter."""


class Sending:
    """`count` bytes of a file from `offset`; both go on with what the client takes.

    `held` is what a thread has read from its beginning; `again` is how many bytes of it OpenSSL has begun to send.
    `done` is for the connection to fire.
    """

    __slots__ = ("again", "count", "done", "fd", "held", "offset")

    def __init__(self, fd: int, offset: int, count: int) -> None:
        self.fd = fd
        self.offset = offset
        self.count = count
        self.held: bytes | None = None
        self.again = 0
        self.done: Deferred[None] = Deferred()

    def encrypt(self, send: Callable[[memoryview], int]) -> bool:
        """Send up to a turn through TLS; False when the next bytes must come from the disk.

        `send` is that of a `TLSSocket`. Raises FileUnreadable, OSError when the connection is lost.
        """
        budget = TURN
        while self.count and budget > 0:
            if self.held is not None:
                view, self.held = memoryview(self.held), None
            else:
                got = self._read_warm(_buffer[: min(CHUNK, self.count)], self.offset)
                if got is None or got < self.again:
                    return False
                view = _buffer[:got]
            at, end = 0, len(view)
            try:
                while at < end:
                    at += send(view[at:])
                self.again = 0
            except BlockingIOError:
                self.again = end - at  # rule 3
                budget = 0
            self.offset += at
            self.count -= at
            budget -= at
        return True

    def sendfile(self, to: int) -> bool:
        """Send up to a turn as it is to the socket `to`; False when the next bytes must come from the disk.

        sendfile(2) would sleep on the disk, so it runs only over a stretch whose two ends are in the page
        cache (read-ahead fills what lies between) or which a thread has just read. Raises as `encrypt`.
        """
        stretch = min(self.count, TURN)
        if self.held is not None:
            stretch, self.held = len(self.held), None
        else:
            for at in (self.offset, self.offset + stretch - 1):
                if self._read_warm(_buffer[:1], at) is None:
                    return False
        try:
            sent = os.sendfile(to, self.fd, self.offset, stretch)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno == errno.EIO:
                raise FileUnreadable(f"reading a stored blob failed: {error}") from error
            raise
        if not sent:
            raise FileUnreadable("a stored blob is shorter than its recorded size")
        self.offset += sent
        self.count -= sent
        return True

    def _read_warm(self, view: memoryview, at: int) -> int | None:
        """Read from the page cache into `view`; None when that would have to wait for the disk.

        Raises FileUnreadable. Where nothing comes, `read_cold` finds out why.
        """
        try:
            return os.preadv(self.fd, [view], at, os.RWF_NOWAIT) or None
        except OSError as error:
            # EOPNOTSUPP: a file system without RWF_NOWAIT (some network ones): there a thread reads everything
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
                return None
            raise FileUnreadable(f"reading a stored blob failed: {error}") from error

    def read_cold(self) -> bytes:
        """In a thread: read what is not in the page cache, and ask the kernel to read on ahead. Raises OSError."""
        os.posix_fadvise(self.fd, self.offset, 8 * CHUNK, os.POSIX_FADV_WILLNEED)
        return os.pread(self.fd, min(self.count, CHUNK), self.offset)

    def hold(self, data: bytes) -> None:
        """Take what `read_cold` has read, to be sent next. Raises FileUnreadable when it is too little."""
        if not data:
            raise FileUnreadable("a stored blob is shorter than its recorded size")
        if len(data) < self.again:
            raise FileUnreadable("a stored blob has become shorter")
        self.held = data
