"""The shelves of a store: its directories of blobs, in the order of their digests, read one after the other.

What is in there and is no blob (another name, another kind of file) is foreign: it is named and left alone.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen

from .reference import Digest
from .store import Store, StoreUnusable

ALGORITHMS = {"sha256": 64, "sha512": 128}
"""Each with the length of its digests in hexadecimal digits."""
_PREFIXES = tuple(f"{number:02x}" for number in range(256))
_HEX = re.compile(r"[0-9a-f]+")


@frozen
class Shelf:
    """All blobs whose digests begin so: `algorithm`, and the first two digits."""

    algorithm: str
    prefix: str
    path: Path

    @property
    def key(self) -> str:
        """What the digests of this shelf, as text, begin with; keys sort as the shelves do."""
        return f"{self.algorithm}:{self.prefix}"


@frozen
class BlobFile:
    """What the directory says of a blob's file: bytes, and when it was read or written last, as far as it knows."""

    digest: Digest
    size: int
    last_use: float


@frozen
class Contents:
    """What lies on a shelf."""

    blobs: list[BlobFile] = field(factory=list)
    foreign: list[Path] = field(factory=list)


def shelves(store: Store) -> Iterator[Shelf]:
    """All 512, also those that have no directory yet."""
    for algorithm in ALGORITHMS:
        for prefix in _PREFIXES:
            yield Shelf(algorithm, prefix, store.path / "blobs" / algorithm / prefix)


def contents(shelf: Shelf) -> Contents:
    """Read a shelf; the blobs are sorted. Raises StoreUnusable when not even the directory above it is there, and
    OSError when the disk fails."""
    found = Contents()
    try:
        entries = list(os.scandir(shelf.path))
    except (FileNotFoundError, NotADirectoryError):
        if not shelf.path.parent.is_dir():
            raise StoreUnusable(
                f"the store has gone: there is no {shelf.path.parent}; is its filesystem mounted?"
            ) from None
        return found
    for entry in entries:
        try:
            if not _is_blob(shelf, entry):
                found.foreign.append(Path(entry.path))
                continue
            about = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # evicted meanwhile
        last_use = max(about.st_atime, about.st_mtime)
        found.blobs.append(BlobFile(Digest(shelf.algorithm, entry.name), about.st_size, last_use))
    found.blobs.sort(key=lambda blob: blob.digest.hex)
    return found


def _is_blob(shelf: Shelf, entry: "os.DirEntry[str]") -> bool:
    return (
        is_hex_of(shelf.algorithm, entry.name)
        and entry.name.startswith(shelf.prefix)
        and entry.is_file(follow_symlinks=False)
    )


def is_hex_of(algorithm: str, name: str) -> bool:
    """Is this the hexadecimal part of a digest?"""
    return len(name) == ALGORITHMS[algorithm] and _HEX.fullmatch(name) is not None


def strangers(store: Store) -> list[Path]:
    """What lies beside the shelves."""
    blobs = store.path / "blobs"
    found = [path for path in _listed(blobs) if path.name not in ALGORITHMS]
    for algorithm in ALGORITHMS:
        found += [
            path
            for path in _listed(blobs / algorithm)
            if path.name not in _PREFIXES or path.is_symlink() or not path.is_dir()
        ]
    return found


def _listed(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
