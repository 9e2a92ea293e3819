"""The index: what the store's files cannot say, in SQLite.

Which repository has which digest (links), what manifest a tag named last (tags), media types, sizes and last
uses. Losing it loses no content: blobs are found by their files, links are proved again by asking upstream.
An index that fails, on a full disk say, fails no request: what it cannot say is unknown. What upstream has said of
credentials (proofs) is here too, because the workers share it; it ends with the daemon.

Every method is one small statement on a local WAL file and takes some ten microseconds, so they are called
in the reactor's thread; what waits for the disk, the checkpoint, is `checkpoint`, for a disk thread.
"""

import math
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
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
CREATE TABLE IF NOT EXISTS proofs (
    registry TEXT NOT NULL, repository TEXT NOT NULL, credential BLOB NOT NULL, at REAL NOT NULL,
    UNIQUE (registry, repository, credential)
);
CREATE INDEX IF NOT EXISTS proofs_by_age ON proofs (at);
"""
_VERSION = 1

PATIENCE = 0.5
"""Seconds that the reactor waits for other processes, of which each writes for some ten microseconds. One that takes
much longer is as bad as a disk that fails."""
PATIENCE_IN_THREAD = 5.0
"""The same where nobody else is kept waiting."""
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
            db.execute("PRAGMA busy_timeout = 0")  # from now on _execute waits
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self._path, isolation_level=None, timeout=PATIENCE_IN_THREAD, cached_statements=64
        )
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # no fsync at a commit: what a loss of power takes away is asked of upstream again
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_autocheckpoint = 0")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _execute(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """The rows of a statement, which is a transaction of its own. Raises sqlite3.Error.

        Where another worker is writing it is tried again: after much less time than SQLite's own waiting would
        take, which grows to 100 ms at once and lets a busy neighbour starve this one for seconds.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.OperationalError as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extended code
                if code != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY)

    def _run(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """The rows of a statement; none, and a line in the log, when the index fails."""
        try:
            return self._execute(statement, values)
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

    def reopen(self) -> None:
        """To be called after a fork, which takes SQLite's locks away: then another process could undo our writes."""
        self._db.close()
        self._db = self._open()

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

    # -- proofs: credentials, as keyed hashes, that upstream has accepted

    def proof(self, repository: Repository, credential: bytes) -> float | None:
        """When upstream accepted this credential for this repository, or None."""
        rows = self._run(
            "SELECT at FROM proofs WHERE registry = ? AND repository = ? AND credential = ?",
            (repository.registry, repository.name, credential),
        )
        return rows[0][0] if rows else None

    def set_proof(self, repository: Repository, credential: bytes, now: float) -> None:
        """Upstream has accepted it. Raises sqlite3.Error."""
        self._execute(
            "INSERT INTO proofs VALUES (?, ?, ?, ?) "
            "ON CONFLICT (registry, repository, credential) DO UPDATE SET at = excluded.at",
            (repository.registry, repository.name, credential, now),
        )

    def remove_proof(self, repository: Repository, credential: bytes) -> None:
        """Upstream has refused it. Raises sqlite3.Error."""
        self._execute(
            "DELETE FROM proofs WHERE registry = ? AND repository = ? AND credential = ?",
            (repository.registry, repository.name, credential),
        )

    def forget_proofs(self, before: float, most: int = MOST_PROOFS) -> None:
        """Remove the proofs made before a time, and the oldest of more than `most`. For a disk thread."""
        newest = "SELECT at FROM proofs ORDER BY at DESC LIMIT 1 OFFSET ?"
        old = "DELETE FROM proofs WHERE rowid IN (SELECT rowid FROM proofs WHERE at < ? LIMIT ?)"
        try:
            with closing(self._connect()) as db:
                surplus = db.execute(newest, (most,)).fetchone()
                if surplus:
                    before = max(before, math.nextafter(surplus[0], math.inf))
                while db.execute(old, (before, _BITE)).rowcount == _BITE:
                    pass
        except sqlite3.Error as error:
            log.error("old proofs were not removed from the index, which is tried again: {why}", why=error)

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
        for digest in digests:
            self._execute("DELETE FROM blobs WHERE digest = ?", (str(digest),))

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
