"""dockerconfig.py: what a config.json says of a registry, in all the ways in which that is written."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.dockerconfig import (
    HUB,
    Credential,
    Entry,
    Program,
    RegistryToken,
    find_entry,
    names_of,
    read_program,
)
from regcachd.interfaces import AuthFailed, Home
from regcachd.tokens import IdentityToken, Login

HUB_HOME = Home("docker.io", "https", "registry-1.docker.io", 443)
QUAY = Home("quay.io", "https", "quay.io", 443)
LAB = Home("lab", "https", "registry.lab.example", 5000)

ADA = {"auth": base64.b64encode(b"ada:pass:word").decode()}
ADAS = Login("ada", "pass:word")


def entry(home: Home, **config: Any) -> Entry:
    return find_entry(json.dumps(config), home)


@pytest.mark.parametrize(
    ("key", "home"),
    [
        ("quay.io", QUAY),
        ("https://quay.io", QUAY),
        ("https://quay.io/", QUAY),
        ("http://quay.io", QUAY),
        ("https://quay.io/v1/", QUAY),
        ("quay.io/v2", QUAY),
        ("QUAY.io", QUAY),
        ("quay.io:443", QUAY),
        ("registry.lab.example:5000", LAB),
        ("https://registry.lab.example:5000/v1/", LAB),
        (HUB, HUB_HOME),
        ("index.docker.io", HUB_HOME),
        ("docker.io", HUB_HOME),
        ("registry-1.docker.io", HUB_HOME),
        ("[fd00::1]:5000", Home("six", "https", "fd00::1", 5000)),
    ],
)
def test_a_registry_is_found_under_every_name_that_programs_write(key: str, home: Home) -> None:
    assert entry(home, auths={key: ADA}) == Entry((), ADAS)


@pytest.mark.parametrize(
    ("key", "home"),
    [
        ("quay.io/team", QUAY),  # of containers-auth.json: for a part of the registry only
        ("quay.io.example", QUAY),
        ("docker.io", QUAY),
        ("quay.io:5000", QUAY),
        ("registry.lab.example", LAB),
        ("lab", LAB),  # its name here, but not where it is
        ("docker.io", Home("docker.io", "https", "mirror.example", 443)),
        ("", QUAY),
        ("https://", QUAY),
    ],
)
def test_what_is_for_another_host_is_not_used(key: str, home: Home) -> None:
    assert entry(home, auths={key: ADA}) == Entry((), None)


def test_the_hosts_own_name_counts_before_its_name_with_a_port() -> None:
    other = {"username": "grace", "password": "p"}
    assert entry(QUAY, auths={"quay.io:443": other, "quay.io": ADA}).held == ADAS
    assert names_of(LAB) == ("registry.lab.example:5000",)


@pytest.mark.parametrize(
    ("auth", "held"),
    [
        (ADA, ADAS),
        ({"username": "ada", "password": "pass:word"}, ADAS),
        ({"auth": base64.b64encode(b"ada:pass:word\0\0").decode()}, ADAS),
        ({"auth": base64.b64encode(b"ada:").decode()}, Login("ada", "")),
        ({**ADA, "identitytoken": "i-t"}, IdentityToken("i-t")),
        ({**ADA, "identitytoken": "i-t", "registrytoken": "r-t"}, RegistryToken("r-t")),
        ({}, None),
        ({"auth": ""}, None),
        ({"username": "ada"}, None),
        ({"identitytoken": 7}, None),
        ("ada", None),
        (None, None),
    ],
)
def test_what_an_entry_holds(auth: object, held: Credential | None) -> None:
    assert entry(QUAY, auths={"quay.io": auth}).held == held


def test_a_program_for_the_host_comes_before_the_one_for_all_and_both_before_the_file() -> None:
    found = entry(QUAY, auths={"quay.io": ADA}, credsStore="pass", credHelpers={"quay.io": "quay-login"})
    assert found == Entry((Program("quay-login", "quay.io"), Program("pass", "quay.io")), ADAS)


def test_one_program_is_asked_once() -> None:
    found = entry(QUAY, credsStore="pass", credHelpers={"quay.io": "pass"})
    assert found.programs == (Program("pass", "quay.io"),)


@pytest.mark.parametrize(
    ("home", "auths", "server"),
    [
        (QUAY, {}, "quay.io"),
        (QUAY, {"https://quay.io": {}}, "https://quay.io"),
        (LAB, {}, "registry.lab.example:5000"),
        (HUB_HOME, {}, HUB),
        (HUB_HOME, {HUB: {}}, HUB),
        (HUB_HOME, {"docker.io": {}}, "docker.io"),
    ],
)
def test_a_program_is_asked_for_what_was_given_to_docker_login(
    home: Home, auths: dict[str, Any], server: str
) -> None:
    assert entry(home, credsStore="pass", auths=auths).programs == (Program("pass", server),)


@pytest.mark.parametrize("home", [QUAY, LAB, HUB_HOME])
def test_another_hosts_program_is_not_asked(home: Home) -> None:
    assert entry(home, credHelpers={"gcr.io": "gcloud"}).programs == ()


@pytest.mark.parametrize(
    "name",
    ["../../tmp/x", "a/b", "/bin/sh", "..", "-x", ".hidden", "a b", "a\n", "", 7, ["pass"], "é", "x" * 101],
)
def test_a_programs_name_cannot_lead_anywhere(name: object) -> None:
    if not name:
        assert entry(QUAY, credsStore=name).programs == ()
        return
    for config in ({"credsStore": name}, {"credHelpers": {"quay.io": name}}):
        with pytest.raises(AuthFailed, match="program that cannot be one"):
            find_entry(json.dumps(config), QUAY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        '["hunter2"]',
        '{"auths": ["hunter2"]}',
        '{"credHelpers": "hunter2"}',
        '{"auths": {"quay.io": {"auth": "hunter2!"}}}',
        '{"auths": {"quay.io": {"auth": "aHVudGVyMg=="}}}',
        '{"auths": {"quay.io": {"auth": "/////w=="}}}',
        '{"auths": {"quay.io": {"auth": ["hunter2"]}}}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_none_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(AuthFailed) as caught:
        find_entry(text, QUAY)
    assert "config" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@given(st.text())
def test_any_text_is_an_entry_or_refused(text: str) -> None:
    try:
        find_entry(text, QUAY)
    except AuthFailed:
        return


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)
    )
)
def test_any_json_is_an_entry_or_refused(value: object) -> None:
    for text in (
        json.dumps({"auths": value, "credsStore": value}),
        json.dumps({"auths": {"quay.io": value}, "credHelpers": {"quay.io": value}}),
    ):
        try:
            find_entry(text, QUAY)
        except AuthFailed:
            continue


@pytest.mark.parametrize(
    ("output", "credential"),
    [
        (b'{"ServerURL":"quay.io","Username":"ada","Secret":"s"}\n', Login("ada", "s")),
        (b'{"Username":"<token>","Secret":"s"}', IdentityToken("s")),
        (b'{"ServerURL":"quay.io","Username":"","Secret":""}', None),
    ],
)
def test_what_a_program_prints(output: bytes, credential: Credential | None) -> None:
    assert read_program(output) == credential


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"hunter2",
        b'"hunter2"',
        b'{"Secret":"hunter2"}',
        b'{"Username":1,"Secret":2}',
        b"\xff",
        b"[" * 99999,
    ],
)
def test_what_no_program_should_print(output: bytes) -> None:
    with pytest.raises(AuthFailed, match="Username and Secret") as caught:
        read_program(output)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        Login("ada", "hunter2"),
        IdentityToken("hunter2"),
        RegistryToken("hunter2"),
        Entry((), Login("ada", "hunter2")),
    ],
)
def test_credentials_are_not_shown(value: object) -> None:
    assert "hunter2" not in repr(value)
