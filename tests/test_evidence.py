"""evidence.py: what upstream has said of credentials, for all workers, and nothing that could be replayed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from regcachd.evidence import Proofs
from regcachd.index import Index
from regcachd.reference import Repository

APP = Repository("registry.test", "team/app")
TOOL = Repository("registry.test", "team/tool")
HEADER = "Basic YWRhOmNvcnJlY3QgaG9yc2U="
LIFE = 300.0


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Proofs, Proofs]]:
    """Two workers of one daemon."""
    key = os.urandom(32)
    first, second = Index(tmp_path / "index"), Index(tmp_path / "index")
    yield Proofs(first, key), Proofs(second, key)
    first.close()
    second.close()


def test_all_workers_know_at_once_what_one_has_heard(workers: tuple[Proofs, Proofs]) -> None:
    one, other = workers
    credential = one.credential(HEADER)
    assert other.credential(HEADER) == credential
    assert other.proved_at(APP, credential) is None
    one.accept(APP, credential, 1000.0, LIFE)
    assert other.proved_at(APP, credential) == 1000.0
    assert other.proved_at(TOOL, credential) is None
    assert other.proved_at(APP, other.credential(None)) is None
    other.refuse(APP, credential)
    assert one.proved_at(APP, credential) is None
    one.accept(APP, credential, 1001.0, LIFE)
    assert other.proved_at(APP, credential) == 1001.0


@pytest.mark.parametrize(
    ("later", "written"),
    [(1.0, False), (74.9, False), (75.0, True), (500.0, True), (-1.0, True)],
    ids=["at once", "before a quarter", "after a quarter", "expired", "the clock was set back"],
)
def test_a_proof_is_written_again_after_a_quarter_of_its_life(
    workers: tuple[Proofs, Proofs], later: float, written: bool
) -> None:
    proofs = workers[0]
    credential = proofs.credential(HEADER)
    proofs.accept(APP, credential, 1000.0, LIFE)
    proofs.accept(APP, credential, 1000.0 + later, LIFE)
    assert proofs.proved_at(APP, credential) == (1000.0 + later if written else 1000.0)


def test_no_credential_is_a_credential_of_its_own(workers: tuple[Proofs, Proofs]) -> None:
    proofs = workers[0]
    assert len({proofs.credential(None), proofs.credential(""), proofs.credential(HEADER)}) == 3


def test_neither_file_nor_repr_holds_what_could_be_replayed(tmp_path: Path) -> None:
    key = os.urandom(32)
    index = Index(tmp_path / "index")
    proofs = Proofs(index, key)
    proofs.accept(APP, proofs.credential(HEADER), 1000.0, LIFE)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert bytes(proofs.credential(HEADER)) in written
    for secret in (key, HEADER.encode(), b"YWRhOmNvcnJlY3QgaG9yc2U", b"correct horse"):
        assert secret not in written
    assert repr(key) not in repr(proofs)
    assert Proofs(index, os.urandom(32)).credential(HEADER) != proofs.credential(HEADER)
    index.close()


def test_old_proofs_and_the_oldest_of_too_many_are_forgotten(tmp_path: Path) -> None:
    index = Index(tmp_path / "index")
    for number in range(1200):
        index.set_proof(APP, b"%d" % number, float(number))
    index.forget_proofs(before=600.0)
    assert index.proof(APP, b"599") is None
    assert index.proof(APP, b"600") == 600.0
    index.forget_proofs(before=0.0, most=100)
    assert index.proof(APP, b"1099") is None
    assert index.proof(APP, b"1100") == 1100.0
    index.close()
