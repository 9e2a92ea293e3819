"""Repositories, tags and digests are read exactly as the OCI grammars say."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.errors import RegcachdError
from regcachd.reference import (
    Digest,
    InvalidReference,
    Reference,
    Repository,
    Tag,
    Target,
    parse_target,
)

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8

BAD_DIGESTS = {
    "empty": "",
    "no algorithm": SHA256.partition(":")[2],
    "empty algorithm": ":" + SHA256.partition(":")[2],
    "unknown algorithm": "sha384:" + "a" * 96,
    "md5": "md5:" + "a" * 32,
    "uppercase hex": "sha256:" + "A" * 64,
    "uppercase algorithm": "SHA256:" + "a" * 64,
    "too short": SHA256[:-1],
    "too long": SHA256 + "0",
    "sha512 with sha256's length": "sha512:" + "a" * 64,
    "sha256 with sha512's length": "sha256:" + "a" * 128,
    "not hex": "sha256:" + "g" * 64,
    "digits of another script": "sha256:" + "\u0661" * 64,
    "newline at the end": SHA256 + "\n",
    "space before": " " + SHA256,
    "path traversal": "sha256:" + "../" * 21 + "a",
    "NUL": "sha256:" + "a" * 63 + "\0",
}

GOOD_TAGS = ["latest", "v1.0", "_", "A", "1", "a-b_c.d", "a..b", "3.19--x", "x" * 128]
BAD_TAGS = ["", ".a", "-a", "a b", "a/b", "a:b", "a@b", "x" * 129, "ä", "a\n", "a\0", "..", "%61"]

GOOD_NAMES = [
    "alpine",
    "library/alpine",
    "a/b/c/d/e",
    "a.b",
    "a_b",
    "a__b",
    "a-b",
    "a---b",
    "0",
    "quay.io/org/img",
    "a/manifests/b",
    "x" * 255,
]
BAD_NAMES = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    "A",
    "a.",
    ".a",
    "a..b",
    "a___b",
    "a._b",
    "a-",
    "-a",
    "_a",
    "..",
    "a/../b",
    "a/./b",
    "a b",
    "ä",
    "a\n",
    "a\0",
    "a:b",
    "x" * 256,
]


@pytest.mark.parametrize("text", [SHA256, SHA512])
def test_a_digest_is_written_as_it_was_read(text: str) -> None:
    digest = Digest.parse(text)
    assert str(digest) == text
    assert (digest.algorithm, digest.hex) == tuple(text.split(":"))


@pytest.mark.parametrize("text", BAD_DIGESTS.values(), ids=BAD_DIGESTS.keys())
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference, match="is not a digest"):
        Digest.parse(text)


@given(st.binary())
def test_the_digest_of_data_is_its_hash(data: bytes) -> None:
    digest = Digest.of(data)
    assert digest == Digest.parse("sha256:" + hashlib.sha256(data).hexdigest())
    assert Digest.of(data, "sha512").hex == hashlib.sha512(data).hexdigest()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_each_hasher_is_fresh_and_of_the_digests_algorithm(algorithm: str) -> None:
    digest = Digest.of(b"abc", algorithm)
    for _ in range(2):
        hasher = digest.hasher()
        hasher.update(b"abc")
        assert (hasher.name, hasher.hexdigest()) == (algorithm, digest.hex)


def test_an_algorithm_that_is_not_served_has_no_digest() -> None:
    with pytest.raises(KeyError):
        Digest.of(b"", "md5")


def test_equal_digests_are_one_key() -> None:
    assert {Digest.parse(SHA256): 1}[Digest.parse(SHA256)] == 1
    assert Digest.parse(SHA256) != Digest.parse(SHA512)


@pytest.mark.parametrize("text", GOOD_TAGS)
def test_a_tag_is_read(text: str) -> None:
    assert Tag.parse(text) == Tag(text)
    assert str(Tag(text)) == text


@pytest.mark.parametrize("text", BAD_TAGS)
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference, match="is not a tag"):
        Tag.parse(text)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_repository_name_is_read(name: str) -> None:
    repository = Repository.parse("docker.io", name)
    assert repository == Repository("docker.io", name)
    assert str(repository) == "docker.io/" + name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_repository_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidReference, match="is not a repository name"):
        Repository.parse("docker.io", name)


@given(st.text("ab0._-/", max_size=12))
def test_a_repository_name_is_what_the_specifications_own_expression_matches(name: str) -> None:
    published = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
    if re.fullmatch(published, name):
        assert Repository.parse("", name).name == name
    else:
        with pytest.raises(InvalidReference):
            Repository.parse("", name)


@pytest.mark.parametrize(
    ("text", "target"), [("latest", Tag("latest")), (SHA256, Digest.parse(SHA256)), ("sha256", Tag("sha256"))]
)
def test_only_a_digest_has_a_colon(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["latest:1", "", "sha256:", "sha256:abc"])
def test_a_target_is_a_whole_tag_or_a_whole_digest(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_target(text)


def test_a_reference_is_written_as_people_write_it() -> None:
    repository = Repository("quay.io", "org/img")
    assert str(Reference(repository, Tag("v1"))) == "quay.io/org/img:v1"
    assert str(Reference(repository, Digest.parse(SHA256))) == "quay.io/org/img@" + SHA256


@given(st.text())
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        target = parse_target(text)
    except RegcachdError:
        return
    assert str(target) == text


def test_a_long_bad_name_takes_no_time_and_a_short_message() -> None:
    with pytest.raises(InvalidReference) as caught:
        Repository.parse("docker.io", "a-" * 1_000_000)
    assert len(str(caught.value)) < 500
