"""A partial: the file of a blob that is being filled, and how far it is.

    <hex>          the bytes so far, perhaps with holes
    <hex>.state    little-endian 64-bit numbers, then one byte per piece; shared by all workers
                     total       bytes of the whole blob, 2**64-1 while unknown
                     committed   bytes from the start that are written and hashed
                     phase       0 filling, 1 verified, 2 given up, 3 given up because the store failed
                   and a 1 for every piece of PIECE bytes that is whole though it lies ahead of `committed`

The file is locked (flock) by the one process that fills it, so that a digest is downloaded once; the lock of a
process that was killed is freed by the kernel. Followers watch both files (see follow.py). The state is read and
written with system calls rather than mapped: those tell inotify, and a bad disk answers them with an error
where it would kill a process that has the file mapped.

Bytes are hashed in order. Those that arrive at the front are hashed on their way to the file; those written
ahead by other connections are read back, from the page cache, when the front reaches them.
"""

import errno
import fcntl
import os
import stat
import struct
from enum import IntEnum
from pathlib import Path

from attrs import frozen

from .errors import RegcachdError
from .extents import Extents
from .reference import Digest

PIECE = 8 * 1024 * 1024
"""Bytes written ahead that survive a crash together."""
_PIECES = 16 * 1024
"""Pieces the state file has room for: blobs of 128 GiB; beyond that, bytes written ahead are lost in a crash."""
_HEAD = struct.Struct("<QQQ")
_UNKNOWN = 2**64 - 1
STATE_SIZE = _HEAD.size + _PIECES
_READ_BACK = 1024 * 1024
MODE = 0o640
"""Permissions while it is written; the store's directories are the owner's alone."""


class Phase(IntEnum):
    """What the filler says of its fill."""

    FILLING = 0
    VERIFIED = 1
    GIVEN_UP = 2
    STORE_FAILED = 3


class Conflict(RegcachdError):
    """Upstream sends other bytes than it sent before."""


@frozen
class State:
    """The numbers of a state file."""

    total: int | None
    committed: int
    phase: Phase

    @classmethod
    def read(cls, fd: int) -> "State":
        """Read them; a damaged file says that nothing is known. Raises OSError."""
        data = os.pread(fd, _HEAD.size, 0)
        if len(data) < _HEAD.size:
            return cls(None, 0, Phase.FILLING)
        total, committed, phase = _HEAD.unpack(data)
        if phase > max(Phase) or (total != _UNKNOWN and committed > total):
            return cls(None, 0, Phase.FILLING)
        return cls(None if total == _UNKNOWN else total, committed, Phase(phase))


def state_path(path: Path) -> Path:
    """The state file of the partial at `path`."""
    return path.with_name(path.name + ".state")


class Partial:
    """An open, locked partial. Its methods wait for the disk: they belong into a disk thread, one at a time."""

    def __init__(self, path: Path, digest: Digest, lock_fd: int) -> None:
        """Take over the lock on the file at `path`; on an error, which is an OSError, the lock stays the caller's."""
        self.path = path
        self.digest = digest
        self._state_fd = _open_state(path)
        try:
            state = State.read(self._state_fd)
            if not os.fstat(lock_fd).st_mode & stat.S_IWUSR:
                os.fchmod(lock_fd, MODE)  # a commit was broken off when it had made it read-only
            # opened for writing apart from the lock: that the last writer is gone is what followers hear of
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            os.close(self._state_fd)
            raise
        self.lock_fd = lock_fd
        self.total = state.total
        """Bytes of the whole blob, None while unknown."""
        self.committed = 0
        """The front: bytes from the start that are written and hashed."""
        self.there = Extents()
        """What has been written, the front included."""
        self._hasher = digest.hasher()
        try:
            self._found = min(state.committed, os.fstat(self.fd).st_size)
            """What an earlier fill had committed: said to be there until we are as far."""
            self._say(Phase.FILLING)  # an earlier fill may have ended badly; its followers have heard it
        except OSError:
            os.close(self._state_fd)
            os.close(self.fd)
            raise

    @classmethod
    def acquire(cls, path: Path, digest: Digest) -> "Partial | None":
        """Open and lock the file at `path`, made if need be; None when another process fills it.

        What an earlier fill has left is kept; `resume` makes use of it. Raises OSError.
        """
        while True:
            lock_fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, MODE)
            try:
                if not try_lock(lock_fd):
                    os.close(lock_fd)
                    return None
                if is_at(lock_fd, path):
                    return cls(path, digest, lock_fd)
            except OSError:
                os.close(lock_fd)
                raise
            os.close(lock_fd)  # it was stored or discarded between our open and our lock

    @property
    def is_empty(self) -> bool:
        """Is there nothing that a later fill could go on with?"""
        return not self.there.stretches and not self._found

    # -- the beginning

    def resume(self) -> int:
        """Hash what an earlier fill has left; returns how many bytes need not come again. Raises OSError."""
        size = os.fstat(self.fd).st_size
        stretches = [(0, self._found)]
        if self.total is not None:
            flags = os.pread(self._state_fd, _PIECES, _HEAD.size)
            ends = (
                (number * PIECE, min((number + 1) * PIECE, self.total))
                for number, flag in enumerate(flags)
                if flag
            )
            stretches.extend(ends)
        for start, stop in stretches:
            if start < min(stop, size):
                self.there.add(start, min(stop, size))
        while self.catch_up():
            pass
        return self.committed

    def expect(self, total: int | None) -> None:
        """Upstream says how large the blob is. Raises Conflict when it said otherwise before, OSError."""
        if total is None:
            return
        if self.total not in (None, total) or self.committed > total:
            raise Conflict(f"upstream says that {self.digest} has {total} bytes; it said {self.total} before")
        self.total = total
        self._say(Phase.FILLING)

    # -- bytes

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes at `offset`; bytes before the front are compared instead. Raises Conflict, OSError."""
        view = memoryview(data)
        known = min(len(view), max(0, self.committed - offset))
        if known:
            if os.pread(self.fd, known, offset) != view[:known]:
                raise Conflict(f"upstream sends other bytes for {self.digest} than before")
            offset, view = offset + known, view[known:]
        if not view:
            return
        at_front = offset == self.committed
        if at_front:
            self._hasher.update(view)
        _write_all(self.fd, view, offset)
        stretch = self.there.add(offset, offset + len(view))
        if at_front:
            self.committed += len(view)
        else:
            self._note_pieces(offset, offset + len(view), stretch)
        self._say(Phase.FILLING)

    def catch_up(self) -> bool:
        """Hash some of what others have written at the front; False when there is nothing. Raises OSError."""
        count = min(self.there.reach(self.committed) - self.committed, _READ_BACK)
        if not count:
            return False
        data = os.pread(self.fd, count, self.committed)
        if not data:
            raise OSError(errno.EIO, "the partial is shorter than it was")
        self._hasher.update(data)
        self.committed += len(data)
        self._say(Phase.FILLING)
        return True

    def _note_pieces(self, start: int, stop: int, stretch: tuple[int, int]) -> None:
        """Note the pieces that became whole with the bytes [start, stop) of `stretch`."""
        for number in range(start // PIECE, min(-(-stop // PIECE), _PIECES)):
            end = (number + 1) * PIECE if self.total is None else min((number + 1) * PIECE, self.total)
            if stretch[0] <= number * PIECE and end <= stretch[1]:
                os.pwrite(self._state_fd, b"\1", _HEAD.size + number)

    def _say(self, phase: Phase) -> None:
        total = _UNKNOWN if self.total is None else self.total
        os.pwrite(self._state_fd, _HEAD.pack(total, max(self.committed, self._found), phase), 0)

    # -- the end

    def is_right(self) -> bool:
        """Are all bytes there, and do they have the digest?"""
        whole = self.total in (None, self.committed)
        return whole and self._hasher.hexdigest() == self.digest.hex

    def verified(self) -> None:
        """Tell the followers that the digest is right. Raises OSError."""
        self._say(Phase.VERIFIED)

    def sync(self) -> None:
        """Make the bytes durable, and read-only. Raises OSError."""
        os.ftruncate(self.fd, self.committed)
        os.fchmod(self.fd, 0o440)
        try:
            os.fsync(self.fd)
        except OSError:
            # the page cache still has them, and the kernel takes them for written from now on: who hashed them again
            # would find them right, and what is on the disk may be anything (fsync(2))
            self.discard()
            raise

    def give_up(self, phase: Phase) -> None:
        """Tell the followers that there will be no more; what is there stays for a later fill. Raises OSError."""
        self._say(phase)

    def forget_state(self) -> None:
        """Remove the state file, before the partial itself goes: after that its name may be another fill's."""
        state_path(self.path).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the files, because the bytes are wrong or nobody needs them."""
        self.forget_state()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the lock and the descriptors; the files stay as they are."""
        if self.fd >= 0:
            # before the descriptor whose closing followers hear of, and said in so many words: readers may
            # hold duplicates of this one
            unlock(self.lock_fd)
            os.close(self.lock_fd)
            os.close(self._state_fd)
            os.close(self.fd)
            self.fd = self.lock_fd = self._state_fd = -1


def try_lock(fd: int) -> bool:
    """Become the one who fills the open file, if nobody is."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Let another fill it. To be said: closing is not enough while readers have duplicates of the descriptor."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def _open_state(path: Path) -> int:
    fd = os.open(state_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    try:
        if os.fstat(fd).st_size != STATE_SIZE:
            os.ftruncate(fd, 0)
            os.ftruncate(fd, STATE_SIZE)
            os.pwrite(fd, _HEAD.pack(_UNKNOWN, 0, Phase.FILLING), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def is_at(fd: int, path: Path) -> bool:
    """Does the name still lead to the open file?"""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(fd, view, offset)
        if not count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        view = view[count:]
        offset += count
