"""Tags in the index: what upstream said last that they name, for which accepted media types.

Beside the entry there may be one that is `named` only: upstream's answer to a HEAD, of a manifest that is not here. It
takes nothing away from the entry, which is of use as long as that manifest cannot be had.
"""

import sqlite3

from .database import Database
from .freshness import TagEntry
from .reference import Digest, Repository, Tag

SCHEMA = """
CREATE TABLE IF NOT EXISTS tags (
    registry TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL, accept TEXT NOT NULL,
    named INTEGER NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER, checked REAL NOT NULL,
    PRIMARY KEY (registry, repository, tag, accept, named)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_by_age ON tags (checked);
"""
PROBES = (
    "SELECT registry, repository, tag, accept, named, digest, media_type, size, checked FROM tags LIMIT 1",
)

MOST_ENTRIES = 12
"""Entries of one tag: clients accept one of a handful of lists of media types. The oldest go first."""
MOST_TAGS = 200_000
"""Entries of all tags; the oldest go first."""

_BITE = 500
"""Rows removed in one transaction, so that no worker waits long for the next."""
_TAG = "registry = ? AND repository = ? AND tag = ?"
_ENTRY = "digest, media_type, checked, size"


class TagTable:
    """The table. `accept` is an `accept_key`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, repository: Repository, tag: Tag, accept: str, *, named: bool = False) -> TagEntry | None:
        """What this tag named last, for a client that accepts these media types."""
        rows = self._db.read(
            f"SELECT {_ENTRY} FROM tags WHERE {_TAG} AND accept = ? AND named = ?",
            (*_key(repository, tag), accept, named),
        )
        return _entry(rows[0]) if rows else None

    def all(self, repository: Repository, tag: Tag) -> list[tuple[str, TagEntry]]:
        """The entries of a tag, each with what clients accept who get it, latest first."""
        rows = self._db.read(
            f"SELECT accept, {_ENTRY} FROM tags WHERE {_TAG} AND NOT named ORDER BY checked DESC",
            _key(repository, tag),
        )
        return [(accept, _entry(row)) for accept, *row in rows]

    def set(
        self, repository: Repository, tag: Tag, accept: str, entry: TagEntry, *, named: bool = False
    ) -> None:
        """Upstream has said what this tag names. An entry that is not only named replaces one that is."""
        key = _key(repository, tag)
        values = (str(entry.digest), entry.media_type, entry.size, entry.checked)
        kept = (
            f"DELETE FROM tags WHERE {_TAG} AND accept NOT IN "
            f"(SELECT accept FROM tags WHERE {_TAG} GROUP BY accept ORDER BY max(checked) DESC LIMIT ?)"
        )
        self._db.write_all(
            [
                (
                    f"DELETE FROM tags WHERE {_TAG} AND accept = ? AND named AND NOT ?",
                    [(*key, accept, named)],
                ),
                (
                    "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [(*key, accept, named, *values)],
                ),
                (kept, [(*key, *key, MOST_ENTRIES)]),
            ]
        )

    def unname(self, repository: Repository, tag: Tag, accept: str) -> None:
        """What was named only cannot be had: the entry is all there is."""
        self._db.write(
            f"DELETE FROM tags WHERE {_TAG} AND accept = ? AND named", (*_key(repository, tag), accept)
        )

    def remove(self, repository: Repository, tag: Tag, accept: str) -> None:
        """Upstream has said that there is no such tag, to a client that accepts these media types."""
        self._db.write(f"DELETE FROM tags WHERE {_TAG} AND accept = ?", (*_key(repository, tag), accept))

    def forget(self, repository: Repository) -> None:
        """Somebody has changed what this repository's tags name."""
        self._db.write(
            "DELETE FROM tags WHERE registry = ? AND repository = ?", (repository.registry, repository.name)
        )

    def expire(self, before: float, most: int = MOST_TAGS) -> None:
        """Remove what was checked before a time, and the oldest of more than `most`. For a disk thread."""

        def expire(db: sqlite3.Connection) -> None:
            surplus = db.execute(
                "SELECT checked FROM tags ORDER BY checked DESC LIMIT 1 OFFSET ?", (most,)
            ).fetchone()
            limit = before if surplus is None else max(before, surplus[0])
            key = "registry, repository, tag, accept, named"
            old = f"DELETE FROM tags WHERE ({key}) IN (SELECT {key} FROM tags WHERE checked <= ? LIMIT ?)"
            while db.execute(old, (limit, _BITE)).rowcount == _BITE:
                pass

        self._db.apart(expire)


def _key(repository: Repository, tag: Tag) -> tuple[str, str, str]:
    return repository.registry, repository.name, str(tag)


def _entry(row: "tuple[str, str, float, int | None] | list[str | float | int | None]") -> TagEntry:
    digest, media_type, checked, size = row
    return TagEntry(
        Digest.parse(str(digest)), str(media_type), float(checked or 0), None if size is None else int(size)
    )
