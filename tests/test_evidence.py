"""What is remembered of upstream's yes and no."""

import pytest

from regcachd import evidence
from regcachd.evidence import Proofs
from regcachd.reference import Repository

ONE, OTHER = Repository("registry.test", "team/app"), Repository("registry.test", "team/other")
SECRET = "Basic YWxpY2U6c2VjcmV0"


def test_a_credential_is_a_hash_that_means_nothing_to_another_process() -> None:
    here, there = Proofs(), Proofs()
    credential = here.credential(SECRET)
    assert credential == here.credential(SECRET)
    assert credential != there.credential(SECRET)
    assert b"YWxp" not in credential
    assert len(credential) == 16


def test_no_credential_an_empty_one_and_different_ones_are_different() -> None:
    proofs = Proofs()
    texts = [None, "", "A", SECRET, SECRET + " ", SECRET.lower(), "Bearer \u00fc"]
    assert len({proofs.credential(text) for text in texts}) == len(texts)


def test_a_yes_holds_for_one_repository_and_one_credential() -> None:
    proofs = Proofs()
    mine, other = proofs.credential(SECRET), proofs.credential(None)
    proofs.accept(ONE, mine, 1000.0)
    assert proofs.proved_at(ONE, mine) == 1000.0
    assert proofs.proved_at(ONE, other) is None
    assert proofs.proved_at(OTHER, mine) is None
    assert proofs.proved_at(Repository("elsewhere.test", ONE.name), mine) is None


def test_a_later_yes_counts_from_then() -> None:
    proofs = Proofs()
    mine = proofs.credential(SECRET)
    proofs.accept(ONE, mine, 1000.0)
    proofs.accept(ONE, mine, 1200.0)
    assert proofs.proved_at(ONE, mine) == 1200.0


def test_a_no_takes_the_yes_back() -> None:
    proofs = Proofs()
    mine, other = proofs.credential(SECRET), proofs.credential(None)
    proofs.accept(ONE, mine, 1000.0)
    proofs.accept(ONE, other, 1000.0)
    proofs.accept(OTHER, mine, 1000.0)
    proofs.refuse(ONE, mine)
    proofs.refuse(ONE, mine)
    assert proofs.proved_at(ONE, mine) is None
    assert proofs.proved_at(ONE, other) == proofs.proved_at(OTHER, mine) == 1000.0


def test_the_number_of_proofs_is_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_PROOFS", 3)
    proofs = Proofs()
    credentials = [proofs.credential(str(number)) for number in range(4)]
    for credential in credentials[:3]:
        proofs.accept(ONE, credential, 1000.0)
    proofs.accept(ONE, credentials[0], 1001.0)  # is the newest now
    proofs.accept(ONE, credentials[3], 1002.0)
    known = [proofs.proved_at(ONE, credential) is not None for credential in credentials]
    assert known == [True, False, True, True]
