"""The store's layout, and in which order things reach the disk."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from regcachd.partial import Partial
from regcachd.reference import Digest
from regcachd.store import Store, StoreUnusable

DATA = b"layer" * 1000
DIGEST = Digest.of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def acquire(store: Store, digest: Digest) -> Partial:
    """A partial that nobody else has."""
    partial = store.acquire(digest)
    assert partial is not None
    return partial


def fill(store: Store, data: bytes, digest: Digest) -> None:
    """What a fill does, without the download."""
    partial = acquire(store, digest)
    try:
        partial.write(0, data[:7])
        partial.write(7, data[7:])
        assert partial.is_right()
        store.commit(partial)
    finally:
        partial.close()


def read(store: Store, digest: Digest) -> bytes | None:
    blob = store.open(digest)
    if blob is None:
        return None
    try:
        return os.pread(blob.fd, blob.size, 0)
    finally:
        blob.close()
        blob.close()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_lies_under_the_first_two_digits_of_its_digest(store: Store, algorithm: str) -> None:
    digest = Digest.of(DATA, algorithm)
    assert read(store, digest) is None
    fill(store, DATA, digest)
    path = store.path / "blobs" / algorithm / digest.hex[:2] / digest.hex
    assert path.read_bytes() == DATA
    assert read(store, digest) == DATA
    assert [each for each in (store.path / "partial").rglob("*") if each.is_file()] == []


def test_a_fill_is_seen_under_partial_until_it_is_committed(store: Store) -> None:
    partial = acquire(store, DIGEST)
    partial.write(0, DATA)
    directory = store.path / "partial/sha256"
    assert {each.name for each in directory.iterdir()} == {DIGEST.hex, f"{DIGEST.hex}.state"}
    assert store.open(DIGEST) is None
    store.commit(partial)
    assert list(directory.iterdir()) == []
    partial.close()


def test_blobs_are_read_only_and_nobody_elses_business(store: Store) -> None:
    fill(store, DATA, DIGEST)
    path = store.blob_path(DIGEST)
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    for directory in (path.parent, path.parent.parent, store.path / "partial/sha256"):
        assert stat.S_IMODE(directory.stat().st_mode) & 0o007 == 0


def test_the_file_is_durable_before_its_name_and_the_name_before_it_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_fsync, real_rename, real_fchmod, real_mkdir = os.fsync, os.rename, os.fchmod, os.mkdir

    def name_of(fd: int) -> str:
        return str(Path(os.readlink(f"/proc/self/fd/{fd}")).relative_to(store.path))

    def fsync(fd: int) -> None:
        steps.append(f"fsync {name_of(fd)}")
        real_fsync(fd)

    def fchmod(fd: int, mode: int) -> None:
        steps.append(f"chmod {name_of(fd)}")
        real_fchmod(fd, mode)

    def rename(source: Path, target: Path) -> None:
        steps.append(f"rename {source.relative_to(store.path)} {target.relative_to(store.path)}")
        real_rename(source, target)

    def mkdir(path: Path, *args: Any) -> None:
        steps.append(f"mkdir {Path(path).relative_to(store.path)}")
        real_mkdir(path, *args)

    for function in (fsync, fchmod, rename, mkdir):
        monkeypatch.setattr(os, function.__name__, function)
    fill(store, DATA, DIGEST)
    source, directory = f"partial/sha256/{DIGEST.hex}", f"blobs/sha256/{DIGEST.hex[:2]}"
    assert steps == [
        f"chmod {source}",
        f"fsync {source}",
        f"mkdir {directory}",
        "fsync blobs/sha256",
        f"rename {source} {directory}/{DIGEST.hex}",
        f"fsync {directory}",
    ]


@pytest.mark.parametrize("failing", ["fsync", "rename", "fchmod"])
def test_a_commit_that_fails_raises_and_nothing_is_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    partial = acquire(store, DIGEST)
    partial.write(0, DATA)

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="Input/output error"):
            store.commit(partial)
    assert store.open(DIGEST) is None
    partial.close()
    # what could not be synced looks right as long as it is in the page cache, whatever is on the disk
    assert store.partial_path(DIGEST).exists() == (failing != "fsync")
    fill(store, DATA, DIGEST)
    assert read(store, DIGEST) == DATA


def test_putting_twice_changes_nothing_and_disturbs_no_reader(store: Store) -> None:
    store.put(DIGEST, DATA)
    reader = store.open(DIGEST)
    assert reader is not None
    store.put(DIGEST, DATA)
    assert os.pread(reader.fd, reader.size, 0) == DATA
    assert read(store, DIGEST) == DATA
    reader.close()


def test_even_an_empty_blob_can_be_put(store: Store) -> None:
    store.put(Digest.of(b""), b"")
    assert read(store, Digest.of(b"")) == b""


def test_one_digest_is_filled_once_at_a_time(store: Store) -> None:
    partial = acquire(store, DIGEST)
    assert store.acquire(DIGEST) is None
    store.put(DIGEST, DATA)
    assert not store.has(DIGEST)
    acquire(store, Digest.of(b"other")).close()
    partial.close()
    store.put(DIGEST, DATA)
    assert store.has(DIGEST)


def test_a_reader_keeps_the_bytes_of_a_removed_blob(store: Store) -> None:
    store.put(DIGEST, DATA)
    reader = store.open(DIGEST)
    assert reader is not None
    store.remove(DIGEST)
    store.remove(DIGEST)
    assert store.open(DIGEST) is None
    assert os.pread(reader.fd, reader.size, 0) == DATA
    reader.close()


def test_a_failing_disk_is_not_mistaken_for_a_missing_blob(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        with pytest.raises(OSError, match="Input/output error"):
            store.open(DIGEST)


def test_preparing_twice_keeps_what_is_there(store: Store) -> None:
    store.put(DIGEST, DATA)
    store.prepare()
    assert read(store, DIGEST) == DATA


def test_a_store_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StoreUnusable, match=r"the store .*file/store cannot be used: Not a directory; make"
    ) as told:
        Store(tmp_path / "file/store").prepare()
    assert "\n" not in str(told.value)


def test_a_store_that_cannot_be_written_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(StoreUnusable, match="no permission to write"):
        Store(tmp_path / "store").prepare()


def test_the_size_of_the_filesystem_and_what_is_free(store: Store) -> None:
    total, free = store.space()
    assert 0 <= free <= total


class Life(RuleBasedStateMachine):
    """Fills that are begun, grow, are given up or committed, in any order, on one store."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(self.directory)
        self.store.prepare()
        self.data = {Digest.of(bytes([n]) * 50): bytes([n]) * 50 for n in range(3)}
        for digest in self.data:
            self.store.remove(digest)
        self.partials: dict[Digest, Partial] = {}
        self.stored: set[Digest] = set()

    which = st.integers(0, 2)

    def digest(self, number: int) -> Digest:
        return list(self.data)[number]

    @rule(number=which)
    def begin(self, number: int) -> None:
        digest = self.digest(number)
        if digest in self.partials:
            assert self.store.acquire(digest) is None
        else:
            self.partials[digest] = acquire(self.store, digest)
            self.partials[digest].resume()
            self.partials[digest].expect(50)

    @rule(number=which, count=st.integers(0, 60))
    def grow(self, number: int, count: int) -> None:
        if (partial := self.partials.get(self.digest(number))) is not None:
            piece = self.data[self.digest(number)][partial.committed : partial.committed + count]
            partial.write(partial.committed, piece)

    @rule(number=which)
    def give_up(self, number: int) -> None:
        if (partial := self.partials.pop(self.digest(number), None)) is not None:
            partial.close()

    @rule(number=which)
    def end(self, number: int) -> None:
        digest = self.digest(number)
        if (partial := self.partials.pop(digest, None)) is not None:
            if partial.is_right():
                partial.verified()
                self.store.commit(partial)
                self.stored.add(digest)
            partial.close()

    @rule(number=which)
    def remove(self, number: int) -> None:
        self.store.remove(self.digest(number))
        self.stored.discard(self.digest(number))

    @invariant()
    def what_is_stored_is_whole_and_right(self) -> None:
        for digest, data in self.data.items():
            assert read(self.store, digest) == (data if digest in self.stored else None)

    def teardown(self) -> None:
        for partial in self.partials.values():
            partial.close()


def test_a_name_under_blobs_always_means_the_whole_right_content(tmp_path: Path) -> None:
    Life.directory = tmp_path / "life"
    run_state_machine_as_test(Life, settings=settings(max_examples=20, stateful_step_count=20, deadline=None))
