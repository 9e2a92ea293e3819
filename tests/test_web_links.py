"""web_links.py: Link headers, for the clients of a mirror."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.config import parse_config
from regcachd.destination import Alias, Destination, Way
from regcachd.web_links import relinked

REGISTRY = parse_config(
    [("a.toml", '[registries."hub.site"]\nupstream = "http://10.0.0.7:5000"\nhosts = ["old.site"]')]
).registries["hub.site"]
NOTHING, PREFIX, NS = Alias(), Alias(prefix=b"hub.site"), Alias(ns=b"hub.site%3A443")
ASKED = b"/v2/a/tags/list?n=2"


def led(value: str, alias: Alias) -> str:
    return relinked(value.encode("latin-1"), ASKED, Destination(REGISTRY, Way.MIRROR, alias=alias)).decode(
        "latin-1"
    )


@pytest.mark.parametrize(
    ("link", "path", "query"),
    [
        ("</v2/a/tags/list?n=2&last=b>", "/a/tags/list", "n=2&last=b"),
        ("<http://10.0.0.7:5000/v2/a/tags/list?last=b>", "/a/tags/list", "last=b"),
        ("<https://hub.site/v2/a/tags/list?last=b>", "/a/tags/list", "last=b"),
        ("<https://old.site:443/v2/a/tags/list>", "/a/tags/list", ""),
        ("<//10.0.0.7:5000/v2/a/tags/list?last=b>", "/a/tags/list", "last=b"),
        ("<?last=b>", "/a/tags/list", "last=b"),
        ("<list?last=b>", "/a/tags/list", "last=b"),
        ("<../../_catalog?last=b>", "/_catalog", "last=b"),
        ("</v2/a%2Fb/tags/list?last=%3D%26>", "/a%2Fb/tags/list", "last=%3D%26"),
    ],
)
def test_the_next_page_is_the_mirrors(link: str, path: str, query: str) -> None:
    """Prefix and ns are said again; without them the path is the registry's."""
    question = f"?{query}" if query else ""
    assert led(f'{link}; rel="next"', NOTHING) == f'</v2{path}{question}>; rel="next"'
    assert led(f'{link}; rel="next"', PREFIX) == f'</v2/hub.site{path}{question}>; rel="next"'
    both = f"{query}&ns=hub.site%3A443" if query else "ns=hub.site%3A443"
    assert led(f'{link}; rel="next"', NS) == f'</v2{path}?{both}>; rel="next"'


@pytest.mark.parametrize(
    "value",
    [
        '<https://elsewhere.site/v2/a/tags/list>; rel="next"',
        '<http://hub.site/v2/a/tags/list>; rel="next"',  # port 80 is another's
        '</docs>; rel="help"',
        '<>; rel="next"'.replace("<>", "<http://[broken/v2/>"),
        "<ftp://10.0.0.7:5000/v2/a>",
        "no link at all",
        "",
        "\xff\xfe",
        '</v3/a>; title="</v2/a/tags/list>"',
    ],
)
def test_what_leads_elsewhere_stays(value: str) -> None:
    assert led(value, PREFIX) == value


def test_several_links() -> None:
    value = '</v2/a/tags/list?last=b>; rel="next", </docs>; rel=help,</v2/_catalog>; rel=up'
    expected = (
        '</v2/hub.site/a/tags/list?last=b>; rel="next", </docs>; rel=help,</v2/hub.site/_catalog>; rel=up'
    )
    assert led(value, PREFIX) == expected


@given(st.binary(max_size=60), st.sampled_from([NOTHING, PREFIX, NS]))
def test_any_header_is_read(value: bytes, alias: Alias) -> None:
    for header in (value, b"<" + value + b">; rel=next", b"<http://10.0.0.7:5000/v2/" + value + b">"):
        found = relinked(header, ASKED, Destination(REGISTRY, Way.MIRROR, alias=alias))
        assert b"\n" not in found or b"\n" in header
