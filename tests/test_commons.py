"""Answers for everybody: one question to upstream, however many ask, in however many workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from regcachd import commons
from regcachd.commons import CLAIM, LARGEST, LOOK, TOO_NEW, Common, Commons, once
from regcachd.http1 import UpstreamFailed
from regcachd.index import Index
from regcachd.relay import Answer

ANSWER = Answer(200, b"Fine", [(b"X-Odd", b'\xe9 "a"'), (b"x-odd", b"b")], bytes(range(256)))


@define(eq=False)
class Upstream:
    """What brings answers when a test says so."""

    clock: Clock
    asked: "list[Deferred[Any]]" = field(factory=list)

    async def fetch(self) -> Common:
        wait: Deferred[Any] = Deferred()
        self.asked.append(wait)
        result: Common = await wait
        return result

    def answer(self, answer: Answer = ANSWER, fresh: float = 60.0, ends: float = 600.0) -> None:
        now = self.clock.seconds()
        self.asked[-1].callback(Common(answer, now, now + fresh, now + ends, commons.STORED))

    def fail(self) -> None:
        self.asked[-1].errback(UpstreamFailed("no route"))


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1_700_000_000.0)
    return clock


@pytest.fixture
def workers(tmp_path: Path, clock: Clock) -> Iterator[tuple[Commons, Commons]]:
    indexes = [Index(tmp_path / "index"), Index(tmp_path / "index")]
    for index in indexes:
        index.open()
    here, there = (Commons(index.bulletin, clock, clock.seconds) for index in indexes)
    yield here, there
    here.close()
    there.close()
    for index in indexes:
        index.close()


@pytest.fixture
def upstream(clock: Clock) -> Upstream:
    return Upstream(clock)


def get(worker: Commons, upstream: Upstream, key: str = "key") -> "Deferred[Common]":
    return Deferred.fromCoroutine(worker.get(key, upstream.fetch))


def result(waiting: "Deferred[Common]") -> Common:
    found: list[Any] = []
    waiting.addBoth(found.append)
    assert found, "no result yet"
    if isinstance(found[0], Common):
        return found[0]
    found[0].raiseException()
    raise AssertionError


def look(clock: Clock) -> None:
    """Let the others look for the answer."""
    clock.advance(LOOK)


def test_all_who_ask_at_once_get_one_answer(workers: Any, upstream: Upstream, clock: Clock) -> None:
    here, there = workers
    waiting = [get(worker, upstream) for worker in (here, there) * 20]
    assert len(upstream.asked) == 1
    upstream.answer()
    look(clock)
    assert len(upstream.asked) == 1
    assert {result(each).answer.body for each in waiting} == {ANSWER.body}


def test_an_answer_is_reused_byte_for_byte_while_it_is_fresh(
    workers: Any, upstream: Upstream, clock: Clock
) -> None:
    here, there = workers
    first = get(here, upstream)
    upstream.answer()
    assert result(first).status == (b"Cache-Status", b"regcachd; fwd=uri-miss; stored")
    clock.advance(59)
    for worker in workers:
        found = result(get(worker, upstream))
        assert found.answer == ANSWER
        assert found.status == (b"Cache-Status", b"regcachd; hit")
    clock.advance(1)
    again = get(there, upstream)
    assert len(upstream.asked) == 2
    upstream.answer(evolve(ANSWER, body=b"new"))
    assert result(again).answer.body == b"new"
    assert result(get(here, upstream)).answer.body == b"new"


def test_questions_are_told_apart(workers: Any, upstream: Upstream) -> None:
    here, _ = workers
    get(here, upstream, "one")
    get(here, upstream, "other")
    assert len(upstream.asked) == 2


def test_what_may_not_be_kept_goes_to_those_who_wait_and_to_nobody_else(
    workers: Any, upstream: Upstream, clock: Clock
) -> None:
    here, _ = workers
    waiting = [get(here, upstream) for _ in range(3)]
    upstream.asked[-1].callback(once(evolve(ANSWER, status=403), clock.seconds()))
    found = [result(each) for each in waiting]
    assert [each.answer.status for each in found] == [403] * 3
    assert found[0].status == (b"Cache-Status", b"regcachd; fwd=uri-miss")
    get(here, upstream)
    assert len(upstream.asked) == 2


def test_what_is_too_large_is_not_kept(workers: Any, upstream: Upstream) -> None:
    here, _ = workers
    waiting = get(here, upstream)
    upstream.answer(evolve(ANSWER, body=b"x" * (LARGEST + 1)))
    assert len(result(waiting).answer.body) == LARGEST + 1
    get(here, upstream)
    assert len(upstream.asked) == 2


def test_a_refusal_is_fetched_by_every_worker_for_itself(
    workers: Any, upstream: Upstream, clock: Clock
) -> None:
    here, there = workers
    get(here, upstream)
    other = get(there, upstream)
    upstream.asked[-1].callback(once(evolve(ANSWER, status=404), clock.seconds()))
    look(clock)
    assert len(upstream.asked) == 2
    upstream.answer()
    assert result(other).answer == ANSWER


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_while_upstream_fails_the_last_answer_is_given_until_it_ends(
    workers: Any, upstream: Upstream, clock: Clock, status: int
) -> None:
    here, there = workers
    get(here, upstream)
    upstream.answer(fresh=60, ends=600)

    def ask_in_vain() -> Common:
        waiting = get(there, upstream)
        if status:
            upstream.asked[-1].callback(once(evolve(ANSWER, status=status), clock.seconds()))
        else:
            upstream.fail()
        return result(waiting)

    clock.advance(599)
    found = ask_in_vain()
    assert (found.answer, found.status) == (ANSWER, (b"Cache-Status", b"regcachd; fwd=stale"))
    assert len(upstream.asked) == 2
    clock.advance(1)
    if status:
        assert ask_in_vain().answer.status == status
    else:
        with pytest.raises(UpstreamFailed):
            ask_in_vain()


def test_a_worker_that_takes_too_long_is_not_waited_for(
    workers: Any, upstream: Upstream, clock: Clock
) -> None:
    here, there = workers
    get(here, upstream)
    other = get(there, upstream)
    clock.pump([LOOK] * 10)
    assert len(upstream.asked) == 1
    clock.advance(CLAIM)
    assert len(upstream.asked) == 2
    upstream.answer()
    assert result(other).answer == ANSWER


def test_at_the_end_nobody_waits_any_more(workers: Any, upstream: Upstream, clock: Clock) -> None:
    here, there = workers
    get(here, upstream)
    other = get(there, upstream)
    there.close()
    with pytest.raises(UpstreamFailed, match="stopping"):
        result(other)
    with pytest.raises(UpstreamFailed, match="stopping"):
        result(get(there, upstream))
    assert not clock.getDelayedCalls()


def test_an_answer_that_is_complained_of_is_given_up_unless_it_is_new(
    workers: Any, upstream: Upstream, clock: Clock
) -> None:
    here, there = workers
    get(here, upstream)
    upstream.answer(fresh=500)
    there.forget("key")
    assert result(get(here, upstream)).answer == ANSWER
    clock.advance(TOO_NEW)
    there.forget("key")
    get(here, upstream)
    assert len(upstream.asked) == 2


def test_without_an_index_a_process_keeps_answers_itself(upstream: Upstream, tmp_path: Path) -> None:
    alone = Commons(Index(tmp_path / "index").bulletin, upstream.clock, upstream.clock.seconds)
    for number in range(commons.MOST_UNWRITTEN + 10):
        get(alone, upstream, str(number))
        upstream.answer()
    asked = len(upstream.asked)
    newest = str(asked - 1)
    assert result(get(alone, upstream, newest)).answer == ANSWER
    assert len(upstream.asked) == asked
    assert len(alone._unwritten) == commons.MOST_UNWRITTEN
    upstream.clock.advance(TOO_NEW)
    alone.forget(newest)
    assert alone.known(newest) is None


def test_an_answer_from_the_future_is_not_believed(workers: Any, upstream: Upstream, clock: Clock) -> None:
    """The clock was set back: nobody knows how old it is."""
    here, _ = workers
    get(here, upstream)
    now = clock.seconds() + 1000
    upstream.asked[-1].callback(Common(ANSWER, now, now + 60, now + 600))
    assert here.known("key") is None


def test_nothing_personal_is_kept(clock: Clock) -> None:
    headers = [(b"Set-Cookie", b"a"), (b"DATE", b"b"), (b"X-Request", b"c"), (b"WWW-Authenticate", b"d")]
    found = once(evolve(ANSWER, headers=headers), 0.0)
    assert [name for name, _ in found.answer.headers] == [b"X-Request", b"WWW-Authenticate"]


def test_answers_are_not_shown() -> None:
    assert "odd" not in repr(once(ANSWER, 0.0)).lower()
