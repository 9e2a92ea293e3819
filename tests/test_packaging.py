"""What Debian's tools are given can be read; that it does what it should is for `make test-package`."""

import ast
import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TREE = Path(__file__).parent.parent
DEBIAN = TREE / "debian"
UNITS = [*sorted(DEBIAN.glob("regcachd.regcachd-ca.*")), DEBIAN / "regcachd.service"]
SHELL = sorted(
    [DEBIAN / "regcachd.postinst", DEBIAN / "regcachd.postrm"]
    + [path for path in (TREE / "scripts").iterdir() if path.read_bytes().startswith(b"#!/bin/sh")]
)
PYTHON = [
    DEBIAN / "tests/machine.py",
    DEBIAN / "tests/nodes",
    DEBIAN / "tests/service",
    TREE / "scripts/man-pages",
]
PLAYBOOKS = sorted((TREE / "deploy/ansible").rglob("*.yml"))


def paragraphs(file: Path) -> list[dict[str, str]]:
    """A file of Debian's, as deb822(5) has it."""
    found = []
    for text in re.split(r"\n\s*\n", file.read_text().strip()):
        fields = re.findall(r"^([A-Za-z-]+):((?:.*(?:\n[ \t].*)*))", text, re.MULTILINE)
        assert fields, text
        found.append({name: value.strip() for name, value in fields})
    return found


def test_both_packages_are_there_with_what_they_need() -> None:
    source, server, client = paragraphs(DEBIAN / "control")
    assert (source["Source"], server["Package"], client["Package"]) == (
        "regcachd",
        "regcachd",
        "regcachd-client",
    )
    for package in (server, client):
        assert "${python3:Depends}" in package["Depends"]
        assert not package["Description"].splitlines()[0].endswith(".")


def test_every_file_that_a_package_lists_is_there_or_is_made() -> None:
    made = re.compile(r"build/|usr/|etc/regcachd|debian/tmp")
    for listing in [*DEBIAN.glob("*.install"), *DEBIAN.glob("*.docs")]:
        for line in filter(None, listing.read_text().splitlines()):
            source = line.split()[0]
            assert made.match(source) or list(TREE.glob(source)), f"{listing.name}: {line}"


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_has_no_key_twice_but_those_that_are_lists(unit: Path) -> None:
    lists = {"ExecStartPre", "ExecReload", "SystemCallFilter", "Environment"}
    seen: set[tuple[str, str]] = set()
    section = ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif line and not line.startswith("#"):
            key = line.partition("=")[0]
            assert key in lists or (section, key) not in seen, key
            seen.add((section, key))
    assert configparser.ConfigParser(strict=False, interpolation=None).read(unit)


def test_the_service_reloads_as_root_makes_the_certificate_first() -> None:
    lines = (DEBIAN / "regcachd.service").read_text().splitlines()
    made = "-+/usr/bin/python3 -I -m regcachd.rootkey --group regcachd"
    assert [line for line in lines if line.startswith(("ExecStartPre=", "ExecReload="))] == [
        f"ExecStartPre={made}",
        f"ExecReload={made}",
        "ExecReload=/usr/bin/regcachctl reload",
    ]


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_a_shell_script_parses(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize("script", PYTHON, ids=lambda path: path.name)
def test_a_python_script_parses(script: Path) -> None:
    ast.parse(script.read_text())


@pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="apparmor is not installed")
def test_the_apparmor_profile_parses() -> None:
    subprocess.run(["apparmor_parser", "-QK", DEBIAN / "apparmor/regcachd"], check=True)


@pytest.mark.parametrize(
    "playbook", PLAYBOOKS, ids=lambda path: str(path.relative_to(TREE / "deploy/ansible"))
)
def test_a_playbook_is_yaml(playbook: Path) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(playbook.read_text())


def test_every_variable_of_the_roles_has_a_default() -> None:
    for role in (TREE / "deploy/ansible/roles").iterdir():
        text = "".join(path.read_text() for path in role.rglob("*") if path.suffix in (".yml", ".j2"))
        defaults = (role / "defaults/main.yml").read_text()
        known = set(re.findall(r"^([a-z_]+):", defaults, re.MULTILINE))
        known |= set(re.findall(r"register: ([a-z_]+)", text)) | set(
            re.findall(r"^ +([a-z_]+):", text, re.MULTILINE)
        )
        assert set(re.findall(rf"\b({role.name}_[a-z_]+)", text)) <= known
