"""The manual pages leave nothing out."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from regcachd.cli.main import regcachctl
from regcachd.schema import SCHEMA
from regcachd.tap import Options
from regcachd.values import keys_of

TREE = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, TREE / "scripts" / "man-pages", made], check=True)
    return made


def _sections(page: str) -> dict[str, str]:
    """What is under each table of regcachd.toml(5); "" is what comes before the first."""
    first, *others = page.split("\n.SS ")
    sections = {"": first}
    for other in others:
        title, _, text = other.partition("\n")
        sections[title.replace("\\(dq", '"').replace("\\-", "-").strip("[]")] = text
    return sections


def test_every_key_of_the_configuration_is_in_its_page(pages: Path) -> None:
    sections = _sections((pages / "regcachd.toml.5").read_text())
    registries = "".join(text for title, text in sections.items() if title.startswith("registries"))
    for table, kind in SCHEMA.items():
        shown = registries if table.startswith("registries") else sections[table]
        for key in keys_of(kind):
            assert f"\\fB{key}\\fR = " in shown, f"{key} of [{table}]"


def _commands(command: click.Command, path: str = "") -> dict[str, click.Command]:
    found = {path.strip(): command}
    for name, below in getattr(command, "commands", {}).items():
        found |= _commands(below, f"{path} {name}")
    return found


def test_every_command_and_option_of_regcachctl_is_in_its_page(pages: Path) -> None:
    page = (pages / "regcachctl.1").read_text().replace("\\-", "-")
    first, *others = page.split("\n.SS ")
    sections = {"": first, **{text.splitlines()[0]: text for text in others}}
    for path, command in _commands(regcachctl).items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert max(parameter.opts, key=len) in sections[path]


def test_every_option_of_the_daemon_is_in_its_page(pages: Path) -> None:
    page = (pages / "regcachd.8").read_text().replace("\\-", "-")
    for option in Options().longOpt:
        assert f"--{option}" in page


def test_no_mark_of_a_source_is_left(pages: Path) -> None:
    for page in pages.iterdir():
        assert not re.search(r"^@|@[A-Z]+@", page.read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_a_page_is_understood_without_a_warning(pages: Path) -> None:
    """Lines that cannot be made exactly as long as the others are no mistake."""
    for page in pages.iterdir():
        command = ["groff", "-man", "-Tutf8", "-ww", "-Wbreak", "-z", str(page)]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        assert told.stderr == "", page.name


def test_the_package_has_the_version_of_the_daemon() -> None:
    from regcachd import __version__

    assert (TREE / "debian" / "changelog").read_text().startswith(f"regcachd ({__version__}")
