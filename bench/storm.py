"""Cases: a storm. All nodes of a cluster pull one image at the same moment, and then once more what is small of it."""

import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

from attrs import frozen

from bench.blobs import GIB
from bench.nodes import Node, pull_together, trusting
from bench.origin import IMAGE, MIB, TAG, origin
from bench.processes import BenchError, cpu_seconds, most_memory
from bench.rounds import Case, Family, nothing
from bench.servers import REGISTRY, Settings, Target
from bench.wire import Front

NODES = 500
LAYERS = 8
FULL, QUICK = 300, 30
"""Sizes of the image in MB. A hundred times a gigabyte and a half goes through the loopback for the full one."""
PROCESSES = 4
THOROUGH = 25
"""One node in so many checks the digests of the layers, too."""
SMALL = 6
"""Requests of a node before it comes to layers."""
REVALIDATED = 5.0
"""Seconds for which what a tag names counts: regcachd's default."""
LEAD = 1.0
"""Seconds in which the processes get ready."""
LOOK = 0.25


@frozen
class Pull:
    """How one node fared, in seconds."""

    whole: float
    first_byte: float


def families(pool: ProcessPoolExecutor, size: int) -> list[Family]:
    """The family of this module, with an image of `size` MB; its nodes run in `pool`."""
    who = f"storm, {NODES} nodes, new image of {size} MB"
    figures = (
        (f"{who}: asked of upstream", "requests"),
        (f"{who}: came from upstream", "MiB"),
        (f"{who}: whole pull, median node", "s"),
        (f"{who}: whole pull, 99 of 100 nodes", "s"),
        (f"{who}: first byte of a layer, median node", "s"),
        (f"{who}: first byte of a layer, 99 of 100 nodes", "s"),
        (who, "CPU s/GiB"),
        (f"{who}: largest process", "MiB of memory"),
    )
    again = f"storm, {NODES} nodes, what is small, each request on a new connection"
    sizes = [size * 1_000_000 // LAYERS] * LAYERS
    return [
        Family(
            (
                Case(figures, nothing, partial(_storm, pool)),
                Case(((again, "requests/CPU s"),), nothing, partial(_small, pool)),
            ),
            partial(origin, sizes=sizes, gated=True),
            # the challenge is not cached, and with a lock its answers would come one by one
            Settings(workers=2, nginx="proxy_cache_lock_timeout 880s;", passed="/v2/"),
            rounds=1,
        )
    ]


def _storm(pool: ProcessPoolExecutor, target: Target) -> tuple[float, ...]:
    """All pull at once; what that cost upstream, them and the server."""
    before, cpu = len(target.origin.requests()), cpu_seconds(target.pids)
    pulls, memory = _pull(pool, target, NODES, small=False)
    cpu = cpu_seconds(target.pids) - cpu
    asked = target.origin.requests()[before:]
    whole, first = sorted(pull.whole for pull in pulls), sorted(pull.first_byte for pull in pulls)
    if target.by_connect:
        _check(Counter((each.method, each.path) for each in asked), whole[-1])
    late = len(pulls) * 99 // 100 - 1
    sent = NODES * sum(blob.size for blob in target.origin.blobs) / GIB
    return (
        len(asked),
        sum(each.size for each in asked) / MIB,
        median(whole),
        whole[late],
        median(first),
        first[late],
        cpu / sent,
        memory,
    )


def _small(pool: ProcessPoolExecutor, target: Target) -> tuple[float, ...]:
    """The ping, a token, the tag, index, manifest and config, all cached, by every node."""
    _pull(pool, target, 1, small=True)
    cpu = cpu_seconds(target.pids)
    _pull(pool, target, NODES, small=True)
    return (NODES * SMALL / (cpu_seconds(target.pids) - cpu),)


def _check(asked: "Counter[tuple[str, str]]", seconds: float) -> None:
    """Was upstream asked for everything once, and once in an interval for the tag?"""
    intervals = 1 + int(seconds / REVALIDATED)
    often = {
        what: times
        for what, times in asked.items()
        if times > (intervals if what[1].endswith(f"/{TAG}") else 1)
    }
    if often or ("GET", "/v2/") not in asked:
        raise BenchError(f"upstream was asked too often: {often}")


def _pull(pool: ProcessPoolExecutor, target: Target, count: int, *, small: bool) -> tuple[list[Pull], float]:
    """So many nodes pull; how they fared, and the most memory of one of the server's processes meanwhile."""
    at, shares = time.time() + LEAD, [count * n // PROCESSES for n in range(PROCESSES + 1)]
    front = Front(target.port, REGISTRY, target.by_connect)
    futures = [
        pool.submit(pull, front, target.authority, range(first, last), at, small)
        for first, last in pairwise(shares)
    ]
    memory, waiting = 0.0, set(futures)
    while waiting:
        _, waiting = wait(waiting, LOOK)
        memory = max(memory, most_memory(target.pids))
    return [each for future in futures for each in future.result()], memory


def pull(front: Front, authority: Path, numbers: range, at: float, small: bool) -> list[Pull]:
    """What one process does. Raises BenchError when a node has failed."""
    context = trusting(authority)
    nodes = [
        Node(front, context, IMAGE, TAG, thorough=number % THOROUGH == 0, only_small=small)
        for number in numbers
    ]
    time.sleep(max(0.0, at - time.time()))
    pull_together(nodes)
    failed = [node for node in nodes if node.failure]
    if failed:
        raise BenchError(f"{len(failed)} of {len(nodes)} nodes have failed; the first: {failed[0].failure}")
    return [_fared(node) for node in nodes]


def _fared(node: Node) -> Pull:
    assert node.finished is not None
    return Pull(node.finished - node.began, (node.first_byte or node.finished) - node.began)
