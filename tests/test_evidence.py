"""evidence.py: what upstream has said of credentials, for all workers, and nothing that could be replayed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from regcachd import evidence
from regcachd.evidence import (
    ANONYMOUS,
    KEY_SIZE,
    PRIVATE_FOR,
    KeyUnusable,
    Private,
    Proofs,
    kept_key,
)
from regcachd.index import Index
from regcachd.reference import Digest, Repository
from tests.through import logged

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


def test_that_anybody_could_read_is_remembered_for_longer(indexes: tuple[Index, Index]) -> None:
    index = indexes[0]
    for number in range(10):
        index.set_proof(Repository("registry.test", f"r{number}"), ANONYMOUS, float(number))
        index.set_proof(ONE, b"%d" % number, float(number))
    index.forget_proofs(8.0, ANONYMOUS, 3.0, most=1)
    assert [index.proof(Repository("registry.test", f"r{number}"), ANONYMOUS) for number in range(10)] == [
        None if number < 3 else float(number) for number in range(10)
    ]
    assert [index.proof(ONE, b"%d" % number) for number in range(10)] == [*[None] * 9, 9.0]


def test_that_anybody_could_read_outlives_the_key(indexes: tuple[Index, Index]) -> None:
    one, other = (Proofs(indexes[0], os.urandom(KEY_SIZE)) for _ in range(2))
    one.accept(ONE, one.credential(None), 1000.0, LIFE)
    assert other.proved_at(ONE, other.credential(None)) == 1000.0


def test_another_credential_of_the_daemons_has_other_rights(proofs: Proofs) -> None:
    texts = ["a", "b", ""]
    found = {*map(proofs.shared_credential, texts), *map(proofs.credential, texts), ANONYMOUS}
    assert len(found) == 7


# -- what was refused to anybody


def test_what_is_private_is_remembered_for_a_while() -> None:
    private, one, other = Private(), Digest.of(b"1"), Digest.of(b"2")
    private.refused(ONE, None, 1000.0)
    private.refused(OTHER, one, 1000.0)
    for repository, digest, known in ((ONE, one, True), (OTHER, one, True), (OTHER, other, False)):
        assert private.is_known(repository, digest, 1000.0) is known
        assert private.is_known(repository, digest, 1000.0 + PRIVATE_FOR - 1) is known
        assert not private.is_known(repository, digest, 1000.0 + PRIVATE_FOR)
        assert not private.is_known(repository, digest, 999.0)  # the clock was set back
    private.published(ONE)
    assert not private.is_known(ONE, one, 1000.0)


def test_not_everything_that_is_private_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_PRIVATE", 3)
    private, digest = Private(), Digest.of(b"1")
    for number in range(5):
        private.refused(Repository("registry.test", f"r{number}"), None, 1000.0)
    known = [
        private.is_known(Repository("registry.test", f"r{number}"), digest, 1000.0) for number in range(5)
    ]
    assert known == [False, False, True, True, True]


# -- the key


def test_the_key_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state/key"
    key = kept_key(path)
    assert (len(key), path.stat().st_mode & 0o777) == (KEY_SIZE, 0o600)
    assert kept_key(path) == key
    assert [each.name for each in path.parent.iterdir()] == ["key"]


def test_a_key_that_is_not_wanted_is_another_each_time_and_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "key"
    kept = kept_key(path)
    keys = {kept, kept_key(path, keep=False), kept_key(path, keep=False)}
    assert len(keys) == 3
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "mode"),
    [(b"", 0o600), (b"k" * 31, 0o600), (b"k" * 33, 0o600), (b"k" * 32, 0o640), (b"k" * 32, 0o604)],
    ids=["empty", "short", "long", "for a group", "for everybody"],
)
def test_a_key_that_others_may_know_or_that_is_none_is_replaced(
    tmp_path: Path, content: bytes, mode: int
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with logged() as lines:
        key = kept_key(path)
    assert key != content
    assert kept_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(lines) == 1
    assert "is not a key for its owner only" in lines[0]


def test_a_key_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no directory")
    with pytest.raises(KeyUnusable, match="state"):
        kept_key(tmp_path / "state/key")
