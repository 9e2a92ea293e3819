"""Sizes, durations and percentages as people write them in a configuration.

Everything is read strictly: a unit is one of those listed here, spelled so, and a number is finite, not
negative and small enough for a file offset (sizes) or a timer (durations). Anything else raises `BadValue`,
whose text says what would have been accepted; the caller knows the file and the key.
"""

import math
import re
from fractions import Fraction
from typing import TypeGuard

from attrs import frozen

from regcachd.errors import RegcachdError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_SIZE_UNITS = {"": 1, "B": 1}
for _power, _prefix in enumerate("kMGTP", start=1):
    _SIZE_UNITS[f"{_prefix}B"] = 1000**_power
    _SIZE_UNITS[f"{_prefix.upper()}B"] = 1000**_power
    _SIZE_UNITS[f"{_prefix.upper()}iB"] = 1024**_power

# Digits are bounded before a number is made of them: Python has an error of its own for more than 4,300.
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)(| ?[A-Za-z]{1,3})")
_PERCENTAGE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%")
_DURATION = re.compile(
    r"(?:(?P<days>[0-9]{1,9})d)?(?:(?P<hours>[0-9]{1,9})h)?(?:(?P<minutes>[0-9]{1,9})m(?!s))?"
    r"(?:(?P<seconds>[0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:(?P<milliseconds>[0-9]{1,9})ms)?"
)

_LARGEST_SIZE = 2**63 - 1  # off_t
_LONGEST_DURATION = 36500 * DAY

_SIZE_FORMS = 'bytes as a number, or a text such as "64KiB", "10MB" or "1.5TiB"'
_PERCENTAGE_FORMS = 'a percentage such as "80%"'
_RELATIVE_FORMS = f'{_SIZE_FORMS}, or {_PERCENTAGE_FORMS} (at most "100%")'
_DURATION_FORMS = 'seconds as a number, or a text such as "250ms", "5s", "1h30m" or "7d"'


class BadValue(RegcachdError):
    """A value is not what its key takes; the text says what it takes."""


@frozen
class Size:
    """How large something may grow: a number of bytes, or a fraction (0 to 1) of the filesystem it is on."""

    bytes: int | None = None
    fraction: float | None = None

    def resolve(self, total: int) -> int:
        """This size in bytes, on a filesystem of `total` bytes."""
        if self.bytes is not None:
            return self.bytes
        assert self.fraction is not None
        return int(total * self.fraction)


def parse_bytes(value: object) -> int:
    """A number of bytes, from a number or from a text with a unit; parts of a byte are dropped.

    >>> parse_bytes("16KiB"), parse_bytes("10 MB"), parse_bytes(1024)
    (16384, 10000000, 1024)
    """
    if _is_integer(value):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)) and match[2].strip() in _SIZE_UNITS:
        size = int(Fraction(match[1]) * _SIZE_UNITS[match[2].strip()])
    else:
        raise BadValue(f"expected {_SIZE_FORMS}")
    if not 0 <= size <= _LARGEST_SIZE:
        raise BadValue(f"expected {_SIZE_FORMS}, not negative and below 8 EiB")
    return size


def parse_fraction(value: object) -> float:
    """A percentage as a fraction from 0 to 1.

    >>> parse_fraction("12.5%")
    0.125
    """
    if not isinstance(value, str) or not (match := _PERCENTAGE.fullmatch(value)) or Fraction(match[1]) > 100:
        raise BadValue(f'expected {_PERCENTAGE_FORMS}, from "0%" to "100%"')
    return float(Fraction(match[1]) / 100)


def parse_size(value: object) -> Size:
    """A size above nothing, absolute or relative to the filesystem.

    >>> parse_size("500GiB"), parse_size("80%")
    (Size(bytes=536870912000, fraction=None), Size(bytes=None, fraction=0.8))
    """
    size = parse_reserve(value)
    if not size.bytes and not size.fraction:
        raise BadValue(f"expected {_RELATIVE_FORMS}; more than nothing")
    return size


def parse_reserve(value: object) -> Size:
    """A size that may be nothing, absolute or relative to the filesystem.

    >>> parse_reserve("5%"), parse_reserve(0)
    (Size(bytes=None, fraction=0.05), Size(bytes=0, fraction=None))
    """
    try:
        if isinstance(value, str) and "%" in value:
            return Size(fraction=parse_fraction(value))
        return Size(bytes=parse_bytes(value))
    except BadValue:
        raise BadValue(f"expected {_RELATIVE_FORMS}") from None


def parse_duration(value: object) -> float:
    """Seconds, from a number or from a text whose units descend.

    >>> parse_duration("1h30m"), parse_duration("250ms"), parse_duration(5)
    (5400.0, 0.25, 5.0)
    """
    if _is_integer(value) or isinstance(value, float):
        # Compared before converted: float() of a very large integer overflows, and NaN is in no range.
        seconds = float(value) if 0 <= value <= _LONGEST_DURATION else math.inf
    elif isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        part = {unit: Fraction(digits or 0) for unit, digits in match.groupdict().items()}
        minutes = (part["days"] * 24 + part["hours"]) * 60 + part["minutes"]
        seconds = float(minutes * 60 + part["seconds"] + part["milliseconds"] / 1000)
    else:
        raise BadValue(f"expected {_DURATION_FORMS}")
    if seconds > _LONGEST_DURATION:
        raise BadValue(f"expected {_DURATION_FORMS}, not negative and at most 36500d")
    return seconds


def roughly(seconds: float) -> str:
    """A time as people say it.

    >>> roughly(0.2), roughly(100), roughly(93600), roughly(1e7)
    ('0 s', '100 s', '26 h', '115 d')
    """
    for unit, length in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _is_integer(value: object) -> TypeGuard[int]:
    """Whether TOML said a whole number: Python calls true and false integers as well."""
    return isinstance(value, int) and not isinstance(value, bool)
