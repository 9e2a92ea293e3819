"""Registrable domains by each library that may have the Public Suffix List, and without any."""

import sys
from collections.abc import Iterator

import pytest

from regcachd import domains

LIBRARIES = ["publicsuffixlist", "publicsuffix2"]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    domains._lookup.cache_clear()
    yield
    domains._lookup.cache_clear()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("registry-1.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("a.b.c.co.uk", "c.co.uk"),
        ("co.uk", "co.uk"),
        ("uk", "uk"),
        ("registry.hpc.internal", "hpc.internal"),
        ("head", "head"),
        ("user.github.io", "user.github.io"),
        ("a.user.github.io", "user.github.io"),
        ("bucket.s3.amazonaws.com", "bucket.s3.amazonaws.com"),
        ("xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
    ],
)
def test_the_domain_that_somebody_has_registered(
    library: str, host: str, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    for other in LIBRARIES:
        if other != library:
            monkeypatch.setitem(sys.modules, other, None)
    assert domains.registrable(host) == domain


def test_without_a_list_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)
    assert domains.registrable("registry-1.docker.io") is None
