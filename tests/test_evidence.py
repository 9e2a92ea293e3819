"""evidence.py: what upstream has said of credentials, for all workers, and nothing that could be replayed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from regcachd import evidence
from regcachd.evidence import Proofs
from regcachd.index import Index
from regcachd.reference import Repository

ONE, OTHER = Repository("registry.test", "team/app"), Repository("registry.test", "team/other")
SECRET = "Basic YWxpY2U6c2VjcmV0"
LIFE = 300.0
Workers = tuple[Proofs, Proofs]


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[tuple[Index, Index]]:
    """One index, as two processes have it."""
    here, there = Index(tmp_path / "index"), Index(tmp_path / "index")
    here.open()
    there.open()
    yield here, there
    here.close()
    there.close()


@pytest.fixture
def workers(indexes: tuple[Index, Index]) -> Workers:
    """Two workers of one daemon."""
    key = os.urandom(32)
    return Proofs(indexes[0], key), Proofs(indexes[1], key)


@pytest.fixture
def proofs(workers: Workers) -> Proofs:
    return workers[0]


def test_a_credential_is_a_hash_that_means_nothing_to_another_daemon(
    indexes: tuple[Index, Index], workers: Workers
) -> None:
    here, there = workers
    restarted = Proofs(indexes[0], os.urandom(32))
    credential = here.credential(SECRET)
    assert credential == there.credential(SECRET)
    assert credential != restarted.credential(SECRET)
    assert b"YWxp" not in bytes(credential)
    assert len(credential) == 16


def test_no_credential_an_empty_one_and_different_ones_are_different(proofs: Proofs) -> None:
    texts = [None, "", "A", SECRET, SECRET + " ", SECRET.lower(), "Bearer \u00fc"]
    assert len({proofs.credential(text) for text in texts}) == len(texts)


def test_a_yes_holds_for_one_repository_and_one_credential_at_every_worker(workers: Workers) -> None:
    here = workers[0]
    mine, other = here.credential(SECRET), here.credential(None)
    here.accept(ONE, mine, 1000.0, LIFE)
    for proofs in workers:
        assert proofs.proved_at(ONE, mine) == 1000.0
        assert proofs.proved_at(ONE, other) is None
        assert proofs.proved_at(OTHER, mine) is None
        assert proofs.proved_at(Repository("elsewhere.test", ONE.name), mine) is None


def test_a_no_takes_the_yes_back_at_every_worker(workers: Workers) -> None:
    here, there = workers
    mine, other = here.credential(SECRET), here.credential(None)
    here.accept(ONE, mine, 1000.0, LIFE)
    here.accept(ONE, other, 1000.0, LIFE)
    here.accept(OTHER, mine, 1000.0, LIFE)
    there.refuse(ONE, mine)
    there.refuse(ONE, mine)
    assert here.proved_at(ONE, mine) is None
    assert here.proved_at(ONE, other) == here.proved_at(OTHER, mine) == 1000.0
    here.accept(ONE, mine, 1001.0, LIFE)
    assert there.proved_at(ONE, mine) == 1001.0


@pytest.mark.parametrize(
    ("later", "written"),
    [(1.0, False), (74.9, False), (75.0, True), (500.0, True), (-1.0, True)],
    ids=["at once", "before a quarter", "after a quarter", "expired", "the clock was set back"],
)
def test_a_later_yes_is_written_after_a_quarter_of_the_life(
    proofs: Proofs, later: float, written: bool
) -> None:
    mine = proofs.credential(SECRET)
    proofs.accept(ONE, mine, 1000.0, LIFE)
    proofs.accept(ONE, mine, 1000.0 + later, LIFE)
    assert proofs.proved_at(ONE, mine) == (1000.0 + later if written else 1000.0)


def test_neither_file_nor_repr_holds_what_could_be_replayed(tmp_path: Path) -> None:
    key = os.urandom(32)
    index = Index(tmp_path / "index")
    index.open()
    proofs = Proofs(index, key)
    proofs.accept(ONE, proofs.credential(SECRET), 1000.0, LIFE)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert bytes(proofs.credential(SECRET)) in written
    for secret in (key, SECRET.encode(), b"YWxpY2U6c2VjcmV0", b"alice:secret"):
        assert secret not in written
    assert repr(key) not in repr(proofs)
    index.close()


def test_an_index_that_fails_takes_neither_a_yes_nor_a_no_away(
    indexes: tuple[Index, Index], proofs: Proofs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, say: what cannot be written is kept here, and a no is as good as ever."""
    monkeypatch.setattr(evidence, "MOST_UNWRITTEN", 3)
    mine, other = proofs.credential(SECRET), proofs.credential(None)
    proofs.accept(ONE, mine, 1000.0, LIFE)
    indexes[0]._db.read("PRAGMA query_only = on")
    proofs.refuse(ONE, mine)
    assert proofs.proved_at(ONE, mine) is None
    proofs.accept(ONE, other, 1000.0, LIFE)
    assert proofs.proved_at(ONE, other) == 1000.0
    indexes[0]._db.read("PRAGMA query_only = off")
    proofs.accept(ONE, mine, 1500.0, LIFE)
    assert indexes[1].proof(ONE, mine) == 1500.0
    indexes[0]._db.read("PRAGMA query_only = on")
    for number in range(4):
        proofs.accept(OTHER, proofs.credential(str(number)), 1000.0, LIFE)
    assert len(proofs._unwritten) == 3


def test_old_proofs_and_the_oldest_of_too_many_are_forgotten(indexes: tuple[Index, Index]) -> None:
    index = indexes[0]
    for number in range(1200):
        index.set_proof(ONE, b"%d" % number, float(number))
    index.forget_proofs(before=600.0)
    assert index.proof(ONE, b"599") is None
    assert index.proof(ONE, b"600") == 600.0
    index.forget_proofs(before=0.0, most=100)
    assert index.proof(ONE, b"1099") is None
    assert index.proof(ONE, b"1100") == 1100.0
