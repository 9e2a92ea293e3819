"""From TOML to values: defaults, merging, what is refused and how it is said."""

import re
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.access import Terms
from regcachd.authentication import find_plugins, kinds_of
from regcachd.config import (
    CAFiles,
    Config,
    ConfigError,
    Limits,
    Registry,
    Size,
    StoreConfig,
    TLSConfig,
    Tunnel,
    parse_config,
    with_overrides,
)
from regcachd.connect import Authority
from regcachd.known import KNOWN
from regcachd.schema import REGISTRY_TABLE, SCHEMA, RegistryKeys
from regcachd.secret import Secret
from regcachd.tag_rules import TagPolicy, TagRule, TagTerms
from regcachd.values import keys_of

SAMPLE = Path(__file__).parent.parent / "etc" / "regcachd.toml"


def read(*texts: str) -> Config:
    documents = [(f"{number}.toml", text) for number, text in enumerate(texts, start=1)]
    return parse_config(documents, kinds_of(find_plugins()))


def refusal(*texts: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*texts)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_without_a_file_the_defaults_and_the_known_registries_hold() -> None:
    config = read()
    assert config == Config() == read("", "")
    assert config.listen == ("dual:3128",)
    assert config.workers is None
    assert config.state == "/var/lib/regcachd"
    assert ip_network("10.0.0.0/8") in config.clients
    assert config.store == StoreConfig(path="/var/cache/regcachd", max_size=Size(fraction=0.8))
    assert config.ca is None
    assert config.tls == TLSConfig(kernel="auto")
    assert config.tunnel == Tunnel(policy="allow", hosts=(), ports=frozenset({443}))
    assert config.limits == Limits(
        head_size=16384,
        head_timeout=30.0,
        idle_timeout=300.0,
        send_timeout=600.0,
        connect_timeout=30.0,
        tunnel_idle=3600.0,
        manifest_size=4 * 1024**2,
        connections=10000,
        stop_timeout=10.0,
        fill_abandon=0.0,
    )
    assert list(config.registries) == list(KNOWN)


def test_kernel_tls_can_be_turned_off() -> None:
    assert read('[tls]\nkernel = "off"').tls == TLSConfig(kernel="off")
    assert read('[tls]\nkernel = "off"', '[tls]\nkernel = "auto"').tls == TLSConfig()


def test_a_known_registry_needs_no_more_than_its_name() -> None:
    assert dict(read('[registries."docker.io"]').registries) == {
        "docker.io": Registry(
            name="docker.io",
            upstream="https://registry-1.docker.io",
            authorities=frozenset(
                Authority(host, 443) for host in ("docker.io", "registry-1.docker.io", "index.docker.io")
            ),
            token_hosts=frozenset({Authority("auth.docker.io", 443)}),
            realm="https://auth.docker.io/token",
            ca=None,
            insecure=False,
            allow_push=False,
            timeout=60.0,
            terms=Terms(access_ttl=300.0, public_ttl=3600.0, offline_grace=86400.0, max_stale=30 * 86400.0),
            tag_terms=TagTerms(TagPolicy.REVALIDATE, 5.0, 3600.0, (), 30 * 86400.0),
            push_with_shared=False,
            share=False,
            connections=4,
            retries=8,
            retry_delay=15.0,
            blob_probe="head",
            auth=None,
            realm_hosts=("auth.docker.io",),
            parent=None,
        )
    }


def test_every_key_is_read() -> None:
    config = read(
        """
        listen = ["tcp:3128:interface=10.0.0.1", "dual:0"]
        workers = 3
        state = "var/state"
        clients = ["10.0.0.0/8", "2001:db8::/32", "192.168.1.7"]
        proxy_users = "credential:users"
        [store]
        path = "var/cache"
        max_size = "500GiB"
        [ca]
        certificate = "ca.crt"
        key = "ca.key"
        [tunnel]
        policy = "list"
        hosts = ["Example.com", "*.example.org", "10.0.0.9", "[2001:DB8::1]"]
        ports = [443, 8443]
        [limits]
        head_size = "8KiB"
        connections = 7
        fill_abandon = "25%"
        [defaults]
        ca = "site.pem"
        timeout = "90s"
        offline_grace = "2h"
        revalidate_interval = "1s"
        [registries."registry.site.example:5443"]
        upstream = "http://Registry.site.example:80/"
        """,
        """
        [registries."registry.site.example:5443"]
        hosts = ["registry.site.example", "old.site.example:5000"]
        token_hosts = ["Auth.site.example:8443", "old.site.example:5000"]
        insecure = true
        allow_push = true
        access_ttl = 0
        public_ttl = "10m"
        connections = 1
        retries = 3
        retry_delay = "2.5s"
        realm_hosts = ["auth.site.example:443", "Auth.site.example:5001"]
        tags = "ttl"
        tag_ttl = "10m"
        tag_rules = [
            {match = "*/nightly*:*", ttl = "1m"}, {match = "*:latest", tags = "never"}, {match = "a:b", tags = "ttl"},
        ]
        max_stale = 0
        """,
    )
    assert config.listen == ("tcp:3128:interface=10.0.0.1", "dual:0")
    assert config.workers == 3
    assert config.state == "var/state"
    assert config.clients == tuple(map(ip_network, ("10.0.0.0/8", "2001:db8::/32", "192.168.1.7/32")))
    assert config.proxy_users == Secret("credential:users")
    assert config.store == StoreConfig(path="var/cache", max_size=Size(bytes=500 * 1024**3))
    assert config.ca == CAFiles(certificate="ca.crt", key="ca.key")
    assert config.tunnel.hosts == ("example.com", "*.example.org", "10.0.0.9", "2001:db8::1")
    assert config.tunnel.ports == {443, 8443}
    assert config.limits == Limits(head_size=8192, connections=7, fill_abandon=0.25)
    assert config.registries["registry.site.example:5443"] == Registry(
        name="registry.site.example:5443",
        upstream="http://registry.site.example",
        authorities=frozenset(
            {
                Authority("registry.site.example", 5443),
                Authority("registry.site.example", 80),
                Authority("registry.site.example", 443),
                Authority("old.site.example", 5000),
            }
        ),
        token_hosts=frozenset({Authority("auth.site.example", 8443)}),
        realm=None,
        ca="site.pem",
        insecure=True,
        allow_push=True,
        timeout=90.0,
        terms=Terms(access_ttl=0.0, public_ttl=600.0, offline_grace=7200.0, max_stale=0.0),
        tag_terms=TagTerms(
            TagPolicy.TTL,
            1.0,
            600.0,
            (
                TagRule("*/nightly*:*", TagPolicy.TTL, 60.0),
                TagRule("*:latest", TagPolicy.NEVER),
                TagRule("a:b", TagPolicy.TTL),
            ),
            0.0,
        ),
        push_with_shared=False,
        share=False,
        connections=1,
        retries=3,
        retry_delay=2.5,
        blob_probe="head",
        auth=None,
        realm_hosts=("auth.site.example:443", "auth.site.example:5001"),
        parent=None,
    )


def test_the_upstream_of_an_unknown_registry_is_its_name() -> None:
    assert read('[registries."[::1]:5000"]').registries["[::1]:5000"].upstream == "https://[::1]:5000"


def test_token_hosts_are_known_unless_they_are_named() -> None:
    hub = Authority("auth.docker.io", 443)
    config = read("[registries.'docker.io']\n[registries.'quay.io']")
    assert config.registries["docker.io"].token_hosts == {hub}
    assert config.authorities[hub] == "docker.io"
    assert config.registries["quay.io"].token_hosts == set()  # its realm is on its own host
    assert config.registries["quay.io"].realm == "https://quay.io/v2/auth"
    off = read("[registries.'docker.io']\ntoken_hosts = []")
    assert hub not in off.authorities
    moved = read("[registries.'docker.io']\nupstream = 'https://mirror.site.example'").registries["docker.io"]
    assert (moved.token_hosts, moved.realm) == (frozenset(), None)


def test_a_registry_that_moves_takes_only_its_own_token_hosts_along() -> None:
    away = with_overrides(read("[registries.'docker.io']"), registries=["docker.io=https://b"])
    assert away.registries["docker.io"].token_hosts == set()
    assert away.registries["docker.io"].realm is None
    config = read("[registries.a]\ntoken_hosts = ['auth.test']")
    here = with_overrides(config, registries=["a=https://registry-1.docker.io"])
    assert {host.host for host in here.registries["a"].token_hosts} == {"auth.docker.io", "auth.test"}


def test_a_token_host_of_several_registries_is_the_firsts_and_a_registry_is_nobodys_token_host() -> None:
    config = read(
        """
        [registries.a]
        token_hosts = ["auth.test", "b"]
        [registries.b]
        token_hosts = ["auth.test"]
        """
    )
    assert config.authorities[Authority("auth.test", 443)] == "a"
    assert config.authorities[Authority("b", 443)] == "b"


def test_another_upstream_keeps_the_names_clients_use() -> None:
    """A site that mirrors docker.io elsewhere still has clients that say registry-1.docker.io."""
    docker = read('[registries."docker.io"]\nupstream = "https://mirror.site.example"').registries[
        "docker.io"
    ]
    assert docker.upstream == "https://mirror.site.example"
    assert {Authority("index.docker.io", 443), Authority("mirror.site.example", 443)} < docker.authorities


def test_the_blob_probe_follows_the_upstream() -> None:
    ecr = read('[registries.ecr]\nupstream = "https://public.ecr.aws"').registries["ecr"]
    mirror = read('[registries."public.ecr.aws"]\nupstream = "https://a"').registries["public.ecr.aws"]
    assert (ecr.blob_probe, mirror.blob_probe) == ("get", "head")


def test_authorities_say_whose_registry_each_host_is() -> None:
    config = read('[registries."docker.io"]\n[registries."a:5000"]')
    assert config.authorities[Authority("index.docker.io", 443)] == "docker.io"
    assert config.authorities[Authority("a", 5000)] == "a:5000"
    assert Authority("quay.io", 443) not in config.authorities


def test_tables_merge_and_the_later_value_wins() -> None:
    config = read(
        'state = "a"\n[store]\npath = "a"\nmax_size = "1GiB"\n[registries.a]\ntimeout = 1\ninsecure = true',
        'state = "b"\n[store]\npath = "b"\n[registries.a]\ntimeout = 2\n[registries.b]',
    )
    assert (config.state, config.store) == ("b", StoreConfig(path="b", max_size=Size(bytes=1024**3)))
    assert list(config.registries) == ["a", "b"]
    assert (config.registries["a"].timeout, config.registries["a"].insecure) == (2.0, True)


def test_defaults_hold_for_known_registries_and_wherever_they_are_said() -> None:
    assert read("[defaults]\ntimeout = 5").registries["quay.io"].timeout == 5.0
    assert read("[registries.a]", "[defaults]\ntimeout = 5").registries["a"].timeout == 5.0


def test_an_empty_table_of_registries_means_none() -> None:
    assert not read("[registries]").registries


def test_the_certificate_and_the_key_may_come_from_two_files() -> None:
    assert read('[ca]\nkey = "k"', '[ca]\ncertificate = "c"').ca == CAFiles(certificate="c", key="k")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # Where it is, what it says, what it may say.
        ("state = 5", "1.toml: state = 5: expected a text in quotes, not empty"),
        ('[store]\npath = ""', '1.toml: store.path = "": expected a text in quotes'),
        ('state = "a\\u0000b"', 'state = "a\\u0000b": expected a text'),
        ('listen = "dual:3128"', "expected a list in square brackets"),
        ("listen = []", "expected a list with at least one entry"),
        ('listen = ["tcp:80", ""]', "entry 2: expected a text"),
        ('listen = ["dual:65536"]', 'expected "dual:PORT" with a port from 0 to 65535'),
        ('listen = ["dual:3128:interface=::1"]', 'expected "dual:PORT"'),
        ("clients = []", "at least one entry"),
        ('clients = ["10.0.0.1/8"]', 'write "10.0.0.0/8"'),
        ('clients = ["fd00::1/8"]', 'write "fd00::/8"'),
        ('clients = ["::ffff:10.0.0.0/104"]', 'expected IPv4 to be written as IPv4: "10.0.0.0/8"'),
        ('clients = ["cluster"]', 'expected a network such as "10.0.0.0/8"'),
        ('clients = ["10.0.0.0/33"]', 'expected a network such as "10.0.0.0/8"'),
        ('clients = ["fe80::1%eth0"]', "without a zone"),
        ("clients = [167772160]", "expected a text"),
        ('[store]\nmax_size = "lots"', 'store.max_size = "lots": expected bytes as a number'),
        ("[store]\nmax_size = 0", "more than nothing"),
        ('[tunnel]\npolicy = "Allow"', "expected allow, deny or list, in quotes"),
        ('[tls]\nkernel = "on"', 'tls.kernel = "on": expected auto or off, in quotes'),
        ("[tls]\nkernel = true", "tls.kernel = true: expected auto or off, in quotes"),
        ("[tunnel]\npolicy = []", "tunnel.policy = []: expected allow, deny or list"),
        ('[tunnel]\nhosts = ["a:443"]', "expected a host without a port"),
        ('[tunnel]\nhosts = ["*"]', 'or "*.example.com" for every host below'),
        ('[tunnel]\nhosts = ["a.*.b"]', 'or "*.example.com" for every host below'),
        ('[tunnel]\nhosts = ["https://a/"]', "expected a host name"),
        ("[tunnel]\nports = [443, 0]", "tunnel.ports = [443, 0]: entry 2: expected a value from 1 to 65535"),
        ("[tunnel]\nports = [true]", "expected a whole number"),
        ('[limits]\nhead_size = "2MiB"', 'limits.head_size = "2MiB": expected a value from 1KiB to 1MiB'),
        ('[limits]\nhead_timeout = "0s"', "expected a value from 100ms to 1h"),
        ("[limits]\nhead_timeout = nan", "limits.head_timeout = NaN: expected seconds"),
        ("[limits]\nconnections = 0", "expected a value from 1 to 1000000"),
        ("[limits]\nconnections = 1.0", "expected a whole number"),
        (f"[limits]\nconnections = 0x{'f' * 5000}", 'connections = "a very large number": expected a value'),
        ("[limits]\nfill_abandon = 0.5", "expected a percentage"),
        ('[limits]\nidle_timeout = "1 hour"', 'such as "250ms", "5s", "1h30m" or "7d"'),
        ("[limits]\nidle_timeout = 2024-01-01", 'idle_timeout = "2024-01-01": expected seconds'),
        ('[registries.a]\ninsecure = "yes"', "registries.a.insecure"),
        ('[registries."a.b"]\ntimeout = "x"', '1.toml: registries."a.b".timeout = "x": expected seconds'),
        ('[registries.a]\nhosts = ["b c"]', "expected HOST or HOST:PORT"),
        ('[registries.a]\nhosts = ["b", {password = "secret"}]', 'hosts = ["b", "a table"]: entry 2'),
        ('[registries.a]\nupstream = "a"', 'upstream = "a": expected "https://HOST"'),
        ('[registries.a]\nupstream = "ftp://a"', 'expected "https://HOST"'),
        ('[registries.a]\nupstream = "https://a/v2/"', "no path"),
        ('[registries.a]\nupstream = "https://a?x=1"', "no query"),
        ('[registries.a]\nupstream = "https://a:0"', "expected HOST or HOST:PORT"),
        ('[registries."Quay.io"]', 'registries = "Quay.io": expected this registry to be called "quay.io"'),
        ('[registries."quay.io:443"]', 'expected this registry to be called "quay.io"'),
        ('[registries."https://quay.io"]', "expected HOST or HOST:PORT"),
        (
            '[registries]\na = "https://a"',
            '1.toml: registries.a = "https://a": expected a table: [registries.a]',
        ),
        ('registries = ["a"]', "expected a table: [registries]"),
        ('store = "/srv"', '1.toml: store = "/srv": expected a table: [store]'),
        ('[state]\npath = "/srv"', 'state = "a table": expected a text'),
        ("workers = 0", '1.toml: workers = 0: expected "auto" or a number from 1 to 64'),
        ("workers = 65", 'expected "auto" or a number from 1 to 64'),
        ("workers = true", 'expected "auto" or a number from 1 to 64'),
        ('workers = "4"', 'expected "auto" or a number from 1 to 64'),
        # Unknown keys.
        (
            'listne = ["dual:1"]',
            "1.toml: listne: unknown key; did you mean listen? allowed here: listen, workers, state, ",
        ),
        ("[tunnels]", "tunnels: unknown key; did you mean tunnel?"),
        (
            "[limits]\nhead_sise = 1",
            "limits.head_sise: unknown key; did you mean head_size? allowed here: head_size",
        ),
        ('max_size = "1GiB"', "max_size: unknown key; it belongs to [store]; allowed here: "),
        (
            '[store]\nlisten = ["dual:1"]',
            "it belongs to the top, before the first table; allowed here: path, max_size",
        ),
        (
            "[defaults]\ninsecure = true",
            'it belongs to [registries."NAME"]; allowed here: ca, timeout, access_ttl',
        ),
        ("threads = 4", "threads: unknown key; allowed here"),
        ('"a\\nb" = 4', '1.toml: "a\\nb": unknown key'),
        # Not TOML.
        ("listen = ", "1.toml: not TOML: Invalid value (at end of document)"),
        ("a = 1\na = 2", "1.toml: not TOML: Cannot overwrite a value (at "),
        (f"a = {'9' * 5000}", "1.toml: not TOML: Exceeds the limit"),
        (f"a = {'[' * 100000}", "1.toml: not TOML: "),
        # Contradictions.
        ('[ca]\nkey = "k"', "1.toml: ca.certificate: missing"),
        ('[ca]\ncertificate = "c"', "1.toml: ca.key: missing"),
        (
            '[registries.a]\nhosts = ["b"]\n[registries.b]',
            '1.toml: registries.b: this registry and "a" both claim b:443, which can belong to one only',
        ),
        (
            '[registries."docker.io"]\n[registries."registry-1.docker.io"]',
            'this registry and "docker.io" both claim registry-1.docker.io:443',
        ),
    ],
)
def test_a_refusal_names_file_key_value_and_what_is_allowed(text: str, message: str) -> None:
    assert message in refusal(text)


def test_the_error_names_the_file_that_says_it() -> None:
    assert refusal('state = "a"', "state = 1").startswith("2.toml: state = 1:")
    assert refusal("state = 1", 'state = "a"').startswith("1.toml: state = 1:")
    assert refusal("[registries.a]", "[limits]", '[registries.b]\nhosts = ["a"]').startswith(
        "3.toml: registries.b:"
    )
    assert refusal("[limits]", '[ca]\nkey = "k"').startswith("2.toml: ca.certificate:")


@pytest.mark.parametrize(
    "text",
    [
        '[registries.a]\nupstream = "https://user:hunter2@a"',
        '[registries.a]\nupstream = "https://user:se/hunter2@a"',
        '[registries.a]\nupstream = "https://user:hunter2@hunter2@a"',
        '[registries.a]\nupstream = "https://user:\\"hunter2@a"',
        '[registries.a]\nhosts = ["user:hunter2@a"]',
        '[registries."user:hunter2@a"]',
        '[registries.a]\nauth = "bearer"\nusername = "a"\npassword = "hunter2"',
        '[registries.a]\npassword = "hunter2"',
        '[registries.a]\npassword = ["file:/x", "hunter2"]',
        '[registries.a]\npassword = {file = "hunter2"}',
        '[registries.a]\npassword = "file:hunter2"',
        '[registries.a]\npassword = "env:hunter2"',
        '[registries.a]\npassword = "credential:../hunter2"',
        '[registries.a]\nusername = "hunter2:hunter2"',
        '[registries.a]\nusername = ["hunter2"]',
        '[registries.a]\nauth = "hunter2"',
        '[registries.a]\nauth = "anonymous"\npassword = "hunter2"',
        '[registries.a]\npasword = "hunter2"',
        '[defaults]\npassword = "hunter2"',
        'password = "hunter2"',
    ],
)
def test_no_password_is_in_an_error(text: str) -> None:
    assert "hunter2" not in refusal(text)


def test_a_long_value_is_cut() -> None:
    assert len(refusal(f'listen = "{"x" * 5000}"')) < 250


def test_names_of_the_configuration_cannot_be_changed_afterwards() -> None:
    registries: Any = Config().registries
    with pytest.raises(TypeError):
        registries["a"] = None


def test_options_replace_values_and_add_registries() -> None:
    config = with_overrides(
        read(
            '[store]\npath = "a"\nmax_size = "1GiB"\n[defaults]\ntimeout = 5\n[registries.a]\nhosts = ["b"]'
        ),
        listen=["dual:0", "tcp:80"],
        store="var/cache",
        max_size="50%",
        state="var/state",
        registries=["quay.io", "c:5000", "lab=http://10.0.0.7:5000", "a", "a=https://d"],
    )
    assert config.listen == ("dual:0", "tcp:80")
    assert config.store == StoreConfig(path="var/cache", max_size=Size(fraction=0.5))
    assert config.state == "var/state"
    assert {name: registry.upstream for name, registry in config.registries.items()} == {
        "a": "https://d",
        "quay.io": "https://quay.io",
        "c:5000": "https://c:5000",
        "lab": "http://10.0.0.7:5000",
    }
    assert config.registries["lab"].timeout == 5.0
    assert config.authorities[Authority("10.0.0.7", 5000)] == "lab"
    assert {host.host for host in config.registries["a"].authorities} == {"a", "b", "d"}


def test_no_option_changes_nothing() -> None:
    assert with_overrides(Config()) == with_overrides(Config(), listen=[]) == Config()


def test_a_registry_moved_by_an_option_is_probed_as_its_new_upstream() -> None:
    config = with_overrides(read("[registries]"), registries=["ecr=https://public.ecr.aws"])
    assert config.registries["ecr"].blob_probe == "get"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"listen": ["dual:x"]}, 'command line: --listen = "dual:x": expected "dual:PORT"'),
        ({"store": ""}, 'command line: --store = "": expected a text'),
        ({"state": ""}, 'command line: --state = "": expected a text'),
        ({"max_size": "big"}, 'command line: --max-size = "big": expected bytes'),
        (
            {"registries": ["Quay.io"]},
            'command line: --registry = "Quay.io": expected this registry to be called',
        ),
        ({"registries": [""]}, 'command line: --registry = "": expected a text'),
        ({"registries": ["a="]}, 'command line: --registry a = "": expected a text'),
        ({"registries": ["a=b"]}, 'command line: --registry a = "b": expected "https://HOST"'),
        (
            {"registries": ["a=https://u:secret@b"]},
            'command line: --registry a = "***@b": expected "https://',
        ),
        ({"registries": ["https://u:secret=x@b"]}, 'command line: --registry = "***@b": expected HOST'),
        (
            {"registries": ["registry-1.docker.io"]},
            'command line: registries."registry-1.docker.io": this registry and "docker.io" both claim',
        ),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(Config(), **options)
    assert message in str(caught.value)


WORDS = st.sampled_from(
    [*keys_of(Config), "store", "ca", "registries", "limits", "hosts", "timeout", "a", '"b.c"']
)
VALUES = st.one_of(
    st.sampled_from(
        ['"5s"', '"1GiB"', '"dual:1"', "true", "{}", "[]", "nan", "-1", '["10.0.0.0/8"]', "{a = {}}"]
    ),
    st.integers().map(str),
    st.text("ab.:/@[]%*é", max_size=9).map(lambda text: f'"{text}"'),
)


@given(st.lists(st.one_of(WORDS.map("[{}]".format), st.tuples(WORDS, VALUES).map(" = ".join)), max_size=6))
def test_whatever_a_file_says_is_a_configuration_or_one_line(lines: list[str]) -> None:
    try:
        outcome: Config | str = read("\n".join(lines))
    except ConfigError as error:
        outcome = str(error)
    assert isinstance(outcome, Config) or re.fullmatch(r"1\.toml: .+", outcome)


# The sample that is installed as /etc/regcachd/regcachd.toml.


def uncommented() -> str:
    """The sample with every key in force: explanations have a space after the #, keys have none."""
    return re.sub(r"^#(?=[^ \n])", "", SAMPLE.read_text(), flags=re.MULTILINE)


def test_the_sample_as_it_is_changes_nothing() -> None:
    assert parse_config([(str(SAMPLE), SAMPLE.read_text())]) == Config()


def test_the_sample_names_every_key_and_no_other() -> None:
    sample = tomllib.loads(uncommented())
    for name, table in SCHEMA.items():
        if name == REGISTRY_TABLE:
            keys = sample["registries"]["registry.site.example:5443"].keys() - {"username", "password"}
        elif name:
            keys = sample[name].keys()
        else:
            keys = sample.keys() - SCHEMA.keys() - {"registries"}
        assert set(keys) == set(keys_of(table)), name


def test_the_sample_gives_every_default_as_it_is() -> None:
    sample = tomllib.loads(uncommented())
    for name, table in SCHEMA.items():
        if name == REGISTRY_TABLE:
            given = sample["registries"]["registry.site.example:5443"]
        else:
            given = sample[name] if name else sample
        for key, metadata in keys_of(table).items():
            if "default" in metadata and key not in ("hosts", "realm_hosts"):  # examples
                assert given[key] == metadata["default"], f"{name}.{key}"
    assert sample["tunnel"]["hosts"] == []


def test_the_sample_with_everything_uncommented_is_a_configuration() -> None:
    config = read(uncommented())
    assert config.limits == Limits()
    assert config.ca == CAFiles("/etc/regcachd/ca.crt", "/etc/regcachd/ca.key")
    own = config.registries["registry.site.example:5443"]
    for name in KNOWN:
        assert attrs.evolve(config.registries[name], ca=None, parent=None) == Config().registries[name]
    assert own.timeout == RegistryKeys().timeout
    assert set(config.registries) == {*KNOWN, own.name}
