"""One SQLite file that may be lost: opened with suspicion, set aside when it is damaged, replaced while in use.

What such a file holds can be had again, so nothing here stops the daemon. When the disk fails, reads find
nothing and writes are dropped, which is said once. When the file is not the database that is expected, or is
malformed, it is renamed to `<name>.bad-TIME` (the time it was written last) and an empty one takes its place; other
processes that have it open notice that in `look`, and change over.

SQLite knows of files that were renamed while open: the last to close one leaves the new one's log alone.
"""

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from .errors import RegcachdError

log = Logger()

_WAIT = 5.0
"""Seconds that opening, and work in a thread, waits for another process's writes. Ours take milliseconds."""
_RETRY = 0.0002
"""Seconds until the next attempt at a statement that another process's write is in the way of."""
_LARGEST_LOG = 64 * 1024 * 1024
"""Bytes the log is cut down to when it has been moved into the file."""
_COMPANIONS = ("-wal", "-shm")
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DISK = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}

Statement = tuple[str, Sequence[Sequence[Any]]]
"""SQL, and the parameters of each of its executions."""


_NO_ROOM = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_WRITE,  # what SQLite makes of a quota
}


class DatabaseUnusable(RegcachdError):
    """The file can neither be used nor replaced."""


class _NotOurs(Exception):
    """A database, but not one of this version."""


class Database:
    """The file at `path`, with the tables that `schema` makes where they are missing; `probes` are queries that
    must work and see what damage can be seen quickly. A statement waits `patience` seconds for those of other
    processes. For one thread at a time."""

    def __init__(
        self, path: Path, schema: str, version: int, probes: Sequence[str] = (), patience: float = _WAIT
    ) -> None:
        self.path = path
        self._schema = schema
        self._version = version
        self._probes = probes
        self._patience = patience
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._directory: tuple[int, int] | None = None
        self._damage: str | None = None
        self._in_trouble = self._failed = False  # said already; and since the last look

    # -- opening

    def open(self, *, or_later: bool = False) -> None:
        """Open the file, or a new one where it is missing or damaged. `or_later`: where the disk has no room for it, go
        on without, and let `look` open it when there is. Raises DatabaseUnusable."""
        try:
            with _alone(self.path.parent):
                self._open(damage=None)
        except (_NotOurs, sqlite3.Error, OSError) as error:
            if or_later and _is_lack_of_room(error):
                log.error(
                    "there is no room for {path}, going on without it: {why}",
                    path=str(self.path),
                    why=error,
                )
                self._directory = _identity(self.path.parent)
                self._in_trouble = self._failed = True
                return
            raise DatabaseUnusable(
                f"{self.path} cannot be used: {error}; see that its directory and its disk are in order"
            ) from error

    def _open(self, damage: str | None) -> None:
        if damage is not None:
            self._set_aside(damage)
        elif not self.path.exists():
            for suffix in _COMPANIONS:  # not to be taken for those of the new file
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        try:
            self._db = self._connect()
        except (_NotOurs, sqlite3.DatabaseError) as error:
            if _code(error) in _DISK:
                raise
            self._set_aside(str(error))
            self._db = self._connect()
        self._file, self._directory = _identity(self.path), _identity(self.path.parent)
        self._damage = None

    def _connect(self) -> sqlite3.Connection:
        db = self._bare()
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version != self._version and (version or tables):
                raise _NotOurs(f"it is a database of version {version}, and this is for {self._version}")
            db.execute("PRAGMA journal_mode = WAL")
            # no fsync at a commit: what a loss of power takes away can be had again
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_autocheckpoint = 0")
            db.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
            sign = f"PRAGMA user_version = {self._version};" if version != self._version else ""
            db.executescript(
                f"BEGIN IMMEDIATE; {self._schema}; {sign} COMMIT"
            )  # all, or on a full disk nothing
            for probe in self._probes:
                db.execute(probe).fetchall()
            db.execute("PRAGMA busy_timeout = 0")  # from now on _execute waits
        except BaseException:
            db.close()
            raise
        return db

    def _bare(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, isolation_level=None, timeout=_WAIT, cached_statements=64, check_same_thread=False
        )

    def _set_aside(self, why: str) -> None:
        """Rename the file, with its log; of those that were set aside before, none is kept."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.path.stat().st_mtime))
        aside = self.path.with_name(f"{self.path.name}.bad-{stamp}")
        for earlier in self.path.parent.glob(f"{self.path.name}.bad-*"):
            earlier.unlink(missing_ok=True)
        self.path.rename(aside)
        for suffix in _COMPANIONS:
            companion = self.path.with_name(self.path.name + suffix)
            if companion.exists():
                companion.rename(aside.with_name(aside.name + suffix))
        log.error(
            "{path} is damaged ({why}); moved to {aside}", path=str(self.path), why=why, aside=aside.name
        )

    # -- use

    @property
    def is_open(self) -> bool:
        """Is there a file to use?"""
        return self._db is not None

    def read(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows; none when the file is closed or damaged, or the disk fails."""
        return self._run(sql, arguments) or []

    def write(self, sql: str, arguments: Sequence[Any] = ()) -> bool:
        """One change in a transaction of its own. False when it was dropped: the file is closed or damaged, or the
        disk fails."""
        return self._run(sql, arguments) is not None

    def _run(self, sql: str, arguments: Sequence[Any]) -> list[tuple[Any, ...]] | None:
        if self._db is None:
            return None
        try:
            return self._execute(self._db, sql, arguments)
        except sqlite3.DatabaseError as error:
            self._failed_with(error)
            return None

    def _execute(
        self, db: sqlite3.Connection, sql: str, arguments: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows. Where another process is writing it is tried again: after much less time than SQLite's own waiting
        would take, which grows to 100 ms at once and lets a busy neighbour starve this one for seconds."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return db.execute(sql, arguments).fetchall()
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY)

    def write_all(self, statements: Iterable[Statement]) -> bool:
        """Many changes in one transaction. False when all were dropped, for the reasons of `write`."""
        if self._db is None:
            return False
        try:
            self._execute(self._db, "BEGIN IMMEDIATE")
            for sql, rows in statements:
                self._db.executemany(sql, rows)
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._failed_with(error)
            return False
        finally:
            if self._db.in_transaction:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
        return True

    def _failed_with(self, error: sqlite3.DatabaseError) -> None:
        code = _code(error)
        if code in _DAMAGED:
            self._damage = self._damage or str(error)
        elif code not in _DISK:
            raise error
        if not self._in_trouble:
            log.error("{path} failed, going on without it: {why}", path=str(self.path), why=error)
        self._in_trouble = self._failed = True

    # -- looking after it

    def look(self) -> bool:
        """Replace the file if it was found to be damaged, change over if another process has replaced it, or somebody
        has deleted it, and open it if there was no room. True when another file is in use now. For every few
        seconds."""
        self._in_trouble, self._failed = self._failed, False
        if self.is_open and _identity(self.path) == self._file and self._damage is None:
            return False
        if _identity(self.path.parent) != self._directory:
            return False  # the disk has gone; a new file would be on the one below it
        before = self._db
        try:
            with _alone(self.path.parent):
                found = _identity(self.path)
                if found is None and self.is_open:
                    log.error("{path} was deleted; a new one is made", path=str(self.path))
                self._open(self._damage if found == self._file else None)
        except (_NotOurs, sqlite3.Error, OSError) as error:
            if not self._in_trouble:
                log.error("{path} cannot be replaced: {why}", path=str(self.path), why=error)
            self._in_trouble = self._failed = True
            return False
        if before is not None:
            before.close()
        return True

    def check(self) -> None:
        """Read all of the file; what is wrong with it counts as damage from then on. Takes seconds for a large one."""
        rows = self.read("PRAGMA quick_check(1)")
        if rows and rows[0][0] != "ok":
            self._damage = str(rows[0][0]).splitlines()[-1]

    def checkpoint(self) -> None:
        """Move the log into the file and sync it. For a disk thread."""
        self.apart(lambda db: db.execute("PRAGMA wal_checkpoint(PASSIVE)"))

    def apart(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Do `work` with a connection of its own, in a disk thread. When that fails a line in the log says so."""
        if not self.is_open:
            return
        try:
            with closing(self._bare()) as db:
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("PRAGMA wal_autocheckpoint = 0")
                work(db)
        except sqlite3.DatabaseError as error:
            log.warn("{path} was not looked after, trying again later: {why}", path=str(self.path), why=error)

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        if self._db is not None:
            self._db.close()
            self._db = None
        self._directory = None  # nothing to look after


def _is_lack_of_room(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", 0) in _NO_ROOM


def _code(error: Exception) -> int:
    """SQLite's code of the error, without the extended part; 0 when it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another that takes its name."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other processes from opening and replacing what is in the directory meanwhile."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
