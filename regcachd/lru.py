"""How much the store must shrink, and what goes first: pure arithmetic."""

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

LOW_WATER = 0.95
"""Eviction goes down to this part of the limit, so that it does not run again for the next blob."""


def excess(stored: int, max_size: int, free: int, min_free: int) -> int:
    """Bytes to evict: 0 while the store is within `max_size` and the filesystem has `min_free` left.

    All are bytes. Over `max_size` the store shrinks to 95 % of it; under `min_free` by as much as is missing, and
    a little more for the same reason. Never more than is stored.
    """
    over = stored - int(max_size * LOW_WATER) if stored > max_size else 0
    missing = int(min_free / LOW_WATER) - free if free < min_free else 0
    return min(stored, max(over, missing))


def choose(candidates: Iterable[tuple[T, int]], need: int) -> list[T]:
    """The first of `candidates` (what, bytes; least recently used first) that together make up `need` bytes."""
    chosen: list[T] = []
    for what, size in candidates:
        if need <= 0:
            break
        chosen.append(what)
        need -= size
    return chosen
