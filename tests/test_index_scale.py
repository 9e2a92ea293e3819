"""The index at scale: hundreds of thousands of blobs cost neither time at the start, nor at a lookup, nor memory.

`python -m pytest tests/test_index_scale.py --index-rows 1000000` does it with as many as are wanted.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

import pytest

from regcachd.index import Index
from regcachd.reference import Digest
from tests.stores import NOW

MIB = 1024 * 1024


def digest_of(number: int) -> Digest:
    """The digest of a blob that is only a number: spread as real ones are."""
    return Digest.of(str(number).encode())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, int]:
    """An index with many rows."""
    rows: int = request.config.getoption("--index-rows")
    path = tmp_path_factory.mktemp("large") / "index.sqlite3"
    index = Index(path)
    index.open()
    for start in range(0, rows, 100_000):
        index.adopt(
            (digest_of(number), 1000, NOW + number) for number in range(start, min(rows, start + 100_000))
        )
        index.checkpoint()
    index.close()
    return path, rows


def slowest(calls: list[Callable[[], object]]) -> float:
    """The time, in seconds, that 95 % of the calls stay under: one that the machine interrupts does not count."""
    times = []
    for call in calls:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return quantiles(times, n=20)[-1]


def test_lookups_take_less_than_a_millisecond(large: tuple[Path, int]) -> None:
    path, rows = large
    index = Index(path)
    began = time.perf_counter()
    index.open()
    assert time.perf_counter() - began < 1.0
    chosen = random.Random(1)
    some = [digest_of(chosen.randrange(2 * rows)) for _ in range(2000)]
    assert slowest([lambda each=each: index.media_type(each) for each in some]) < 0.001  # type: ignore[misc]
    assert slowest([lambda each=each: index.add(each, 1000, None, NOW) for each in some]) < 0.001  # type: ignore[misc]
    assert slowest([lambda each=each: index.remove([each]) for each in some]) < 0.001  # type: ignore[misc]
    assert slowest([index.totals] * 100) < 0.001
    assert slowest([index.oldest_use] * 100) < 0.001
    assert slowest([lambda: index.least_recently_used(100)] * 100) < 0.005
    for each in some:
        index.used(each, NOW)
    index.close()


MEMORY = """
import sys
from pathlib import Path
from regcachd.index import Index
from regcachd.reference import Digest
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
index = Index(Path(sys.argv[1]))
index.open()
for number in range(0, int(sys.argv[2]), 97):
    index.media_type(Digest.of(str(number).encode()))
    index.used(Digest.of(str(number).encode()), 1.0)
index.close()
print(resident() - before)
"""


def test_memory_does_not_grow_with_it(large: tuple[Path, int]) -> None:
    """Looking up thousands, all over it, takes SQLite's own small cache and no more."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(large[0]), str(large[1])],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert int(done.stdout) < 16 * MIB
