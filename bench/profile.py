"""Where regcachd's time goes: a load on it alone, under cProfile.

cProfile makes every Python call dearer, so it says which functions matter, not how long they take.
"""

import pstats
from pathlib import Path

SHOWN = 25


def report(path: Path) -> None:
    """Print the functions with the most time of their own, then those with the most time altogether."""
    statistics = pstats.Stats(str(path)).strip_dirs()
    statistics.sort_stats("tottime").print_stats(SHOWN)
    statistics.sort_stats("cumulative").print_stats(SHOWN)
