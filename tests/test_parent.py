"""What the configuration says of a parent: the URL, the password, and who is reached without."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.config import Config, ConfigError, Sources, parse_config
from regcachd.parent import Parent, Written, direct, proxy
from regcachd.units import BadSecret, BadValue


def read(text: str) -> Config:
    return parse_config([("1.toml", text)])


def parent(text: str, name: str = "docker.io") -> Parent:
    found = read(text).registries[name].parent
    assert found is not None
    return found


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert "hunter2" not in str(caught.value) + repr(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://proxy", Parent("proxy", 80)),
        ("http://Proxy.Site.example:3128/", Parent("proxy.site.example", 3128)),
        ("HTTP://10.0.0.1:8080", Parent("10.0.0.1", 8080)),
        ("http://[2001:DB8::1]:3128", Parent("2001:db8::1", 3128)),
        ("http://user@proxy:1", Parent("proxy", 1, "user")),
        ("http://user:@proxy:1", Parent("proxy", 1, "user", Written(""))),
        ("http://us%40er:p:a%3ass@word@proxy:1", Parent("proxy", 1, "us@er", Written("p:a:ss@word"))),
        ("direct", None),
    ],
)
def test_urls(url: str, found: Parent | None) -> None:
    assert proxy(url) == found


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://user:hunter2@proxy", "in plain HTTP"),
        ("socks5://user:hunter2@proxy", "SOCKS"),
        ("ftp://user:hunter2@proxy", "expected"),
        ("proxy:3128", "expected"),
        ("http://user:hunter2", "expected"),
        ("http://user:hunter2@", "expected"),
        ("http://:hunter2@proxy", "expected"),
        ("http://us%3aer:hunter2@proxy", "expected"),
        ("http://user:hunter2%0a@proxy", "expected"),
        ("http://user:hunter2%ff@proxy", "UTF-8"),
        ("http://user:hunter2@proxy:0", "expected"),
        ("http://user:hunter2@proxy:3128/path", "expected"),
        ("http://user:hunter2@pro xy", "expected"),
        (["http://user:hunter2@proxy"], "expected"),
        (3128, "expected"),
        ("", "expected"),
    ],
)
def test_what_is_no_proxy_is_refused_and_not_shown(url: object, said: str) -> None:
    with pytest.raises(BadSecret, match=said):
        proxy(url)
    shown = f'"{url}"' if isinstance(url, str) else str(url).replace("'", '"')
    assert said in refusal(f"[defaults]\nupstream_proxy = {shown}")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for reader in (proxy, direct):
        try:
            reader(text)
        except BadValue:
            continue


@pytest.mark.parametrize(
    ("written", "covered", "others"),
    [
        ("site.example", [("site.example", 443), ("site.example", 80)], [("a.site.example", 443)]),
        (".site.example", [("a.site.example", 443), ("a.b.site.example", 1)], [("site.example", 443)]),
        ("*.site.example", [("a.site.example", 443)], [("site.example", 443), ("asite.example", 443)]),
        ("site.example:5000", [("site.example", 5000)], [("site.example", 443)]),
        (".site.example:5000", [("a.site.example", 5000)], [("a.site.example", 443)]),
        ("10.0.0.0/8", [("10.1.2.3", 443), ("::ffff:10.1.2.3", 443)], [("11.0.0.1", 443), ("ten", 443)]),
        ("10.0.0.1", [("10.0.0.1", 443)], [("10.0.0.2", 443)]),
        ("fc00::/7", [("fd00::1", 443)], [("2001:db8::1", 443), ("10.0.0.1", 443)]),
        ("2001:DB8::1", [("2001:db8::1", 443)], [("2001:db8::2", 443)]),
        ("[2001:db8::1]:5000", [("2001:db8::1", 5000)], [("2001:db8::1", 443)]),
        ("*", [("anybody", 1), ("10.0.0.1", 443), ("::1", 443)], []),
        ("LocalHost", [("localhost", 443)], []),
    ],
)
def test_who_is_reached_directly(
    written: str, covered: list[tuple[str, int]], others: list[tuple[str, int]]
) -> None:
    found = Parent("proxy", 1, direct=(direct(written),))
    assert [found.leads_to(*each) for each in covered] == [False] * len(covered)
    assert [found.leads_to(*each) for each in others] == [True] * len(others)


@pytest.mark.parametrize(
    "written", ["", "10.0.0.1/8", "a/b", "http://host", "host:0", "a b", "*.", ".", "a,b", 5]
)
def test_what_is_no_host_is_refused(written: object) -> None:
    with pytest.raises(BadValue):
        direct(written)


def test_a_password_in_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    found = parent(
        f'[defaults]\nupstream_proxy = "http://user@proxy"\nupstream_proxy_password = "file:{file}"\n'
        '[registries."docker.io"]'
    )
    file.write_text("one\n")
    assert found.authorization() == b"Basic dXNlcjpvbmU="
    file.write_text("two\n")
    assert found.authorization() == b"Basic dXNlcjp0d28="


def test_nothing_shows_the_password() -> None:
    text = '[defaults]\nupstream_proxy = "http://user:hunter2@proxy:3128"\n[registries."docker.io"]'
    config = read(text)
    assert config.parent == parent(text)
    for shown in (config, parent(text), config.registries["docker.io"], Sources((("1.toml", text),))):
        assert "hunter2" not in repr(shown) + str(shown)
    assert str(parent(text)) == "proxy:3128"


def test_a_registry_has_a_parent_of_its_own_or_none() -> None:
    config = read(
        """
        [defaults]
        upstream_proxy = "http://user@proxy"
        upstream_proxy_password = "file:/etc/regcachd/proxy"
        no_proxy = ["a.test"]
        [registries."docker.io"]
        [registries."quay.io"]
        upstream_proxy = "http://site-cache:3128"
        [registries."nvcr.io"]
        upstream_proxy = "direct"
        """
    )
    parents = {name: registry.parent for name, registry in config.registries.items()}
    assert parents["docker.io"] == config.parent
    assert parents["docker.io"] is not None
    assert parents["docker.io"].password is not None
    assert parents["quay.io"] == Parent(
        "site-cache", 3128, direct=(direct("a.test"),)
    )  # no password of another's
    assert parents["nvcr.io"] is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('upstream_proxy = "http://proxy"\nupstream_proxy_password = "file:/p"', "names no user"),
        ('upstream_proxy = "http://u:hunter2@proxy"\nupstream_proxy_password = "file:/p"', "keep the latter"),
        ('upstream_proxy_password = "hunter2"', "not written into the configuration"),
    ],
)
@pytest.mark.parametrize("table", ["defaults", 'registries."quay.io"'])
def test_keys_that_do_not_fit_together(table: str, lines: str, said: str) -> None:
    told = refusal(f"[{table}]\n{lines}")
    assert said in told
    assert told.startswith(f"1.toml: {table}.upstream_proxy")
