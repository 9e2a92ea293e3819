"""What stored things may be used for: conditional requests, Accept, and tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.freshness import TagEntry, TagUse, accepts, matches, still_names, use_of
from regcachd.reference import Digest

ETAG = '"sha256:abc"'
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ENTRY = TagEntry(Digest.of(b"manifest"), IMAGE, 12.5)


@pytest.mark.parametrize(
    "header",
    [
        ETAG,
        "W/" + ETAG,
        "*",
        " * ",
        f"  {ETAG}\t",
        f'"x", {ETAG}',
        f'{ETAG},"x"',
        f',, "x" ,,{ETAG},',
        f'"a,b",{ETAG}',
        f'W/"x", W/{ETAG}',
    ],
)
def test_a_client_that_has_it_is_told_so(header: str) -> None:
    assert matches(header, ETAG)
    assert matches(header, "W/" + ETAG)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        '""',
        '"x"',
        '"sha256:ab"',
        '"SHA256:abc"',
        "sha256:abc",
        "'sha256:abc'",
        '"sha256:abc',
        'sha256:abc"',
        'w/"sha256:abc"',
        'W/ "sha256:abc"',
        '"x,sha256:abc"',
        f'"*", "x{ETAG}',
        f'"x" {ETAG}',
        f"garbage, {ETAG}",
        f"*, {ETAG}",
    ],
)
def test_a_client_that_has_something_else_gets_it(header: str | None) -> None:
    assert not matches(header, ETAG)


@given(st.text(), st.text())
def test_any_if_none_match_is_read(header: str, opaque: str) -> None:
    matches(header, f'"{opaque}"')


@pytest.mark.parametrize(
    "accept",
    [
        [],
        [""],
        [" , "],
        ["*/*"],
        ["application/*"],
        [IMAGE],
        [IMAGE.upper()],
        [INDEX, IMAGE],
        [f"{INDEX}, {IMAGE}"],
        [f"{INDEX},{IMAGE};q=0.5"],
        [f"{IMAGE};charset=utf-8"],
        [f"{IMAGE}; q=0.001"],
        [f"{IMAGE};q=nonsense"],
        ["text/html, */*;q=0.1"],
        ["*/*;q=0", IMAGE],
        ["application/*;q=0, " + IMAGE],
        [f"{IMAGE};q=0", IMAGE],
        [f"{INDEX};q=0", "*/*"],
    ],
)
def test_a_media_type_is_admitted(accept: list[str]) -> None:
    assert accepts(accept, IMAGE)
    assert accepts(tuple(accept), IMAGE.upper() + "; charset=utf-8")


@pytest.mark.parametrize(
    "accept",
    [
        [INDEX],
        [INDEX, "text/*"],
        ["application/json"],
        ["garbage"],
        ["*"],
        [f"{IMAGE};q=0"],
        [f"{IMAGE}; Q=0.000"],
        [f"{IMAGE};charset=utf-8; q=0."],
        [f"*/*, {IMAGE};q=0"],
        [f"{IMAGE};q=0", "application/*"],
        ["*/*", "application/*;q=0.0"],
        ["*/*;q=0"],
        [f"{INDEX};q=0"],
    ],
)
def test_a_media_type_is_not_admitted(accept: list[str]) -> None:
    """The most specific range decides, and weight 0 excludes."""
    assert not accepts(accept, IMAGE)


@given(st.lists(st.one_of(st.text(), st.text("a/*;,q=0. "))))
def test_any_accept_is_read(accept: list[str]) -> None:
    assert accepts([*accept, "," + IMAGE], IMAGE)


def test_a_tag_is_fetched_once_and_then_revalidated() -> None:
    assert use_of(None) is TagUse.FETCH
    assert use_of(ENTRY) is TagUse.REVALIDATE


@pytest.mark.parametrize(
    ("upstream", "same"),
    [
        (str(ENTRY.digest), True),
        (f" {ENTRY.digest} ", True),
        (str(Digest.of(b"other")), False),
        (str(Digest.of(b"manifest", "sha512")), False),
        (ENTRY.digest.hex, False),
        ("", False),
        (None, False),
    ],
)
def test_an_entry_holds_only_while_upstream_names_its_digest(upstream: str | None, same: bool) -> None:
    assert still_names(ENTRY, upstream) is same
