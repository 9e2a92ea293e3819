"""silence.py: what upstream has not answered, for the one who asked and the repository that was asked about."""

import pytest

from regcachd import silence
from regcachd.access import Who
from regcachd.evidence import Credential
from regcachd.reference import Repository
from regcachd.requester import Bare, Requester
from regcachd.response import UpstreamFailed
from regcachd.silence import LASTS, Silence

ONE, OTHER = Repository("registry.test", "one"), Repository("registry.test", "other")
FAILURE = UpstreamFailed("no answer")


def requester(name: bytes) -> Requester:
    return Requester(Who.OWN, Credential(name), [], True, Bare(None))  # type: ignore[arg-type]


ALICE, BOB = requester(b"alice"), requester(b"bob")


def test_a_silence_is_for_one_asker_and_one_repository_and_ends() -> None:
    heard = Silence()
    heard.note(ALICE, ONE, 1000.0, FAILURE)
    assert heard.heard(ALICE, ONE, 1000.0) is heard.heard(ALICE, ONE, 1000.0 + LASTS - 1) is FAILURE
    for asker, repository, now in (
        (ALICE, ONE, 1000.0 + LASTS),
        (ALICE, ONE, 999.0),  # the clock was set back
        (ALICE, OTHER, 1000.0),
        (BOB, ONE, 1000.0),
    ):
        assert heard.heard(asker, repository, now) is None


def test_not_all_silences_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "MOST", 2)
    heard, askers = Silence(), [requester(b"%d" % number) for number in range(3)]
    for asker in askers:
        heard.note(asker, ONE, 1000.0, FAILURE)
    assert [heard.heard(asker, ONE, 1000.0) for asker in askers] == [None, FAILURE, FAILURE]
