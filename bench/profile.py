"""Where regcachd's time goes: a load on it alone, under cProfile.

cProfile makes every Python call dearer, so it says which functions matter, not how long they take.
"""

import pstats
from collections.abc import Sequence
from pathlib import Path

SHOWN = 25


def report(parts: Sequence[Path], whole: Path) -> None:
    """Put the profiles together into the file `whole`, and print the functions with the most time of their own, then
    those with the most time altogether."""
    statistics = pstats.Stats(*map(str, parts))
    statistics.dump_stats(whole)
    statistics.strip_dirs()
    statistics.sort_stats("tottime").print_stats(SHOWN)
    statistics.sort_stats("cumulative").print_stats(SHOWN)
