"""The rate governor of a registry: what it has said of its limits, and what is better not asked of it just now.

Docker Hub counts GETs of manifests against an account, or an address, and tells in the answers how many are left; a
HEAD does not count. Who has none left gets 429 with an error named TOOMANYREQUESTS; who asks too fast, whatever for,
gets a bare 429. So there are two kinds of limits:

    PULLS   GETs wait until the registry's Retry-After, or ever longer, is over; HEADs go on
    ABUSE   both wait

and while they wait, and when next to no pulls are left, what is known of a tag is served without asking. Everybody has
limits of his own: nobody's requests keep another's back. Pure: times are seconds since the epoch.
"""

import re
from calendar import timegm
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

from attrs import define, evolve, field, frozen

FIRST_HOLD = 1.0
"""Seconds that a limit without a Retry-After is respected; they double each time."""
LONGEST_HOLD = 60.0
MOST_OBEYED = 300.0
"""Seconds of a Retry-After that are respected: so late may it be noticed that a limit was lifted."""
RESERVE = 0.02
"""The fraction of the pulls, at least one, that are kept for what is not here at all."""
BELIEVED = 600.0
"""Seconds that a registry's word counts: not all of them say with every answer what is left."""
MOST_ACCOUNTS = 1_000
"""Accounts whose limits are remembered; those that were not heard of for the longest time are forgotten."""
DEFAULT_WINDOW = 6 * 3600.0
"""Seconds for which pulls are counted, where a registry does not say."""

_COUNT = re.compile(r"\s*([0-9]{1,9})\s*(?:;\s*w\s*=\s*([0-9]{1,9})\s*)?(?:;.*)?", re.ASCII)
_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([A-Z][a-z]{2}) ([1-9][0-9]{3}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

Header = Callable[[bytes], bytes | None]
"""A response's header by its lower-case name."""


class Kind(Enum):
    """What a 429 is about."""

    PULLS = "too many pulls"
    ABUSE = "too many requests"


@frozen
class Reading:
    """What a registry has said of one account's pulls, at this time. `source` is what the registry counts them by."""

    remaining: int
    limit: int | None
    window: float
    source: str | None
    at: float

    def is_scarce(self, now: float) -> bool:
        """Should the pulls that are left be kept for what is not here?"""
        if not 0 <= now - self.at < min(self.window, BELIEVED):
            return False
        return self.remaining <= max(1.0, (self.limit or 0) * RESERVE)


@frozen
class Hold:
    """A limit that is respected until this time; `times` counts those in a row."""

    kind: Kind
    until: float
    times: int


def read_limits(header: Header, now: float) -> Reading | None:
    """The `ratelimit-*` headers of a response, if it has them."""
    remaining, window = _counted(header(b"ratelimit-remaining"))
    if remaining is None:
        return None
    limit, its_window = _counted(header(b"ratelimit-limit"))
    source = header(b"docker-ratelimit-source")
    shown = None if source is None else source.decode("latin-1")[:64]
    return Reading(remaining, limit, window or its_window or DEFAULT_WINDOW, shown, now)


def _counted(value: bytes | None) -> tuple[int | None, float | None]:
    """`100;w=21600`: a number, and of how many seconds."""
    found = None if value is None else _COUNT.fullmatch(value.decode("latin-1"))
    if found is None:
        return None, None
    return int(found[1]), float(found[2]) if found[2] else None


def read_retry_after(value: bytes | None, now: float) -> float | None:
    """The seconds that a Retry-After asks for, in either of its forms (RFC 9110 section 10.2.3); None without one."""
    text = "" if value is None else value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(text.lstrip("0")[:9] or 0)
    found = _DATE.fullmatch(text)
    if found is None or found[2] not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(found[n]) for n in (1, 3, 4, 5, 6))
    return max(0.0, timegm((year, _MONTHS.index(found[2]) + 1, day, hour, minute, second)) - now)


def kind_of(header: Header, body: bytes) -> Kind:
    """What a 429 is about; an answer to HEAD has no body to say it."""
    remaining, _ = _counted(header(b"ratelimit-remaining"))
    return Kind.PULLS if remaining == 0 or b"TOOMANYREQUESTS" in body else Kind.ABUSE


def is_limit(status: int, header: Header, now: float) -> bool:
    """Does an answer say that there were too many requests?"""
    return status == 429 or (status == 503 and read_retry_after(header(b"retry-after"), now) is not None)


def next_hold(before: Hold | None, kind: Kind, retry_after: float | None, now: float) -> Hold:
    """For how long a limit is respected that was met now."""
    times = 1 if before is None else before.times + 1
    seconds = min(LONGEST_HOLD, FIRST_HOLD * 2.0 ** min(times - 1, 16))
    if retry_after is not None:
        seconds = min(retry_after, MOST_OBEYED)
    return Hold(kind, now + seconds, times)


@frozen
class Account:
    """What is known of the limits of one who asks."""

    reading: Reading | None = None
    hold: Hold | None = None


@define(eq=False)
class Governor:
    """The state of one registry, by who asks: any hashable thing that tells them apart."""

    accounts: "OrderedDict[bytes, Account]" = field(factory=OrderedDict)
    """For the metrics, too."""
    limited: dict[Kind, int] = field(factory=lambda: dict.fromkeys(Kind, 0))
    """How many 429s there were, by what they were about."""

    def heard(self, who: bytes, method: bytes, status: int, header: Header, body: bytes, now: float) -> None:
        """The registry has answered a request for a manifest, or a list."""
        account = self.accounts.pop(who, Account())
        reading, retry_after = read_limits(header, now), read_retry_after(header(b"retry-after"), now)
        if reading is not None and status == 429 and retry_after is not None:
            reading = evolve(reading, window=min(reading.window, retry_after))
        if reading is not None:
            account = evolve(account, reading=reading)
        if is_limit(status, header, now):
            kind = kind_of(header, body) if status == 429 else Kind.ABUSE
            if status == 429:
                self.limited[kind] += 1
            account = evolve(account, hold=next_hold(account.hold, kind, retry_after, now))
        elif account.hold is not None and status < 500 and not _goes_on(account.hold, method):
            account = evolve(account, hold=None)
        if account != Account():
            self._remember(who, account)

    def respect(self, who: bytes, hold: Hold) -> None:
        """The registry has said this to another worker."""
        self._remember(who, evolve(self.accounts.pop(who, Account()), hold=hold))

    def _remember(self, who: bytes, account: Account) -> None:
        self.accounts[who] = account
        if len(self.accounts) > MOST_ACCOUNTS:
            self.accounts.popitem(last=False)

    def hold_of(self, who: bytes) -> Hold | None:
        """The limit that was met last, over or not."""
        return self.accounts.get(who, Account()).hold

    def hold(self, who: bytes, method: bytes, now: float) -> float | None:
        """For how many seconds a request is better not made; None if it may be."""
        hold = self.hold_of(who)
        if hold is None or now >= hold.until or hold.until - now > MOST_OBEYED or _goes_on(hold, method):
            return None  # more than that: the clock was set back
        return hold.until - now

    def spares(self, who: bytes, method: bytes, now: float) -> bool:
        """Is a request better not made, where something else will do?"""
        reading = self.accounts.get(who, Account()).reading
        is_scarce = method == b"GET" and reading is not None and reading.is_scarce(now)
        return is_scarce or self.hold(who, method, now) is not None


def _goes_on(hold: Hold, method: bytes) -> bool:
    """Are such requests not what the limit is about?"""
    return hold.kind is Kind.PULLS and method == b"HEAD"
