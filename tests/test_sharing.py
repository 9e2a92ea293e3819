"""Which anonymous tokens are shared, for how long, and what the copies say."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.sharing import LIFE, LONGEST_LIFE, Wanted, end_of, read_grant, retold, share, tokens_in, wanted

ASKED = 1_700_000_000.0
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"  # ASKED


def answer(**members: Any) -> bytes:
    return json.dumps({"token": "t0", **members}).encode()


# -- what is asked for


@pytest.mark.parametrize(
    ("query", "service", "scopes"),
    [
        (b"", None, ()),
        (b"service=registry.docker.io", "registry.docker.io", ()),
        (b"service=", "", ()),
        (
            b"service=s&scope=repository%3Alibrary%2Fdebian%3Apull&client_id=docker&offline_token=false",
            "s",
            ("repository:library/debian:pull",),
        ),
        (b"scope=b&scope=a&service=s&scope=b", "s", ("a", "b")),
        (b"scope=a+b", None, ("a b",)),
        (b"scope=a%20b", None, ("a b",)),
    ],
)
def test_anybody_may_ask_so(query: bytes, service: str | None, scopes: tuple[str, ...]) -> None:
    assert wanted(query) == Wanted(service, scopes)


@pytest.mark.parametrize(
    "query",
    [
        b"account=alice&service=s",
        b"service=s&offline_token=true",
        b"service=s&offline_token=",
        b"service=s&offline_token=false&offline_token=true",
        b"service=s&refresh_token=x",
        b"grant_type=password&username=a&password=b",
        b"service=a&service=b",
        b"client_id=a&client_id=b",
        b"service=s&x=y",
        b"Service=s",
        b"service",
        b"service=s&&scope=a",
        b"scope=%ff",
        b"scope=\xe9",
        b"&".join(b"scope=a%d" % number for number in range(65)),
        b"scope=" + b"a" * 2048,
    ],
)
def test_whoever_asks_otherwise_is_somebody(query: bytes) -> None:
    assert wanted(query) is None


def test_what_is_wanted_is_told_apart() -> None:
    """No service is not the empty service, and two scopes are not one with a space: servers may differ about it."""
    queries = [
        b"",
        b"service=",
        b"scope=",
        b"scope=a+b",
        b"scope=a&scope=b",
        b"service=a&scope=b",
        b"service=a",
    ]
    assert len({str(wanted(query)) for query in queries}) == len(queries)


@given(st.binary(max_size=200))
def test_no_query_is_too_odd(query: bytes) -> None:
    wanted(query)


# -- for how long


@pytest.mark.parametrize(
    ("life", "shared"),
    [(3600, 3510), (300, 210), (180, 90), (120, 30), (100, 25), (60, 15), (30, 7.5), (1, 0.25)],
)
def test_a_token_is_shared_while_enough_of_it_is_left(life: float, shared: float) -> None:
    assert share(life) == shared


@given(st.floats(min_value=0.1, max_value=LONGEST_LIFE))
def test_a_shared_token_has_a_minute_left_where_it_had_a_good_one_at_all(life: float) -> None:
    assert 0 < share(life) < life
    if life >= 80:
        assert life - share(life) >= 60


@pytest.mark.parametrize(
    ("members", "life"),
    [
        ({"expires_in": 300}, 300),
        ({"expires_in": 300.5}, 300.5),
        ({}, LIFE),
        ({"expires_in": None}, LIFE),
        ({"expires_in": 0}, LIFE),  # Go leaves zeros out, and takes what is missing for 60
        ({"expires_in": "300"}, LIFE),
        ({"expires_in": True}, LIFE),
        ({"expires_in": float("nan")}, LIFE),
        ({"expires_in": float("inf")}, LONGEST_LIFE),
        ({"expires_in": 10**300}, LONGEST_LIFE),
        ({"expires_in": 300, "issued_at": "2023-11-14T22:13:20Z"}, 300),
        ({"expires_in": 300, "issued_at": "2023-11-14T22:11:40.123456789Z"}, 199.123456),
        ({"expires_in": 300, "issued_at": "2023-11-14T23:11:40+01:00"}, 200),
        ({"expires_in": 300, "issued_at": "2023-11-14T22:15:00Z"}, 300),  # a slow clock somewhere
        ({"expires_in": 300, "issued_at": "0001-01-01T00:00:00Z"}, 300),  # Go's zero
        ({"expires_in": 300, "issued_at": "yesterday"}, 300),
        ({"expires_in": 300, "issued_at": 7}, 300),
    ],
)
def test_when_a_token_ends(members: dict[str, Any], life: float) -> None:
    grant = read_grant(answer(**members), ASKED, DATE)
    assert grant is not None
    assert grant.ends == pytest.approx(ASKED + life)
    assert grant.shared_until == pytest.approx(ASKED + share(life))


def test_the_age_of_a_token_goes_by_the_clock_of_its_server() -> None:
    body = answer(expires_in=300, issued_at="2030-01-01T00:00:00Z")
    for date, left in (("Tue, 01 Jan 2030 00:01:40 GMT", 200), (None, 300), ("never", 300)):
        grant = read_grant(body, ASKED, date)
        assert grant is not None
        assert grant.ends - ASKED == left


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"token"',
        b"{}",
        b'{"token": ""}',
        b'{"token": 7}',
        b"\xff",
        b"[" * 100_000,
        b'{"token": "t", "expires_in": ' + b"9" * 5000 + b"}",
        answer(expires_in=-1),
        answer(expires_in=float("-inf")),
        answer(refresh_token="r"),
        answer(expires_in=300, issued_at="2023-11-14T22:00:00Z"),
    ],
)
def test_what_is_not_shared(body: bytes) -> None:
    assert read_grant(body, ASKED, DATE) is None


def test_a_token_has_two_names() -> None:
    assert tokens_in(b'{"access_token": "a"}') == ("a",)
    assert tokens_in(b'{"token": "a", "access_token": "a"}') == ("a",)
    assert tokens_in(b'{"token": "a", "access_token": "b"}') == ("a", "b")
    assert tokens_in(b"no") == ()


# -- what a copy says


def test_a_copy_tells_what_is_left_and_keeps_the_rest() -> None:
    body = answer(expires_in=300, issued_at="2023-11-14T22:13:20.5Z", scope="pull", extra={"a": [1]})
    told = json.loads(retold(body, ASKED + 300, ASKED + 100))
    assert told == {
        "token": "t0",
        "expires_in": 200,
        "issued_at": "2023-11-14T22:15:00.500Z",
        "scope": "pull",
        "extra": {"a": [1]},
    }


def test_what_upstream_left_out_is_told_only_as_far_as_clients_need_it() -> None:
    assert json.loads(retold(answer(), ASKED + 60, ASKED + 10)) == {"token": "t0", "expires_in": 50}


def test_a_copy_is_never_told_to_live_no_time_at_all() -> None:
    """Clients take zero for 60 seconds, or for forever."""
    assert json.loads(retold(answer(expires_in=5), ASKED + 5, ASKED + 4.9))["expires_in"] == 1


@given(
    st.integers(1, 100_000),
    st.floats(0, 1),
    st.datetimes(datetime(1971, 1, 1), datetime(9990, 1, 1)),
)
def test_the_end_stays_where_it_was(life: int, fraction: float, issued: datetime) -> None:
    issued = issued.replace(tzinfo=UTC, microsecond=0)
    body = answer(expires_in=life, issued_at=issued.isoformat())
    told = json.loads(retold(body, ASKED + life, ASKED + fraction * (life - 1)))
    moved = datetime.fromisoformat(told["issued_at"])
    assert moved.timestamp() + told["expires_in"] == issued.timestamp() + min(life, LONGEST_LIFE)


def test_a_copy_tells_when_its_token_ends() -> None:
    """It was true when it came, so what it says of its issuing does not matter any more."""
    came = retold(answer(expires_in=300, issued_at="2023-11-14T22:13:20Z"), ASKED + 200, ASKED)
    assert end_of(came, ASKED) == ASKED + 200
    assert end_of(answer(), ASKED) == ASKED + 60
