"""Tokens that are nobody's: known to all workers, by their hashes, until they end."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from regcachd import anonymity, bulletin
from regcachd.anonymity import Anonymity
from regcachd.bulletin import Notice
from regcachd.evidence import Proofs
from regcachd.index import Index

NOW = 1_700_000_000.0
TOKEN = "eyJhbGciOi.J9.c2ln"


class Worker:
    """One of the workers of a daemon."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.time = NOW
        self.index = Index(path)
        self.index.open()
        self.proofs = Proofs(self.index, key)
        self.anonymity = Anonymity(self.index.bulletin, self.proofs, lambda: self.time)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    key = os.urandom(32)
    here, there = Worker(tmp_path / "index", key), Worker(tmp_path / "index", key)
    yield here, there
    here.index.close()
    there.index.close()


def test_a_token_that_one_worker_handed_out_is_nobodys_for_all(workers: tuple[Worker, Worker]) -> None:
    here, there = workers
    here.anonymity.note(TOKEN, "realm team/app", NOW + 300)
    for worker in workers:
        assert worker.anonymity.wanted(f"Bearer {TOKEN}") == "realm team/app"
        assert worker.anonymity.standing(f"bearer  {TOKEN} ").is_anonymous
    there.time = NOW + 300
    assert not there.anonymity.standing(f"Bearer {TOKEN}").is_anonymous


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN.lower()}",
        "Bearer é",
    ],
)
def test_everything_else_is_somebodys(workers: tuple[Worker, Worker], authorization: str) -> None:
    here, _ = workers
    here.anonymity.note(TOKEN, "x", NOW + 300)
    assert not here.anonymity.standing(authorization).is_anonymous
    assert here.anonymity.standing(authorization).credential == here.proofs.credential(authorization)


def test_no_credential_is_nobodys(workers: tuple[Worker, Worker]) -> None:
    assert workers[0].anonymity.standing(None).is_anonymous


def test_a_thousand_tokens_that_were_asked_for_alike_are_one_credential(
    workers: tuple[Worker, Worker],
) -> None:
    here, there = workers
    for number in range(1000):
        here.anonymity.note(f"token{number}", "realm team/app", NOW + 300)
    here.anonymity.note("other", "realm team/other", NOW + 300)
    found = {there.anonymity.standing(f"Bearer token{number}").credential for number in range(1000)}
    assert len(found) == 1
    assert there.anonymity.standing("Bearer other").credential not in found


def test_nobodys_credential_is_none_that_a_client_could_send(workers: tuple[Worker, Worker]) -> None:
    """No Authorization at all is another one, too: it is refused where a token is needed."""
    here, _ = workers
    here.anonymity.note(TOKEN, "x", NOW + 300)
    found = here.anonymity.standing(f"Bearer {TOKEN}").credential
    assert found not in {here.anonymity.standing(sent).credential for sent in (None, "", "x", "Tx", "T x")}


def test_no_token_is_written_down(workers: tuple[Worker, Worker], tmp_path: Path) -> None:
    here, _ = workers
    here.anonymity.note(TOKEN, "x", NOW + 300)
    here.index.checkpoint()
    assert TOKEN.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_an_index_that_fails_makes_nobody_somebody(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "index", os.urandom(32))
    worker.index.close()
    worker.anonymity.note(TOKEN, "x", NOW + 300)
    assert worker.anonymity.standing(f"Bearer {TOKEN}").is_anonymous


def test_what_is_kept_is_bounded(workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = workers
    monkeypatch.setattr(anonymity, "MOST_REMEMBERED", 3)
    monkeypatch.setattr(bulletin, "MOST_ANONYMOUS", 5)
    for number in range(10):
        here.anonymity.note(f"token{number}", "x", NOW + 300 + number)
    assert len(here.anonymity._noted) == 3
    here.index.bulletin.forget(NOW)
    assert [there.anonymity.standing(f"Bearer token{n}").is_anonymous for n in range(10)] == [False] * 5 + [
        True
    ] * 5
    here.index.bulletin.forget(NOW + 308.5)
    assert [there.anonymity.standing(f"Bearer token{n}").is_anonymous for n in range(10)] == [False] * 9 + [
        True
    ]


def test_notices_go_when_they_have_ended_or_there_are_too_many(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = workers
    board = here.index.bulletin

    def left() -> list[int]:
        return [number for number in range(10) if there.index.bulletin.read(str(number))]

    for number in range(10):
        assert board.post(str(number), Notice("x" * 100, NOW + number, NOW + 60, NOW + 100 + number))
    board.forget(NOW)
    assert left() == [*range(10)]
    board.forget(NOW + 101)
    assert left() == [*range(2, 10)]
    monkeypatch.setattr(bulletin, "MOST_BYTES", 650)
    board.forget(NOW)
    assert left() == [*range(4, 10)]
    monkeypatch.setattr(bulletin, "MOST_NOTICES", 2)
    board.forget(NOW)
    assert left() == [8, 9]


def test_one_worker_at_a_time_has_a_claim(workers: tuple[Worker, Worker]) -> None:
    here, there = (worker.index.bulletin for worker in workers)
    assert here.claim("x", NOW, NOW + 15)
    assert not there.claim("x", NOW + 1, NOW + 16)
    assert there.claim("y", NOW + 1, NOW + 16)
    here.release("x")
    assert there.claim("x", NOW + 2, NOW + 17)
    assert here.claim("x", NOW + 17, NOW + 32)  # the other has taken too long
    assert there.claim("x", NOW - 1000, NOW - 985)  # the clock was set back


def test_where_nothing_can_be_written_everybody_may(workers: tuple[Worker, Worker]) -> None:
    here, _ = workers
    here.index.close()
    assert here.index.bulletin.claim("x", NOW, NOW + 15)
    assert here.index.bulletin.claim("x", NOW, NOW + 15)
