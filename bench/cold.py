"""Cases: blobs that are not in the cache yet."""

import time
from functools import partial
from statistics import median

from bench.blobs import GIB, get
from bench.crowd import crowd, download
from bench.origin import MIB, origin
from bench.processes import cpu_seconds
from bench.rounds import Case, Family, nothing
from bench.servers import Settings, Target

ROUNDS = 2
"""Rounds of what takes long because upstream is slow."""

CROWD = 64
SHARED_SIZE, SHARED_RATE = 32 * MIB, 4 * MIB

SLICED_SIZE, SLICED_RATE = 128 * MIB, 16 * MIB

FAST_SIZE = 256 * MIB


def families() -> list[Family]:
    """The families of this module."""
    # as docker-registry-proxy sets it; its proxy_cache_lock_age is nginx's default
    locked = Settings(nginx="proxy_cache_lock_timeout 880s;")
    fan_out = f"cold 32 MiB blob, {CROWD} clients, upstream at 4 MiB/s"
    figures = (
        (fan_out, "MiB from upstream"),
        (f"{fan_out}: first byte, median client", "s"),
        (f"{fan_out}: first byte, last client", "s"),
        (f"{fan_out}: last byte, last client", "s"),
    )
    slices = "cold 128 MiB blob, upstream at 16 MiB/s for each connection"
    fast = "cold 256 MiB blob, fast upstream"
    return [
        Family(
            (Case(figures, nothing, _fan_out),),
            partial(origin, sizes=[SHARED_SIZE] * ROUNDS, line_rate=SHARED_RATE),
            locked,
            rounds=ROUNDS,
        ),
        Family(
            (Case(((slices, "s"),), nothing, _time),),
            partial(origin, sizes=[SLICED_SIZE] * ROUNDS, rate=SLICED_RATE),
            Settings(),
            against=Settings(connections=1),
            called="1 connection",
            rounds=ROUNDS,
        ),
        Family(
            (Case(((fast, "CPU s/GiB"), (fast, "s")), nothing, _cpu),),
            partial(origin, sizes=[FAST_SIZE] * 5),
        ),
    ]


def _fan_out(target: Target) -> tuple[float, ...]:
    """What upstream has sent, and how long the clients have waited."""
    blob, line = target.origin.next_blob(target.name), target.origin.line
    assert line is not None
    before = line.count()
    with crowd(target, blob, CROWD) as members:
        start = download(members, blob.path)
    waited = [member.first_byte - start for member in members if member.first_byte is not None]
    last = max(member.finished - start for member in members if member.finished is not None)
    return (line.settled_count() - before) / MIB, median(waited), max(waited), last


def _time(target: Target) -> tuple[float, ...]:
    start = time.monotonic()
    get(target, target.origin.next_blob(target.name))
    return (time.monotonic() - start,)


def _cpu(target: Target) -> tuple[float, ...]:
    """CPU seconds per GiB, and seconds for the one client."""
    blob = target.origin.next_blob(target.name)
    cpu, start = cpu_seconds(target.pids), time.monotonic()
    get(target, blob)
    seconds = time.monotonic() - start
    time.sleep(0.3)  # what is done after the last byte counts: closing, renaming
    return (cpu_seconds(target.pids) - cpu) / (blob.size / GIB), seconds
