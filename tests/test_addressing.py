"""addressing.py: whom a request is for that came to this daemon itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.addressing import Addressing
from regcachd.config import parse_config
from regcachd.connect import Authority
from regcachd.destination import Destination, Misaddressed, Way, Welcome

CONFIG = parse_config(
    [
        (
            "a.toml",
            """
            [registries."docker.io"]
            [registries."lab.site:5000"]
            upstream = "http://lab.site:5000"
            [registries."plain.site"]
            upstream = "http://plain.site"
            hosts = ["[fd00::5]:5000"]
            """,
        )
    ]
)
OURS = {Authority("head", 3128), Authority("10.0.0.1", 3128), Authority("head", 80)}
RULES = Addressing(CONFIG.registries)


@pytest.mark.parametrize(
    ("asked", "registry", "target"),
    [
        ("http://lab.site:5000/v2/a/manifests/1", "lab.site:5000", "/v2/a/manifests/1"),
        ("HTTP://LAB.site:5000/v2/", "lab.site:5000", "/v2/"),
        ("http://lab.site.:5000", "lab.site:5000", "/"),
        ("http://lab.site:5000?x=y", "lab.site:5000", "/?x=y"),
        ("http://lab.site:5000/token?scope=x", "lab.site:5000", "/token?scope=x"),
        ("http://plain.site/v2/a/tags/list?ns=docker.io", "plain.site", "/v2/a/tags/list?ns=docker.io"),
        ("http://plain.site:80/v2/", "plain.site", "/v2/"),
        ("http://[fd00::5]:5000/v2/", "plain.site", "/v2/"),
        ("http://[FD00:0::5]:5000/v2/", "plain.site", "/v2/"),
        ("http://lab.site:5000/v2/docker.io/a/manifests/1", "lab.site:5000", "/v2/docker.io/a/manifests/1"),
    ],
)
def test_an_address_says_all(asked: str, registry: str, target: str) -> None:
    """Nothing in the path counts then."""
    found = RULES.find(asked.encode(), OURS.__contains__)
    assert isinstance(found.whom, Destination)
    assert found.whom.registry.name == registry
    assert found.whom.way is Way.ABSOLUTE
    assert found.whom.alias is None
    assert found.whom.authority in found.whom.registry.authorities
    assert found.target == target.encode()


@pytest.mark.parametrize(
    ("asked", "whom", "target"),
    [
        ("/ca.crt", None, "/ca.crt"),
        ("/", None, "/"),
        ("//v2/", None, "//v2/"),
        ("http://head:3128/ca.crt", None, "/ca.crt"),
        ("http://head:3128", None, "/"),
        ("http://head/healthz?x", None, "/healthz?x"),
        ("http://10.0.0.1:3128/", None, "/"),
        ("http://head:3128/v2/", Welcome(), "/v2/"),
        ("https://head:3128/v2/", Welcome(), "/v2/"),
        ("/v2/", Welcome(), "/v2/"),
    ],
)
def test_this_daemon_itself(asked: str, whom: object, target: str) -> None:
    found = RULES.find(asked.encode(), OURS.__contains__)
    assert (found.whom, found.target) == (whom, target.encode())


@pytest.mark.parametrize(
    "asked", ["/v2/lab.site:5000/a/manifests/1", "http://head:3128/v2/a/manifests/1?ns=lab.site:5000"]
)
def test_a_mirror_by_either_form(asked: str) -> None:
    found = RULES.find(asked.encode(), OURS.__contains__)
    assert isinstance(found.whom, Destination)
    assert (found.whom.registry.name, found.whom.way) == ("lab.site:5000", Way.MIRROR)
    assert found.target == b"/v2/a/manifests/1"
    assert found.whom.authority is None
    assert found.whom.is_mirrored


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        (
            "http://example.org/v2/",
            403,
            '[registries."example.org:80"] with upstream = "http://example.org:80"',
        ),
        ("http://head:5000/v2/", 403, "head:5000 is not one"),
        ("http://docker.io/v2/", 403, "docker.io:80 is not one"),  # which is at 443
        ("http://auth.docker.io:443/token", 403, "auth.docker.io:443"),
        ("http://169.254.169.254/latest/meta-data", 403, "plain-HTTP requests for no other hosts"),
        ("http://127.0.0.1:22/", 403, "no other hosts"),
        ("http://0x7f000001:5000/", 400, "decimal"),
        ("https://docker.io/v2/", 403, "by CONNECT only"),
        ("HTTPS://lab.site:5000/v2/", 403, "by CONNECT only"),
        ("ftp://lab.site:5000/v2/", 403, "http:// addresses"),
        ("http://user:pass@lab.site:5000/v2/", 400, "***@"),
        ("http://lab.site:5000@example.org/v2/", 400, "***@"),
        ("http:///v2/", 400, "not a host"),
        ("http://lab.site:5000\\@x/v2/", 400, "not a host"),
        ("http://lab.site:99999/v2/", 400, "1 to 65535"),
        ("http://lab.site:5000/v2/#x", 400, "neither a path nor an address"),
        ("http:/lab.site:5000/v2/", 400, "neither"),
        ("lab.site:5000", 400, "neither"),
        ("*", 400, "neither"),
        ("", 400, "neither"),
        ("v2/", 400, "neither"),
    ],
)
def test_nothing_else_is_reached(asked: str, status: int, says: str) -> None:
    found = RULES.find(asked.encode(), OURS.__contains__)
    assert isinstance(found.whom, Misaddressed)
    assert found.whom.status == status
    assert says in found.whom.reason
    assert "pass@" not in found.whom.reason


@given(st.one_of(st.binary(max_size=60), st.from_regex(rb"https?://[^/]{0,30}/v2/.{0,20}")))
def test_any_target_is_read(target: bytes) -> None:
    """And leads to a registry of the configuration or nowhere."""
    found = RULES.find(target, OURS.__contains__)
    if isinstance(found.whom, Destination):
        assert found.whom.registry.name in CONFIG.registries
        assert found.target.startswith(b"/")
