"""Partials that nobody fills: which of them are worth keeping, and the removal of the others.

A partial is kept while it can be resumed, that is, while it has its state file, and for `partial_ttl`. One that is
being filled is locked by its filler, whatever process that is, and is never touched. See partial.py for the files.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import field, frozen
from twisted.logger import Logger

from .partial import MODE, is_at, state_path, try_lock
from .reference import Digest
from .shelves import ALGORITHMS, is_hex_of
from .store import Store

log = Logger()

_STATE = ".state"
_NUMBERS = struct.Struct("<QQ")
_UNKNOWN = 2**64 - 1


@frozen
class PartialFile:
    """A partial as its files say: bytes that are in order, bytes of the whole blob, last change (epoch seconds)."""

    digest: Digest
    committed: int
    total: int | None
    changed: float


@frozen
class Names:
    """What lies in the directories of partials, by the digests that the names say."""

    files: set[Digest] = field(factory=set)
    states: set[Digest] = field(factory=set)
    foreign: list[Path] = field(factory=list)


def names(store: Store) -> Names:
    """Read the directories, if the store is there at all. Raises OSError."""
    found = Names()
    for algorithm in ALGORITHMS:
        directory = store.path / "partial" / algorithm
        for entry in os.scandir(directory) if directory.is_dir() else ():
            hex_digits = entry.name.removesuffix(_STATE)
            if not is_hex_of(algorithm, hex_digits) or not entry.is_file(follow_symlinks=False):
                found.foreign.append(Path(entry.path))
            elif entry.name == hex_digits:
                found.files.add(Digest(algorithm, hex_digits))
            else:
                found.states.add(Digest(algorithm, hex_digits))
    return found


def partials(store: Store) -> list[PartialFile]:
    """Those that can be resumed or are being filled, by digest. Raises OSError."""
    found = names(store)
    described = []
    for digest in sorted(found.files & found.states, key=str):
        path = store.partial_path(digest)
        try:
            changed = path.stat().st_mtime
            with state_path(path).open("rb") as file:
                total, committed = _NUMBERS.unpack(file.read(_NUMBERS.size))
        except (FileNotFoundError, struct.error):
            continue  # done meanwhile, or not yet begun
        described.append(PartialFile(digest, committed, None if total == _UNKNOWN else total, changed))
    return described


def sweep(store: Store, older_than: float, broken_older_than: float) -> int:
    """Remove the partials that were last changed before `older_than`, and before `broken_older_than` those that
    cannot be resumed. Returns how many. Raises OSError."""
    found = names(store)
    removed = 0
    for digest in found.files | found.states:
        limit = older_than if digest in found.files & found.states else broken_older_than
        path = store.partial_path(digest)
        if _last_change(path) < limit:
            with _locked(path) as ours:
                # once more, under the lock: it may have been resumed meanwhile
                if ours and (digest not in found.files or _last_change(path) < limit):
                    state_path(path).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                    removed += digest in found.files
    if removed:
        log.info("removed {count} partials that were too old or could not be resumed", count=removed)
    return removed


def _last_change(path: Path) -> float:
    for candidate in path, state_path(path):
        try:
            return candidate.stat().st_mtime
        except FileNotFoundError:
            continue
    return float("inf")  # gone


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock the partial as its filler would, made if need be; False when somebody else has it."""
    # for reading: a commit that was broken off may have made it read-only, and followers listen for writers
    fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    try:
        yield try_lock(fd) and is_at(fd, path)
    finally:
        os.close(fd)
