"""Token requests as they are written, and the answers of all kinds of registries as they are read."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.challenge import parse_challenges
from regcachd.interfaces import AuthFailed, Fetched, Home, Scope
from regcachd.realm import judge_realm
from regcachd.tokens import IdentityToken, Login, Token, Wanted, bearer_challenges, read_token, scopes_of

PULL = Scope("team/app")
HOME = Home("r", "https", "r.example", 443)
REALM = judge_realm("https://r.example/token?a=b", HOME, lambda host: host)


def fetched(body: Any, status: int = 200, **headers: str) -> Fetched:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Fetched(status, headers, data)


def read(body: Any, status: int = 200, **headers: Any) -> Token:
    return read_token(fetched(body, status, **headers), "r.example", None)


@pytest.mark.parametrize(
    ("told", "scope", "asked"),
    [
        ("", PULL, ["repository:team/app:pull"]),
        ("", Scope("team/app", ("pull", "push")), ["repository:team/app:pull,push"]),
        ("repository:user/image:pull", PULL, ["repository:team/app:pull"]),
        ("repository(plugin):user/image:pull", PULL, ["repository:team/app:pull"]),
        ("repository:a:pull repository:b:pull", PULL, ["repository:team/app:pull"]),
        ("aws", PULL, ["repository:team/app:pull", "aws"]),
        ("registry:catalog:*", PULL, ["repository:team/app:pull"]),
        ("", Scope(), []),
        ("aws", Scope(), ["aws"]),
        ("registry:catalog:*", Scope(), ["registry:catalog:*"]),
        ("repository:user/image:pull", Scope(), []),
    ],
)
def test_a_token_is_for_the_request_and_not_for_what_the_challenge_was_about(
    told: str, scope: Scope, asked: list[str]
) -> None:
    (challenge,) = parse_challenges([f'Bearer realm="x",scope="{told}"'])
    assert list(scopes_of(challenge, scope)) == asked


def test_only_bearer_challenges_with_a_realm_ask_for_a_token() -> None:
    challenges = parse_challenges(
        ['Basic realm="x", Bearer service="y", Bearer realm="https://z"', "Negotiate"]
    )
    assert [c.parameters["realm"] for c in bearer_challenges(challenges)] == ["https://z"]


def test_a_token_is_asked_for_with_get_and_basic() -> None:
    url, headers = Wanted(REALM, "s", ("repository:a:pull", "aws"), Login("u", "p:\u00e9")).get()
    assert url == "https://r.example/token?a=b&service=s&scope=repository:a:pull&scope=aws"
    assert headers == {"Authorization": "Basic dTpwOsOp"}


def test_a_token_for_everybody_is_asked_for_without_a_credential() -> None:
    assert Wanted(REALM, None, (), None).get() == ("https://r.example/token?a=b", {})


def test_an_identity_token_is_posted_as_a_form() -> None:
    held = IdentityToken("i&d")
    url, form = Wanted(REALM, "s", ("repository:a:pull", "aws"), held).post(held)
    assert url == "https://r.example/token?a=b"
    assert form == (
        b"grant_type=refresh_token&client_id=regcachd&refresh_token=i%26d&service=s&scope=repository%3Aa%3Apull+aws"
    )


@pytest.mark.parametrize(
    ("body", "text", "life"),
    [
        ({"token": "t"}, "t", 60),
        ({"access_token": "t"}, "t", 60),
        ({"token": "t", "access_token": "u"}, "t", 60),
        ({"token": "", "access_token": "u"}, "u", 60),
        ({"token": None, "access_token": "u"}, "u", 60),
        ({"token": "t", "expires_in": 300}, "t", 300),
        ({"token": "t", "expires_in": "300"}, "t", 300),
        ({"token": "t", "expires_in": 300.5}, "t", 300.5),
        ({"token": "t", "expires_in": 0}, "t", 60),
        ({"token": "t", "expires_in": -1}, "t", 60),
        ({"token": "t", "expires_in": None}, "t", 60),
        ({"token": "t", "expires_in": "soon"}, "t", 60),
        ({"token": "t", "expires_in": [1]}, "t", 60),
        (b'{"token": "t", "expires_in": Infinity}', "t", 60),
        (b'{"token": "t", "expires_in": NaN}', "t", 60),
        (b'{"token": "t", "expires_in": 1' + b"0" * 400 + b"}", "t", 60),
        ({"token": "t", "expires_in": 1e9}, "t", 86400),
        (b'\xef\xbb\xbf {"token": "t"}', "t", 60),
    ],
)
def test_a_token_and_its_life_are_read(body: Any, text: str, life: float) -> None:
    assert read(body) == Token(text, life)


def test_the_content_type_does_not_matter() -> None:
    assert read({"token": "t"}, 200, **{"content-type": "text/html"}).text == "t"


@pytest.mark.parametrize(
    ("issued_at", "date", "life"),
    [
        ("2026-01-02T03:04:05Z", "Fri, 02 Jan 2026 03:04:05 GMT", 300),
        ("2026-01-02T03:04:05.123456789Z", "Fri, 02 Jan 2026 03:04:05 GMT", 300),
        ("2026-01-02T03:04:05Z", "Fri, 02 Jan 2026 03:05:05 GMT", 240),
        ("2026-01-02T04:04:05+01:00", "Fri, 02 Jan 2026 03:05:05 GMT", 240),
        ("2026-01-02T03:04:05Z", "Fri, 02 Jan 2026 09:00:00 GMT", 0),
        ("2026-01-02T03:04:05Z", "Fri, 02 Jan 2026 03:00:00 GMT", 300),
        ("2026-01-02T03:04:05", "Fri, 02 Jan 2026 03:05:05 GMT", 300),
        ("yesterday", "Fri, 02 Jan 2026 03:05:05 GMT", 300),
        (7, "Fri, 02 Jan 2026 03:05:05 GMT", 300),
        ("2026-01-02T03:04:05Z", "today", 300),
        ("2026-01-02T03:04:05Z", None, 300),
    ],
)
def test_a_token_that_was_issued_before_has_lived_already(
    issued_at: Any, date: str | None, life: float
) -> None:
    """Whatever this machine's clock says: both times are the server's."""
    headers = {} if date is None else {"date": date}
    assert read({"token": "t", "expires_in": 300, "issued_at": issued_at}, 200, **headers).life == life


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        b"\xff",
        [],
        "t",
        None,
        {},
        {"token": 7},
        {"token": ["t"]},
        {"token": "a b"},
        {"token": "a\r\nX: y"},
        {"token": "\u00e9"},
        {"token": "t" * (64 * 1024 + 1)},
    ],
)
def test_an_answer_without_a_token_is_a_fault_of_the_server(body: Any) -> None:
    with pytest.raises(AuthFailed, match=r"r\.example was asked for a token and answered") as caught:
        read(body)
    assert not caught.value.refused


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_says_so(status: int) -> None:
    with pytest.raises(
        AuthFailed, match=f"r.example gives no token to clients without a credential .*{status}"
    ) as caught:
        read({"token": "t", "message": "hunter2"}, status)
    assert caught.value.refused
    assert "hunter2" not in str(caught.value)
    with pytest.raises(AuthFailed, match=r"gives no token for this credential"):
        read_token(fetched({}, status), "r.example", Login("u", "p"))


@pytest.mark.parametrize("status", [201, 204, 304, 408, 429, 500, 503])
def test_a_server_that_cannot_answer_refuses_nothing(status: int) -> None:
    with pytest.raises(AuthFailed, match=f"answered {status}; try again later") as caught:
        read({"token": "t"}, status)
    assert not caught.value.refused


def test_no_repr_shows_a_secret() -> None:
    values = [
        Login("u", "hunter2"),
        IdentityToken("hunter2"),
        Token("hunter2", 1),
        Wanted(REALM, None, (), Login("u", "hunter2")),
        fetched({"token": "hunter2"}, 200, x="hunter2"),
    ]
    assert "hunter2" not in repr(values)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(
        lambda value: json.dumps({"token": value, "expires_in": value, "issued_at": value}).encode()
    )
)
def test_whatever_a_server_says_is_a_token_or_a_fault(body: bytes) -> None:
    try:
        token = read(body)
    except AuthFailed:
        return
    assert token.text.isascii()
    assert 0 <= token.life <= 86400
