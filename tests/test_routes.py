"""A request path names an endpoint of the distribution specification, or is Elsewhere."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.reference import Digest, Tag
from regcachd.routes import (
    Blob,
    Catalog,
    Elsewhere,
    Manifest,
    Ping,
    Referrers,
    Route,
    TagList,
    Upload,
    in_api,
    route,
)

DIGEST = Digest.of(b"")
LATEST = Tag("latest")

NAMED: list[tuple[str, Route]] = [
    ("/v2/", Ping()),
    ("/v2", Ping()),
    ("/v2/_catalog", Catalog()),
    ("/v2/alpine/manifests/latest", Manifest("alpine", LATEST)),
    ("/v2/library/alpine/manifests/latest", Manifest("library/alpine", LATEST)),
    (f"/v2/library/alpine/manifests/{DIGEST}", Manifest("library/alpine", DIGEST)),
    (f"/v2/a/b/blobs/{DIGEST}", Blob("a/b", DIGEST)),
    (f"/v2/a/b/blobs/{Digest.of(b'', 'sha512')}", Blob("a/b", Digest.of(b"", "sha512"))),
    (f"/v2/a/blobs/{DIGEST}".replace(":", "%3A"), Blob("a", DIGEST)),
    (f"/v2/a/manifests/{DIGEST}".replace(":", "%3a"), Manifest("a", DIGEST)),
    ("/v2/%61/manifests/l%61test", Manifest("a", LATEST)),
    ("/v2/a/tags/list", TagList("a")),
    (f"/v2/a/referrers/{DIGEST}", Referrers("a", DIGEST)),
    ("/v2/a/blobs/uploads", Upload("a")),
    ("/v2/a/blobs/uploads/", Upload("a")),
    ("/v2/a/blobs/uploads/6b3c9a93-af5d-473f-a4cd-9710022185cd", Upload("a")),
    ("/v2/a/blobs/uploads/Zm9v_-.=", Upload("a")),
    # names that hold the words which mark an endpoint: the last of them decides
    ("/v2/a/manifests/b/manifests/latest", Manifest("a/manifests/b", LATEST)),
    ("/v2/manifests/manifests/manifests", Manifest("manifests", Tag("manifests"))),
    ("/v2/a/tags/list/manifests/latest", Manifest("a/tags/list", LATEST)),
    ("/v2/a/blobs/uploads/manifests/latest", Manifest("a/blobs/uploads", LATEST)),
    ("/v2/a/manifests/tags/list", TagList("a/manifests")),
    ("/v2/a/manifests/list", Manifest("a", Tag("list"))),
    ("/v2/tags/tags/list", TagList("tags")),
    (f"/v2/blobs/blobs/{DIGEST}", Blob("blobs", DIGEST)),
    (f"/v2/a/blobs/uploads/blobs/{DIGEST}", Blob("a/blobs/uploads", DIGEST)),
    (f"/v2/a/referrers/{DIGEST.hex}/referrers/{DIGEST}", Referrers(f"a/referrers/{DIGEST.hex}", DIGEST)),
    ("/v2/a/blobs/uploads/blobs/uploads/", Upload("a/blobs/uploads")),
    ("/v2/a/blobs/uploads/uploads", Upload("a")),
    ("/v2/uploads/manifests/uploads", Manifest("uploads", Tag("uploads"))),
    ("/v2/_catalog/manifests/latest".replace("_catalog", "catalog"), Manifest("catalog", LATEST)),
]

ELSEWHERE: list[bytes] = [
    b"",
    b"/",
    b"*",
    b"v2/",
    b"/v1/",
    b"/v2x/",
    b"/v3/a/manifests/latest",
    b"/token",
    b"//v2/a/manifests/latest",
    b"/V2/",
    b"/v2//",
    b"/v2/a",
    b"/v2/a/manifests",
    b"/v2/a/manifests/",
    b"/v2/manifests/latest",
    b"/v2//manifests/latest",
    b"/v2/a//manifests/latest",
    b"/v2/a/manifests/latest/",
    b"/v2/A/manifests/latest",
    b"/v2/_catalog/",
    b"/v2/_catalog/manifests/latest",
    b"/v2/a/manifests/.latest",
    b"/v2/a/manifests/sha256:abc",
    b"/v2/a/blobs/latest",
    b"/v2/a/blobs/",
    b"/v2/a/blobs/sha256:" + b"A" * 64,
    b"/v2/a/blobs/sha256%253A" + b"a" * 64,
    b"/v2/a/blobs/sha256%3" + b"a" * 64,
    b"/v2/a/referrers/latest",
    b"/v2/a/tags/",
    b"/v2/a/tags/list/",
    b"/v2/a/tags/other",
    b"/v2/blobs/uploads/",
    b"/v2/a/blobs/uploads/x/y",
    b"/v2/a/blobs/uploads/..",
    b"/v2/../manifests/latest",
    b"/v2/a/../b/manifests/latest",
    b"/v2/a/%2e%2e/b/manifests/latest",
    b"/v2/a/./manifests/latest",
    b"/v2/a%2Fb/manifests/latest",
    b"/v2/a\\b/manifests/latest",
    b"/v2/a/manifests/latest\0",
    b"/v2/a/manifests/latest%00",
    b"/v2/a/manifests/latest%0A",
    b"/v2/a/manifests/latest ",
    b"/v2/a/manifests/latest?x",
    b"/v2/a/manifests/latest#x",
    "/v2/ä/manifests/latest".encode(),
    "/v2/a/manifests/\u0661".encode(),
    b"/v2/%C3%A4/manifests/latest",
    b"/v2/" + b"a" * 256 + b"/manifests/latest",
    b"/v2/localhost:5000/a/manifests/latest",
]


@pytest.mark.parametrize(("path", "expected"), NAMED, ids=[path for path, _ in NAMED])
def test_a_path_names_its_endpoint(path: str, expected: Route) -> None:
    assert route(path.encode()) == expected


@pytest.mark.parametrize("path", ELSEWHERE)
def test_what_does_not_fit_the_grammar_is_elsewhere(path: bytes) -> None:
    assert route(path) == Elsewhere()


names = st.lists(
    st.sampled_from(["a", "b-c", "x.y", "blobs", "uploads", "manifests", "tags", "list", "referrers"]),
    min_size=1,
    max_size=5,
).map("/".join)


@given(names, st.sampled_from([LATEST, Tag("list"), Tag("uploads"), DIGEST]))
def test_every_name_comes_back_whole_whatever_words_it_holds(name: str, target: Tag | Digest) -> None:
    assert route(f"/v2/{name}/manifests/{target}".encode()) == Manifest(name, target)
    assert route(f"/v2/{name}/blobs/{DIGEST}".encode()) == Blob(name, DIGEST)
    assert route(f"/v2/{name}/tags/list".encode()) == TagList(name)
    assert route(f"/v2/{name}/referrers/{DIGEST}".encode()) == Referrers(name, DIGEST)
    assert route(f"/v2/{name}/blobs/uploads/".encode()) == Upload(name)


@given(st.sampled_from([path for path, _ in NAMED if "%" not in path]))
def test_percent_encoding_everything_but_the_slashes_changes_nothing(path: str) -> None:
    encoded = "".join(c if c == "/" else f"%{ord(c):02X}" for c in path[4:])
    assert route(path[:4].encode() + encoded.encode()) == route(path.encode())


@given(
    st.one_of(st.binary(), st.binary().map(lambda b: b"/v2/" + b), st.text().map(lambda t: quote(t).encode()))
)
def test_any_bytes_are_some_route(path: bytes) -> None:
    found = route(path)
    assert isinstance(found, Elsewhere) or in_api(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/v2",
        b"/v2/",
        b"/v2/a",
        b"/v2/../x",
        b"//v2/",
        b"/./v2/a",
        b"/x/../v2/a",
        b"/%762/a",
        b"/v2%2Fa",
        b"/%2e/v2/",
    ],
)
def test_the_api_is_v2_and_what_a_server_may_read_as_v2(path: bytes) -> None:
    assert in_api(path)


@pytest.mark.parametrize(
    "path", [b"", b"/", b"*", b"/v", b"/v2x", b"/v1/", b"/V2/", b"/x/v2/", b"/ca.crt", b"/%2576/"]
)
def test_other_paths_are_not_in_the_api(path: bytes) -> None:
    assert not in_api(path)
