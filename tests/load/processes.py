"""Descriptors and memory of processes, from /proc (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import frozen


@frozen
class Held:
    """What one process holds. Sizes are in MiB."""

    store: int
    """Descriptors of blobs and partials."""
    clients: int
    """Connections of clients."""
    upstream: int
    """Connections to the registry, idle ones for a minute."""
    others: tuple[str, ...]
    """What all other descriptors lead to."""
    memory: float

    @property
    def other(self) -> int:
        """How many they are."""
        return len(self.others)


def held(pid: int, store: Path, port: int, upstream: int) -> Held:
    """Look at a process that serves on `port`, asks at the port `upstream`, and keeps its files in `store`."""
    connections = _connections()
    found = {"store": 0, "clients": 0, "upstream": 0}
    others = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:
            continue  # closed meanwhile
        local, remote = connections.get(target, (0, 0))
        if target.startswith((f"{store}/blobs/", f"{store}/partial/")):
            found["store"] += 1
        elif remote == upstream:
            found["upstream"] += 1
        elif local == port and remote:
            found["clients"] += 1
        else:
            others.append(target if not remote else f"{target} from port {local} to {remote}")
    return Held(others=tuple(sorted(others)), memory=memory(pid), **found)


def memory(pid: int) -> float:
    """Resident memory in MiB; 0 of a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024 if "VmRSS:" in status else 0.0


def children(pid: int) -> list[int]:
    """The child processes, oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _connections() -> dict[str, tuple[int, int]]:
    """Local and remote port of every TCP socket, by what its descriptor links to; a remote port of 0 listens."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            ports = [int(address.rpartition(":")[2], 16) for address in fields[1:3]]
            found[f"socket:[{fields[9]}]"] = (ports[0], ports[1])
    return found
