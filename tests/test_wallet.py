"""Tokens are fetched once for all, kept while they live, renewed before they end, and dropped when refused."""

import json
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from zope.interface import implementer

from regcachd import wallet as wallet_module
from regcachd.interfaces import AuthFailed, Fetched, Home, IWeb
from regcachd.realm import judge_realm
from regcachd.tokens import Held, IdentityToken, Login, Wanted
from regcachd.wallet import Wallet
from tests.through import logged

REALM = judge_realm("https://r.example/token", Home("r", "https", "r.example", 443), lambda host: host)


@implementer(IWeb)
@define
class Server:
    """Token servers: each request waits until it is answered."""

    asked: list[tuple[str, str, bytes, Any]] = field(factory=list)
    waiting: "list[Deferred[Fetched]]" = field(factory=list)

    def fetch(self, method: str, url: str, headers: Any, body: bytes, local: bool) -> "Deferred[Fetched]":
        self.asked.append((method, headers.get("Authorization", ""), body, local))
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def answer(self, status: int = 200, **body: Any) -> None:
        self.waiting.pop(0).callback(Fetched(status, {}, json.dumps(body).encode()))

    def give(self, text: str, life: float = 100) -> None:
        self.answer(token=text, expires_in=life)

    def fail(self) -> None:
        self.waiting.pop(0).errback(AuthFailed("r.example could not be asked"))


@define
class Here:
    clock: Clock = field(factory=Clock)
    server: Server = field(factory=Server)
    wallet: Wallet = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.wallet = Wallet(self.server, self.clock)

    def token(self, scope: str = "repository:a:pull", held: Held = None) -> "Deferred[str]":
        return Deferred.fromCoroutine(self.wallet.token(Wanted(REALM, "s", (scope,), held)))

    def now(self, scope: str = "repository:a:pull", held: Held = None) -> str:
        return result(self.token(scope, held))


def result(asked: "Deferred[str]") -> str:
    found: list[str] = []
    asked.addCallback(found.append)
    assert found, "not yet"
    return found[0]


def failure(asked: "Deferred[str]") -> AuthFailed:
    found: list[Any] = []
    asked.addErrback(lambda failed: found.append(failed.value))
    assert isinstance(found[0], AuthFailed)
    return found[0]


@pytest.fixture
def here() -> Here:
    return Here()


def test_all_who_wait_get_the_one_token_that_is_fetched(here: Here) -> None:
    waiting = [here.token() for _ in range(100)]
    here.server.give("one")
    assert {result(each) for each in waiting} == {"one"}
    assert here.now() == "one"
    assert len(here.server.asked) == 1


def test_who_stops_waiting_disturbs_nobody(here: Here) -> None:
    first, second = here.token(), here.token()
    first.addErrback(lambda failed: None)
    first.cancel()
    here.server.give("one")
    assert result(second) == "one"


@pytest.mark.parametrize(
    "other",
    [("repository:b:pull", None), ("repository:a:pull", Login("u", "p")), ("repository:a:pull,push", None)],
)
def test_another_scope_or_credential_has_another_token(here: Here, other: tuple[str, Held]) -> None:
    first, second = here.token(), here.token(*other)
    here.server.give("one")
    here.server.give("two")
    assert (result(first), result(second)) == ("one", "two")
    assert (here.now(), here.now(*other)) == ("one", "two")


def test_a_changed_password_has_a_new_token(here: Here) -> None:
    first = here.token(held=Login("u", "old"))
    here.server.give("one")
    result(first)
    assert not here.token(held=Login("u", "new")).called
    here.server.give("two")


def kept(here: Here, life: float = 100) -> None:
    asked = here.token()
    here.server.give("old", life)
    assert result(asked) == "old"


def test_a_token_is_renewed_at_four_fifths_of_its_life_while_the_old_one_serves(here: Here) -> None:
    kept(here)
    here.clock.advance(79)
    here.now()
    assert not here.server.waiting
    here.clock.advance(2)
    assert [here.now() for _ in range(3)] == ["old"] * 3
    assert len(here.server.waiting) == 1
    here.server.give("new")
    assert here.now() == "new"


def test_the_old_token_serves_to_its_end_when_it_cannot_be_renewed(here: Here) -> None:
    kept(here)
    here.clock.advance(81)
    here.now()
    with logged(LogLevel.info) as lines:
        here.server.fail()
    assert lines == ["a token cannot be renewed: r.example could not be asked"]
    assert here.now() == "old"
    assert not here.server.waiting, "not asked again at once"
    here.clock.advance(wallet_module.PAUSE)
    assert here.now() == "old"
    here.server.answer(503)
    assert here.now() == "old"
    here.clock.advance(10)
    asked = here.token()
    assert not asked.called
    here.server.give("new")
    assert result(asked) == "new"


def test_a_token_whose_renewal_is_refused_serves_no_longer(here: Here) -> None:
    kept(here)
    here.clock.advance(81)
    here.now()
    here.server.answer(401)
    asked = here.token()
    here.server.answer(401)
    assert failure(asked).refused


def test_a_token_that_has_ended_is_not_used(here: Here) -> None:
    kept(here)
    here.clock.advance(98)
    asked = here.token()
    assert not asked.called
    here.server.give("new")
    assert result(asked) == "new"


def test_a_refused_token_is_dropped(here: Here) -> None:
    kept(here)
    here.wallet.drop("another")
    assert here.now() == "old"
    here.wallet.drop("old")
    asked = here.token()
    assert not asked.called
    here.server.give("new")
    assert result(asked) == "new"


def test_a_failure_is_everybodys_and_is_not_kept(here: Here) -> None:
    waiting = [here.token() for _ in range(3)]
    here.server.fail()
    for each in waiting:
        assert "could not be asked" in str(failure(each))
    asked = here.token()
    here.server.give("new")
    assert result(asked) == "new"


def test_a_token_with_no_life_left_serves_those_who_waited_for_it(here: Here) -> None:
    asked = here.token()
    here.server.give("brief", 1)
    assert result(asked) == "brief"
    asked = here.token()
    assert not asked.called
    here.server.give("next")
    assert result(asked) == "next"


def test_the_number_of_tokens_is_bounded(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regcachd.wallet.MOST", 2)
    for scope in ("a", "b", "c"):
        here.token(scope)
        here.server.give(scope)
    assert (here.now("b"), here.now("c")) == ("b", "c")
    assert not here.token("a").called
    here.server.give("a")


def test_an_identity_token_is_posted(here: Here) -> None:
    asked = here.token(held=IdentityToken("identity"))
    here.server.answer(access_token="t")
    assert result(asked) == "t"
    ((method, authorization, body, local),) = here.server.asked
    assert (method, authorization, local) == ("POST", "", True)
    assert b"refresh_token=identity" in body


@pytest.mark.parametrize("status", [400, 401, 404, 405])
def test_where_nothing_can_be_posted_an_identity_token_is_a_password(here: Here, status: int) -> None:
    asked = here.token(held=IdentityToken("identity", "me"))
    here.server.answer(status)
    here.server.answer(token="t")
    assert result(asked) == "t"
    assert [method for method, *_ in here.server.asked] == ["POST", "GET"]
    assert here.server.asked[1][1] == Login("me", "identity").basic()


@pytest.mark.parametrize("status", [403, 429, 500])
def test_other_answers_to_a_post_are_final(here: Here, status: int) -> None:
    asked = here.token(held=IdentityToken("identity"))
    here.server.answer(status)
    assert failure(asked).refused is (status == 403)


def test_nothing_of_a_token_is_in_its_wallets_repr(here: Here) -> None:
    asked = here.token(held=Login("u", "hunter2"))
    here.server.give("hunter2")
    assert result(asked) == "hunter2"
    assert "hunter2" not in repr(here.wallet)
