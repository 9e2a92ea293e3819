"""At start: secrets that others may read are said, or refused, and those that cannot be read stop nothing."""

from pathlib import Path

import pytest
from attrs import evolve
from twisted.logger import LogLevel

from regcachd.authentication import find_plugins, kinds_of
from regcachd.config import Config, parse_config
from regcachd.safekeeping import SecretsExposed, exposed, refuse_exposed, report
from tests.through import logged


def config(path: Path, top: str = "") -> Config:
    text = f'{top}\n[registries."a.b:1"]\nusername = "u"\npassword = "file:{path}"\n[registries.c]'
    return parse_config([("a.toml", text)], kinds_of(find_plugins()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("hunter2")
    path.chmod(0o640)
    return path


def test_an_exposed_secret_is_a_warning(path: Path) -> None:
    refuse_exposed(config(path))
    with logged() as lines:
        report(config(path))
    assert lines == [
        f'registries."a.b:1".password: its group may read {path}; its owner alone should: chmod 600 {path}'
    ]


def test_an_exposed_secret_is_a_refusal_where_that_is_wanted(path: Path) -> None:
    with pytest.raises(SecretsExposed, match=f"its group may read {path}; .* chmod 600") as caught:
        refuse_exposed(config(path, 'exposed_secrets = "refuse"'))
    assert "hunter2" not in str(caught.value)


def test_a_secret_of_its_owner_alone_is_no_word_worth(path: Path) -> None:
    path.chmod(0o600)
    refuse_exposed(config(path, 'exposed_secrets = "refuse"'))
    with logged(LogLevel.info) as lines:
        report(config(path))
    assert not lines


def test_a_secret_that_is_not_there_is_an_error_in_the_log_and_no_more(path: Path) -> None:
    path.unlink()
    refuse_exposed(evolve(config(path), exposed_secrets="refuse"))
    with logged() as lines:
        report(config(path))
    (line,) = lines
    assert line.startswith(f'registries."a.b:1".password: file:{path}: cannot be read: No such file')
    assert exposed(config(path)) == []


def test_the_parents_password_and_the_proxys_users_are_secrets_too(path: Path) -> None:
    """That of [defaults] is named once, whoever has it from there."""
    parent = f'upstream_proxy = "http://u@proxy.test:3128"\nupstream_proxy_password = "file:{path}%s"\n'
    for other in ("2", "3"):
        path.with_name(path.name + other).touch(mode=0o644)
    text = (
        f'proxy_users = "file:{path}3"\n[defaults]\n{parent % ""}'
        f"[registries.one]\n[registries.two]\n[registries.three]\n{parent % '2'}"
    )
    secrets = parse_config([("a.toml", text)], kinds_of(find_plugins()))
    assert [problem.partition(": ")[0] for problem in exposed(secrets)] == [
        "proxy_users",
        "defaults.upstream_proxy_password",
        'registries."three".upstream_proxy_password',
    ]
    with logged() as lines:
        report(secrets)
    assert [line.partition(": ")[0] for line in lines][3:] == ['registries."three".upstream_proxy_password']
    assert lines[3].endswith("2: empty; until it can be read there is no access with it")
