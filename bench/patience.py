"""Cases: a thousand clients who take their time."""

import itertools
import time
from functools import partial

from bench.blobs import fill
from bench.crowd import crowd
from bench.origin import MIB, origin
from bench.processes import BenchError, most_memory
from bench.rounds import Case, Family
from bench.servers import Settings, Target

CLIENTS = 1000
SIZE = 1024 * MIB
SECONDS = 5
"""How long they read at least; in each second every one of them takes SIP bytes."""
LONGEST = 45
"""Seconds in which all of them must have got something."""
SIP = 64 * 1024
RECEIVE_BUFFER = 256 * 1024
"""Bytes in the kernel for each: little, but some of the loopback's packets, which are of 64 KiB."""


def families() -> list[Family]:
    """The family of this module."""
    name = f"cached 1 GiB blob, {CLIENTS} slow clients"
    return [
        Family(
            (Case(((name, "MiB of memory"),), fill, _memory),),
            partial(origin, sizes=[SIZE]),
            # with 256k buffers, which are good for its throughput, nginx would need a quarter of a gigabyte more
            Settings(output_buffers="2 32k"),
            rounds=1,
        )
    ]


def _memory(target: Target) -> tuple[float, ...]:
    """The most resident memory of the worker while all clients are being served."""
    blob = target.origin.blobs[0]
    buffer = memoryview(bytearray(16 * 1024))
    most = 0.0
    with crowd(target, blob, CLIENTS, RECEIVE_BUFFER) as members:
        for member in members:
            member.ask(blob.path)
        for second in itertools.count(1):
            next_second = time.monotonic() + 1
            for member in members:
                member.take(SIP, buffer)
            most = max(most, most_memory(target.pids))
            waiting = sum(not member.at for member in members)
            if second >= SECONDS and not waiting:
                return (most,)
            if second >= LONGEST:
                break
            time.sleep(max(0, next_second - time.monotonic()))
    raise BenchError(f"{target.name} has sent nothing to {waiting} of {CLIENTS} slow clients in {LONGEST} s")
