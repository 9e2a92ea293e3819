"""A store on its own, for tests that need no daemon: everything happens at once, in the test's own thread."""

import gc
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from regcachd.chore import Steps
from regcachd.index import Index
from regcachd.recovery import Tally, recover
from regcachd.reference import Digest
from regcachd.store import Store

NOW = 1_700_000_000.0


def at_once(function: Callable[..., Any], *args: Any, **kwargs: Any) -> "Deferred[Any]":
    """What stands for a disk thread."""
    return maybeDeferred(function, *args, **kwargs)


def finish(work: Steps) -> None:
    """Do all of a work, without its rests."""
    for _ in work:
        pass


@define(eq=False)
class Shop:
    """A store and its index. `clock` moves only when a test moves it."""

    path: Path
    clock: Clock = field(factory=Clock)
    store: Store = field(init=False)
    index: Index = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.store = Store(self.path)
        self.store.prepare()
        self.open()

    def open(self) -> None:
        """Open the index, as a daemon's start does."""
        self.index = Index(self.store.index_path)
        self.index.open()

    def crash(self) -> None:
        """Throw away everything that was in memory, close what is open, as the kernel does, and start again."""
        self.index._uses.clear()
        self.index.close()
        gc.collect()
        for each in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the one that has listed the directory
                if each.readlink().is_relative_to(self.path):
                    os.close(int(each.name))
        self.open()

    def put(self, data: bytes, now: float = NOW) -> Digest:
        """Store a blob, with its row."""
        digest = Digest.of(data)
        self.store.put(digest, data)
        self.index.add(digest, len(data), None, now)
        return digest

    def recover(self, *, check: bool = False, now: float = NOW, ttl: float = 7 * 86400.0) -> Tally:
        """All that happens after a start."""
        tally = Tally()
        finish(recover(self.store, now, ttl, check, tally))
        self.index.tick()
        return tally

    def rows(self) -> dict[str, int]:
        """What the index has: sizes by digest."""
        return {**self.index.sizes("sha256:"), **self.index.sizes("sha512:")}

    def files(self) -> dict[str, int]:
        """What lies under blobs/, whatever it is: sizes by what would be the digest."""
        return {
            f"{path.parent.parent.name}:{path.name}": path.stat().st_size
            for path in (self.path / "blobs").rglob("*")
            if path.is_file()
        }

    def check(self) -> None:
        """The index agrees with the files, and every file is what its name says."""
        files = self.files()
        assert self.rows() == files
        assert self.index.totals() == (len(files), sum(files.values()))
        for name in files:
            algorithm, _, digits = name.partition(":")
            data = (self.path / "blobs" / algorithm / digits[:2] / digits).read_bytes()
            assert hashlib.new(algorithm, data).hexdigest() == digits

    def rot(self, digest: Digest, data: bytes | None = None) -> None:
        """Change a stored blob behind everybody's back: other bytes, or one bit."""
        path = self.store.blob_path(digest)
        whole = bytearray(path.read_bytes())
        if data is None:
            whole[len(whole) // 2] ^= 1
            data = bytes(whole)
        path.chmod(0o640)
        path.write_bytes(data)
        path.chmod(0o440)
