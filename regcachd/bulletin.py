"""The bulletin: what the workers tell each other that is nobody's secret, in tables of the index.

    notices     answers of upstream to requests without any credential, which anybody may be given
    claims      which of them somebody is fetching just now
    anonymous   hashes of the tokens among them

It is in the store's directory and so outlives the daemon: a ping may be answered with the cable out, after a restart.
As with all of the index, what cannot be written is dropped, and nothing stops for it.
"""

import sqlite3

from attrs import field, frozen

from .database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS notices (
    key TEXT PRIMARY KEY, answer TEXT NOT NULL, came REAL NOT NULL, fresh_until REAL NOT NULL, ends REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS anonymous (
    token BLOB PRIMARY KEY, wanted TEXT NOT NULL, ends REAL NOT NULL
) WITHOUT ROWID;
"""
PROBES = (
    "SELECT key, answer, came, fresh_until, ends FROM notices LIMIT 1",
    "SELECT key, until FROM claims LIMIT 1",
    "SELECT token, wanted, ends FROM anonymous LIMIT 1",
)
MOST_NOTICES = 2_000
MOST_BYTES = 16 * 1024 * 1024
"""Bytes of all answers together. Of what is over one of the two bounds, the oldest goes."""
_LEAST_WANTED = "key LIKE 'referrers %', key LIKE 'token %'"
"""Of these clients can ask for as many as they like; they must not displace the pings."""
MOST_ANONYMOUS = 20_000
"""Tokens that are known to be anonymous; those that end first are forgotten first."""


@frozen
class Notice:
    """An answer as text, when it came, until when it goes out unasked, and when it is of no use even in need."""

    answer: str = field(repr=False)
    came: float
    fresh_until: float
    ends: float


class Bulletin:
    """The tables. Times are seconds since the epoch."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # -- notices

    def post(self, key: str, notice: Notice) -> bool:
        """Tell everybody. False when that could not be written down."""
        return self._db.write(
            "INSERT OR REPLACE INTO notices VALUES (?, ?, ?, ?, ?)",
            (key, notice.answer, notice.came, notice.fresh_until, notice.ends),
        )

    def read(self, key: str) -> Notice | None:
        """What is known."""
        rows = self._db.read("SELECT answer, came, fresh_until, ends FROM notices WHERE key = ?", (key,))
        return Notice(*rows[0]) if rows else None

    def take_down(self, key: str, before: float) -> None:
        """It is not true any more, unless it came later than `before`."""
        self._db.write("DELETE FROM notices WHERE key = ? AND came <= ?", (key, before))

    def take_down_all(self, prefix: str) -> None:
        """None whose key, which is of ASCII, begins so is true any more."""
        self._db.write("DELETE FROM notices WHERE key >= ? AND key < ?", (prefix, prefix + "\x7f"))

    # -- claims

    def claim(self, key: str, now: float, until: float) -> bool:
        """May the caller fetch this, because nobody else does until then? Where nothing can be written, all may."""
        self._db.write("DELETE FROM claims WHERE key = ? AND (until <= ? OR until > ?)", (key, now, until))
        sql = "INSERT OR IGNORE INTO claims VALUES (?, ?) RETURNING 1"
        return bool(self._db.read(sql, (key, until))) or not self._claimed(key)

    def _claimed(self, key: str) -> bool:
        return bool(self._db.read("SELECT 1 FROM claims WHERE key = ?", (key,)))

    def release(self, key: str) -> None:
        """The caller's claim has ended."""
        self._db.write("DELETE FROM claims WHERE key = ?", (key,))

    # -- anonymous tokens

    def add_anonymous(self, token: bytes, wanted: str, ends: float) -> bool:
        """Nobody in particular was given the token with this hash. False when that could not be written down."""
        return self._db.write("INSERT OR REPLACE INTO anonymous VALUES (?, ?, ?)", (token, wanted, ends))

    def anonymous(self, token: bytes) -> tuple[str, float] | None:
        """What the token with this hash was asked for, and when it ends."""
        rows = self._db.read("SELECT wanted, ends FROM anonymous WHERE token = ?", (token,))
        return (str(rows[0][0]), float(rows[0][1])) if rows else None

    # -- looking after it

    def forget(self, now: float) -> None:
        """Remove what has ended, and what is too much. For a disk thread."""

        def forget(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM notices WHERE ends <= ?", (now,))
            db.execute("DELETE FROM claims WHERE until <= ?", (now,))
            db.execute("DELETE FROM anonymous WHERE ends <= ?", (now,))
            db.execute(
                "DELETE FROM notices WHERE key IN (SELECT key FROM (SELECT key, "
                "count(*) OVER newest AS notices, sum(length(answer)) OVER newest AS bytes FROM notices "
                f"WINDOW newest AS (ORDER BY {_LEAST_WANTED}, came DESC, key)) WHERE notices > ? OR bytes > ?)",
                (MOST_NOTICES, MOST_BYTES),
            )
            db.execute(
                "DELETE FROM anonymous WHERE token IN "
                "(SELECT token FROM anonymous ORDER BY ends DESC LIMIT -1 OFFSET ?)",
                (MOST_ANONYMOUS,),
            )

        self._db.apart(forget)
