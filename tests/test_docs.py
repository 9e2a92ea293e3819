"""docs/: what people are told to write into the configuration can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regcachd.authentication import find_plugins, kinds_of
from regcachd.aws import missing
from regcachd.config import parse_config
from regcachd.interfaces import Home
from regcachd.values import keys_of
from tests.canned_web import CannedWeb

REGISTRIES = (Path(__file__).parent.parent / "docs" / "registries.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", REGISTRIES, re.DOTALL)
CLOUDS = ("ecr", "google", "acr", "docker-config")


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_configuration_whose_keys_go_together(example: str) -> None:
    plugins = find_plugins()
    config = parse_config([("registries.md", example)], kinds_of(plugins))
    for name, registry in config.registries.items():
        if registry.auth is not None and (registry.auth.kind != "ecr" or missing() is None):
            home = Home(name, "https", name, 443)
            plugins[registry.auth.kind].authenticator(registry.auth.keys, home, CannedWeb(), None)


@pytest.mark.parametrize("kind", CLOUDS)
def test_every_key_is_explained(kind: str) -> None:
    for key in keys_of(kinds_of(find_plugins())[kind]):
        assert re.search(rf"^{key} = |`{key}`", REGISTRIES, re.MULTILINE), key
