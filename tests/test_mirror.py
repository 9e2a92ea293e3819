"""mirror.py: which registry a mirror's client means."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.config import parse_config
from regcachd.connect import Authority
from regcachd.destination import Alias, Misaddressed, Welcome
from regcachd.mirror import Mirrored, choose, in_mirror
from regcachd.routes import Elsewhere, route

CONFIG = parse_config(
    [
        (
            "a.toml",
            """
            [registries."docker.io"]
            [registries."quay.io"]
            [registries."registry.site:5443"]
            hosts = ["old.site", "10.0.0.7:5000", "[fd00::1]:5000"]
            [registries."harbor.site"]
            [registries."localhost:5000"]
            upstream = "http://127.0.0.1:5000"
            [registries."localhost"]
            [registries."lab"]
            upstream = "http://10.0.0.9:5000"
            """,
        )
    ]
)
NAMES = {each: registry.name for registry in CONFIG.registries.values() for each in registry.authorities}
BLOB = "blobs/sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("asked", "registry", "target"),
    [
        # dockerd, and whoever says nothing
        ("/v2/library/alpine/manifests/1", "docker.io", "/v2/library/alpine/manifests/1"),
        ("/v2/alpine/manifests/1", "docker.io", "/v2/alpine/manifests/1"),
        ("/v2/a/tags/list?n=2&last=%2F", "docker.io", "/v2/a/tags/list?n=2&last=%2F"),
        ("/v2/_catalog", "docker.io", "/v2/_catalog"),
        ("/v2/lab/img/tags/list", "docker.io", "/v2/lab/img/tags/list"),  # as in images: an organisation
        # containerd
        ("/v2/org/img/manifests/1?ns=quay.io", "quay.io", "/v2/org/img/manifests/1"),
        ("/v2/org/img/tags/list?n=5&ns=quay.io&last=b", "quay.io", "/v2/org/img/tags/list?n=5&last=b"),
        ("/v2/library/alpine/manifests/1?ns=docker.io", "docker.io", "/v2/library/alpine/manifests/1"),
        ("/v2/a/manifests/1?ns=registry-1.docker.io", "docker.io", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?ns=index.docker.io", "docker.io", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?ns=old.site", "registry.site:5443", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?ns=registry.site:5443", "registry.site:5443", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?ns=registry.site%3A5443", "registry.site:5443", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?ns=10.0.0.7:5000", "registry.site:5443", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?ns=%5Bfd00%3A%3A1%5D%3A5000", "registry.site:5443", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?ns=lab", "lab", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?ns=QUAY.io.", "quay.io", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?%6es=quay.io", "quay.io", "/v2/a/manifests/1"),
        ("/v2/a/manifests/1?NS=quay.io", "docker.io", "/v2/a/manifests/1?NS=quay.io"),
        ("/v2/a/manifests/1?x=ns=quay.io", "docker.io", "/v2/a/manifests/1?x=ns=quay.io"),
        # podman, skopeo, CRI-O
        ("/v2/quay.io/org/img/manifests/1", "quay.io", "/v2/org/img/manifests/1"),
        ("/v2/docker.io/library/alpine/manifests/1", "docker.io", "/v2/library/alpine/manifests/1"),
        (f"/v2/registry.site:5443/org/img/{BLOB}", "registry.site:5443", f"/v2/org/img/{BLOB}"),
        (f"/v2/registry.site%3A5443/org/img/{BLOB}", "registry.site:5443", f"/v2/org/img/{BLOB}"),
        ("/v2/quay%2eio/org/img/manifests/1", "quay.io", "/v2/org/img/manifests/1"),
        ("/v2/localhost:5000/img/manifests/1", "localhost:5000", "/v2/img/manifests/1"),
        ("/v2/localhost/img/manifests/1", "localhost", "/v2/img/manifests/1"),
        ("/v2/Lab/img/manifests/1", "lab", "/v2/img/manifests/1"),
        ("/v2/quay.io/a/tags/list?n=1", "quay.io", "/v2/a/tags/list?n=1"),
        ("/v2/quay.io/docker.io/img/manifests/1", "quay.io", "/v2/docker.io/img/manifests/1"),  # once only
        ("/v2/quay.io/_catalog", "quay.io", "/v2/_catalog"),
        # buildkit, and containerd with override_path: the same twice
        ("/v2/quay.io/org/img/manifests/1?ns=quay.io", "quay.io", "/v2/org/img/manifests/1"),
        ("/v2/docker.io/a/b/manifests/1?ns=registry-1.docker.io", "docker.io", "/v2/a/b/manifests/1"),
        # a project of that name, as caches of others have them
        ("/v2/quay.io/org/img/manifests/1?ns=harbor.site", "harbor.site", "/v2/quay.io/org/img/manifests/1"),
        ("/v2/no.where/img/manifests/1?ns=harbor.site", "harbor.site", "/v2/no.where/img/manifests/1"),
    ],
)
def test_the_registry_that_is_meant(asked: str, registry: str, target: str) -> None:
    found = choose(asked.encode(), NAMES)
    assert isinstance(found, Mirrored)
    assert (found.registry, found.target) == (registry, target.encode())


@pytest.mark.parametrize(
    "asked",
    ["/v2", "/v2/", "/v2/?x", "/v2/?ns=quay.io", "/v2?ns=docker.io", "/v2/quay.io/", "/v2/quay.io"],
)
def test_a_ping_is_answered_here(asked: str) -> None:
    assert choose(asked.encode(), NAMES) == Welcome()


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ("/v2/?ns=ghcr.io", 403, '[registries."ghcr.io"]'),
        ("/v2/ghcr.io/", 403, '[registries."ghcr.io"]'),
        ("/v2/ghcr.io/a/manifests/1", 403, "ghcr.io is not one of this proxy's registries"),
        ("/v2/a/manifests/1?ns=ghcr.io", 403, '[registries."ghcr.io"]'),
        ("/v2/quay.io:444/a/manifests/1", 403, '[registries."quay.io:444"]'),
        ("/v2/registry.site/a/manifests/1", 403, '[registries."registry.site"]'),
        ("/v2/127.0.0.1:22/a/manifests/1", 403, '[registries."127.0.0.1:22"]'),
        ("/v2/auth.docker.io/token", 403, "auth.docker.io"),  # that is no registry
        ("/v2/Acme/a/manifests/1", 403, '[registries."acme"]'),
        ("/v2/a/manifests/1?ns=unknown", 403, '[registries."unknown"]'),
        ("/v2/a/manifests/1?ns=", 404, "'' is not the name of a registry"),
        ("/v2/a/manifests/1?ns", 404, "not the name"),
        ("/v2/a/manifests/1?ns=quay.io&ns=quay.io", 400, "more than once"),
        ("/v2/a/manifests/1?ns=quay.io&%6Es=docker.io", 400, "more than once"),
        ("/v2/quay.io/a/manifests/1?ns=docker.io", 400, "two registries, 'docker.io' in its query"),
        ("/v2/ghcr.io/a/manifests/1?ns=docker.io", 400, "two registries"),
        ("/v2/quay.io:443x/a/manifests/1?ns=quay.io", 400, "two registries"),
        ("/v2/registry.site:5443/a/manifests/1?ns=harbor.site", 400, "two registries"),
        ("/v2/../a/manifests/1", 404, "'..' is not the name"),
        ("/v2/%2e%2E/quay.io/a/manifests/1", 404, "'..' is not the name"),
        ("/v2/./a/manifests/1", 404, "'.' is not the name"),
        ("/v2/quay.io%2Forg/a/manifests/1", 404, "not the name"),
        ("/v2/quay.io%00/a/manifests/1", 404, "not the name"),
        ("/v2/user:pass@quay.io/a/manifests/1", 404, "not the name"),
        ("/v2/a/manifests/1?ns=quay.io/../x", 404, "not the name"),
        ("/v2/a/manifests/1?ns=https://quay.io", 404, "not the name"),
        ("/v2/a/manifests/1?ns=" + "x." * 5000, 404, "..."),
    ],
)
def test_no_other_registry_is_reached(asked: str, status: int, says: str) -> None:
    """And the answer names what would have to be configured."""
    found = choose(asked.encode(), NAMES)
    assert isinstance(found, Misaddressed)
    assert found.status == status
    assert says in found.reason or says == "..."
    assert len(found.reason) < 500


def test_docker_hub_is_a_registry_like_others() -> None:
    """Where it is not configured it is refused; a ping, which podman sends for all registries alike, is not."""
    names = {Authority("quay.io", 443): "quay.io"}
    found = choose(b"/v2/library/alpine/manifests/1", names)
    assert isinstance(found, Misaddressed)
    assert '[registries."docker.io"]' in found.reason
    assert choose(b"/v2/", names) == Welcome()
    assert isinstance(choose(b"/v2/?ns=docker.io", names), Misaddressed)


@pytest.mark.parametrize(
    "asked",
    [
        "/v2/a/tags/list",
        "/v2/a/tags/list?n=2",
        "/v2/quay.io/a/tags/list?n=2",
        "/v2/registry.site%3A5443/a/tags/list",
        "/v2/a/tags/list?n=2&ns=registry.site%3A5443",
        "/v2/quay.io/a/tags/list?ns=quay.io",
    ],
)
def test_an_alias_says_again_what_the_client_has_said(asked: str) -> None:
    found = choose(asked.encode(), NAMES)
    assert isinstance(found, Mirrored)
    again = choose(found.alias.target(found.target), NAMES)
    assert again == found
    assert found.alias.target(found.target) == asked.encode()


def test_an_alias_of_docker_hub_is_empty() -> None:
    assert choose(b"/v2/a/tags/list", NAMES) == Mirrored("docker.io", b"/v2/a/tags/list", Alias())


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/x", "/v2?ns=a"])
def test_paths_of_a_mirror(path: str) -> None:
    assert in_mirror(path.encode())


@pytest.mark.parametrize("path", ["/v2x", "/v22/", "//v2/", "/x/../v2/", "/%762/", "/", "/V2/"])
def test_other_paths(path: str) -> None:
    assert not in_mirror(path.encode())


PIECES = st.sampled_from(
    [
        *(
            "quay.io",
            "docker.io",
            "registry.site:5443",
            "ghcr.io",
            "..",
            ".",
            "",
            "a",
            "Ä",
            "localhost",
            ":",
            "%",
        ),
        *(
            "%2e%2e",
            "%2F",
            "%00",
            "manifests",
            "1",
            "ns=quay.io",
            "?",
            "&",
            "ns=",
            "=",
            "@",
            "[::1]",
            "]",
            "#",
        ),
    ]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=8), st.sampled_from(["/", "", "&"]))
def test_only_what_is_configured_is_ever_chosen(pieces: list[str], between: str) -> None:
    """And the target is a path of the API that says nothing of another registry's."""
    asked = b"/v2/" + between.join(pieces).encode()
    found = choose(asked, NAMES)
    if isinstance(found, Mirrored):
        assert found.registry in CONFIG.registries
        assert found.target.startswith(b"/v2/")
        assert b"ns=" not in found.target.partition(b"?")[2] or b"ns=" in asked.partition(b"?")[2]
    else:
        assert isinstance(found, Misaddressed | Welcome)


@given(st.binary(max_size=40), st.sampled_from(sorted(CONFIG.registries)))
def test_any_bytes_are_read(rest: bytes, name: str) -> None:
    """Even behind a registry that is configured; and what is not of the API is told from what is."""
    for asked in (b"/v2/" + rest, f"/v2/{name}/".encode() + rest, b"/v2/a?ns=" + quote(name).encode() + rest):
        found = choose(asked, NAMES)
        if isinstance(found, Mirrored) and not isinstance(route(found.target.partition(b"?")[0]), Elsewhere):
            assert b".." not in found.target.partition(b"?")[0].split(b"/")
