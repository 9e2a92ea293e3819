"""What a registry has said of its limits, and what is better not asked of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.governor import (
    FIRST_HOLD,
    LONGEST_HOLD,
    MOST_ACCOUNTS,
    MOST_OBEYED,
    Governor,
    Header,
    Kind,
    Reading,
    kind_of,
    read_limits,
    read_retry_after,
)

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
PULLS = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'


def header(**values: str) -> Header:
    found = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in values.items()}
    return found.get


@pytest.mark.parametrize(
    ("headers", "reading"),
    [
        ({"ratelimit_remaining": "76;w=21600", "ratelimit_limit": "100;w=21600"}, (76, 100, 21600.0)),
        ({"ratelimit_remaining": "0", "ratelimit_limit": "100;w=60"}, (0, 100, 60.0)),
        ({"ratelimit_remaining": " 5 ; w = 30 "}, (5, None, 30.0)),
        ({"ratelimit_remaining": "5;x=y", "ratelimit_limit": "many"}, (5, None, 21600.0)),
        ({"ratelimit_limit": "100;w=21600"}, None),
        ({"ratelimit_remaining": "-1"}, None),
        ({"ratelimit_remaining": "1e9"}, None),
        ({"ratelimit_remaining": "9" * 10}, None),
        ({"ratelimit_remaining": "\xb2"}, None),
        ({}, None),
    ],
)
def test_limits_are_read(headers: dict[str, str], reading: tuple[int, int | None, float] | None) -> None:
    found = read_limits(header(**headers, docker_ratelimit_source="192.0.2.7"), NOW)
    assert found == (None if reading is None else Reading(*reading, "192.0.2.7", NOW))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 30, 999999999.0),
        ("0" * 20 + "300", 300.0),
        ("000", 0.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:50:37", None),
        ("Sun, 06 Foo 1994 08:50:37 GMT", None),
        ("Sun, 06 Nov 0000 08:50:37 GMT", None),
        ("-5", None),
        ("1.5", None),
        ("\xb2", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_has_two_forms(value: str, seconds: float | None) -> None:
    assert read_retry_after(value.encode("latin-1"), NOW) == seconds


def test_no_retry_after() -> None:
    assert read_retry_after(None, NOW) is None


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_header_is_read(one: bytes, other: bytes) -> None:
    read_limits({b"ratelimit-remaining": one, b"ratelimit-limit": other}.get, NOW)
    seconds = read_retry_after(one, NOW)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("headers", "body", "kind"),
    [
        ({}, PULLS, Kind.PULLS),
        ({"ratelimit_remaining": "0;w=21600"}, b"", Kind.PULLS),
        ({"ratelimit_remaining": "17;w=21600"}, b"", Kind.ABUSE),
        ({}, b"Too Many Requests", Kind.ABUSE),
        ({}, b"", Kind.ABUSE),
    ],
)
def test_there_are_two_kinds_of_429(headers: dict[str, str], body: bytes, kind: Kind) -> None:
    assert kind_of(header(**headers), body) is kind


def test_who_has_no_pulls_left_may_still_ask_with_head() -> None:
    governor = Governor()
    governor.heard(b"a", b"GET", 429, header(retry_after="30"), PULLS, NOW)
    assert governor.hold(b"a", b"GET", NOW + 10) == 20.0
    assert governor.hold(b"a", b"HEAD", NOW + 10) is None
    governor.heard(b"a", b"HEAD", 200, header(), b"", NOW + 10)  # which says nothing of pulls
    assert governor.hold(b"a", b"GET", NOW + 10) == 20.0
    assert governor.hold(b"a", b"GET", NOW + 30) is None
    assert governor.limited == {Kind.PULLS: 1, Kind.ABUSE: 0}


def test_who_asks_too_fast_waits_with_everything() -> None:
    governor = Governor()
    governor.heard(b"a", b"HEAD", 429, header(retry_after="30"), b"", NOW)
    assert governor.hold(b"a", b"GET", NOW) == governor.hold(b"a", b"HEAD", NOW) == 30.0
    assert governor.hold(b"b", b"GET", NOW) is None
    governor.heard(b"a", b"HEAD", 404, header(), b"", NOW + 1)
    assert governor.hold(b"a", b"GET", NOW + 1) is None
    assert governor.limited == {Kind.PULLS: 0, Kind.ABUSE: 1}


def test_without_a_retry_after_it_waits_ever_longer() -> None:
    governor, holds = Governor(), []
    for _ in range(9):
        governor.heard(b"a", b"GET", 429, header(), b"", NOW)
        holds.append(governor.hold(b"a", b"GET", NOW))
    assert holds[:3] == [FIRST_HOLD, 2 * FIRST_HOLD, 4 * FIRST_HOLD]
    assert holds[-1] == LONGEST_HOLD
    governor.heard(b"a", b"GET", 200, header(), b"", NOW)
    governor.heard(b"a", b"GET", 429, header(), b"", NOW)
    assert governor.hold(b"a", b"GET", NOW) == FIRST_HOLD


@pytest.mark.parametrize("value", ["86400", "Sun, 06 Nov 2094 08:50:37 GMT"])
def test_a_very_long_retry_after_is_tried_sooner(value: str) -> None:
    governor = Governor()
    governor.heard(b"a", b"GET", 429, header(retry_after=value), PULLS, NOW)
    assert governor.hold(b"a", b"GET", NOW) == MOST_OBEYED


@pytest.mark.parametrize(("headers", "held"), [({"retry_after": "9"}, 9.0), ({}, None)])
def test_503_is_a_limit_if_it_says_until_when(headers: dict[str, str], held: float | None) -> None:
    governor = Governor()
    governor.heard(b"a", b"GET", 503, header(**headers), b"", NOW)
    assert governor.hold(b"a", b"HEAD", NOW) == held
    assert sum(governor.limited.values()) == 0


def test_a_clock_that_is_set_back_ends_a_limit() -> None:
    governor = Governor()
    governor.heard(b"a", b"GET", 429, header(retry_after="100"), b"", NOW)
    assert governor.hold(b"a", b"GET", NOW - 1000) is None


@pytest.mark.parametrize(
    ("remaining", "limit", "spared"),
    [(100, 100, False), (3, 100, False), (2, 100, True), (0, 100, True), (1, None, True), (2, None, False)],
)
def test_the_last_pulls_are_kept_for_what_is_not_here(
    remaining: int, limit: int | None, spared: bool
) -> None:
    governor = Governor()
    limits = {} if limit is None else {"ratelimit_limit": f"{limit};w=21600"}
    governor.heard(b"a", b"HEAD", 200, header(ratelimit_remaining=f"{remaining};w=21600", **limits), b"", NOW)
    assert governor.spares(b"a", b"GET", NOW + 60) is spared
    assert not governor.spares(b"a", b"HEAD", NOW + 60)
    assert not governor.spares(b"a", b"GET", NOW + 21600)
    assert not governor.spares(b"b", b"GET", NOW)
    assert governor.hold(b"a", b"GET", NOW + 60) is None
    reading = governor.accounts[b"a"].reading
    assert reading is not None
    assert (reading.remaining, reading.limit) == (remaining, limit)


def test_accounts_are_bounded_and_those_without_news_are_none() -> None:
    governor = Governor()
    for number in range(MOST_ACCOUNTS + 5):
        governor.heard(b"%d" % number, b"GET", 200, header(ratelimit_remaining="9"), b"", NOW)
        governor.heard(b"other %d" % number, b"GET", 200, header(), b"", NOW)
    assert len(governor.accounts) == MOST_ACCOUNTS
    assert b"0" not in governor.accounts
