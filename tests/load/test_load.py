"""A short random load; `make soak` is the long one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.load.soak import Soak, is_well, report

pytestmark = pytest.mark.e2e


def test_under_random_load_nothing_is_wrong_lost_or_leaked() -> None:
    """Twenty seconds of pulls, aborts, faults, kills, evictions and restarts; the table is in the message."""
    directory = Path(tempfile.mkdtemp(prefix="regcachd-load-"))
    soak = Soak(seconds=20, seed=1, directory=directory)
    try:
        soak.run()
        assert is_well(soak), f"\n{report(soak)}"
    finally:
        shutil.rmtree(directory)
