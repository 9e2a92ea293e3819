"""The index: what the store's files cannot say, in SQLite.

Which repository has which digest (links), what manifest a tag named last (tags), media types, sizes and last
uses. Losing it loses no content: blobs are found by their files, links are proved again by asking upstream. What
upstream has said of credentials (proofs) is here too, because the workers share it; it ends with the daemon.

Every method is one small statement on a local WAL file and takes some ten microseconds, so they are called
in the reactor's thread; what waits for the disk, the checkpoint, is `checkpoint`, for a disk thread.
"""

import math
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from .freshness import TagEntry
from .reference import Digest, Repository, Tag

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
CREATE TABLE IF NOT EXISTS proofs (
    registry TEXT NOT NULL, repository TEXT NOT NULL, credential BLOB NOT NULL, at REAL NOT NULL,
    UNIQUE (registry, repository, credential)
);
CREATE INDEX IF NOT EXISTS proofs_by_age ON proofs (at);
"""
_VERSION = 1

PATIENCE = 5.0
"""Seconds to wait for other processes; each of them writes for some ten microseconds."""
RETRY = 0.0002
"""Seconds until the next attempt."""
MOST_PROOFS = 200_000
"""Proofs kept; the oldest are forgotten, which costs a request upstream."""
_BITE = 500
"""Rows removed in one transaction, so that no other worker waits long for the next."""


class Index:
    """The tables. All times are seconds since the epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = self._connect()
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._db.execute("PRAGMA busy_timeout = 0")  # from now on _execute waits

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=PATIENCE, cached_statements=64)
        db.execute("PRAGMA journal_mode = WAL")
        # no fsync at a commit: what a loss of power takes away is asked of upstream again
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        return db

    def _execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """One statement, in a transaction of its own.

        Where another worker is writing it is tried again: after much less time than SQLite's own waiting would
        take, which grows to 100 ms at once and lets a busy neighbour starve this one for seconds.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._db.execute(statement, values)
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the low byte is the primary code
                if not busy or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY)

    def checkpoint(self) -> None:
        """Move the log into the file and sync it. For a disk thread: it has a connection of its own."""
        db = self._connect()
        try:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            db.close()

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        self._db.close()

    # -- links: upstream's own yes that a repository has a digest

    def link(self, repository: Repository, digest: Digest) -> None:
        """Upstream served this digest from this repository."""
        self._execute(
            "INSERT OR IGNORE INTO links VALUES (?, ?, ?)",
            (repository.registry, repository.name, str(digest)),
        )

    def linked(self, repository: Repository, digest: Digest) -> bool:
        """Has upstream ever served this digest from this repository?"""
        found = self._execute(
            "SELECT 1 FROM links WHERE registry = ? AND repository = ? AND digest = ?",
            (repository.registry, repository.name, str(digest)),
        )
        return found.fetchone() is not None

    # -- proofs: credentials, as keyed hashes, that upstream has accepted

    def proof(self, repository: Repository, credential: bytes) -> float | None:
        """When upstream accepted this credential for this repository, or None."""
        row = self._execute(
            "SELECT at FROM proofs WHERE registry = ? AND repository = ? AND credential = ?",
            (repository.registry, repository.name, credential),
        ).fetchone()
        return row[0] if row else None

    def set_proof(self, repository: Repository, credential: bytes, now: float) -> None:
        """Upstream has accepted it."""
        self._execute(
            "INSERT INTO proofs VALUES (?, ?, ?, ?) "
            "ON CONFLICT (registry, repository, credential) DO UPDATE SET at = excluded.at",
            (repository.registry, repository.name, credential, now),
        )

    def remove_proof(self, repository: Repository, credential: bytes) -> None:
        """Upstream has refused it."""
        self._execute(
            "DELETE FROM proofs WHERE registry = ? AND repository = ? AND credential = ?",
            (repository.registry, repository.name, credential),
        )

    def forget_proofs(self, before: float, most: int = MOST_PROOFS) -> None:
        """Remove the proofs made before a time, and the oldest of more than `most`. For a disk thread."""
        db = self._connect()
        try:
            newest = "SELECT at FROM proofs ORDER BY at DESC LIMIT 1 OFFSET ?"
            surplus = db.execute(newest, (most,)).fetchone()
            if surplus:
                before = max(before, math.nextafter(surplus[0], math.inf))
            old = "SELECT rowid FROM proofs WHERE at < ? LIMIT ?"
            while db.execute(f"DELETE FROM proofs WHERE rowid IN ({old})", (before, _BITE)).rowcount == _BITE:
                pass
        finally:
            db.close()

    # -- blobs

    def add(self, digest: Digest, size: int, media_type: str | None, now: float) -> None:
        """A blob has been stored; `media_type` is known for manifests only."""
        self._execute(
            "INSERT INTO blobs (digest, size, media_type, added, last_use) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET media_type = coalesce(excluded.media_type, media_type)",
            (str(digest), size, media_type, now, now),
        )

    def media_type(self, digest: Digest) -> str | None:
        """The media type upstream gave a manifest, or None for one we do not know as a manifest."""
        row = self._execute("SELECT media_type FROM blobs WHERE digest = ?", (str(digest),)).fetchone()
        return row[0] if row else None

    def used(self, digest: Digest, size: int, now: float) -> None:
        """A blob has been served from the store. One whose row was lost gets a new one."""
        self._execute(
            "INSERT INTO blobs (digest, size, added, last_use, hits) VALUES (?, ?, ?, ?, 1) "
            "ON CONFLICT (digest) DO UPDATE SET last_use = excluded.last_use, hits = hits + 1",
            (str(digest), size, now, now),
        )

    def remove(self, digests: Iterable[Digest]) -> None:
        """These blobs are not stored any more. Their links stay: they say what upstream said."""
        for digest in digests:
            self._execute("DELETE FROM blobs WHERE digest = ?", (str(digest),))

    def bytes_stored(self) -> int:
        """The sizes of all blobs together."""
        row = self._execute("SELECT bytes FROM totals").fetchone()
        return int(row[0])

    def least_recently_used(self, count: int) -> list[tuple[Digest, int]]:
        """The next candidates for eviction, with their sizes in bytes."""
        rows = self._execute("SELECT digest, size FROM blobs ORDER BY last_use LIMIT ?", (count,))
        return [(Digest.parse(digest), size) for digest, size in rows]

    # -- tags

    def tag(self, repository: Repository, tag: Tag, accept: str) -> TagEntry | None:
        """What this tag named last, for a client that accepts these media types."""
        row = self._execute(
            "SELECT digest, media_type, checked FROM tags "
            "WHERE registry = ? AND repository = ? AND tag = ? AND accept = ?",
            (repository.registry, repository.name, str(tag), accept),
        ).fetchone()
        return TagEntry(Digest.parse(row[0]), row[1], row[2]) if row else None

    def set_tag(self, repository: Repository, tag: Tag, accept: str, entry: TagEntry) -> None:
        """Upstream has said what this tag names."""
        self._execute(
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
