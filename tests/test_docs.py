"""docs/: what people are told to write into the configuration can be read, and what they are told to expect is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from twisted.internet.error import ConnectionRefusedError, DNSLookupError, TimeoutError

import regcachd
from regcachd.authentication import find_plugins, kinds_of
from regcachd.aws import missing
from regcachd.config import parse_config
from regcachd.connect import Authority
from regcachd.imagename import ImageName
from regcachd.interfaces import Home
from regcachd.relay import HIT, IN_NEED, MISS, REVALIDATED, STALE
from regcachd.values import keys_of
from tests.canned_web import CannedWeb

ROOT = Path(__file__).parent.parent
REGISTRIES = (ROOT / "docs" / "registries.md").read_text()
OFFLINE = (ROOT / "docs" / "offline.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", REGISTRIES + OFFLINE, re.DOTALL)
CLOUDS = ("ecr", "google", "acr", "docker-config")


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_configuration_whose_keys_go_together(example: str) -> None:
    plugins = find_plugins()
    config = parse_config([("docs", example)], kinds_of(plugins))
    for name, registry in config.registries.items():
        if registry.auth is not None and (registry.auth.kind != "ecr" or missing() is None):
            home = Home(name, "https", name, 443)
            plugins[registry.auth.kind].authenticator(registry.auth.keys, home, CannedWeb(), None)


MIRRORS = (Path(__file__).parent.parent / "docs" / "mirror.md").read_text()
OURS = [
    text
    for text in re.findall(r"```toml\n(.*?)```", MIRRORS, re.DOTALL)
    if "registries." in text or "_tls" in text
]


@pytest.mark.parametrize("example", OURS)
def test_what_mirrors_need_is_a_configuration(example: str) -> None:
    assert len(OURS) == 3
    parse_config([("mirror.md", example)])


SECTIONS = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", REGISTRIES, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("title", "section"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_a_section_is_listed_and_says_how_to_check_it(title: str, section: str) -> None:
    anchor = re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
    assert f"](#{anchor})" in REGISTRIES
    assert "regcachctl check-upstream " in section


def test_the_images_to_check_with_are_names_of_images() -> None:
    checks = re.findall(r"`regcachctl check-upstream (\S+) (\S+?)`", REGISTRIES)
    assert len(checks) > 10
    for registry, image in checks:
        if image != "PROJECT/REPOSITORY/IMAGE:TAG":
            ImageName.parse(image)
        Authority.parse(registry, 443)


def test_every_step_of_a_checkup_is_explained() -> None:
    """Their names are those that findings have."""
    package = Path(regcachd.__file__).parent
    sources = "".join(
        (package / f"{name}.py").read_text() for name in ("checkup", "reachability", "sample", "verdicts")
    )
    steps = set(re.findall(r'(?:ok|warning|failure)\(\s*"([a-z]+)"', sources))
    assert len(steps) > 10
    assert {step for step in steps if f"`{step}`" not in REGISTRIES} == set()


@pytest.mark.parametrize("kind", CLOUDS)
def test_every_key_is_explained(kind: str) -> None:
    for key in keys_of(kinds_of(find_plugins())[kind]):
        assert re.search(rf"^{key} = |`{key}`", REGISTRIES, re.MULTILINE), key


# -- offline.md


def test_the_keys_that_matter_offline_have_the_defaults_that_are_told() -> None:
    told = dict(re.findall(r"^\| `([a-z_]+)` +\| ([a-z0-9]+) +\|", OFFLINE, re.MULTILINE))
    assert len(told) == 9
    explained = re.findall(
        r'^#([a-z_]+) = "(.*)"$', (ROOT / "etc" / "regcachd.toml").read_text(), re.MULTILINE
    )
    assert told.items() <= dict(explained).items()


def test_every_way_of_being_served_is_told_as_it_is() -> None:
    told = re.findall(r"^\| `(regcachd; .*?)`", OFFLINE, re.MULTILINE)
    assert told == [value.decode() for _, value in (HIT, REVALIDATED, STALE, IN_NEED, MISS)]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        DNSLookupError("no results for hostname lookup"),
    ],
)
def test_what_a_connection_fails_with_is_told_as_it_is(error: Exception) -> None:
    assert str(error).removesuffix(".") in OFFLINE
