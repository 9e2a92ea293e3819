"""recent.py: what is remembered, and what is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from regcachd.recent import Manifest, RecentManifests
from regcachd.reference import Digest


def manifest(body: bytes) -> tuple[Digest, Manifest]:
    """A manifest under its digest."""
    return Digest.of(body), Manifest("application/json", body)


def test_the_least_recently_used_is_forgotten() -> None:
    """Over the limit the one that was not used for the longest time goes; one that was used stays."""
    recent = RecentManifests(30)
    (a, first), (b, second), (c, third) = (manifest(letter * 10) for letter in (b"a", b"b", b"c"))
    for digest, what in ((a, first), (b, second), (c, third)):
        recent.put(digest, what)
    assert recent.get(a) == first
    d, fourth = manifest(b"d" * 10)
    recent.put(d, fourth)
    assert recent.get(b) is None
    assert [recent.get(digest) for digest in (a, c, d)] == [first, third, fourth]


def test_one_that_is_too_large() -> None:
    """A manifest larger than the limit is not kept, and harms nothing."""
    recent = RecentManifests(5)
    digest, large = manifest(b"123456")
    recent.put(digest, large)
    assert recent.get(digest) is None


@given(st.lists(st.binary(max_size=20)), st.integers(0, 50))
def test_never_more_than_the_limit(bodies: list[bytes], limit: int) -> None:
    """However often the same or others are put, what is remembered is right and within the limit."""
    recent = RecentManifests(limit)
    for body in bodies:
        recent.put(*manifest(body))
    kept = [found for body in set(bodies) if (found := recent.get(Digest.of(body))) is not None]
    assert sum(len(found.body) for found in kept) <= limit
    assert all(recent.get(Digest.of(found.body)) == found for found in kept)
