"""The index at scale: hundreds of thousands of blobs cost neither time at the start, nor at a lookup, nor memory.

`python -m pytest tests/test_index_scale.py --index-rows 1000000` does it with as many as are wanted.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

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


class Effort:
    """How many of SQLite's instructions calls take: what does not depend on what else the machine does."""

    def __init__(self, index: Index) -> None:
        self.most = 0
        self._steps = 0
        assert index._db._db is not None
        index._db._db.set_progress_handler(self._step, 10)

    def _step(self) -> int:
        self._steps += 10
        return 0

    def of(self, name: str, calls: list[Callable[[], object]]) -> int:
        """The instructions of the longest of these calls; prints their times, for whoever reads with -s."""
        times, steps = [], []
        for call in calls:
            self._steps, began = 0, time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
            steps.append(self._steps)
        print(f"{name}: {1e6 * median(times):.0f} us, {max(steps)} instructions at most")
        return max(steps)


def test_a_call_costs_the_same_however_many_there_are(large: tuple[Path, int]) -> None:
    """No look-up, no addition, no removal walks through the rows."""
    path, rows = large
    index = Index(path)
    began = time.perf_counter()
    index.open()
    print(f"{rows} rows: opened in {1e3 * (time.perf_counter() - began):.1f} ms")
    chosen = random.Random(1)
    some = [digest_of(chosen.randrange(2 * rows)) for _ in range(2000)]
    effort = Effort(index)
    assert effort.of("look up", [lambda each=each: index.media_type(each) for each in some]) < 100  # type: ignore[misc]
    assert effort.of("add", [lambda each=each: index.add(each, 1000, None, NOW) for each in some]) < 200  # type: ignore[misc]
    assert effort.of("remove", [lambda each=each: index.remove([each]) for each in some]) < 200  # type: ignore[misc]
    assert effort.of("totals", [index.totals] * 10) < 100
    assert effort.of("oldest use", [index.oldest_use] * 10) < 100
    assert effort.of("next to evict", [lambda: index.least_recently_used(100)] * 10) < 2000
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
