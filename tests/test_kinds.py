"""The credential in a registry's table: which plugin reads it, and how mistakes are told without its values."""

from typing import Any

import pytest
from attrs import frozen

from regcachd.config import Config, ConfigError, parse_config
from regcachd.plugins.bearer import Keys as Password
from regcachd.secret import Secret
from regcachd.units import BadValue
from regcachd.values import flag, key, optional, required, text


def loud(value: object) -> str:
    """A reader of a plugin; whatever it is given is wrong."""
    raise BadValue("expected something else")


@frozen
class Nothing:
    """No keys."""


@frozen
class Cloud:
    """Another plugin's."""

    region: str = required(text)
    profile: str | None = optional(text)
    fast: bool = key(True, flag)
    loud: str | None = optional(loud)


KINDS: dict[str, Any] = {"anonymous": Nothing, "basic": Password, "bearer": Password, "cloud": Cloud}
LOGIN = 'username = "robot$x"\npassword = "file:/etc/p"'


def read(*tables: str) -> Config:
    documents = [(f"{n}.toml", f"[registries.r]\n{table}") for n, table in enumerate(tables, start=1)]
    return parse_config(documents, KINDS)


def refusal(*tables: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*tables)
    return str(caught.value)


def auth(*tables: str) -> Any:
    return read(*tables).registries["r"].auth


def test_a_registry_has_no_credential_unless_it_is_given_one() -> None:
    assert auth("") is None


def test_a_name_and_a_password_are_enough() -> None:
    found = auth(LOGIN)
    assert found.kind == "bearer"
    assert found.keys == Password("robot$x", Secret("file:/etc/p"))


def test_the_plugin_is_chosen_by_its_name() -> None:
    assert auth(f'auth = "basic"\n{LOGIN}').kind == "basic"
    assert auth('auth = "anonymous"').keys == Nothing()
    assert auth('auth = "cloud"\nregion = "x"\nfast = false').keys == Cloud("x", None, False, None)


def test_the_keys_may_come_from_several_files_in_any_order_and_the_later_wins() -> None:
    found = auth('username = "a"', 'password = "file:/p"\nusername = "b"', 'auth = "basic"')
    assert (found.kind, found.keys.username) == ("basic", "b")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (['username = "a"'], '1.toml: registries.r.password: missing: auth = "bearer" needs it'),
        (['auth = "bearer"'], '1.toml: registries.r.username: missing: auth = "bearer" needs it'),
        (["", 'auth = "cloud"'], '2.toml: registries.r.region: missing: auth = "cloud" needs it'),
        (
            ['auth = "bear"'],
            'registries.r.auth: no such kind of authentication; did you mean "bearer"? allowed: ',
        ),
        (['auth = "x"'], "no such kind of authentication; allowed: anonymous, basic, bearer, cloud"),
        (["auth = 1"], "registries.r.auth: expected the name of a kind of authentication"),
        (['auth = ["hunter2"]'], "registries.r.auth: expected"),
        (['region = "x"'], '1.toml: registries.r.region: it needs auth = "cloud" beside it'),
        ([LOGIN, 'region = "x"'], '2.toml: registries.r.region: it needs auth = "cloud" beside it'),
        (
            ['auth = "cloud"', 'region = "x"\nusername = "a"'],
            '2.toml: registries.r.username: not a key of auth = "cloud"; it belongs to auth = "basic" or '
            'auth = "bearer"; allowed here: region, profile, fast, loud',
        ),
        (
            ['auth = "anonymous"\nusername = "a"'],
            'registries.r.username: not a key of auth = "anonymous"; it belongs to auth = "basic" or '
            'auth = "bearer"; allowed here: none',
        ),
        (['auth = "cloud"\nregion = "x"\nloud = "y"'], "registries.r.loud: expected something else"),
        (['username = "a:b"\npassword = "file:/p"'], "registries.r.username: expected a user name in quotes"),
        (
            ['username = "a"\npassword = "env:P"'],
            "registries.r.password: environment variables are seen by others",
        ),
        (
            ['username = "a"\npassword = "p"'],
            "registries.r.password: a secret is not written into the config",
        ),
        (
            ["pasword = 1"],
            "registries.r.pasword: unknown key; did you mean password? allowed here: ",
        ),
        (
            ["share = true"],
            "registries.r.share: it shares regcachd's own credential, and this registry has none",
        ),
        (
            ['username = "a"\npassword = "file:/p"\nshare = true\npush_with_shared = true'],
            "registries.r.push_with_shared: it needs share = true and allow_push = true beside it",
        ),
        (["allow_push = true\npush_with_shared = true"], "registries.r.push_with_shared: it needs share"),
        (["share = 1"], "registries.r.share = 1: expected true or false"),
        (['realm_hosts = ["https://a"]'], "registries.r.realm_hosts"),
    ],
)
def test_a_refusal_names_file_and_key_and_what_is_allowed(tables: list[str], message: str) -> None:
    assert message in refusal(*tables)


def test_a_value_that_might_be_a_secret_is_not_shown() -> None:
    for table in (
        'username = "hunter2:"\npassword = "file:/p"',
        'auth = "cloud"\nregion = "x"\nloud = "hunter2"',
    ):
        assert "hunter2" not in refusal(table)


def test_those_who_need_no_credentials_can_read_a_configuration_that_has_some() -> None:
    config = parse_config([("a.toml", '[registries.r]\nauth = "unheard-of"\nshare = true\ncolour = 1')])
    assert config.registries["r"].auth is None


def test_a_credential_is_not_in_the_repr_of_the_configuration() -> None:
    assert "/etc/p" not in repr(read(LOGIN))


def test_a_registry_moved_by_an_option_has_the_realm_hosts_of_its_new_upstream() -> None:
    from regcachd.config import with_overrides

    config = parse_config([("a.toml", '[registries."docker.io"]\nrealm_hosts = ["own.example"]')], KINDS)
    assert config.registries["docker.io"].realm_hosts == ("auth.docker.io", "own.example")
    moved = with_overrides(config, registries=["docker.io=https://nvcr.io"])
    assert moved.registries["docker.io"].realm_hosts == ("authn.nvidia.com", "own.example")
