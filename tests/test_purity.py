"""Pure modules decide without a reactor, sockets, OpenSSL or a database: importing them loads none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import regcachd

PURE = [
    "reference",
    "routes",
    "challenge",
    "freshness",
    "ranges",
    "connect",
    "intercept",
    "access",
    "sharing",
    "config",
    "lru",
    "extents",
    "parallel",
    "patience",
    "interfaces",
    "kinds",
    "realm",
    "tokens",
    "parent",
    "breaker",
    "tag_rules",
    "governor",
    "imagename",
    "finding",
    "verdicts",
    "reload",
    "pulse",
    "mirror",
    "addressing",
    "destination",
    "web_links",
]
"""Those of the design; a module is tested from the moment it exists."""

IMPURE = {"twisted.internet.reactor", "OpenSSL", "sqlite3", "ssl", "socket"}

PACKAGE = Path(regcachd.__file__).parent
PRESENT = [name for name in PURE if (PACKAGE / f"{name}.py").exists()]

SCRIPT = """
import sys
at_start = set(sys.modules)  # an environment's .pth files may import anything
import regcachd.{}
print(*set(sys.modules) - at_start, sep="\\n")
"""


@pytest.mark.parametrize("name", PRESENT)
def test_importing_a_pure_module_loads_nothing_impure(name: str) -> None:
    script = SCRIPT.format(name)
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert f"regcachd.{name}" in loaded
    assert not loaded & IMPURE
