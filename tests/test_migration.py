"""From docker-registry-proxy to regcachd: what is written, what is said, and that no password is in either."""

import json
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from regcachd.cli import predecessor
from regcachd.cli.main import regcachctl
from regcachd.cli.migration import Migrated, migrate
from regcachd.cli.nginx import duration_of, globs_of, size_of
from regcachd.cli.sources import read_variables
from regcachd.cli.variables import NotVariables, Variables, check, of_environment
from regcachd.config import parse_config
from regcachd.schema import SCHEMA, RegistryKeys
from regcachd.units import Size

CREDENTIALS = "/etc/regcachd/credentials"


def anything(value: object) -> object:
    return value


def made(**values: str) -> Migrated:
    """What these variables make; this version accepts it."""
    migrated = migrate(Variables(values), CREDENTIALS)
    parse_config([("made.toml", migrated.toml)])
    return migrated


def document(migrated: Migrated) -> dict[str, Any]:
    return tomllib.loads(migrated.toml)


def notes(migrated: Migrated, name: str) -> list[str]:
    return [note for note in migrated.notes if note.startswith(name)]


# -- the conversion


def test_registries() -> None:
    migrated = made(REGISTRIES="quay.io  my.site.example:443 nvcr.io registry-1.docker.io\nquay.io")
    config = parse_config([("made.toml", migrated.toml)])
    assert list(config.registries) == ["docker.io", "quay.io", "my.site.example", "nvcr.io"]
    assert migrated.notes == ()


def test_what_the_image_says_itself_is_the_default() -> None:
    migrated = made(DISABLE_IPV6="false")
    assert document(migrated) == {
        "store": {"max_size": "32GiB"},
        "registries": {"docker.io": {}, "k8s.gcr.io": {}, "gcr.io": {}, "quay.io": {}},
    }
    assert migrated == made(**{**predecessor.DEFAULTS, "DISABLE_IPV6": "false"})
    assert migrated.notes == ()


@pytest.mark.parametrize("bad", ["http://quay.io", "bad/name", "quay.io:0", "a b:x"])
def test_what_is_no_registry_is_left_out_and_said(bad: str) -> None:
    migrated = made(REGISTRIES=f"{bad} ghcr.io")
    assert "ghcr.io" in document(migrated)["registries"]
    assert notes(migrated, "REGISTRIES")


def test_logins() -> None:
    """They are found by the hosts that take them; a password that holds the delimiter was cut before, too."""
    migrated = migrate(
        Variables(
            {
                "REGISTRIES": "auth.docker.io gitlab.com registry.gitlab.com my.site.example",
                "AUTH_REGISTRIES": "auth.docker.io:me:s3cret my.site.example:user:p@ss:more gitlab.com:it:t0ken",
            }
        ),
        CREDENTIALS,
    )
    tables = document(migrated)["registries"]
    assert list(tables) == ["docker.io", "registry.gitlab.com", "my.site.example"]
    assert tables["docker.io"] == {
        "auth": "bearer",
        "username": "me",
        "password": f"file:{CREDENTIALS}/docker.io",
        "share": True,
    }
    assert migrated.secrets == {
        "docker.io": "s3cret",
        "registry.gitlab.com": "t0ken",
        "my.site.example": "p@ss",
    }
    assert "more than three parts" in notes(migrated, "AUTH_REGISTRIES, entry 2")[0]
    assert "s3cret" not in repr(migrated)


def test_delimiters_and_keys_of_google() -> None:
    password = '{"type": "service_account",\n "private_key": "-----BEGIN\\n:::x"}'
    migrated = migrate(
        Variables(
            {
                "AUTH_REGISTRIES_DELIMITER": ";;;",
                "AUTH_REGISTRY_DELIMITER": "@@",
                "AUTH_REGISTRIES": f"gcr.io@@_json_key@@{password};;;authn.nvidia.com@@$oauthtoken@@key",
            }
        ),
        CREDENTIALS,
    )
    assert migrated.secrets == {"gcr.io": password, "nvcr.io": "key"}
    assert document(migrated)["registries"]["nvcr.io"]["username"] == "$oauthtoken"


def test_every_login_has_a_file_of_its_own() -> None:
    """Else one registry would be told the password of another."""
    migrated = made(
        REGISTRIES="a.b:5000 a.b_5000",
        AUTH_REGISTRIES="a.b:5000|u|one a.b_5000|u|two",
        AUTH_REGISTRY_DELIMITER="|",
    )
    registries = document(migrated)["registries"]
    files = {name: registries[name]["password"].rpartition("/")[2] for name in ("a.b:5000", "a.b_5000")}
    assert {name: migrated.secrets[file] for name, file in files.items()} == {
        "a.b:5000": "one",
        "a.b_5000": "two",
    }


def test_a_password_among_the_registries_is_not_repeated() -> None:
    migrated = made(REGISTRIES="user:hunter2@quay.io/x")
    assert "hunter2" not in str(migrated.notes) + migrated.toml
    assert any("quay.io/x" in note for note in migrated.notes)


@pytest.mark.parametrize("bad", ["\udcff", "\0"])
@pytest.mark.parametrize("value", ["quay.io:us{}er:hunter2", "quay.io:user:hunter2{}"])
def test_bytes_that_are_no_text_are_refused(bad: str, value: str) -> None:
    """The environment may have any."""
    with pytest.raises(NotVariables, match="AUTH_REGISTRIES is not a text") as raised:
        check(of_environment({"AUTH_REGISTRIES": value.format(bad)}))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\x0c"])
def test_lines_end_where_those_who_read_env_files_end_them(odd: str) -> None:
    found = read_variables(f"AUTH_REGISTRIES=quay.io:user:p{odd}w\r\nREGISTRIES=quay.io\r\n", ".env")
    assert found.values == {"AUTH_REGISTRIES": f"quay.io:user:p{odd}w", "REGISTRIES": "quay.io"}


def test_a_login_for_a_registry_that_was_not_listed_adds_it_and_says_so() -> None:
    migrated = made(REGISTRIES="", AUTH_REGISTRIES="git.site.example:user:password")
    assert "git.site.example" in document(migrated)["registries"]
    assert "hands out tokens for another" in notes(migrated, "AUTH_REGISTRIES")[0]


@pytest.mark.parametrize("entry", ["host", "host:user", "host:user:", ":user:hunter2", "ho/st:user:hunter2"])
def test_a_login_that_is_none_is_said_without_it(entry: str) -> None:
    migrated = made(AUTH_REGISTRIES=entry)
    (note,) = notes(migrated, "AUTH_REGISTRIES, entry 1")
    assert "hunter2" not in note
    assert not migrated.secrets


def test_manifests() -> None:
    migrated = migrate(
        Variables(
            {
                "ENABLE_MANIFEST_CACHE": "true",
                "MANIFEST_CACHE_DEFAULT_TIME": "2h",
                "MANIFEST_CACHE_PRIMARY_REGEX": "(latest|v1\\..*)",
                "MANIFEST_CACHE_PRIMARY_TIME": "200 302 10m",
            }
        ),
        CREDENTIALS,
    )
    assert document(migrated)["defaults"] == {
        "tags": "ttl",
        "tag_ttl": "2h",
        "tag_rules": [
            {"match": "*:latest*", "ttl": "10m"},
            {"match": "*:v1.*", "ttl": "10m"},
            {"match": "*:*[0-9.]*[0-9.]*[0-9.]*", "ttl": "60d"},
        ],
    }
    assert migrated.notes == ()


def test_a_regular_expression_that_is_too_much_is_said() -> None:
    migrated = made(ENABLE_MANIFEST_CACHE="true", MANIFEST_CACHE_SECONDARY_REGEX="v[0-9]{2,}")
    assert "tag_rules" in notes(migrated, "MANIFEST_CACHE_SECONDARY_REGEX")[0]


def test_without_manifest_cache_nothing_is_said_of_it() -> None:
    migrated = made(ENABLE_MANIFEST_CACHE="false", MANIFEST_CACHE_PRIMARY_REGEX="(?!x)")
    assert "tag" not in migrated.toml
    assert migrated.notes == ()


def test_times() -> None:
    migrated = made(
        PROXY_READ_TIMEOUT="120s",
        PROXY_CONNECT_TIMEOUT="5s",
        SEND_TIMEOUT="1h 30m",
        CLIENT_HEADER_TIMEOUT="500ms",
        KEEPALIVE_TIMEOUT="75",
        PROXY_CONNECT_READ_TIMEOUT="1d",
        CLIENT_BODY_TIMEOUT="90s",
        PROXY_SEND_TIMEOUT="60s",
    )
    config = parse_config([("made.toml", migrated.toml)])
    assert config.defaults.timeout == 120
    limits = config.limits
    assert (limits.connect_timeout, limits.send_timeout, limits.head_timeout) == (5, 5400, 0.5)
    assert (limits.idle_timeout, limits.tunnel_idle) == (75, 86400)
    assert notes(migrated, "CLIENT_BODY_TIMEOUT")
    assert not notes(migrated, "PROXY_SEND_TIMEOUT")  # nobody has set it


@pytest.mark.parametrize("value", ["0", "never", "10 years", "-5s", "99999h"])
def test_times_that_regcachd_does_not_take_are_left_and_said(value: str) -> None:
    migrated = made(KEEPALIVE_TIMEOUT=value)
    assert "limits" not in document(migrated)
    assert notes(migrated, "KEEPALIVE_TIMEOUT")


def test_certificates_that_nobody_checked() -> None:
    migrated = made(VERIFY_SSL="false", REGISTRIES="quay.io my.site.example")
    config = parse_config([("made.toml", migrated.toml)])
    assert [name for name, registry in config.registries.items() if registry.insecure] == ["my.site.example"]
    assert "`ca`" in notes(migrated, "VERIFY_SSL")[0]


@pytest.mark.parametrize("name", ["ALLOW_PUSH", "ALLOW_PUSH_WITH_OWN_AUTH"])
def test_pushes(name: str) -> None:
    migrated = migrate(Variables({name: "true", "REGISTRIES": ""}), CREDENTIALS)
    assert document(migrated)["registries"] == {"docker.io": {"allow_push": True}}
    assert notes(migrated, name)


def test_keys_that_this_version_does_not_know_are_comments() -> None:
    known = {*SCHEMA["defaults"].__annotations__, *RegistryKeys.__annotations__}
    migrated = made(ENABLE_MANIFEST_CACHE="true", ALLOW_PUSH="true", AUTH_REGISTRIES="gcr.io:u:p")
    for name in ("tags", "tag_ttl", "tag_rules", "auth", "share", "allow_push"):
        lines = [line for line in migrated.toml.splitlines() if line.lstrip("#").startswith(f"{name} = ")]
        assert lines
        assert all(line.startswith("#") == (name not in known) for line in lines)


@pytest.mark.parametrize(
    "name",
    [
        "DISABLE_IPV6",
        "DEBUG",
        "DEBUG_HUB",
        "DEBUG_NGINX",
        "PROXY_REQUEST_BUFFERING",
        "ALLOW_OWN_AUTH",
        "SLICE_SIZE",
    ],
)
def test_what_has_no_equivalent_is_said_with_the_reason(name: str) -> None:
    (note,) = notes(made(**{name: "yes"}), name)
    assert note.startswith(f"{name}: no equivalent: ")


def test_variables_of_others_are_said() -> None:
    assert notes(made(REGISTRIES="", REGISTRY="typo"), "REGISTRY: ")


def test_directories_are_said() -> None:
    mounts = {"/docker_mirror_cache": "/data/mirror", "/ca": "/data/ca"}
    migrated = migrate(Variables({}, mounts), CREDENTIALS)
    assert "/data/mirror" in notes(migrated, "cache")[0]
    assert "openssl rsa -passin pass:foobar -in /data/ca/ca.key" in notes(migrated, "CA")[0]


@given(
    st.dictionaries(
        st.sampled_from([*predecessor.DEFAULTS, *predecessor.WITHOUT]),
        st.one_of(st.text(), st.sampled_from(["true", "false", "10m", "1g"])),
    )
)
def test_whatever_is_set_makes_a_configuration(values: dict[str, str]) -> None:
    made(**values)


@pytest.mark.parametrize(
    ("value", "size"),
    [("32g", "32GiB"), ("512M", "512MiB"), ("100k", "100KiB"), ("1000", "1000B"), ("32gb", None), ("", None)],
)
def test_sizes(value: str, size: str | None) -> None:
    assert size_of(value) == size


@pytest.mark.parametrize(
    ("value", "duration"),
    [
        ("10m", "10m"),
        ("60d", "60d"),
        ("1y", "365d"),
        ("1M", "30d"),
        ("2w", "14d"),
        ("90", "90s"),
        ("1h 30m", "90m"),
        ("any 1m", "1m"),
        ("200 302 10m", "10m"),
        ("100ms", "100ms"),
        ("", None),
        ("soon", None),
        ("10 m x", None),
    ],
)
def test_durations(value: str, duration: str | None) -> None:
    assert duration_of(value) == duration


@pytest.mark.parametrize(
    ("fragment", "globs"),
    [
        ("(stable|test)", ["*:stable*", "*:test*"]),
        ("latest$", ["*:latest"]),
        ("v1\\.2", ["*:v1.2*"]),
        ("(.*)", ["*:*"]),
        (".*nightly", ["*:*nightly*"]),
        ("a.c", ["*:a?c*"]),
        ("[a-z]+", None),
        ("(a|b)c", None),
        ("(?i)x", None),
    ],
)
def test_patterns(fragment: str, globs: list[str] | None) -> None:
    assert globs_of(fragment) == globs


# -- where the variables stand


COMPOSE = """
version: '3.7'
services:
  other:
    image: nginx
    environment: {REGISTRIES: "wrong.example"}
  proxy:
    image: rpardini/docker-registry-proxy:0.6.5
    env_file: [./secrets.env]
    environment:
      - CACHE_MAX_SIZE=256g
      - ENABLE_MANIFEST_CACHE=true
    volumes:
      - /data/mirror:/docker_mirror_cache
      - {type: bind, source: /data/ca, target: /ca}
    ports:
      - 10.0.0.1:8128:3128
"""

INSPECT = [
    {
        "Config": {
            "Image": "rpardini/docker-registry-proxy:0.6.5",
            "Env": ["REGISTRIES=quay.io nvcr.io", "PATH=/usr/bin", "CACHE_MAX_SIZE=1g", "NGINX_VERSION=1"],
        },
        "HostConfig": {"PortBindings": {"3128/tcp": [{"HostIp": "", "HostPort": "4128"}]}},
        "Mounts": [{"Source": "/data/mirror", "Destination": "/docker_mirror_cache"}],
    }
]

RUN = """#!/bin/sh
docker run --rm --name docker_registry_proxy -it \\
       -p 0.0.0.0:3128:3128 -e ENABLE_MANIFEST_CACHE=true \\
       -v /data/mirror:/docker_mirror_cache --volume=/data/ca:/ca \\
       --env REGISTRIES="k8s.gcr.io my.own.registry" -eCACHE_MAX_SIZE=64g \\
       -e AUTH_REGISTRIES='auth.docker.io:user:pa$$word' \\
       rpardini/docker-registry-proxy:0.6.2
"""

DEEPOPS = """---
nginx_docker_cache_image: "rpardini/docker-registry-proxy:0.7.0"
nginx_docker_cache_registry_string: "quay.io nvcr.io"
nginx_docker_cache_manifests: true
nginx_docker_cache_ca: {crt: ca.crt, key: ca.key}
slurm_enable_nginx_docker_cache: true
"""


def test_compose() -> None:
    found = check(read_variables(COMPOSE, ".yml"))
    assert found.values == {"CACHE_MAX_SIZE": "256g", "ENABLE_MANIFEST_CACHE": "true"}
    assert found.mounts == {"/docker_mirror_cache": "/data/mirror", "/ca": "/data/ca"}
    assert found.listen == "tcp:8128:interface=10.0.0.1"
    assert found.env_files == ("./secrets.env",)


def test_docker_inspect() -> None:
    found = check(read_variables(json.dumps(INSPECT)))
    assert found.values == {"REGISTRIES": "quay.io nvcr.io", "CACHE_MAX_SIZE": "1g"}
    assert found.mounts == {"/docker_mirror_cache": "/data/mirror"}
    assert found.listen == "dual:4128"


def test_docker_run() -> None:
    found = check(read_variables(RUN))
    assert found.values == {
        "ENABLE_MANIFEST_CACHE": "true",
        "REGISTRIES": "k8s.gcr.io my.own.registry",
        "CACHE_MAX_SIZE": "64g",
        "AUTH_REGISTRIES": "auth.docker.io:user:pa$$word",
    }
    assert found.mounts == {"/docker_mirror_cache": "/data/mirror", "/ca": "/data/ca"}
    assert found.listen is None


def test_deepops() -> None:
    found = check(read_variables(DEEPOPS, ".yml"))
    assert found.values == {
        "REGISTRIES": "quay.io nvcr.io",
        "ENABLE_MANIFEST_CACHE": "true",
        "MANIFEST_CACHE_DEFAULT_TIME": "1h",
    }
    assert found.mounts["/ca"] == "/opt/deepops/nginx-docker-cache/ca"
    assert [note.split()[0] for note in found.notes] == ["nginx_docker_cache_ca", "nginx_docker_cache_image"]


def test_env_files() -> None:
    found = read_variables(
        "# comment\n\nexport REGISTRIES='quay.io nvcr.io'\nCACHE_MAX_SIZE=\"1g\"\nDEBUG\nA==b\n"
    )
    assert found.values == {"REGISTRIES": "quay.io nvcr.io", "CACHE_MAX_SIZE": "1g", "A": "=b"}


def test_the_environment_of_others_is_left_alone() -> None:
    found = of_environment({"REGISTRIES": "quay.io", "PATH": "/bin", "HTTPS_PROXY": "http://user:pw@x"})
    assert found.values == {"REGISTRIES": "quay.io"}


@pytest.mark.parametrize(
    ("source", "suffix", "said"),
    [
        ("", "", "no variable of docker-registry-proxy"),
        ("PATH=/bin", "", "no variable of docker-registry-proxy"),
        ("hunter2 is not", "", "line 1 is not NAME=VALUE"),
        ("A=b\nhunter2\x00", "", "line 2 is not NAME=VALUE"),
        ("{hunter2", "", "begins like JSON and is none"),
        ("[" * 100000, "", "begins like JSON and is none"),
        ("[]", "", "neither docker compose's services"),
        ('{"a": {"hunter2": 1}}', "", "neither docker compose's services"),
        ("services: [", ".yml", "not YAML that can be read (line"),
        ("a: !!python/object/apply:os.system ['true']", ".yml", "not YAML that can be read"),
        ("services: {}", ".yml", "of 0 services, none"),
        (
            "services: {a: {image: x/docker-registry-proxy}, b: {image: docker-registry-proxy}}",
            ".yml",
            "2 could be",
        ),
        ("- a", ".yml", "neither docker compose's services"),
        ("REGISTRIES=${REGISTRIES}", "", "refers to something else"),
        ('nginx_docker_cache_registry_string: "{{ registries }}"', ".yml", "refers to something else"),
        ("docker run -e 'REGISTRIES=hunter2", "", "quotes"),
        ("docker run", "", "no variable of docker-registry-proxy"),
    ],
)
def test_garbage(source: str, suffix: str, said: str) -> None:
    with pytest.raises(NotVariables) as caught:
        check(read_variables(source, suffix))
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


@given(st.text(), st.sampled_from(["", ".yml", ".env", ".json"]))
def test_any_text_is_read_or_refused(source: str, suffix: str) -> None:
    with suppress(NotVariables):
        migrate(check(read_variables(source, suffix)), CREDENTIALS)


def test_without_pyyaml_yaml_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(NotVariables, match="python3-yaml"):
        read_variables(DEEPOPS, ".yml")


# -- the command


def run(*arguments: str | Path, stdin: str | bytes = "", **environment: str) -> Result:
    return CliRunner().invoke(regcachctl, ["import-env", *map(str, arguments)], input=stdin, env=environment)


def test_the_command_writes_configuration_and_passwords(tmp_path: Path) -> None:
    (tmp_path / "secrets.env").write_text("AUTH_REGISTRIES=auth.docker.io:me:hunter2\nREGISTRIES=quay.io\n")
    (tmp_path / "docker-compose.yml").write_text(COMPOSE)
    output, credentials = tmp_path / "regcachd.toml", tmp_path / "new" / "credentials"
    ran = run(tmp_path / "docker-compose.yml", "-o", output, "--credentials", credentials)
    assert ran.exit_code == 0, ran.output
    config = parse_config([("regcachd.toml", output.read_text())])
    assert list(config.registries) == ["docker.io", "quay.io"]
    assert config.listen == ("tcp:8128:interface=10.0.0.1",)
    assert config.store.max_size == Size(bytes=256 * 2**30)
    assert (credentials / "docker.io").read_text() == "hunter2\n"
    assert (credentials / "docker.io").stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in output.read_text() + ran.output
    assert str(credentials / "docker.io") in ran.output


def test_the_command_reads_the_environment_and_standard_input(tmp_path: Path) -> None:
    for ran in (run(REGISTRIES="quay.io"), run("-", stdin="REGISTRIES=quay.io\n")):
        assert ran.exit_code == 0, ran.output
        assert '[registries."quay.io"]' in ran.output


@pytest.mark.parametrize("existing", ["regcachd.toml", "credentials/docker.io"])
def test_the_command_overwrites_nothing(tmp_path: Path, existing: str) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / existing).write_text("precious")
    ran = run(
        "-o",
        tmp_path / "regcachd.toml",
        "--credentials",
        tmp_path / "credentials",
        AUTH_REGISTRIES="auth.docker.io:me:hunter2 quay.io:me:hunter2",
    )
    assert ran.exit_code == 2
    assert f"{tmp_path / existing} exists, and nothing was written" in ran.output
    assert (tmp_path / existing).read_text() == "precious"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [Path(existing).name]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00", "not a text in UTF-8"),
        (b"A" * 2_000_000, "larger than"),
        (b"hunter2 =", "line 1 is not NAME=VALUE"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "source").write_bytes(content)
    ran = run(tmp_path / "source")
    assert ran.exit_code == 2
    assert said in ran.output
    assert "hunter2" not in ran.output
    assert run(tmp_path / "nowhere").exit_code == 2
    assert run(tmp_path).exit_code == 2
