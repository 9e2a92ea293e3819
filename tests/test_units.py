"""Sizes, durations and percentages: what people write, and what is refused."""

import doctest
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd import units
from regcachd.units import BadValue, Size, parse_bytes, parse_duration, parse_fraction, parse_size

NEVER: list[object] = [
    True,
    None,
    [],
    {},
    "",
    " ",
    "-1",
    "+1",
    "1e3",
    "nan",
    "inf",
    "٣",
    "1,5GiB",
    "1_000",
    "9" * 5000,
]
"""What is neither a size, nor a duration, nor a percentage."""


def test_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(units).failed == 0


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (1024, 1024),
        ("1024", 1024),
        ("7B", 7),
        ("16KiB", 16384),
        ("10 MB", 10_000_000),
        ("3kB", 3000),
        ("3KB", 3000),
        ("500GiB", 500 * 1024**3),
        ("1.5TiB", 3 * 1024**4 // 2),
        ("2PB", 2 * 10**15),
        ("0.3KiB", 307),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_a_number_of_bytes_is_read(written: object, size: int) -> None:
    assert parse_bytes(written) == size


@pytest.mark.parametrize(
    "written",
    [
        *NEVER,
        -1,
        1.5,
        math.nan,
        2**63,
        "8192PiB",
        "1G",
        "1Gi",
        "1gb",
        "1KIB",
        "1  KiB",
        " 1",
        "1 ",
        ".5MB",
        "5%",
    ],
)
def test_what_is_not_a_number_of_bytes_is_refused(written: object) -> None:
    with pytest.raises(BadValue, match="expected bytes"):
        parse_bytes(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("80%", Size(fraction=0.8)),
        ("12.5 %", Size(fraction=0.125)),
        ("100%", Size(fraction=1.0)),
        ("500GiB", Size(bytes=500 * 1024**3)),
        (1, Size(bytes=1)),
    ],
)
def test_a_size_is_absolute_or_relative(written: object, size: Size) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written", [*NEVER, 0, -1, "0", "0%", "0GiB", "101%", "-5%", "%", "5%%", "1GiB%", 0.8]
)
def test_a_size_that_is_wrong_or_nothing_is_refused(written: object) -> None:
    with pytest.raises(BadValue, match=r'such as "80%"'):
        parse_size(written)


def test_a_relative_size_follows_the_filesystem_and_an_absolute_one_does_not() -> None:
    assert Size(fraction=0.8).resolve(1000) == 800
    assert Size(bytes=5000).resolve(1000) == 5000


@pytest.mark.parametrize(
    ("written", "fraction"), [("0%", 0.0), ("25%", 0.25), ("100%", 1.0), ("0.5%", 0.005)]
)
def test_a_percentage_is_read_as_a_fraction(written: object, fraction: float) -> None:
    assert parse_fraction(written) == fraction


@pytest.mark.parametrize("written", [*NEVER, 0, 50, 0.5, "50", "100.1%", "1000%"])
def test_what_is_not_a_percentage_is_refused(written: object) -> None:
    with pytest.raises(BadValue, match='expected a percentage such as "80%"'):
        parse_fraction(written)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5s", 5),
        ("1h30m", 5400),
        ("7d", 604800),
        ("250ms", 0.25),
        ("5m", 300),
        ("5m5ms", 300.005),
        ("1.5s", 1.5),
        ("1d1h1m1s1ms", 90061.001),
        ("0s", 0),
        (5, 5),
        (0, 0),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_read_in_seconds(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [*NEVER, -1, -0.1, math.nan, math.inf, 10**400, "5", "5 s", "s", "1m1h", "1s1s", "1w", "1.5h", "36501d"],
)
def test_what_is_not_a_duration_is_refused(written: object) -> None:
    with pytest.raises(BadValue, match="expected seconds"):
        parse_duration(written)


@given(
    st.integers(0, 2**40), st.sampled_from([("", 1), ("B", 1), ("KiB", 1024), ("MB", 10**6), ("MiB", 2**20)])
)
def test_a_size_with_a_unit_is_the_number_times_the_unit(number: int, unit: tuple[str, int]) -> None:
    assert parse_bytes(f"{number}{unit[0]}") == number * unit[1]


@given(st.integers(0, 999), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 9999))
def test_the_parts_of_a_duration_add_up(days: int, hours: int, minutes: int, seconds: int, ms: int) -> None:
    total = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + ms
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s{ms}ms") == total / 1000


SCALARS = st.one_of(
    st.text(),
    st.text("0123456789.%dhmsKMGTPiB +-e_"),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
)


@given(SCALARS)
def test_whatever_is_written_gives_a_finite_number_or_bad_value(written: object) -> None:
    for parse in (parse_bytes, parse_duration, parse_fraction):
        with suppress(BadValue):
            number = parse(written)
            assert math.isfinite(number)
            assert number >= 0
