"""What every plugin for authentication keeps to, and how they are found."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from zope.interface import implementer
from zope.interface.verify import verifyObject

import regcachd
from regcachd.authentication import PluginUnusable, check_credentials, find_plugins, kinds_of
from regcachd.challenge import parse_challenges
from regcachd.config import ConfigError, parse_config
from regcachd.errors import RegcachdError
from regcachd.interfaces import AuthFailed, Fetched, Home, IAuthenticator, IWeb, Scope
from regcachd.secret import SecretUnreadable
from regcachd.values import keys_of

reactor: Any = _reactor
PLUGINS = find_plugins()
HOME = Home("registry.test", "https", "registry.test", 443)
SECRET = "hunter2"
ROOT = Path(regcachd.__file__).parent.parent

SAMPLES: Mapping[str, str] = {
    "acr": 'client_id = "robot"\nclient_secret = "file:{secret}"',
    "anonymous": "",
    "basic": 'username = "robot"\npassword = "file:{secret}"',
    "bearer": 'username = "robot"\npassword = "file:{secret}"',
    "docker-config": 'config = "file:{secret}"',
    "ecr": 'region = "r"\nendpoint = "http://127.0.0.1:9"\n'
    'access_key_id = "file:{secret}"\nsecret_access_key = "file:{secret}"',
    "google": 'service_account = "file:{secret}"',
}
"""A registry's keys for each plugin; {secret} is a file."""

CHALLENGES = [
    [],
    ['Basic realm="r"'],
    ['Bearer realm="https://registry.test/token",service="s",scope="repository:other:pull"'],
    ["Bearer realm=https://registry.test/token"],
    ['Bearer realm="http://127.0.0.1/"'],
    ['Bearer realm="https://user:password@registry.test/"'],
    ['Bearer service="s"'],
    ["Bearer"],
    ["Negotiate"],
    ['Basic realm="r", Bearer realm="https://registry.test/token", Digest nonce="x"'],
]


@implementer(IWeb)
@define
class Answering:
    """All servers give the same answer."""

    answer: Fetched | AuthFailed
    asked: list[str] = field(factory=list)

    async def fetch(self, method: str, url: str, headers: Any, body: bytes, local: bool) -> Fetched:
        self.asked.append(url)
        if isinstance(self.answer, AuthFailed):
            raise self.answer
        return self.answer


ANSWERS: list[Fetched | AuthFailed] = [
    AuthFailed("no network"),
    Fetched(200, {}, b'{"token": "t", "access_token": "t", "expires_in": 100}'),
    Fetched(200, {}, b""),
    Fetched(200, {}, b"[]"),
    Fetched(200, {"content-type": "text/html"}, b"<html>"),
    Fetched(401, {}, b"{}"),
    Fetched(500, {}, b"\xff"),
]


def kind_named(name: str) -> Any:
    return PLUGINS[name]


def keys_for(name: str, secret: Path) -> Any:
    """An instance of its keys from its sample."""
    assert name in SAMPLES, f"a sample of the keys of {name} belongs into SAMPLES"
    lines = SAMPLES[name].replace("{secret}", str(secret))
    config = parse_config([("a.toml", f'[registries.a]\nauth = "{name}"\n{lines}')], kinds_of(PLUGINS))
    auth = config.registries["a"].auth
    assert auth is not None
    return auth.keys


async def outcome(made: Any, challenges: Any, scope: Scope) -> str | RegcachdError | None:
    """The header, or the error that a plugin may raise."""
    try:
        found: str | None = await made.authorization(challenges, scope)
    except (AuthFailed, SecretUnreadable) as error:
        return error
    return found


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


# -- the contract


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_an_authenticator_is_made_without_asking_anybody(name: str, secret: Path) -> None:
    web = Answering(AuthFailed("no network"))
    made = kind_named(name).authenticator(keys_for(name, secret), HOME, web, reactor)
    verifyObject(IAuthenticator, made)
    assert not web.asked


@pytest.mark.parametrize("name", sorted(PLUGINS))
@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_authorization_is_a_header_or_none_or_authfailed(
    name: str, answer: Any, secret: Path
) -> None:
    keys = keys_for(name, secret)
    made = kind_named(name).authenticator(keys, HOME, Answering(answer), reactor)
    made.refused("Bearer never given")
    for written in CHALLENGES:
        challenges = parse_challenges(written)
        for scope in (Scope(), Scope("team/app"), Scope("team/app", ("pull", "push"))):
            found = await outcome(made, challenges, scope)
            if isinstance(found, RegcachdError):
                assert SECRET not in str(found)
            elif found is not None:
                assert re.fullmatch(r"[\x21-\x7e]+ [\x21-\x7e]+", found)
                made.refused(found)
    assert SECRET not in repr((kind_named(name), keys, made))


@pytest.mark.parametrize("name", sorted(PLUGINS))
async def test_many_may_ask_at_once(name: str, secret: Path) -> None:
    made = kind_named(name).authenticator(keys_for(name, secret), HOME, Answering(ANSWERS[1]), reactor)
    challenges = parse_challenges(CHALLENGES[2])
    asked = [Deferred.fromCoroutine(made.authorization(challenges, Scope("a"))) for _ in range(20)]
    for each in asked:
        each.addErrback(lambda failed: failed.trap(AuthFailed))
    assert len(set(map(str, await gatherResults(asked)))) == 1


@pytest.mark.parametrize("name", sorted(PLUGINS))
async def test_a_secret_that_is_gone_is_an_error_that_names_its_place(name: str, secret: Path) -> None:
    made = kind_named(name).authenticator(keys_for(name, secret), HOME, Answering(ANSWERS[1]), reactor)
    secret.unlink()
    for written in CHALLENGES:
        assert SECRET not in str(await outcome(made, parse_challenges(written), Scope("a")))


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name in sorted(PLUGINS) for key in keys_of(PLUGINS[name].keys)]
)
@pytest.mark.parametrize(
    "value", [f'["{SECRET}"]', f'{{a = "{SECRET}"}}', f'"{SECRET}\\n"', f'"file:{SECRET}"']
)
def test_a_bad_value_is_never_repeated(name: str, key: str, value: str) -> None:
    text = f'[registries.a]\nauth = "{name}"\n{key} = {value}'
    try:
        shown = repr(parse_config([("a.toml", text)], kinds_of(PLUGINS)))
    except ConfigError as error:
        shown = str(error)
    assert SECRET not in shown


# -- how they are found


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package of plugins of our own."""
    directory = tmp_path / "some_plugins"
    directory.mkdir()
    (directory / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("some_plugins")
    for name in [name for name in sys.modules if name.partition(".")[0] == "some_plugins"]:
        del sys.modules[name]


PLUGIN = """
from attrs import frozen
from zope.interface import implementer
from regcachd.interfaces import IRegistryAuth
from regcachd.secret import secret
from regcachd.values import optional

@frozen
class Keys:
    further: str | None = optional(secret)

@implementer(IRegistryAuth)
class Kind:
    name = "own"
    keys = Keys
    def authenticator(self, keys, home, web, clock):
        return None

own = Kind()
"""


def add(package: ModuleType, name: str, text: str = PLUGIN) -> None:
    (Path(package.__path__[0]) / f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def test_those_that_come_with_regcachd_are_found() -> None:
    assert {"anonymous", "basic", "bearer"} <= PLUGINS.keys()


def test_a_module_that_is_added_is_found_and_nothing_is_written(package: ModuleType) -> None:
    add(package, "one")
    assert list(find_plugins(package)) == ["own"]
    assert not list(Path(package.__path__[0]).glob("dropin*"))


def test_a_plugin_that_is_imported_elsewhere_is_still_one(package: ModuleType) -> None:
    add(package, "one")
    add(package, "two", "from some_plugins.one import own")
    assert list(find_plugins(package)) == ["own"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", r"some_plugins\.one cannot be imported: .*no_such_module"),
        ("1/0", r"cannot be imported: ZeroDivisionError"),
        (PLUGIN.replace('"own"', '"Own Kind"'), "is called 'Own Kind': plugins' names have lower-case"),
        (PLUGIN.replace("keys = Keys", "keys = None"), "are no attrs class"),
        (PLUGIN.replace("further:", "share:"), r"""keys of "own" are every registry's: share"""),
        (PLUGIN.replace("home, web, clock", "home"), "does not provide IRegistryAuth as it says"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(package: ModuleType, text: str, message: str) -> None:
    add(package, "one", text)
    with pytest.raises(PluginUnusable, match=message):
        find_plugins(package)


def test_keys_that_cannot_be_used_together_are_an_error_at_start(package: ModuleType) -> None:
    refusing = "from regcachd.interfaces import AuthFailed" + PLUGIN.replace(
        "return None", 'raise AuthFailed("set only one of the two")'
    )
    add(package, "one", refusing)
    found = find_plugins(package)
    config = parse_config([("a.toml", '[registries.a]\nauth = "own"')], kinds_of(found))
    with pytest.raises(PluginUnusable, match=r'^registries\."a": auth = "own": set only one of the two'):
        check_credentials(reactor, config.registries.values(), found)


def test_two_plugins_of_one_name_are_an_error_that_names_both(package: ModuleType) -> None:
    add(package, "one")
    add(package, "two")
    with pytest.raises(PluginUnusable, match=r'"own", those of some_plugins\.one and some_plugins\.two'):
        find_plugins(package)


# -- the example of docs/plugins.md

DOCUMENT = ROOT / "docs/plugins.md"


def example(name: str) -> str:
    """The block of the document that is this file."""
    found = re.search(rf"```\w+\n# {re.escape(name)}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None, name
    return found[1]


SCRIPT = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from regcachd.authentication import find_plugins, kinds_of
from regcachd.challenge import parse_challenges
from regcachd.config import parse_config
from regcachd.interfaces import Home, Scope

plugins = find_plugins()
config = parse_config([("ticket.toml", open(sys.argv[1]).read())], kinds_of(plugins))
registry = config.registries["registry.site.example"]
home = Home(registry.name, "https", registry.name, 443)
made = plugins["ticket"].authenticator(registry.auth.keys, home, None, reactor)
for challenges in [], parse_challenges(["Bearer realm=x"]):
    Deferred.fromCoroutine(made.authorization(challenges, Scope("a"))).addCallback(print)
print(registry.share, sorted(plugins))
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_worked_example_installed_from_a_distribution_of_its_own_is_a_plugin(tmp_path: Path) -> None:
    """Built as pip would, by its pyproject.toml, into a directory of its own on sys.path: that needs no network."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "regcachd/plugins").mkdir(parents=True)
    (source / "pyproject.toml").write_text(example("pyproject.toml"))
    (source / "regcachd/plugins/ticket.py").write_text(example("regcachd/plugins/ticket.py"))
    run(
        "-c",
        "import setuptools; setuptools.setup()",
        "--quiet",
        "build",
        "--build-lib",
        str(target),
        cwd=source,
    )
    assert [path.name for path in target.rglob("*.py")] == ["ticket.py"]
    (tmp_path / "token").write_text("T0K3N\n")
    text = example("/etc/regcachd/conf.d/ticket.toml").replace("/run/ticket/token", str(tmp_path / "token"))
    (tmp_path / "ticket.toml").write_text(text)
    path = os.pathsep.join([str(ROOT), str(target)])
    printed = run("-c", SCRIPT, str(tmp_path / "ticket.toml"), cwd=tmp_path, PYTHONPATH=path)
    first, second, third = printed.splitlines()
    assert (first, second) == ("None", "Bearer T0K3N")
    assert third.startswith("True [")
    assert "'ticket'" in third


def test_the_worked_example_is_a_configuration_and_as_short_as_it_says() -> None:
    assert tomllib.loads(example("/etc/regcachd/conf.d/ticket.toml"))
    code = [line for line in example("regcachd/plugins/ticket.py").splitlines() if line.strip()]
    assert len(code) <= 32
