"""Cases: HEAD of a cached manifest by digest, each on a connection of its own, as skopeo, podman and dockerd ask."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

from bench.clients import ask_for_manifest, get_manifest, trusting
from bench.processes import BenchError, cpu_seconds
from bench.rounds import Case
from bench.servers import Target

CLIENTS = 4
"""Client processes: enough to keep the server busy."""

EACH = 500
"""Connections each of them makes in a load, one after the other."""


@contextmanager
def client_processes() -> Iterator[ProcessPoolExecutor]:
    """The processes that the connections come from, started afresh and only once."""
    with ProcessPoolExecutor(CLIENTS, multiprocessing.get_context("spawn")) as pool:
        yield pool


def cases(pool: ProcessPoolExecutor) -> list[Case]:
    """The cases of this module; their clients run in `pool`."""
    kinds = (("full handshake", False), ("resumed session", True))
    return [
        Case(
            ((f"new connection, {kind}, HEAD of a cached manifest", "requests/CPU s"),),
            fill,
            partial(_load, pool, resume),
        )
        for kind, resume in kinds
    ]


def fill(target: Target) -> None:
    """Get the manifest into the cache."""
    get_manifest(target)
    ask_for_manifest(target, trusting(target))


def _load(pool: ProcessPoolExecutor, resume: bool, target: Target) -> tuple[float, ...]:
    """Requests per CPU second of the server."""
    cpu = cpu_seconds(target.pids)
    list(pool.map(ask_often, [target] * CLIENTS, [resume] * CLIENTS))
    return (CLIENTS * EACH / (cpu_seconds(target.pids) - cpu),)


def ask_often(target: Target, resume: bool) -> None:
    """What one client process does. Raises BenchError when an answer is not a hit, or a session not as it should be."""
    context = trusting(target)
    session = ask_for_manifest(target, context)[1] if resume else None
    for _ in range(EACH):
        resumed, _next = ask_for_manifest(target, context, session)
        if resumed != resume:
            raise BenchError(f"{target.name}: the session was{'' if resumed else ' not'} resumed")
