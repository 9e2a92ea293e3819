"""Loss of power while a blob is stored: whatever of the last changes reached the disk, a name under blobs/ is right.

What the store does to the disk is recorded, and the disk is rebuilt as a power cut could leave it: after every
prefix of the record, with every subset of the changes that were not synced by then. Synced is what POSIX calls so: the
bytes of a file when the file was synced, a name when its directory was.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from attrs import define, field, frozen

from regcachd.reference import Digest
from regcachd.store import Store
from tests.stores import Shop

DATA = b"the bytes of a blob"
DIGEST = Digest.of(DATA)
SUBSETS = 10
"""Unsynced changes of which every subset is tried; of more, every one and every pair kept or dropped."""


@frozen
class Write:
    """Bytes of a file; `size` is set by a truncation instead."""

    file: int
    offset: int = 0
    data: bytes = b""
    size: int | None = None


@frozen
class Name:
    """A change of a directory: `file` appears at `path`, or nothing is there any more."""

    path: Path
    file: int | None
    before: Path | None = None
    """Where it was, for a rename."""


@frozen
class Sync:
    """A file, or the names in a directory, are on the disk."""

    file: int | None = None
    directory: Path | None = None


Change = Write | Name | Sync


@define
class Record:
    """Watches the system calls below one directory. Files are known by number, in the order of their making."""

    root: Path
    changes: list[Change] = field(factory=list)
    _files: dict[int, int] = field(factory=dict)
    _paths: dict[Path, int] = field(factory=dict)
    _directories: dict[int, Path] = field(factory=dict)
    _count: int = 0

    def _new(self, path: Path) -> int:
        self._count += 1
        self._paths[path] = self._count
        return self._count

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what happens meanwhile."""
        names = (
            "open",
            "close",
            "write",
            "pwrite",
            "pwritev",
            "ftruncate",
            "fsync",
            "rename",
            "unlink",
            "mkdir",
        )
        calls: dict[str, Any] = {name: self._wrap(name, getattr(os, name)) for name in names}
        with mock.patch.multiple(os, **calls):
            yield

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        note = getattr(self, f"_{name}")

        def call(*args: Any, **kwargs: Any) -> Any:
            existed = name == "open" and os.path.lexists(args[0])
            result = real(*args, **kwargs)
            note(result, existed, *args)
            return result

        return call

    def _open(self, fd: int, existed: bool, path: Any, flags: int = 0, *_: Any) -> None:
        path = Path(path)
        if not path.is_relative_to(self.root):
            return
        if path.is_dir():
            self._directories[fd] = path
            return
        if not existed:
            self.changes.append(Name(path, self._new(path)))
        self._files[fd] = self._paths[path]
        if flags & os.O_TRUNC and existed:
            self.changes.append(Write(self._files[fd], size=0))

    def _close(self, _: None, __: bool, fd: int) -> None:
        self._files.pop(fd, None)
        self._directories.pop(fd, None)

    def _write(self, count: int, _: bool, fd: int, data: Any) -> None:
        raise AssertionError("the offset of a plain write is not known here")

    def _pwrite(self, count: int, _: bool, fd: int, data: Any, offset: int) -> None:
        if fd in self._files:
            self.changes.append(Write(self._files[fd], offset, bytes(data)[:count]))

    def _pwritev(self, count: int, _: bool, fd: int, buffers: Sequence[Any], offset: int, *__: Any) -> None:
        self._pwrite(count, _, fd, b"".join(map(bytes, buffers)), offset)

    def _ftruncate(self, _: None, __: bool, fd: int, size: int) -> None:
        if fd in self._files:
            self.changes.append(Write(self._files[fd], size=size))

    def _fsync(self, _: None, __: bool, fd: int) -> None:
        if fd in self._files:
            self.changes.append(Sync(file=self._files[fd]))
        elif fd in self._directories:
            self.changes.append(Sync(directory=self._directories[fd]))

    def _rename(self, _: None, __: bool, source: Any, target: Any) -> None:
        number = self._paths.pop(Path(source))
        self._paths[Path(target)] = number
        self.changes.append(Name(Path(target), number, before=Path(source)))

    def _unlink(self, _: None, __: bool, path: Any, *___: Any) -> None:
        self._paths.pop(Path(path), None)
        self.changes.append(Name(Path(path), None))

    def _mkdir(self, _: None, __: bool, path: Any, *___: Any) -> None:
        self.changes.append(Name(Path(path), 0))


def unsynced(changes: Sequence[Change]) -> list[int]:
    """The positions of the changes that a power cut at the end of these may undo."""
    open_ones: dict[int, Change] = {}
    for position, change in enumerate(changes):
        if isinstance(change, Sync):
            open_ones = {at: each for at, each in open_ones.items() if not _covers(change, each)}
        else:
            open_ones[position] = change
    return list(open_ones)


def _covers(sync: Sync, change: Change) -> bool:
    if isinstance(change, Write):
        return sync.file == change.file
    return isinstance(change, Name) and sync.directory == change.path.parent


def choices(positions: list[int]) -> Iterator[set[int]]:
    """Which of the unsynced changes are lost."""
    if len(positions) <= SUBSETS:
        for count in range(len(positions) + 1):
            yield from map(set, combinations(positions, count))
        return
    everything = set(positions)
    for count in (0, 1, 2):
        for some in map(set, combinations(positions, count)):
            yield some
            yield everything - some


def rebuild(root: Path, changes: Sequence[Change], lost: set[int], torn: int | None) -> None:
    """Make the disk as it is after these changes without the lost ones; of the one that is torn, half was written."""
    files: dict[int, bytearray] = {}
    names: dict[Path, int] = {}
    for position, change in enumerate(changes):
        if position in lost or isinstance(change, Sync):
            continue
        if isinstance(change, Name):
            if change.before is not None:
                names.pop(change.before, None)
            if change.file is None:
                names.pop(change.path, None)
            else:
                names[change.path] = change.file
            continue
        content = files.setdefault(change.file, bytearray())
        if change.size is not None:
            del content[change.size :]
            content.extend(bytes(change.size - len(content)))
            continue
        data = change.data[: len(change.data) // 2] if position == torn else change.data
        content.extend(bytes(max(0, change.offset - len(content))))
        content[change.offset : change.offset + len(data)] = data
    for directory in (path for path, number in names.items() if number == 0):
        directory.mkdir(parents=True, exist_ok=True)
    for path, number in names.items():
        if number and path.parent.is_dir():  # what lies in a directory that was lost is lost with it
            path.write_bytes(files.get(number, b""))


def record(root: Path, *, syncing: bool = True) -> list[Change]:
    """What storing one blob does to a disk with an empty store on it."""
    store = Store(root)
    store.prepare()
    watch = Record(root)
    with watch.watching():
        store.put(DIGEST, DATA)
    shutil.rmtree(root)
    return [change for change in watch.changes if syncing or not (isinstance(change, Sync) and change.file)]


def wrong_after(root: Path, changes: Sequence[Change]) -> Iterator[str]:
    """Every state a power cut can leave; yields what is wrong in it after recovery, or ""."""
    for end in range(len(changes) + 1):
        before = changes[:end]
        positions = unsynced(before)
        for lost in choices(positions):
            torn_ones = [at for at in positions if at not in lost and isinstance(before[at], Write)]
            for torn in (None, *torn_ones):
                shop = Store(root)
                shop.prepare()
                rebuild(root, before, lost, torn)
                yield look(root, complete=end == len(changes))
                shutil.rmtree(root)


def look(root: Path, *, complete: bool) -> str:
    """Start on what is there, and say what is wrong."""
    shop = Shop(root)
    shop.recover()
    try:
        shop.check()
    except AssertionError:
        return "a name under blobs/ has other bytes, or the index does not agree"
    finally:
        shop.index.close()
    if complete and not shop.store.blob_path(DIGEST).exists():
        return "a blob that counted as stored is not there"
    return ""


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory where a sync costs nothing, if there is one."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=base) as name:
        yield Path(name) / "store"


def test_no_loss_of_power_makes_a_wrong_blob(root: Path) -> None:
    """And once it counts as stored, none takes it away."""
    changes = record(root)
    assert sum(isinstance(change, Sync) for change in changes) >= 3  # the file, its directory, and that one's
    states = list(wrong_after(root, changes))
    assert len(states) > 50
    assert set(states) == {""}


def test_the_test_would_notice_a_missing_sync(root: Path) -> None:
    changes = record(root, syncing=False)
    assert any(wrong_after(root, changes))


def test_the_test_would_notice_a_directory_that_is_not_synced(root: Path) -> None:
    changes = [each for each in record(root) if not (isinstance(each, Sync) and each.directory)]
    assert "a blob that counted as stored is not there" in set(wrong_after(root, changes))
