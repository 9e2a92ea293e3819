"""What the index remembers, and how it fails."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from regcachd.bulletin import MOST_NOTICES, Notice
from regcachd.database import DatabaseUnusable
from regcachd.freshness import TagEntry
from regcachd.index import Index
from regcachd.reference import Digest, Repository, Tag

HERE, THERE = Repository("registry.test", "team/app"), Repository("registry.test", "team/other")
ELSEWHERE = Repository("elsewhere.test", "team/app")
A, B = Digest.of(b"a"), Digest.of(b"b", "sha512")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = opened(tmp_path / "index.sqlite3")
    yield index
    index.close()


def opened(path: Path) -> Index:
    index = Index(path)
    index.open()
    return index


def reopened(index: Index, path: Path) -> Index:
    index.close()
    return opened(path)


def test_a_link_is_of_one_repository_and_one_digest(index: Index) -> None:
    assert not index.linked(HERE, A)
    index.link(HERE, A)
    index.link(HERE, A)
    assert index.linked(HERE, A)
    assert not index.linked(HERE, B)
    assert not index.linked(THERE, A)
    assert not index.linked(ELSEWHERE, A)


def test_a_tag_depends_on_what_the_client_accepts(index: Index) -> None:
    tag = Tag("latest")
    assert index.tags.get(HERE, tag, "") is None
    index.tags.set(HERE, tag, MANIFEST, TagEntry(A, MANIFEST, 1.5))
    index.tags.set(HERE, tag, "*/*", TagEntry(B, "text/plain", 2.5))
    assert index.tags.get(HERE, tag, MANIFEST) == TagEntry(A, MANIFEST, 1.5)
    assert index.tags.get(HERE, tag, "*/*") == TagEntry(B, "text/plain", 2.5)
    assert index.tags.get(HERE, Tag("other"), "*/*") is None
    assert index.tags.get(THERE, tag, "*/*") is None
    index.tags.set(HERE, tag, "*/*", TagEntry(A, MANIFEST, 3.5))
    assert index.tags.get(HERE, tag, "*/*") == TagEntry(A, MANIFEST, 3.5)


def test_a_manifest_has_a_media_type_a_layer_has_none(index: Index) -> None:
    assert index.media_type(A) is None
    index.add(A, 10, MANIFEST, 1.0)
    index.add(B, 10, None, 1.0)
    assert index.media_type(A) == MANIFEST
    assert index.media_type(B) is None


def test_stored_first_as_a_layer_it_can_become_a_manifest_and_stays_one(index: Index) -> None:
    index.add(A, 10, None, 1.0)
    index.add(A, 10, MANIFEST, 2.0)
    index.add(A, 10, None, 3.0)
    assert index.media_type(A) == MANIFEST
    assert index.bytes_stored() == 10


def test_everything_is_still_there_after_a_restart(index: Index, tmp_path: Path) -> None:
    index.link(HERE, A)
    index.add(A, 10, MANIFEST, 1.0)
    index.tags.set(HERE, Tag("1"), "", TagEntry(A, MANIFEST, 1.5))
    again = reopened(index, tmp_path / "index.sqlite3")
    assert again.linked(HERE, A)
    assert again.media_type(A) == MANIFEST
    assert again.tags.get(HERE, Tag("1"), "") == TagEntry(A, MANIFEST, 1.5)
    assert again.bytes_stored() == 10
    again.close()


def test_a_killed_daemon_loses_nothing_that_was_said(index: Index, tmp_path: Path) -> None:
    """The files as a kill leaves them: the log not moved into the database."""
    index.link(HERE, A)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("index.sqlite3", "index.sqlite3-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    again = opened(copy / "index.sqlite3")
    assert again.linked(HERE, A)
    again.close()


def test_a_checkpoint_moves_the_log_into_the_file(index: Index, tmp_path: Path) -> None:
    index.link(HERE, A)
    index.checkpoint()
    alone = tmp_path / "alone.sqlite3"
    alone.write_bytes((tmp_path / "index.sqlite3").read_bytes())
    again = opened(alone)
    assert again.linked(HERE, A)
    again.close()


def test_a_lost_index_is_an_empty_one(index: Index, tmp_path: Path) -> None:
    index.link(HERE, A)
    index.close()
    for path in tmp_path.glob("index.sqlite3*"):
        path.unlink()
    again = opened(tmp_path / "index.sqlite3")
    assert not again.linked(HERE, A)
    again.close()


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b"\0" * 8192], ids=["text", "zeros"])
def test_a_damaged_index_is_replaced_by_an_empty_one(index: Index, tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "index.sqlite3"
    index.link(HERE, A)
    index.close()
    path.write_bytes(damage)
    again = opened(path)
    again.link(HERE, B)
    assert again.linked(HERE, B)
    assert not again.linked(HERE, A)
    again.close()


def test_an_index_cut_short_is_replaced_by_an_empty_one(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite3"
    index.link(HERE, A)
    index.close()
    path.write_bytes(path.read_bytes()[:5000])
    again = opened(path)
    again.link(HERE, B)
    assert again.linked(HERE, B)
    again.close()


def test_an_index_that_cannot_be_opened_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite3").mkdir()
    with pytest.raises(
        DatabaseUnusable, match=r"index\.sqlite3 cannot be used: unable to open database file"
    ) as told:
        opened(tmp_path / "index.sqlite3")
    assert "\n" not in str(told.value)


def test_an_index_that_fails_later_fails_no_request(index: Index, tmp_path: Path) -> None:
    """Another process has the database locked for good, or the disk is full: nothing is known, nothing raises."""
    index.link(HERE, A)
    hasty = Index(tmp_path / "index.sqlite3", patience=0.01)
    hasty.open()
    with sqlite3.connect(tmp_path / "index.sqlite3", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        hasty.link(HERE, B)
        hasty.add(B, 1, None, 1.0)
        hasty.used(B, 1.0)
        hasty.tags.set(HERE, Tag("1"), "", TagEntry(B, MANIFEST, 1.0))
        assert not hasty.remove([A])  # eviction must not count on it
        assert not hasty.set_proof(HERE, b"credential", 1.0)
        assert not hasty.remove_proof(HERE, b"credential")
        other.execute("ROLLBACK")
    other.close()
    assert hasty.linked(HERE, A)
    assert not hasty.linked(HERE, B)
    hasty.close()


def test_a_closed_index_knows_nothing(tmp_path: Path) -> None:
    index = opened(tmp_path / "index.sqlite3")
    index.link(HERE, A)
    index.close()
    assert not index.linked(HERE, A)
    assert index.media_type(A) is None
    assert index.tags.get(HERE, Tag("1"), "") is None
    assert index.bytes_stored() == 0
    assert index.least_recently_used(5) == []


def test_a_checkpoint_that_fails_raises_nothing(index: Index, tmp_path: Path) -> None:
    index.link(HERE, A)
    os.rename(tmp_path / "index.sqlite3", tmp_path / "away")
    (tmp_path / "index.sqlite3").mkdir()
    index.checkpoint()


def test_the_least_recently_used_come_first(index: Index) -> None:
    digests = [Digest.of(bytes([number])) for number in range(4)]
    for number, digest in enumerate(digests):
        index.add(digest, 100 + number, None, float(number))
    index.used(digests[0], 10.0)
    assert index.least_recently_used(3) == [(digests[1], 101), (digests[2], 102), (digests[3], 103)]
    index.remove([digests[1], digests[2]])
    assert index.least_recently_used(3) == [(digests[3], 103), (digests[0], 100)]
    assert index.bytes_stored() == 203


def test_a_blob_without_a_row_gets_none_when_it_is_used(index: Index) -> None:
    """It may have been evicted since; if not, recovery adopts it."""
    index.used(A, 5.0)
    assert index.least_recently_used(1) == []
    assert index.bytes_stored() == 0


_STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "used", "remove"]), st.integers(0, 5), st.integers(0, 100)), max_size=30
)


@settings(max_examples=30, deadline=None)
@given(_STEPS)
def test_the_sum_of_sizes_is_always_that_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    index = opened(tmp_path_factory.mktemp("index") / "index.sqlite3")
    sizes: dict[Digest, int] = {}
    for number, (step, which, size) in enumerate(steps):
        digest = Digest.of(bytes([which]))
        if step == "add":
            index.add(digest, size, None, float(number))
            sizes.setdefault(digest, size)
        elif step == "used":
            index.used(digest, float(number))
        else:
            index.remove([digest])
            sizes.pop(digest, None)
    assert index.bytes_stored() == sum(sizes.values())
    assert dict(index.least_recently_used(100)) == sizes
    index.close()


def test_a_busy_neighbour_is_waited_for(index: Index, tmp_path: Path) -> None:
    """While another worker writes, a statement waits; it goes on as soon as the other has ended."""
    other = sqlite3.connect(tmp_path / "index.sqlite3", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.05, other.execute, ("COMMIT",))
    end.start()
    index.link(HERE, A)
    assert index.linked(HERE, A)
    end.join()
    other.close()


def test_tags_beyond_the_bound_go_whatever_their_number(index: Index) -> None:
    entry = TagEntry(Digest.of(b"x"), "text/x", 0.0, 1)
    for number in range(1300):
        index.tags.set(Repository("r", "a"), Tag(f"t{number}"), "", evolve(entry, checked=float(number)))
    index.tags.expire(-1.0, most=100)
    kept = [n for n in range(1300) if index.tags.get(Repository("r", "a"), Tag(f"t{n}"), "") is not None]
    assert kept == list(range(1200, 1300))


def test_what_clients_can_ask_for_without_end_does_not_displace_pings(index: Index) -> None:
    notice = Notice("x", 1.0, 2.0, 1e9)
    for key in ("ping r", "token r"):
        index.bulletin.post(key, notice)
    for number in range(MOST_NOTICES):
        index.bulletin.post(f"referrers {number}", evolve(notice, came=2.0 + number))
    index.bulletin.forget(3.0)
    assert index.bulletin.read("ping r") == index.bulletin.read("token r") == notice
    assert index.bulletin.read("referrers 0") is None
    assert index.bulletin.read(f"referrers {MOST_NOTICES - 1}") is not None
