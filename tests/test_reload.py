"""What a daemon takes up of a changed configuration, and what waits for a restart."""

import pytest

from regcachd.config import Config, parse_config
from regcachd.reload import FIXED, decide
from regcachd.schema import SCHEMA
from regcachd.values import keys_of

ONE = '[registries."a.example"]\n'
MIRROR = 'mirror_tls = ["tcp:3129"]\nmirror_names = ["head"]'


def config(toml: str) -> Config:
    return parse_config([("test.toml", toml)])


@pytest.mark.parametrize(
    ("running", "wanted", "changed", "waiting"),
    [
        ("", "", (), ()),
        ('clients = ["10.0.0.0/8"]', 'clients = ["10.0.0.0/9"]', ("clients",), ()),
        ("", "[limits]\nconnections = 5\nhead_size = 2048", ("limits.head_size", "limits.connections"), ()),
        ("", '[tunnel]\npolicy = "deny"', ("tunnel.policy",), ()),
        ("", '[tls]\nkernel = "off"', ("tls.kernel",), ()),
        ("", '[ca]\ncertificate = "/c"\nkey = "/k"', ("ca.certificate", "ca.key"), ()),
        ('[ca]\ncertificate = "/c"\nkey = "/k"', "", ("ca.certificate", "ca.key"), ()),
        ("", '[store]\nmax_size = "5GiB"', ("store.max_size",), ()),
        ("", 'proxy_users = "file:/users"', ("proxy_users",), ()),
        (ONE, f'{ONE}[registries."b.example"]', ('registries."b.example"',), ()),
        (f'{ONE}[registries."b.example"]', ONE, ('registries."b.example"',), ()),
        (ONE, f"{ONE}allow_push = true", ('registries."a.example"',), ()),
        (ONE, f'[defaults]\ntimeout = "5s"\n{ONE}', ("defaults.timeout", 'registries."a.example"'), ()),
        ('listen = ["tcp:1"]', 'listen = ["tcp:2"]', (), ("listen",)),
        ("", 'mirror_names = ["head"]', ("mirror_names",), ()),
        (MIRROR, "", ("mirror_names",), ("mirror_tls",)),
        ("", "workers = 3", (), ("workers",)),
        ("", 'state = "/elsewhere"', (), ("state",)),
        ("", 'admin = "/elsewhere"', (), ("admin",)),
        ("", '[store]\npath = "/elsewhere"\nmin_free = "9%"', ("store.min_free",), ("store.path",)),
        ("", '[store]\nscrub_interval = "1d"', (), ("store.scrub_interval",)),
    ],
)
def test_what_changes_and_what_waits(
    running: str, wanted: str, changed: tuple[str, ...], waiting: tuple[str, ...]
) -> None:
    found = decide(config(running), config(wanted))
    assert found.changed == changed
    assert found.waiting == waiting


def test_what_waits_keeps_its_value_while_the_rest_holds() -> None:
    running = config('listen = ["tcp:1"]\n[store]\npath = "/here"\nmax_size = 5')
    found = decide(running, config('listen = ["tcp:2"]\nworkers = 9\n[store]\npath = "/there"\nmax_size = 7'))
    assert found.config.listen == running.listen
    assert found.config.workers is None
    assert found.config.store.path == "/here"
    assert found.config.store.max_size.resolve(100) == 7


def test_what_waits_is_said_again_at_the_next_reload() -> None:
    running, wanted = config(""), config("workers = 3")
    again = decide(decide(running, wanted).config, wanted)
    assert (again.changed, again.waiting) == ((), ("workers",))


def test_names_are_those_of_the_configuration() -> None:
    for table, keys in FIXED.items():
        assert set(keys) <= set(keys_of(SCHEMA[table]))


def test_it_is_said_in_words() -> None:
    assert str(decide(config(""), config(""))) == "nothing has changed"
    assert str(decide(config(ONE), config(f"{ONE}share = true"))) == 'changed: registries."a.example"'
