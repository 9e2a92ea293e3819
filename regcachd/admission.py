"""Who may go through the proxy: users that say their name and password in Proxy-Authorization (RFC 9110 section 11.7).

A password's check is slow on purpose, and a thousand nodes that pull at once say the same one in every connection. So

1. a right one is remembered for some minutes and a wrong one for some seconds, as keyed hashes;
2. those who say the same at the same time wait for one check;
3. checks are made in threads of their own, a few at a time, and no more wait than those can soon do;
4. an address that was wrong too often waits, except with what is known to be right;
5. a name that does not exist takes as long as one that does.
"""

import base64
import binascii
import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen
from twisted.logger import Logger

from .disk import InThread
from .htpasswd import LARGEST, BadUsers, is_right, parse_users
from .secret import Secret, SecretUnreadable
from .singleflight import SingleFlight

log = Logger()

CHALLENGE = (b"Proxy-Authenticate", b'Basic realm="regcachd", charset="UTF-8"')

REMEMBERED = 300.0
"""Seconds that a right password counts without a check; a change of the file ends it at once."""
REMEMBERED_WRONG = 10.0
MOST_REMEMBERED = 10_000
CHECKERS = 2
"""Checks at one time: they are made of processor time, and argon2's of memory."""
MOST_WAITING = 32
MOST_WRONG = 20
"""Wrong passwords from one address within WINDOW."""
WINDOW = 60.0
LOOK = 2.0
"""Seconds between looks for a changed file."""

Stamp = tuple[int, int, int, int]


@frozen
class NotAdmitted:
    """The answer: an HTTP status, and why."""

    status: int
    reason: str


MISSING = NotAdmitted(
    407, "this proxy wants a user and a password: set https_proxy to http://USER:PASSWORD@HOST:PORT"
)
WRONG = NotAdmitted(407, "wrong user or password for this proxy")
TOO_OFTEN = NotAdmitted(429, f"too many wrong passwords for this proxy; wait for {WINDOW:g} s")
BUSY = NotAdmitted(503, "this proxy has too many passwords to check at the moment; try again")


def read_users(source: Secret) -> tuple[Mapping[str, str], Stamp]:
    """The users in a file, and what tells it from a later one. Blocking. Raises BadUsers."""
    try:
        with open(source.path, "rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise BadUsers(f"proxy_users: {source.source}: cannot be read: {error.strerror}") from None
    except SecretUnreadable as error:
        raise BadUsers(f"proxy_users: {error}") from None
    try:
        if len(data) > LARGEST:
            raise BadUsers(f"larger than {LARGEST} bytes")
        users = parse_users(data.decode())
        if not users:
            raise BadUsers("there is no user in it; add one with `htpasswd -B FILE USER`")
    except UnicodeDecodeError:
        raise BadUsers(f"proxy_users: {source.source}: not UTF-8 text") from None
    except BadUsers as error:
        raise BadUsers(f"proxy_users: {source.source}: {error}") from None
    return users, stamp


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def said(header: bytes | None) -> tuple[str, bytes] | None:
    """User and password of a Proxy-Authorization header (RFC 7617); None if it says none."""
    scheme, _, encoded = (header or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode(), password) if colon and b"\0" not in password else None
    except (binascii.Error, UnicodeDecodeError):
        return None


@define(eq=False)
class ProxyUsers:
    """The users in one file, kept up to date. `now` is in seconds, `in_thread` runs checks, CHECKERS at a time."""

    _source: Secret
    _in_thread: InThread
    _now: Callable[[], float]
    _users: Mapping[str, str] = field(factory=dict, init=False, repr=False)
    _stamp: Stamp | None = field(default=None, init=False)
    _complaint: str | None = field(default=None, init=False)
    _key: bytes = field(factory=lambda: secrets.token_bytes(32), init=False, repr=False)
    _right: "OrderedDict[bytes, float]" = field(factory=OrderedDict, init=False, repr=False)
    _wrong: "OrderedDict[bytes, float]" = field(factory=OrderedDict, init=False, repr=False)
    _strikes: "OrderedDict[str, tuple[int, float]]" = field(factory=OrderedDict, init=False, repr=False)
    _checks: "SingleFlight[bytes, bool]" = field(factory=SingleFlight, init=False)
    _waiting: int = field(default=0, init=False)

    # -- the file

    def load(self) -> None:
        """Read it. Raises BadUsers. Blocking."""
        self._take(*read_users(self._source))

    def _take(self, users: Mapping[str, str], stamp: Stamp) -> None:
        self._users, self._stamp, self._complaint = users, stamp, None
        self._right.clear()
        self._wrong.clear()

    async def look(self) -> None:
        """Read the file again if it has changed; the old users stay while it cannot be used."""
        try:
            found = await self._in_thread(self._changed)
        except BadUsers as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("the users of before stay in force: {why}", why=error)
            return
        if found is None:
            self._complaint = None  # the old file is back
            return
        self._take(*found)
        log.info("{count} users of the proxy, from {source}", count=len(found[0]), source=self._source.source)

    def _changed(self) -> tuple[Mapping[str, str], Stamp] | None:
        try:
            if _stamp(os.stat(self._source.path)) == self._stamp:
                return None
        except (OSError, SecretUnreadable):
            pass  # reading it says what is wrong
        return read_users(self._source)

    # -- the question

    def knows(self, header: bytes | None) -> bool:
        """Is this Proxy-Authorization known to be right, so that there is nothing to wait for?"""
        return header is not None and _holds(self._right, self._hash(header), self._now() - REMEMBERED)

    async def refusal(self, header: bytes | None, address: str) -> NotAdmitted | None:
        """Why a request with this Proxy-Authorization, from this address, is not let through; None if it is."""
        if self.knows(header):
            return None
        credential = said(header)
        if header is None or credential is None:
            return MISSING
        token = self._hash(header)
        if _holds(self._wrong, token, self._now() - REMEMBERED_WRONG):
            return WRONG
        if token not in self._checks:
            if self._waiting >= MOST_WAITING:
                return BUSY
            if token not in self._right and not self._strike(address):  # one that was right is hardly a guess
                return TOO_OFTEN
        if await self._checks.run(token, lambda: self._check(token, *credential, address)):
            return None
        return WRONG

    async def _check(self, token: bytes, name: str, password: bytes, address: str) -> bool:
        users, was_right = self._users, token in self._right
        hashed = users.get(name)
        self._waiting += 1
        try:
            taken = hashed or self._stand_in(name)
            right = taken is not None and await self._in_thread(is_right, taken, password)
        finally:
            self._waiting -= 1
        right = right and hashed is not None
        if right and not was_right:
            self._absolve(address)
        if users is self._users:
            _keep(self._right if right else self._wrong, token, self._now())
        return right

    def _stand_in(self, name: str) -> str | None:
        """The hash to check for a user that does not exist: always the same one, so that it takes its time."""
        hashes = list(self._users.values())
        return hashes[int.from_bytes(self._hash(name.encode()), "big") % len(hashes)] if hashes else None

    # -- what is remembered

    def _hash(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, key=self._key, digest_size=16).digest()

    def _strike(self, address: str) -> bool:
        """Count a check that may turn out wrong; False when there were too many."""
        count, since = self._strikes.get(address, (0, 0.0))
        now = self._now()
        if not 0 <= now - since < WINDOW:
            count, since = 0, now
        if count >= MOST_WRONG:
            return False
        _keep(self._strikes, address, (count + 1, since))
        return True

    def _absolve(self, address: str) -> None:
        """It was not wrong."""
        count, since = self._strikes.get(address, (0, 0.0))
        if count:
            self._strikes[address] = (count - 1, since)


def _holds(memory: "OrderedDict[bytes, float]", token: bytes, after: float) -> bool:
    return memory.get(token, after) > after


def _keep(memory: "OrderedDict[Any, Any]", key: object, value: object) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > MOST_REMEMBERED:
        memory.popitem(last=False)
