"""The index: what the store's files cannot say, in SQLite.

Which repository has which digest (links), what manifest a tag named last (tag_table.py), media types, sizes and last
uses. Losing it loses no content: blobs are found by their files, links are proved again by asking upstream.
What upstream has said of credentials (proofs) is here too, because the workers share it.

Every method is one small statement on a local WAL file and takes some ten microseconds, so they are called
in the reactor's thread; what waits for the disk, the checkpoint, is `checkpoint`, for a disk thread. Whoever works
on many rows in a thread has an Index of its own there. Last uses are gathered and written in one transaction
every few seconds (`tick`); those that a crash takes away are no loss.

None of it stops the daemon: see database.py for what happens when the file or the disk fails.
"""

import math
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen

from . import bulletin, tag_table
from .bulletin import Bulletin
from .database import Database
from .reference import Digest, Repository
from .tag_table import TagTable

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
CREATE TABLE IF NOT EXISTS proofs (
    registry TEXT NOT NULL, repository TEXT NOT NULL, credential BLOB NOT NULL, at REAL NOT NULL,
    UNIQUE (registry, repository, credential)
);
CREATE INDEX IF NOT EXISTS proofs_by_age ON proofs (at);
CREATE TABLE IF NOT EXISTS scrubs (
    started REAL PRIMARY KEY, finished REAL, position TEXT, blobs INTEGER NOT NULL, bytes INTEGER NOT NULL,
    rotten INTEGER NOT NULL
) WITHOUT ROWID;
"""
_VERSION = 2
_PROBES = (
    "SELECT blobs, bytes FROM totals",
    "SELECT min(digest), max(digest), min(last_use), max(last_use) FROM blobs",
    "SELECT registry, repository, digest FROM links LIMIT 1",
    "SELECT registry, repository, credential, at FROM proofs LIMIT 1",
    "SELECT started, finished, position, blobs, bytes, rotten FROM scrubs",
)
_GATHERED = 500
"""Last uses that are written without waiting for the next tick: some milliseconds' worth."""


@frozen
class ScrubRecord:
    """One pass over all blobs. `finished` is None while it is under way, and `position` the last one it has seen."""

    started: float
    finished: float | None = None
    position: str | None = None
    blobs: int = 0
    bytes: int = 0
    rotten: int = 0


TICK = 2.0
"""Seconds between calls of `tick`."""
PATIENCE = 0.5
"""Seconds that the reactor waits for other processes, of which each writes for some ten microseconds. One that takes
much longer is as bad as a disk that fails."""
PATIENCE_IN_THREAD = 5.0
"""The same where nobody else is kept waiting."""
MOST_PROOFS = 200_000
"""Proofs kept; the oldest are forgotten, which costs a request upstream."""
_BITE = 500
"""Rows removed in one transaction, so that no other worker waits long for the next."""


class Index:
    """The tables. All times are seconds since the epoch. Usable from `open` on, which comes after
    any fork: that would take SQLite's locks away, and another process could undo our writes."""

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        schema = _SCHEMA + bulletin.SCHEMA + tag_table.SCHEMA
        probes = _PROBES + bulletin.PROBES + tag_table.PROBES
        self._db = Database(path, schema, _VERSION, probes, patience)
        self.bulletin = Bulletin(self._db)
        self.tags = TagTable(self._db)
        self._uses: dict[Digest, tuple[float, int]] = {}

    def open(self, *, or_later: bool = False) -> None:
        """Open the file, or make it; one that is damaged is set aside. `or_later`: where there is no room for it,
        let `tick` open it when there is. Raises DatabaseUnusable."""
        self._db.open(or_later=or_later)

    @property
    def is_open(self) -> bool:
        """Is there a file? Without one all is as in a new one, and nothing is written down."""
        return self._db.is_open

    def tick(self) -> bool:
        """Write what was gathered, and look after the file; for every few seconds. True when another file is in use
        since, which may lack what the files have."""
        self.flush()
        return self._db.look()

    def check(self) -> None:
        """Look for damage in all of the file; the next `tick` replaces a damaged one. For a disk thread."""
        self._db.check()

    def checkpoint(self) -> None:
        """Move the log into the file and sync it. For a disk thread."""
        self._db.checkpoint()

    def close(self) -> None:
        """Close the file, with all that was gathered in it."""
        if self._db.is_open:
            self.flush()
        self._db.close()

    # -- links: upstream's own yes that a repository has a digest

    def link(self, repository: Repository, digest: Digest) -> None:
        """Upstream served this digest from this repository."""
        self._db.write(
            "INSERT OR IGNORE INTO links VALUES (?, ?, ?)",
            (repository.registry, repository.name, str(digest)),
        )

    def linked(self, repository: Repository, digest: Digest) -> bool:
        """Has upstream ever served this digest from this repository?"""
        found = self._db.read(
            "SELECT 1 FROM links WHERE registry = ? AND repository = ? AND digest = ?",
            (repository.registry, repository.name, str(digest)),
        )
        return bool(found)

    def unlink(self, repository: Repository, digest: Digest) -> None:
        """Upstream has removed this digest from this repository, or served something else."""
        self._db.write(
            "DELETE FROM links WHERE registry = ? AND repository = ? AND digest = ?",
            (repository.registry, repository.name, str(digest)),
        )

    # -- proofs: credentials, as keyed hashes, that upstream has accepted

    def proof(self, repository: Repository, credential: bytes) -> float | None:
        """When upstream accepted this credential for this repository, or None."""
        rows = self._db.read(
            "SELECT at FROM proofs WHERE registry = ? AND repository = ? AND credential = ?",
            (repository.registry, repository.name, credential),
        )
        return float(rows[0][0]) if rows else None

    def set_proof(self, repository: Repository, credential: bytes, now: float) -> bool:
        """Upstream has accepted it. False when that could not be written down."""
        return self._db.write(
            "INSERT INTO proofs VALUES (?, ?, ?, ?) "
            "ON CONFLICT (registry, repository, credential) DO UPDATE SET at = excluded.at",
            (repository.registry, repository.name, credential, now),
        )

    def remove_proof(self, repository: Repository, credential: bytes) -> bool:
        """Upstream has refused it. False when that could not be written down."""
        return self._db.write(
            "DELETE FROM proofs WHERE registry = ? AND repository = ? AND credential = ?",
            (repository.registry, repository.name, credential),
        )

    def forget_proofs(
        self, before: float, kept: bytes = b"", kept_before: float = -math.inf, most: int = MOST_PROOFS
    ) -> None:
        """Remove the proofs made before a time, and the oldest of more than `most`. Those of the credential `kept` are
        removed if they were made before `kept_before`. For a disk thread."""
        newest = "SELECT at FROM proofs WHERE credential != ? ORDER BY at DESC LIMIT 1 OFFSET ?"
        old = (
            "DELETE FROM proofs WHERE rowid IN "
            "(SELECT rowid FROM proofs WHERE at < ? AND (credential != ? OR at < ?) LIMIT ?)"
        )

        def forget(db: sqlite3.Connection) -> None:
            surplus = db.execute(newest, (kept, most)).fetchone()
            limit = max(before, math.nextafter(surplus[0], math.inf)) if surplus else before
            while db.execute(old, (limit, kept, kept_before, _BITE)).rowcount == _BITE:
                pass

        self._db.apart(forget)

    # -- blobs

    def add(self, digest: Digest, size: int, media_type: str | None, now: float) -> None:
        """A blob has been stored; `media_type` is known for manifests only."""
        self._db.write(
            "INSERT INTO blobs (digest, size, media_type, added, last_use) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET media_type = coalesce(excluded.media_type, media_type)",
            (str(digest), size, media_type, now, now),
        )

    def adopt(self, blobs: Iterable[tuple[Digest, int, float]]) -> None:
        """These blobs (digest, bytes, last use) are stored; rows they have stay as they are."""
        rows = [(str(digest), size, used, used) for digest, size, used in blobs]
        self._db.write_all(
            [("INSERT OR IGNORE INTO blobs (digest, size, added, last_use) VALUES (?, ?, ?, ?)", rows)]
        )

    def media_type(self, digest: Digest) -> str | None:
        """The media type upstream gave a manifest, or None for one we do not know as a manifest."""
        for (media_type,) in self._db.read("SELECT media_type FROM blobs WHERE digest = ?", (str(digest),)):
            return str(media_type) if media_type is not None else None
        return None

    def used(self, digest: Digest, now: float) -> None:
        """A blob has been served from the store. Without a row, which it loses when it is evicted, it gets none."""
        _, hits = self._uses.get(digest, (now, 0))
        self._uses[digest] = (now, hits + 1)
        if len(self._uses) >= _GATHERED:
            self.flush()

    def flush(self) -> None:
        """Write the last uses that were gathered."""
        if self._uses:
            rows = [(last_use, hits, str(digest)) for digest, (last_use, hits) in self._uses.items()]
            self._uses.clear()
            self._db.write_all(
                [("UPDATE blobs SET last_use = max(last_use, ?), hits = hits + ? WHERE digest = ?", rows)]
            )

    def remove(self, digests: Iterable[Digest]) -> bool:
        """These blobs are not stored any more. Their links stay: they say what upstream said. False when that could
        not be written down: who evicts must not believe that there is room now."""
        return self._db.write_all(
            [("DELETE FROM blobs WHERE digest = ?", [(str(digest),) for digest in digests])]
        )

    def totals(self) -> tuple[int, int]:
        """How many blobs there are, and their sizes together in bytes."""
        for blobs, size in self._db.read("SELECT blobs, bytes FROM totals"):
            return int(blobs), int(size)
        return 0, 0

    def bytes_stored(self) -> int:
        """The sizes of all blobs together."""
        return self.totals()[1]

    def oldest_use(self) -> float | None:
        """When the blob that is next for eviction was used last; None for an empty store."""
        self.flush()
        for (last_use,) in self._db.read("SELECT min(last_use) FROM blobs"):
            return None if last_use is None else float(last_use)
        return None

    def least_recently_used(self, count: int) -> list[tuple[Digest, int]]:
        """The next candidates for eviction, with their sizes in bytes."""
        self.flush()
        rows = self._db.read("SELECT digest, size FROM blobs ORDER BY last_use LIMIT ?", (count,))
        return [(Digest.parse(digest), size) for digest, size in rows]

    def sizes(self, prefix: str) -> dict[str, int]:
        """The sizes of the blobs whose digests, as text, begin so."""
        rows = self._db.read(
            "SELECT digest, size FROM blobs WHERE digest >= ? AND digest < ?", (prefix, prefix + "g")
        )
        return dict(rows)

    # -- scrubs: the passes over all blobs

    def scrubs(self) -> list[ScrubRecord]:
        """The last passes, newest first."""
        rows = self._db.read(
            "SELECT started, finished, position, blobs, bytes, rotten FROM scrubs ORDER BY started DESC LIMIT 10"
        )
        return [ScrubRecord(*row) for row in rows]

    def record_scrub(self, record: ScrubRecord) -> None:
        """How far a pass is, or what it came to. One pass is under way at a time: others that did not finish go."""
        values: Sequence[object] = (
            record.started,
            record.finished,
            record.position,
            record.blobs,
            record.bytes,
            record.rotten,
        )
        self._db.write_all(
            [
                ("DELETE FROM scrubs WHERE finished IS NULL AND started != ?", [(record.started,)]),
                ("INSERT OR REPLACE INTO scrubs VALUES (?, ?, ?, ?, ?, ?)", [values]),
            ]
        )
