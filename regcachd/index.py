"""The index: what the store's files cannot say, in SQLite.

Which repository has which digest (links), what manifest a tag named last (tags), media types, sizes and last
uses. Losing it loses no content: blobs are found by their files, links are proved again by asking upstream.
An index that fails, on a full disk say, fails no request: what it cannot say is unknown.

Every method is one small statement on a local WAL file and takes some ten microseconds, so they are called
in the reactor's thread; what waits for the disk, the checkpoint, is `checkpoint`, for a disk thread.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from .freshness import TagEntry
from .reference import Digest, Repository, Tag
from .store import StoreUnusable

log = Logger()

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    digest TEXT PRIMARY KEY, size INTEGER NOT NULL, media_type TEXT, added REAL NOT NULL,
    last_use REAL NOT NULL, hits INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blobs_by_use ON blobs (last_use);
CREATE TABLE IF NOT EXISTS totals (blobs INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO totals SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM totals);
CREATE TRIGGER IF NOT EXISTS blob_added AFTER INSERT ON blobs
    BEGIN UPDATE totals SET blobs = blobs + 1, bytes = bytes + new.size; END;
CREATE TRIGGER IF NOT EXISTS blob_removed AFTER DELETE ON blobs
    BEGIN UPDATE totals SET blobs = blobs - 1, bytes = bytes - old.size; END;
CREATE TABLE IF NOT EXISTS links (
    registry TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (registry, repository, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tags (
    registry TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL, accept TEXT NOT NULL,
    digest TEXT NOT NULL, media_type TEXT NOT NULL, checked REAL NOT NULL,
    PRIMARY KEY (registry, repository, tag, accept)
) WITHOUT ROWID;
"""
_VERSION = 1


class Index:
    """The tables. All times are seconds since the epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = self._open()
        except sqlite3.OperationalError as error:
            raise StoreUnusable(
                f"the index {path} cannot be opened: {error}; make it and its directory writable for this user"
            ) from error
        except sqlite3.DatabaseError as error:
            log.error("the index {path} is damaged ({why}); beginning a new one", path=str(path), why=error)
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = self._connect()
        try:
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=5.0, cached_statements=64)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # no fsync at a commit: what a loss of power takes away is asked of upstream again
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_autocheckpoint = 0")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _run(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """The rows of a statement; none, and a line in the log, when the index fails."""
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            log.error("the index failed: {why}", why=error)
            return []

    def checkpoint(self) -> None:
        """Move the log into the file and sync it. For a disk thread: it has a connection of its own."""
        try:
            db = self._connect()
            try:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            finally:
                db.close()
        except sqlite3.Error as error:
            log.error("the index was not written to disk, which is tried again: {why}", why=error)

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        self._db.close()

    # -- links: upstream's own yes that a repository has a digest

    def link(self, repository: Repository, digest: Digest) -> None:
        """Upstream served this digest from this repository."""
        self._run(
            "INSERT OR IGNORE INTO links VALUES (?, ?, ?)",
            (repository.registry, repository.name, str(digest)),
        )

    def linked(self, repository: Repository, digest: Digest) -> bool:
        """Has upstream ever served this digest from this repository?"""
        return bool(
            self._run(
                "SELECT 1 FROM links WHERE registry = ? AND repository = ? AND digest = ?",
                (repository.registry, repository.name, str(digest)),
            )
        )

    # -- blobs

    def add(self, digest: Digest, size: int, media_type: str | None, now: float) -> None:
        """A blob has been stored; `media_type` is known for manifests only."""
        self._run(
            "INSERT INTO blobs (digest, size, media_type, added, last_use) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET media_type = coalesce(excluded.media_type, media_type)",
            (str(digest), size, media_type, now, now),
        )

    def media_type(self, digest: Digest) -> str | None:
        """The media type upstream gave a manifest, or None for one we do not know as a manifest."""
        rows = self._run("SELECT media_type FROM blobs WHERE digest = ?", (str(digest),))
        return rows[0][0] if rows else None

    def used(self, digest: Digest, size: int, now: float) -> None:
        """A blob has been served from the store. One whose row was lost gets a new one."""
        self._run(
            "INSERT INTO blobs (digest, size, added, last_use, hits) VALUES (?, ?, ?, ?, 1) "
            "ON CONFLICT (digest) DO UPDATE SET last_use = excluded.last_use, hits = hits + 1",
            (str(digest), size, now, now),
        )

    def remove(self, digests: Iterable[Digest]) -> None:
        """These blobs are not stored any more. Their links stay: they say what upstream said.

        Raises sqlite3.Error: who evicts must not believe that there is room now.
        """
        self._db.executemany("DELETE FROM blobs WHERE digest = ?", [(str(digest),) for digest in digests])

    def bytes_stored(self) -> int:
        """The sizes of all blobs together."""
        rows = self._run("SELECT bytes FROM totals")
        return int(rows[0][0]) if rows else 0

    def least_recently_used(self, count: int) -> list[tuple[Digest, int]]:
        """The next candidates for eviction, with their sizes in bytes."""
        rows = self._run("SELECT digest, size FROM blobs ORDER BY last_use LIMIT ?", (count,))
        return [(Digest.parse(digest), size) for digest, size in rows]

    # -- tags

    def tag(self, repository: Repository, tag: Tag, accept: str) -> TagEntry | None:
        """What this tag named last, for a client that accepts these media types."""
        rows = self._run(
            "SELECT digest, media_type, checked FROM tags "
            "WHERE registry = ? AND repository = ? AND tag = ? AND accept = ?",
            (repository.registry, repository.name, str(tag), accept),
        )
        return TagEntry(Digest.parse(rows[0][0]), rows[0][1], rows[0][2]) if rows else None

    def set_tag(self, repository: Repository, tag: Tag, accept: str, entry: TagEntry) -> None:
        """Upstream has said what this tag names."""
        self._run(
            "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                repository.registry,
                repository.name,
                str(tag),
                accept,
                str(entry.digest),
                entry.media_type,
                entry.checked,
            ),
        )
