"""The registry of a load, with random faults from SIGUSR2 to SIGUSR1: `python -m tests.load.upstream SEED DIRECTORY`.

It prints its URL. What it answers is otherwise right, its certificate included; DIRECTORY/ca.pem is whom to trust.
"""

from __future__ import annotations

import random
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react

from regcachd.reference import Digest
from regcachd.testing import (
    CloseAtAccept,
    CutAfter,
    FakeRegistry,
    Fault,
    IgnoreRange,
    NoContentLength,
    StallAfter,
    StallBeforeHeaders,
    Status,
    Throttle,
    WrongBytes,
)
from tests.load.content import REPOSITORY, blobs

INTERVAL = 0.4
"""Seconds between new faults."""
MOST_RULES = 8
HEAL, AIL = signal.SIGUSR1, signal.SIGUSR2
MIB = 1024 * 1024


def random_fault(source: random.Random) -> Fault:
    """Something that goes wrong, or just differently."""
    after = int(10 ** source.uniform(0, 7.5))
    faults: list[Fault] = [
        CutAfter(after),
        CutAfter(after, reset=True),
        StallAfter(after, source.uniform(0.1, 4)),  # longer than the daemon's patience, or not
        StallBeforeHeaders(source.uniform(0.1, 4)),
        Status(source.choice([429, 500, 502, 503])),
        IgnoreRange(),
        NoContentLength(),
        Throttle(source.uniform(8, 40) * MIB),
        CloseAtAccept(),
    ]
    return source.choice(faults)


async def serve(reactor: Any, seed: int, directory: Path) -> None:
    """Serve until the reactor stops."""
    source = random.Random(f"faults {seed}")
    registry = FakeRegistry(reactor, tls=True)
    content = blobs(seed)
    for blob in content:
        registry.add_blob(REPOSITORY, blob.data)
    registry.add_image(REPOSITORY, "latest", [content[0].data, content[1].data])
    registry.ca_file(directory / "ca.pem")
    poisoned = [Digest.parse(blob.digest) for blob in content if blob.poisoned]

    def misbehave() -> None:
        registry.fault("/blobs/", random_fault(source), times=source.randint(1, 3))
        if source.random() < 0.5:
            registry.fault(source.choice(poisoned), WrongBytes(source.randrange(1000)), times=1)
        for rule in registry.rules[:-MOST_RULES]:
            registry.heal(rule)
        registry.requests.clear()  # nobody asks, and it would only grow

    trouble = LoopingCall(misbehave)

    def heal() -> None:
        if trouble.running:
            trouble.stop()
        registry.heal()
        registry.release()

    def ail() -> None:
        if not trouble.running:
            trouble.start(INTERVAL)

    signal.signal(HEAL, lambda number, frame: reactor.callFromThread(heal))
    signal.signal(AIL, lambda number, frame: reactor.callFromThread(ail))
    await registry.start()
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(registry.stop()))
    print(registry.url, flush=True)
    await Deferred()


def main() -> None:
    """Run from the command line."""
    seed, directory = int(sys.argv[1]), Path(sys.argv[2])
    react(lambda reactor: Deferred.fromCoroutine(serve(reactor, seed, directory)))


if __name__ == "__main__":
    main()
