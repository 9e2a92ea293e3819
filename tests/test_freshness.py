"""What stored things may be used for: conditional requests, Accept, and tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.freshness import (
    LONGEST_KEY,
    TagEntry,
    TagUse,
    accept_key,
    accept_line,
    accepts,
    is_of_use,
    matches,
    stands_in,
    use_of,
)
from regcachd.reference import Digest

ETAG = '"sha256:abc"'
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
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


@pytest.mark.parametrize(
    ("entry", "life", "now", "use"),
    [
        (None, 5.0, 0.0, TagUse.FETCH),
        (None, None, 0.0, TagUse.FETCH),
        (ENTRY, None, 12.5, TagUse.FETCH),
        (ENTRY, 5.0, 12.5, TagUse.SERVE),
        (ENTRY, 5.0, 17.4, TagUse.SERVE),
        (ENTRY, 5.0, 17.5, TagUse.REVALIDATE),
        (ENTRY, 0.0, 12.5, TagUse.REVALIDATE),
        (ENTRY, 5.0, 12.4, TagUse.REVALIDATE),  # the clock was set back
        (ENTRY, 5.0, 1e9, TagUse.REVALIDATE),
    ],
)
def test_upstreams_word_on_a_tag_counts_for_a_while(
    entry: TagEntry | None, life: float | None, now: float, use: TagUse
) -> None:
    assert use_of(entry, life, now) is use


@pytest.mark.parametrize(
    ("max_stale", "now", "serves"),
    [(10.0, 12.5, True), (10.0, 22.4, True), (10.0, 22.5, False), (0.0, 12.5, False), (10.0, 1.0, True)],
)
def test_an_entry_serves_in_need_up_to_an_age(max_stale: float, now: float, serves: bool) -> None:
    assert is_of_use(ENTRY, max_stale, now) is serves


@pytest.mark.parametrize(
    ("accept", "key"),
    [
        ([], ""),
        ([""], ""),
        ([IMAGE], IMAGE),
        ([IMAGE, INDEX], f"{INDEX},{IMAGE}"),
        ([f"{INDEX}, {IMAGE}"], f"{INDEX},{IMAGE}"),
        ([f" {IMAGE.upper()};q=0.5 ,{INDEX}; charset=x,,{IMAGE}"], f"{INDEX},{IMAGE}"),
        (["*/*", f"{IMAGE};q=0"], f"*/*,{IMAGE};q=0"),
    ],
)
def test_lists_of_media_types_that_are_alike_have_one_key(accept: list[str], key: str) -> None:
    assert accept_key(accept) == key


@given(st.lists(st.text(), max_size=40))
def test_a_key_is_short_and_does_not_depend_on_the_order(accept: list[str]) -> None:
    key = accept_key([*accept, "x" * LONGEST_KEY])
    assert key == accept_key(["x" * LONGEST_KEY, *reversed(accept)])
    assert len(key) <= LONGEST_KEY


def test_upstream_hears_what_the_key_says_in_the_clients_order() -> None:
    assert (
        accept_line([f"{IMAGE} ;=,{INDEX};q=0.1", ' */*; q=0.0;x="', IMAGE]) == f"{IMAGE}, {INDEX}, */*;q=0"
    )
    assert accept_line([]) == accept_line([" , ;q=1"]) == ""


@given(st.lists(st.text(), max_size=40))
def test_what_upstream_hears_has_the_same_key(accept: list[str]) -> None:
    assert accept_key([accept_line(accept)]) == accept_key(accept)


def test_no_list_can_be_written_that_has_the_key_of_a_long_one() -> None:
    long = accept_key([",".join(map(str, range(LONGEST_KEY)))])
    assert accept_key([long]) != long


@pytest.mark.parametrize(
    ("given", "media_type", "accept", "serves"),
    [
        ([INDEX, LIST, IMAGE], INDEX, [], True),
        ([INDEX, LIST, IMAGE], INDEX, [INDEX], True),
        ([INDEX, LIST, IMAGE], INDEX, [IMAGE], False),
        ([INDEX, LIST, IMAGE], IMAGE, [IMAGE], True),  # it is no index, or that would have been given
        ([INDEX], INDEX, ["*/*"], True),
        ([IMAGE], IMAGE, ["*/*"], False),  # it may be one of several
        ([IMAGE, INDEX], IMAGE, ["*/*"], False),
        ([], IMAGE, ["*/*"], False),
        (["*/*"], IMAGE, [IMAGE, INDEX], True),
        ([f"*/*, {LIST};q=0"], IMAGE, [IMAGE], False),
        ([*map(str, range(LONGEST_KEY))], IMAGE, [IMAGE], False),
    ],
)
def test_what_others_got_serves_in_need_if_it_is_what_this_client_would_have_got(
    given: list[str], media_type: str, accept: list[str], serves: bool
) -> None:
    assert stands_in(accept_key(given), media_type, accept) is serves
