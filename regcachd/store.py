"""The store: blobs as files under their digests.

    blobs/sha256/ab/<hex>      complete and verified; read-only; never modified, only unlinked
    partial/sha256/<hex>       a fill in progress (see partial.py)
    index.sqlite3              what the files cannot say (see index.py)
    lock                       one daemon at a time (see lock.py)
    evict.lock                 held by the worker that evicts (see eviction.py)

The files are the truth for content. A blob appears under blobs/ only by a rename of a file that has been
verified and synced, and it is known to be there only when the rename has been synced too, so after a crash
or a loss of power a name under blobs/ means the whole, right content.
"""

import os
from pathlib import Path

from attrs import define, field, frozen

from .errors import RegcachdError
from .partial import Partial
from .reference import Digest


class StoreUnusable(RegcachdError):
    """The store's directory cannot be made, read or written."""


@define
class OpenBlob:
    """A stored blob, open for reading. Its bytes stay readable when it is evicted meanwhile."""

    fd: int
    size: int

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@frozen
class Store:
    """A directory of blobs. Its methods may wait for the disk: `open` is called in the reactor's thread because
    looking up a name is served from the kernel's cache; everything else belongs into a disk thread."""

    path: Path
    _blobs: str = field(init=False)

    @_blobs.default
    def _path_of_blobs(self) -> str:
        return str(self.path / "blobs")

    def prepare(self) -> None:
        """Make the directories. Raises StoreUnusable."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)  # private layers lie here
            for part in ("blobs", "partial"):
                for algorithm in ("sha256", "sha512"):
                    (self.path / part).mkdir(exist_ok=True, mode=0o700)
                    (self.path / part / algorithm).mkdir(exist_ok=True, mode=0o700)
            if not self.is_writable():
                read_only = os.statvfs(self.path).f_flag & os.ST_RDONLY
                raise PermissionError(
                    "its filesystem is mounted read-only" if read_only else "no permission to write to it"
                )
        except OSError as error:
            raise StoreUnusable(
                f"the store {self.path} cannot be used: {error.strerror or error}; "
                "make the directory writable for this user, or name another with --store or [store] path"
            ) from error

    def is_writable(self) -> bool:
        """May this process change the store? Not on a filesystem that is read-only, be it since an error."""
        return os.access(self.path / "partial", os.W_OK | os.X_OK)

    @property
    def index_path(self) -> Path:
        """The SQLite file."""
        return self.path / "index.sqlite3"

    @property
    def eviction_lock(self) -> Path:
        """The file whose lock the worker holds that evicts."""
        return self.path / "evict.lock"

    def blob_path(self, digest: Digest) -> Path:
        """Where a blob lies when it is stored."""
        return self.path / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex

    def partial_path(self, digest: Digest) -> Path:
        """Where a blob grows while it is being filled."""
        return self.path / "partial" / digest.algorithm / digest.hex

    def open(self, digest: Digest) -> OpenBlob | None:
        """Open a stored blob, or None when it is not there. Raises OSError when the disk fails."""
        try:
            # for every request: without pathlib, which takes longer than the kernel
            name = f"{self._blobs}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        return OpenBlob(fd, os.fstat(fd).st_size)

    def has(self, digest: Digest) -> bool:
        """Is there such a blob?"""
        return os.access(self.blob_path(digest), os.F_OK)

    def size(self, digest: Digest) -> int | None:
        """The bytes of a stored blob; None when it is not there, or the disk fails."""
        try:
            return self.blob_path(digest).stat().st_size
        except OSError:
            return None

    def acquire(self, digest: Digest) -> Partial | None:
        """Begin or go on with a blob; None when another process is at it. Raises OSError."""
        return Partial.acquire(self.partial_path(digest), digest)

    def commit(self, partial: Partial) -> None:
        """Make a verified partial a blob, durably. Raises OSError; then the blob is not stored."""
        partial.sync()
        target = self.blob_path(partial.digest)
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(target.parent.parent)
        partial.forget_state()
        os.rename(partial.path, target)
        _sync_directory(target.parent)

    def remove(self, digest: Digest) -> None:
        """Unlink a blob; whoever is reading it keeps its bytes. Raises OSError."""
        self.blob_path(digest).unlink(missing_ok=True)

    def space(self) -> tuple[int, int]:
        """Bytes of the whole filesystem, and bytes of it that are free for us. Raises OSError."""
        found = os.statvfs(self.path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def put(self, digest: Digest, data: bytes) -> None:
        """Store a small blob, a manifest, whose digest the caller has verified. Raises OSError."""
        partial = self.acquire(digest)
        if partial is None:
            return  # another process is storing the same bytes
        try:
            partial.write(0, data)
            self.commit(partial)
        finally:
            partial.close()


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
