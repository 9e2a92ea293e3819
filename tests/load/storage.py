"""What lies in a store, looked at from outside while nothing happens in it."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from attrs import frozen


@frozen
class Shelf:
    """What was found; everything but `blobs` and `bytes` should be empty."""

    blobs: int
    bytes: int
    rotten: tuple[str, ...]
    """Blobs that are not what their name says."""
    partials: tuple[str, ...]
    """Files of fills."""
    unknown: tuple[str, ...]
    """Blobs that the index does not know: they are never evicted."""
    missing: tuple[str, ...]
    """Blobs that only the index knows."""


def examine(store: Path) -> Shelf:
    """Read all of it."""
    files = [path for path in (store / "blobs").rglob("*") if path.is_file()]
    rotten = tuple(path.name for path in files if not _is_right(path))
    index = _index(store)
    names = {f"{path.parent.parent.name}:{path.name}" for path in files}
    return Shelf(
        blobs=len(files),
        bytes=sum(path.stat().st_size for path in files),
        rotten=rotten,
        partials=partials(store),
        unknown=tuple(sorted(names - index)),
        missing=tuple(sorted(index - names)),
    )


def partials(store: Path) -> tuple[str, ...]:
    """Files of fills, under way or left."""
    return tuple(path.name for path in (store / "partial").rglob("*") if path.is_file())


def _is_right(path: Path) -> bool:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, path.parent.parent.name).hexdigest()
    return found == path.name and path.parent.name == path.name[:2]


def _index(store: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{store}/index.sqlite3?mode=ro", uri=True)) as db:
        return {row[0] for row in db.execute("SELECT digest FROM blobs")}
