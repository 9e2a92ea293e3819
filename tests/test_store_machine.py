"""Store, index, eviction, recovery and scrub together, against a model, over thousands of random steps.

The model is two dictionaries. Crashes come at any moment: between two steps, when everything in memory is thrown away;
between a file and its row; and in the middle of a step, at any of its system calls on the disk.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from regcachd import shelves
from regcachd.config import Size, StoreConfig
from regcachd.eviction import Eviction
from regcachd.index import ScrubRecord
from regcachd.reference import Digest
from regcachd.scrub import Pass, scrub
from tests.stores import Shop, at_once, finish

SHARED_MEMORY = Path("/dev/shm")
"""Here a sync costs nothing."""
LATE = 4e9
"""A time, in seconds, after every file's."""
FEW = tuple(f"0{digit:x}" for digit in range(16))
"""Shelves of each algorithm, and what digests begin with here: to look at all 256 of them takes most of the time."""
ON_DISK = ("open", "pwrite", "pwritev", "write", "ftruncate", "fsync", "rename", "unlink", "mkdir", "fchmod")


class Crash(BaseException):
    """The process is killed."""


@contextmanager
def killed_at(call: int) -> Iterator[None]:
    """Crash in place of the system call of this number, of those that change what is on the disk."""
    left = call

    def fused(real: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return real(*args, **kwargs)

        return run

    calls: dict[str, Any] = {name: fused(getattr(os, name)) for name in ON_DISK}
    with mock.patch.multiple(os, **calls):
        yield


class StoreMachine(RuleBasedStateMachine):
    """`right` is what is stored as it should be, `rotten` what has rotted since; both by digest."""

    blobs = Bundle("blobs")

    def __init__(self) -> None:
        super().__init__()
        self.few = mock.patch.object(shelves, "_PREFIXES", FEW)
        self.few.start()
        base = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self.directory = Path(tempfile.mkdtemp(dir=base))
        self.shop = Shop(self.directory / "store")
        self.right: dict[Digest, bytes] = {}
        self.rotten: dict[Digest, bytes] = {}
        self.uses: dict[Digest, float] = {}
        self.now = LATE

    def teardown(self) -> None:
        self.shop.index.close()
        self.few.stop()
        shutil.rmtree(self.directory)

    def tick(self) -> float:
        self.now += 1
        return self.now

    def stored(self, digest: Digest, data: bytes) -> None:
        self.rotten.pop(digest, None)
        self.right[digest] = data
        self.uses[digest] = self.now

    def forget(self, digest: Digest) -> None:
        self.right.pop(digest, None)
        self.rotten.pop(digest, None)
        self.uses.pop(digest, None)

    # -- what a daemon does

    @rule(
        target=blobs,
        data=st.binary(min_size=1, max_size=300),
        algorithm=st.sampled_from(["sha256", "sha512"]),
    )
    def make(self, data: bytes, algorithm: str) -> tuple[Digest, bytes]:
        while not (digest := Digest.of(data, algorithm)).hex.startswith(FEW):
            data = hashlib.sha256(data).digest() + data[:268]
        return digest, data

    @rule(blob=blobs)
    def put(self, blob: tuple[Digest, bytes]) -> None:
        digest, data = blob
        if digest not in self.right and digest not in self.rotten:
            self.shop.store.put(digest, data)
            self.shop.index.add(digest, len(data), None, self.tick())
            self.stored(digest, data)

    @rule(blob=blobs)
    def serve(self, blob: tuple[Digest, bytes]) -> None:
        """What is there is served; what is not is a miss."""
        digest, _ = blob
        opened = self.shop.store.open(digest)
        assert (opened is not None) == (digest in self.right or digest in self.rotten)
        if opened is not None:
            served = os.pread(opened.fd, opened.size + 1, 0)
            opened.close()
            assert served == (self.right.get(digest) or self.rotten[digest])
            self.shop.index.used(digest, self.tick())
            self.uses[digest] = self.now

    @rule(share=st.floats(0.1, 1.5))
    def evict(self, share: float) -> None:
        """Down to 95 % of the limit, least recently used first, and not one more than that takes."""
        before = {**self.right, **self.rotten}
        total = sum(self.shop.rows().values())
        limit = max(1, int(total * share))
        config = StoreConfig(max_size=Size(bytes=limit), min_free=Size(bytes=0))
        Eviction(self.shop.store, self.shop.index, lambda: config, at_once).wake()
        left = self.shop.rows()
        assert sum(left.values()) <= limit
        gone = [digest for digest in before if str(digest) not in left]
        kept = [digest for digest in before if str(digest) in left]
        if gone and kept:
            assert max(self.uses[digest] for digest in gone) <= min(self.uses[digest] for digest in kept)
        for digest in gone:
            self.forget(digest)

    @rule()
    def scrub(self) -> None:
        """Exactly the rotten ones go."""
        current = Pass(ScrubRecord(self.tick()), None)
        finish(scrub(self.shop.store, current))
        assert set(current.rotten) == set(self.rotten)
        assert current.record.blobs == len(self.right) + len(self.rotten)
        for digest in list(self.rotten):
            self.forget(digest)

    @rule()
    def restart(self) -> None:
        """Orderly: what was gathered is written."""
        self.shop.index.close()
        self.shop.open()

    # -- what happens to it

    @rule()
    def crash(self) -> None:
        """Last uses of the last seconds are lost, and nothing else."""
        self.shop.crash()
        self.learn_uses()

    def learn_uses(self) -> None:
        rows = self.shop.index._db.read("SELECT digest, last_use FROM blobs")
        self.uses = {Digest.parse(digest): last_use for digest, last_use in rows}

    @rule(blob=blobs, call=st.integers(0, 30))
    def crash_in_put(self, blob: tuple[Digest, bytes], call: int) -> None:
        """Killed at any system call: after that the blob is there, whole, or it is not."""
        digest, data = blob
        if digest in self.right or digest in self.rotten:
            return
        try:
            with killed_at(call):
                self.shop.store.put(digest, data)
                self.shop.index.add(digest, len(data), None, self.tick())
        except Crash:
            self.shop.crash()
        if self.shop.store.blob_path(digest).exists():
            self.stored(digest, data)
        self.recover()

    @rule(share=st.floats(0.1, 0.9), call=st.integers(0, 10))
    def crash_in_eviction(self, share: float, call: int) -> None:
        config = StoreConfig(
            max_size=Size(bytes=max(1, int(sum(self.shop.rows().values()) * share))),
            min_free=Size(bytes=0),
        )
        with mock.patch("regcachd.eviction.log"), killed_at(call), suppress(Crash):
            Eviction(self.shop.store, self.shop.index, lambda: config, at_once).wake()
        self.shop.crash()
        for digest in [*self.right, *self.rotten]:
            if not self.shop.store.blob_path(digest).exists():
                self.forget(digest)
        self.recover()

    @rule(blob=blobs)
    def lose_a_row(self, blob: tuple[Digest, bytes]) -> None:
        self.shop.index.remove([blob[0]])
        self.shop.crash()
        self.recover()

    @rule(blob=blobs)
    def lose_a_file(self, blob: tuple[Digest, bytes]) -> None:
        self.shop.store.remove(blob[0])
        self.forget(blob[0])
        self.recover()

    @rule(damage=st.sampled_from(["deleted", "garbage", "cut", "empty"]))
    def lose_the_index(self, damage: str) -> None:
        self.shop.index.close()
        path = self.shop.store.index_path
        if damage == "deleted":
            path.unlink()
        elif damage == "garbage":
            path.write_bytes(b"garbage" * 1000)
        elif damage == "cut":
            os.truncate(path, path.stat().st_size // 2)
        else:
            os.truncate(path, 0)
        self.shop.open()
        self.recover()

    @rule(blob=consumes(blobs), how=st.sampled_from(["bit", "cut", "grown"]))
    def rot(self, blob: tuple[Digest, bytes], how: str) -> None:
        digest, data = blob
        if digest not in self.right:
            return
        del self.right[digest]
        bad = {"bit": bytes([data[0] ^ 4]) + data[1:], "cut": data[:-1], "grown": data + b"x"}[how]
        self.rotten[digest] = bad
        self.shop.rot(digest, bad)

    @rule()
    def recover(self) -> None:
        """Rows and files agree; a blob of another size than its row's is found to be rotten here already."""
        self.shop.recover(now=self.tick(), ttl=LATE)
        for digest in [digest for digest in self.rotten if not self.shop.store.blob_path(digest).exists()]:
            self.forget(digest)
        self.learn_uses()

    # -- what always holds

    @invariant()
    def files_are_those_of_the_model(self) -> None:
        assert set(self.shop.files()) == {str(digest) for digest in (*self.right, *self.rotten)}
        for digest, data in self.right.items():
            assert self.shop.store.blob_path(digest).read_bytes() == data

    @invariant()
    def rows_are_those_of_the_files(self) -> None:
        rows = self.shop.rows()
        assert set(rows) == set(self.shop.files())
        assert self.shop.index.totals() == (len(rows), sum(rows.values()))

    @invariant()
    def what_is_left_can_be_resumed(self) -> None:
        """Each partial has its state, and each state its partial."""
        names = {path.name for path in (self.directory / "store/partial").rglob("*") if path.is_file()}
        states = {name.removesuffix(".state") for name in names if name.endswith(".state")}
        assert names == states | {f"{name}.state" for name in states}


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestStoreMachine = StoreMachine.TestCase
