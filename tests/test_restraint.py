"""Limits of a registry: heard in all its answers, and known to the other workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen
from twisted.internet.task import Clock

from regcachd.bulletin import Bulletin, Notice
from regcachd.evidence import Credential
from regcachd.governor import FIRST_HOLD, Header, Kind
from regcachd.index import Index
from regcachd.restraint import Restraint

ALICE, BOB = Credential(b"alice"), Credential(b"bob")
PULLS = b'{"errors":[{"code":"TOOMANYREQUESTS"}]}'


@frozen
class Answer:
    status: int
    retry_after: bytes | None = None

    @property
    def header(self) -> Header:
        return {b"retry-after": self.retry_after}.get


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1_000_000)
    return clock


@pytest.fixture
def workers(tmp_path: Path, clock: Clock) -> Iterator[list[Restraint]]:
    """Two workers' restraint of one registry."""
    indexes = [Index(tmp_path / "index") for _ in range(2)]
    for index in indexes:
        index.open()
    yield [Restraint("hub", index.bulletin, clock.seconds) for index in indexes]
    for index in indexes:
        index.close()


def test_what_one_worker_was_told_the_other_need_not_be(workers: list[Restraint], clock: Clock) -> None:
    here, there = workers
    here.heard(ALICE, b"GET", Answer(429, b"20"), PULLS)
    clock.advance(5)
    for worker in workers:
        assert worker.hold(ALICE, b"GET") == 15
        assert worker.spares(ALICE, b"GET")
        assert worker.hold(ALICE, b"HEAD") is None  # pulls are what is limited
        assert worker.hold(BOB, b"GET") is None
    assert there.governor.limited[Kind.PULLS] == 0  # it was told once
    clock.advance(15)
    assert [worker.hold(ALICE, b"GET") for worker in workers] == [None, None]


def test_limits_grow_whichever_worker_meets_them(workers: list[Restraint], clock: Clock) -> None:
    here, there = workers
    here.heard(ALICE, b"GET", Answer(429))
    assert there.hold(ALICE, b"HEAD") == FIRST_HOLD
    clock.advance(FIRST_HOLD)
    there.heard(ALICE, b"GET", Answer(429))
    assert here.hold(ALICE, b"GET") == 2 * FIRST_HOLD


def test_a_limit_that_was_lifted_is_not_told_any_more(workers: list[Restraint], clock: Clock) -> None:
    here, there = workers
    here.heard(ALICE, b"GET", Answer(429, b"60"))
    clock.advance(1)
    here.heard(ALICE, b"GET", Answer(200))
    assert there.hold(ALICE, b"GET") is None


@pytest.mark.parametrize("answer", [Answer(429), Answer(503, b"10")])
def test_other_answers_tell_of_limits_and_of_nothing_else(workers: list[Restraint], answer: Answer) -> None:
    here, there = workers
    here.heard_elsewhere(ALICE, Answer(200))
    assert here.hold(ALICE, b"GET") is None
    here.heard_elsewhere(ALICE, answer)
    assert there.hold(ALICE, b"HEAD") is not None
    for status in (200, 401, 404, 500, 503):
        here.heard_elsewhere(ALICE, Answer(status))
        assert here.hold(ALICE, b"GET") is not None


def test_a_notice_from_the_future_is_not_believed(tmp_path: Path, clock: Clock) -> None:
    """The clock was set back."""
    index = Index(tmp_path / "index")
    index.open()
    worker, bulletin = Restraint("hub", index.bulletin, clock.seconds), index.bulletin
    assert isinstance(bulletin, Bulletin)
    now = clock.seconds()
    bulletin.post(f"hold hub {ALICE.hex()}", Notice("ABUSE 1", now + 50, now + 60, now + 60))
    assert worker.hold(ALICE, b"GET") is None
    index.close()
