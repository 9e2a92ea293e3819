"""Users and the hashes of their passwords, in a file as `htpasswd -B` of Apache writes it: USER:HASH, line by line.

Only hashes that are slow to guess count: bcrypt, and argon2. Each needs a library, when a file has such hashes.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .errors import RegcachdError

LARGEST = 4 * 1024 * 1024
"""Bytes of a file: some fifty thousand users."""

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$(?:v=19\$)?m=(\d{1,7}),t=(\d{1,3}),p=\d{1,2}\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{16,}"
)
_MOST_ROUNDS = 16
"""bcrypt's cost; each step doubles the time, and this one takes some four seconds."""
_MOST_MEMORY = 1024 * 1024
"""KiB that argon2 may take for one check."""
_MOST_PASSES = 100

_NEEDED = {"bcrypt": "python3-bcrypt", "argon2": "python3-argon2"}
"""The modules, and Debian's packages of them."""

_OTHERS = {
    "$apr1$": "MD5",
    "$1$": "MD5",
    "{SHA}": "SHA-1",
    "$5$": "SHA-256 as of crypt(3)",
    "$6$": "SHA-512 as of crypt(3)",
}


class BadUsers(RegcachdError):
    """A file of users that cannot be used: the line, what is wrong with it and how to make a good one."""


def parse_users(text: str) -> Mapping[str, str]:
    """The hashes by user. Raises BadUsers, which shows names but no hashes."""
    users: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hashed = line.partition(":")
        if not colon or not name or not name.isprintable():
            raise BadUsers(f"line {number}: expected USER:HASH, as `htpasswd -B` writes it")
        if name in users:
            raise BadUsers(f'line {number}: a second line for user "{name}"; remove one')
        problem = _problem(hashed)
        if problem is not None:
            raise BadUsers(f'line {number}: the password of user "{name}" {problem}')
        users[name] = hashed
    return users


def _problem(hashed: str) -> str | None:
    """What keeps a hash from being used."""
    remedy = "make it anew with `htpasswd -B FILE USER` (bcrypt)"
    if found := _BCRYPT.fullmatch(hashed):
        if not 4 <= int(found[1]) <= _MOST_ROUNDS:
            return f"has bcrypt's cost {int(found[1])}: expected 4 to {_MOST_ROUNDS}; {remedy}"
        return _missing("bcrypt")
    if found := _ARGON2.fullmatch(hashed):
        if int(found[1]) > _MOST_MEMORY or int(found[2]) > _MOST_PASSES:
            return f"takes more than 1 GiB or {_MOST_PASSES} passes of argon2 to check; {remedy}"
        return _missing("argon2")
    if hashed.startswith(("$2", "$argon2")):
        return f"is not a whole hash of bcrypt or argon2; {remedy}"
    scheme = next((name for prefix, name in _OTHERS.items() if hashed.startswith(prefix)), None)
    if scheme is not None:
        return f"is hashed with {scheme}, which is too easy to guess; {remedy}"
    return f"is hashed with crypt, or not at all; {remedy}"


def _missing(module: str) -> str | None:
    if find_spec(module) is not None:
        return None
    return (
        f"needs the Python package {module} to be checked (Debian: {_NEEDED[module]}), which is not installed"
    )


def is_right(hashed: str, password: bytes) -> bool:
    """Is this the password? Takes its time, and should: a tenth of a second, or more. Not for the reactor's thread."""
    if hashed.startswith("$2"):
        # bcrypt looks at 72 bytes; version 5 of the library wants them cut, as htpasswd did
        bcrypt: Any = import_module("bcrypt")
        return bool(bcrypt.checkpw(password[:72], hashed.encode()))
    argon2: Any = import_module("argon2")
    try:
        return bool(argon2.PasswordHasher().verify(hashed, password))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHash):
        return False
