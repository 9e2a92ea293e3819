"""Which realms are asked, and which are told a credential: the table of realm.py, and ways around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.interfaces import AuthFailed, Home
from regcachd.realm import Realm, distrusted, judge_realm

SUFFIXES = {"example", "uk", "co.uk", "com", "io", "amazonaws.com", "s3.amazonaws.com"}


def listed(host: str) -> str | None:
    """The registrable domain by a small Public Suffix List."""
    labels = host.split(".")
    for start in range(1, len(labels)):
        if ".".join(labels[start:]) in SUFFIXES:
            return ".".join(labels[start - 1 :])
    return host


def no_list(host: str) -> None:
    """Without a Public Suffix List."""


SITE = Home(
    "site", "https", "registry.site.example", 443, ("tokens.far.example", "10.1.1.1:5001", "[fd00::1]")
)
PLAIN = Home("lab", "http", "lab", 5000, ("tokens:5001",))
LOCAL = Home("local", "https", "10.0.0.7", 5443)
HUB = Home("docker.io", "https", "registry-1.docker.io", 443, ("auth.docker.io",))


def judged(url: str, home: Home = SITE) -> Realm:
    return judge_realm(url, home, listed)


@pytest.mark.parametrize(
    ("url", "home"),
    [
        ("https://registry.site.example/token", SITE),
        ("HTTPS://Registry.Site.Example./token", SITE),
        ("https://registry.site.example:5001/auth", SITE),
        ("https://auth.site.example/token", SITE),
        ("https://site.example", SITE),
        ("https://tokens.far.example/x", SITE),
        ("https://10.1.1.1:5001/x", SITE),
        ("https://[fd00::1]/x", SITE),
        ("https://[FD00:0::1]/x", SITE),
        ("https://auth.docker.io/token", HUB),
        ("http://lab:5000/token", PLAIN),
        ("https://lab/token", PLAIN),
        ("http://tokens:5001/token", PLAIN),
        ("https://tokens:5001/token", PLAIN),
        ("https://10.0.0.7/token", LOCAL),
    ],
)
def test_these_are_told_the_credential(url: str, home: Home) -> None:
    assert judged(url, home).is_trusted


@pytest.mark.parametrize(
    ("url", "home"),
    [
        ("https://evil.example/token", SITE),
        ("https://registry.site.example.evil.example/token", SITE),
        ("https://xregistry-site.example/token", SITE),
        ("https://sub.tokens.far.example/x", SITE),
        ("https://far.example/x", SITE),
        ("https://public.example/token", PLAIN),
        ("https://other.co.uk/", Home("x", "https", "registry.co.uk", 443)),
        (
            "https://bucket.s3.amazonaws.com/",
            Home("x", "https", "1.dkr.ecr.eu.amazonaws.com", 443),
        ),
        ("https://auth.docker.io/token", Home("docker.io", "https", "mirror.site.example", 443)),
    ],
)
def test_these_are_asked_and_not_told_the_credential(url: str, home: Home) -> None:
    realm = judged(url, home)
    assert not realm.is_trusted
    assert not realm.is_named
    assert f'add "{realm.authority.host}" to realm_hosts' in str(distrusted(realm, home))


@pytest.mark.parametrize(
    ("url", "home"),
    [
        ("", SITE),
        ("/token", SITE),
        ("//registry.site.example/token", SITE),
        ("registry.site.example/token", SITE),
        ("ftp://registry.site.example/token", SITE),
        ("file:///etc/passwd", SITE),
        ("https://", SITE),
        ("https:///token", SITE),
        ("https://:443/token", SITE),
        ("https://registry.site.example:0/token", SITE),
        ("https://registry.site.example:99999/token", SITE),
        ("https://registry.site.example:/token", SITE),
        ("https://user@registry.site.example/token", SITE),
        ("https://user:hunter2@registry.site.example/token", SITE),
        ("https://evil.example@registry.site.example/token", SITE),
        ("https://registry.site.example@evil.example/token", SITE),
        ("https://registry.site.example\\@evil.example/token", SITE),
        ("https://registry.site.example\\.evil.example/token", SITE),
        ("https://registry.site.example#@evil.example/token", SITE),
        ("https://registry.site.example /token", SITE),
        ("https://registry.site.example\r\nX: y/token", SITE),
        ("https://registry.site.example/token#fragment", SITE),
        ("https://registr%79.site.example/token", SITE),
        ("https://registry.site.example%2eevil.example/", SITE),
        ("https://r\u0435gistry.site.example/token", SITE),
        ("https://registry\u3002site.example/token", SITE),
        ("https://registry..site.example/token", SITE),
        ("https://evil.example:8443/token", SITE),
        ("https://tokens.far.example:8443/token", SITE),
        ("https://10.1.1.1/x", SITE),
        ("https://10.1.1.2/x", SITE),
        ("https://127.0.0.1/x", SITE),
        ("https://127.1/x", SITE),
        ("https://2130706433/x", SITE),
        ("https://0x7f000001/x", SITE),
        ("https://8.8.8.8/x", SITE),
        ("https://169.254.169.254/latest", SITE),
        ("https://[::1]/x", SITE),
        ("https://[::ffff:127.0.0.1]/x", SITE),
        ("https://[fe80::1%25eth0]/x", SITE),
        ("https://localhost/x", SITE),
        ("https://metadata/x", SITE),
        ("http://registry.site.example:8080/token", SITE),
        ("http://auth.site.example/token", SITE),
        ("http://tokens.far.example/token", SITE),
        ("http://lab/token", PLAIN),
        ("http://lab:6379/", PLAIN),
        ("http://public.example/token", PLAIN),
        ("https://registry.site.example/" + "a" * 8192, SITE),
        ("https://registry.site.example/?" + "&".join("a=b" for _ in range(100)), SITE),
    ],
)
def test_these_are_not_asked(url: str, home: Home) -> None:
    with pytest.raises(AuthFailed) as caught:
        judged(url, home)
    message = str(caught.value)
    assert len(message) < 350
    assert "hunter2" not in message
    assert "\n" not in message


def test_a_registry_behind_a_proxy_for_tls_may_name_itself_with_http() -> None:
    realm = judged("http://registry.site.example/service/token")
    assert realm.url([]) == "https://registry.site.example/service/token"
    harbor = Home("harbor", "https", "h.site.example", 8443)
    assert judged("http://h.site.example/t", harbor).url([]) == "https://h.site.example:8443/t"


@pytest.mark.parametrize(
    "url", ["https://auth.site.example/t", "https://site.example/t", "https://a.example/"]
)
def test_without_a_list_of_suffixes_no_other_host_of_the_domain_is_trusted(url: str) -> None:
    assert not judge_realm(url, SITE, no_list).is_trusted


def test_without_a_list_of_suffixes_hosts_below_the_registry_are_trusted() -> None:
    assert judge_realm("https://auth.registry.site.example/t", SITE, no_list).is_trusted


@pytest.mark.parametrize(
    ("url", "is_named"),
    [
        ("https://registry.site.example/t", True),
        ("https://tokens.far.example/t", True),
        ("https://auth.site.example/t", False),
        ("https://evil.example/t", False),
    ],
)
def test_only_what_the_operator_has_named_may_be_on_this_machine(url: str, is_named: bool) -> None:
    assert judged(url).is_named is is_named


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (
            "https://registry.site.example/token",
            "https://registry.site.example/token?service=s&scope=repository:a/b:pull",
        ),
        (
            "https://registry.site.example",
            "https://registry.site.example/?service=s&scope=repository:a/b:pull",
        ),
        (
            "https://registry.site.example/t?scope=repository:other:pull&a=b&service=old&c=",
            "https://registry.site.example/t?a=b&c=&service=s&scope=repository:a/b:pull",
        ),
        (
            "https://registry.site.example/t?a=%26b%20c",
            "https://registry.site.example/t?a=%26b+c&service=s&scope=repository:a/b:pull",
        ),
        ("https://[fd00::1]/t", "https://[fd00::1]/t?service=s&scope=repository:a/b:pull"),
    ],
)
def test_a_realms_own_query_is_kept_except_for_what_it_is_asked(url: str, asked: str) -> None:
    assert judged(url).url([("service", "s"), ("scope", "repository:a/b:pull")]) == asked


def test_what_is_asked_is_quoted() -> None:
    assert (
        judged("https://site.example/t")
        .url([("service", "a&b=c#d e\r\n")])
        .endswith("?service=a%26b%3Dc%23d+e%0D%0A")
    )


@given(st.text(max_size=60) | st.from_regex(r"https?://[a-z@:.\\/\[\]0-9%#?-]{0,30}"))
def test_whatever_a_registry_says_is_judged_or_refused(url: str) -> None:
    try:
        realm = judged(url)
    except AuthFailed:
        return
    again = judge_realm(realm.url([]), SITE, listed)
    assert (again.authority, again.is_trusted) == (realm.authority, realm.is_trusted)
    assert realm.scheme == "https"
