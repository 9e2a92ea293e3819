"""Sharing of tokens that were asked for without any credential: which, how long, and what the copies say.

Distribution's "Token Authentication Specification" is the protocol: GET realm?service=...&scope=... is answered with
JSON that has `token` or `access_token`, `expires_in` (60 seconds where it is missing) and `issued_at`.

The rule. A token that lives L seconds from the moment it was asked for is given to others during the first
max(L - 90, L / 4) of these. So whoever gets one has at least 60 seconds of it left, and 30 for slow clocks and ways,
because docker and podman believe in 60 seconds even where they are told of fewer. Tokens that live shorter
than two minutes leave no room for that and are shared for a quarter of their lives: one of 60 seconds for 15.
`expires_in` of a copy is what is left, and `issued_at` moves along, so that their sum stays what it was.

Pure. Times are seconds since the epoch.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from attrs import frozen

LIFE = 60.0
"""Seconds that a token lives whose answer does not say."""
LONGEST_LIFE = 24 * 3600.0
"""Seconds that are believed at most."""
RESERVE = 60.0 + 30.0
"""Seconds of life that a shared token has left."""
LEAST_SHARE = 0.25
"""The fraction of a life for which a token is shared even so."""
LONGEST_QUERY = 2048
"""Bytes; what was asked for is remembered with every token."""
MOST_FIELDS = 64
"""Parameters of a query; requests with more are passed on."""


@frozen
class Wanted:
    """What a token was asked for: those who want the same can have the same."""

    service: str | None
    scopes: tuple[str, ...]
    """Each as it was written, one for every `scope` parameter; sorted."""

    def __str__(self) -> str:
        return json.dumps([self.service, *self.scopes])


def wanted(query: bytes) -> Wanted | None:
    """What this query asks for, when anybody might ask so; None for all others, such as those with an `account`."""
    if len(query) > LONGEST_QUERY:
        return None
    try:
        text = query.decode("ascii")
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError:
        return None
    names = [name for name, _ in pairs]
    if any(name not in ("service", "scope", "client_id", "offline_token") for name in names):
        return None
    if any(names.count(name) > 1 for name in ("service", "client_id", "offline_token")):
        return None
    values = dict(pairs)
    if values.get("offline_token", "false") != "false":
        return None
    return Wanted(values.get("service"), tuple(sorted({value for name, value in pairs if name == "scope"})))


@frozen
class Grant:
    """How long a token that was given to nobody in particular is good, and for how long it is shared."""

    ends: float
    shared_until: float


def read_grant(body: bytes, asked: float, date: str | None) -> Grant | None:
    """The token in an answer that was asked for at `asked`; None when there is none, or one that cannot be shared.

    A server that keeps tokens itself hands out old ones; `date`, its Date header, tells how old (by its own clock).
    """
    members = _members(body)
    if members is None or members.get("refresh_token"):
        return None
    if not _tokens(members):
        return None
    life = _life(members)
    issued = _instant(members.get("issued_at"))
    if issued is not None:
        served = _http_date(date) or asked
        life -= max(0.0, served - issued.timestamp())
    return Grant(asked + life, asked + share(life)) if life > 0 else None


def tokens_in(body: bytes) -> tuple[str, ...]:
    """The one token of an answer, under either of its names; two where they differ."""
    return _tokens(_members(body) or {})


def share(life: float) -> float:
    """For how many of its `life` seconds a token is given to others."""
    return max(life - RESERVE, life * LEAST_SHARE)


def retold(body: bytes, ends: float, now: float) -> bytes:
    """The answer as it is true at `now`; `read_grant` has read it. Its other members stay."""
    members = _members(body)
    assert members is not None
    life, left = _life(members), max(1, int(ends - now))
    issued = _instant(members.get("issued_at"))
    if issued is not None:
        moved = issued + timedelta(seconds=life - left)
        members["issued_at"] = moved.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    members["expires_in"] = left
    return json.dumps(members).encode()


def end_of(body: bytes, came: float) -> float:
    """When the token of an answer that was true when it came, at that time, ends."""
    members = _members(body)
    assert members is not None
    return came + _life(members)


def _members(body: bytes) -> dict[str, Any] | None:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def _tokens(members: dict[str, Any]) -> tuple[str, ...]:
    found = [members.get(name) for name in ("token", "access_token")]
    return tuple(dict.fromkeys(each for each in found if isinstance(each, str) and each))


def _life(members: dict[str, Any]) -> float:
    life = members.get("expires_in")
    if isinstance(life, bool) or not isinstance(life, int | float) or life == 0 or life != life:
        return LIFE
    return float(max(-1, min(life, LONGEST_LIFE)))


def _instant(written: object) -> datetime | None:
    """An RFC 3339 time, within the years in which arithmetic with it cannot fail."""
    if not isinstance(written, str):
        return None
    try:
        instant = datetime.fromisoformat(written)
    except ValueError:
        return None
    if not 1970 < instant.year < 9999:
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _http_date(written: str | None) -> float | None:
    """RFC 9110 section 5.6.7, the form that is sent today."""
    try:
        found = datetime.strptime(written or "", "%a, %d %b %Y %H:%M:%S GMT")
    except ValueError:
        return None
    return found.replace(tzinfo=UTC).timestamp() if found.year > 1970 else None
