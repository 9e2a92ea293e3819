"""The access rule as a table of every combination, and its invariant."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.access import (
    Act,
    Decision,
    Evidence,
    Terms,
    Who,
    Word,
    decide_access,
    word_of,
)

TERMS = Terms(access_ttl=300.0, public_ttl=3600.0, offline_grace=86400.0, max_stale=30 * 86400.0)
NOW = 1_000_000.0

CREDENTIALS = {
    # how old its proof is, and whether upstream still takes it
    "wrong": (None, False),
    "right": (299.0, True),  # proved within access_ttl
    "old": (300.0, True),  # not any more, but within offline_grace
    "expired": (300.0, False),  # the same, but it has been revoked or has ended since
    "ancient": (86400.0, True),  # not within offline_grace any more
}
PUBLIC_PROOFS = {"private": None, "public": 3600.0, "public!": 3599.0}
"""How old the proof is that anybody may read it."""

TABLE = """
repository  digest    who      credential  up       down     429
private     linked    nobody   -           refuse   fail     refuse
private     linked    own      wrong       refuse   fail     refuse
private     linked    own      right       serve    serve    serve
private     linked    own      old         serve    stale    refuse
private     linked    own      expired     refuse   stale    refuse
private     linked    own      ancient     serve    fail     refuse
private     linked    shared   wrong       refuse   fail     refuse
private     linked    shared   right       serve    serve    serve
private     linked    shared   old         serve    stale    stale
private     linked    shared   expired     refuse   stale    stale
private     linked    shared   ancient     serve    fail     refuse
private     unlinked  nobody   -           refuse   fail     refuse
private     unlinked  own      wrong       refuse   fail     refuse
private     unlinked  own      right       serve    fail     refuse
private     unlinked  own      old         serve    fail     refuse
private     unlinked  own      expired     refuse   fail     refuse
private     unlinked  own      ancient     serve    fail     refuse
private     unlinked  shared   wrong       refuse   fail     refuse
private     unlinked  shared   right       serve    fail     refuse
private     unlinked  shared   old         serve    fail     refuse
private     unlinked  shared   expired     refuse   fail     refuse
private     unlinked  shared   ancient     serve    fail     refuse
public      linked    nobody   -           serve    stale    stale
public      linked    own      wrong       serve    stale    stale
public      linked    own      right       serve    serve    serve
public      linked    own      old         serve    stale    stale
public      linked    own      expired     serve    stale    stale
public      linked    own      ancient     serve    stale    stale
public      linked    shared   wrong       serve    stale    stale
public      linked    shared   right       serve    serve    serve
public      linked    shared   old         serve    stale    stale
public      linked    shared   expired     serve    stale    stale
public      linked    shared   ancient     serve    stale    stale
public      unlinked  nobody   -           serve    fail     refuse
public      unlinked  own      wrong       serve    fail     refuse
public      unlinked  own      right       serve    fail     refuse
public      unlinked  own      old         serve    fail     refuse
public      unlinked  own      expired     serve    fail     refuse
public      unlinked  own      ancient     serve    fail     refuse
public      unlinked  shared   wrong       serve    fail     refuse
public      unlinked  shared   right       serve    fail     refuse
public      unlinked  shared   old         serve    fail     refuse
public      unlinked  shared   expired     serve    fail     refuse
public      unlinked  shared   ancient     serve    fail     refuse
public!     linked    nobody   -           serve    serve    serve
public!     linked    own      wrong       serve    serve    serve
public!     linked    shared   wrong       serve    serve    serve
public!     unlinked  nobody   -           serve    fail     refuse
public!     unlinked  own      wrong       serve    fail     refuse
public!     unlinked  shared   wrong       serve    fail     refuse
"""
"""Linked: upstream has given the digest from the repository before. Where it is asked, it has it there."""


def cases() -> Iterator[tuple[str, str, str, str, str, str]]:
    header, *rows = TABLE.strip().splitlines()
    states = header.split()[4:]
    for row in rows:
        repository, digest, who, credential, *expected = row.split()
        for state, answer in zip(states, expected, strict=True):
            yield repository, digest, who, credential, state, answer


def play(repository: str, digest: str, who: str, credential: str, state: str) -> tuple[str, list[Who]]:
    """Obey the rule with a model of upstream; the outcome, and in whose names upstream was asked."""
    claim = {"nobody": Who.ANONYMOUS, "own": Who.OWN, "shared": Who.SHARED}[who]
    public = PUBLIC_PROOFS[repository]
    public_at = None if public is None else NOW - public
    age, is_good = CREDENTIALS.get(credential, (None, False))
    claimed_at = public_at if claim is Who.ANONYMOUS else None if age is None else NOW - age
    evidence = Evidence(digest == "linked", claim, claimed_at, public_at)
    heard: dict[Who, Word] = {}
    asked: list[Who] = []
    while True:
        decision = decide_access(evidence, TERMS, heard, NOW)
        if decision.act is not Act.ASK:
            outcomes = {Act.SERVE: "serve", Act.SERVE_STALE: "stale", Act.REFUSE: "refuse", Act.FAIL: "fail"}
            return outcomes[decision.act], asked
        assert decision.who not in heard
        asked.append(decision.who)
        says_yes = public_at is not None if decision.who is Who.ANONYMOUS else is_good
        word = {"down": Word.AWAY, "429": Word.BUSY}.get(state, Word.YES if says_yes else Word.NO)
        heard[decision.who] = word
        if word is Word.YES:
            evidence = Evidence(True, claim, claimed_at, public_at)


@pytest.mark.parametrize(("repository", "digest", "who", "credential", "state", "expected"), list(cases()))
def test_every_combination(
    repository: str, digest: str, who: str, credential: str, state: str, expected: str
) -> None:
    assert play(repository, digest, who, credential, state)[0] == expected


def test_the_table_has_every_combination_once() -> None:
    rows = [case[:5] for case in cases()]
    assert len(rows) == len(set(rows))
    everybody = {("nobody", "-"), *((who, each) for who in ("own", "shared") for each in CREDENTIALS)}
    for repository in ("private", "public"):
        for digest in ("linked", "unlinked"):
            for state in ("up", "down", "429"):
                assert {
                    (who, each) for r, d, who, each, s in rows if (r, d, s) == (repository, digest, state)
                } == everybody


@pytest.mark.parametrize(
    ("case", "asked"),
    [
        (("public!", "linked", "own", "wrong", "up"), []),
        (("private", "linked", "own", "right", "up"), []),
        (("public", "linked", "own", "right", "up"), []),
        (("public", "unlinked", "own", "right", "up"), [Who.ANONYMOUS]),
        (("private", "linked", "own", "old", "up"), [Who.ANONYMOUS, Who.OWN]),
        (("private", "linked", "shared", "old", "up"), [Who.ANONYMOUS, Who.SHARED]),
        (("private", "linked", "nobody", "-", "up"), [Who.ANONYMOUS]),
        (("private", "linked", "own", "old", "down"), [Who.ANONYMOUS, Who.OWN]),
    ],
)
def test_who_is_asked_and_in_which_order(case: tuple[str, str, str, str, str], asked: list[Who]) -> None:
    """Anybody first, for that answer is good for all; the shared credential only for those who bring none."""
    assert play(*case)[1] == asked


def test_what_was_refused_to_anybody_lately_is_not_asked_for_in_nobodys_name() -> None:
    own = Evidence(True, Who.OWN, None, None, is_private=True)
    assert decide_access(own, TERMS, {}, NOW) == Decision(Act.ASK, Who.OWN)
    nobody = Evidence(True, Who.ANONYMOUS, None, None, is_private=True)
    assert decide_access(nobody, TERMS, {}, NOW) == Decision(Act.REFUSE, Who.ANONYMOUS)


def test_a_yes_that_is_not_plainly_to_what_is_stored_serves_nothing_that_is_stored() -> None:
    for claim in (Who.OWN, Who.SHARED):
        evidence = Evidence(True, claim, NOW - 400, None)
        heard = {Who.ANONYMOUS: Word.NO, claim: Word.UNSURE}
        assert decide_access(evidence, TERMS, heard, NOW) == Decision(Act.PASS, claim)
        heard = {Who.ANONYMOUS: Word.UNSURE, claim: Word.NO}
        assert decide_access(evidence, TERMS, heard, NOW) == Decision(Act.REFUSE, claim)


def test_that_nobody_is_answered_extends_no_clients_own_proof() -> None:
    """Upstream may fail to answer about anybody only, its token server being out of order, say."""
    evidence = Evidence(True, Who.OWN, NOW - 400, None)
    assert decide_access(evidence, TERMS, {Who.ANONYMOUS: Word.AWAY}, NOW) == Decision(Act.ASK, Who.OWN)


def test_what_was_public_long_ago_is_not_served_while_upstream_is_away() -> None:
    for age, act in ((TERMS.max_stale - 1, Act.SERVE_STALE), (TERMS.max_stale, Act.FAIL)):
        evidence = Evidence(True, Who.ANONYMOUS, NOW - age, NOW - age)
        assert decide_access(evidence, TERMS, {Who.ANONYMOUS: Word.AWAY}, NOW).act is act


@pytest.mark.parametrize("age", [-1.0, -1e9, float("nan")])
def test_a_proof_from_the_future_is_none(age: float) -> None:
    """The clock was set back: how old the proof is, nobody knows."""
    evidence = Evidence(True, Who.OWN, NOW - age, NOW - age)
    heard = {Who.ANONYMOUS: Word.AWAY, Who.OWN: Word.AWAY}
    assert decide_access(evidence, TERMS, {}, NOW).act is Act.ASK
    assert decide_access(evidence, TERMS, heard, NOW).act is Act.FAIL


def test_with_all_times_0_upstream_is_asked_each_time_and_its_silence_is_a_no() -> None:
    terms = Terms(0.0, 0.0, 0.0, 0.0)
    evidence = Evidence(True, Who.OWN, NOW, None)
    assert decide_access(evidence, terms, {}, NOW).act is Act.ASK
    assert decide_access(evidence, terms, dict.fromkeys(Who, Word.YES), NOW).act is Act.SERVE
    assert decide_access(evidence, terms, dict.fromkeys(Who, Word.AWAY), NOW).act is Act.FAIL


TIMES = st.none() | st.floats()


@given(
    st.builds(Evidence, st.booleans(), st.sampled_from(Who), TIMES, TIMES, st.booleans()),
    st.builds(Terms, st.floats(), st.floats(), st.floats()),
    st.dictionaries(st.sampled_from(Who), st.sampled_from(Word)),
    st.floats(),
)
def test_nothing_is_served_without_link_and_proof(
    evidence: Evidence, terms: Terms, heard: dict[Who, Word], now: float
) -> None:
    """Whatever the clock says, NaN included; and what is asked has not been asked."""
    act, who = (decision := decide_access(evidence, terms, heard, now)).act, decision.who
    assert who in (Who.ANONYMOUS, evidence.claim)
    proved_at = evidence.proved_at(who)
    if act is Act.SERVE:
        assert evidence.linked
        life = terms.public_ttl if who is Who.ANONYMOUS else terms.access_ttl
        fresh = proved_at is not None and proved_at <= now and now - proved_at < life
        assert heard.get(who) is Word.YES or (who not in heard and fresh)
    elif act is Act.SERVE_STALE:
        assert evidence.linked
        assert heard[who] in (Word.AWAY, Word.BUSY)
        life = terms.max_stale if who is Who.ANONYMOUS else terms.offline_grace
        assert proved_at is not None
        assert proved_at <= now
        assert now - proved_at < life
    elif act is Act.ASK:
        assert who not in heard
    else:
        assert who is evidence.claim


@pytest.mark.parametrize(
    ("statuses", "word"),
    [
        ((200, 204, 206), Word.YES),
        ((301, 302, 307, 400, 401, 403, 404, 410, 416, 451), Word.NO),
        ((429,), Word.BUSY),
        ((500, 502, 503, 504, 520), Word.AWAY),
    ],
)
def test_what_a_status_means(statuses: tuple[int, ...], word: Word) -> None:
    assert {word_of(status) for status in statuses} == {word}
