"""The course of a load: two parts, each followed by a rest, and the verdict.

In the first part anything happens: any worker is killed, the daemon is restarted. In the second, what it leaves behind
is measured: one worker lives through all of it, only the other is killed. What the living one holds is counted
before and after, both times when nobody asks for anything.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from tests.e2e.programs import ProgramError, Server, environment, wait_until
from tests.e2e.regcache import ROOT, Daemon
from tests.load.clients import Client, Tally
from tests.load.content import Blob, blobs
from tests.load.processes import Held, children, held, memory
from tests.load.storage import Shelf, examine
from tests.load.upstream import AIL, HEAL

CLIENTS = 10
WORKERS = 2
MAX_SIZE = 90 * 1024 * 1024
"""Bytes of the store: less than the blobs have."""
FIRST_PART = 0.6
RESTARTS = 2
KILL_EVERY = (2.0, 8.0)
"""Seconds between the ends of two workers, from and to."""
SCRUB_EVERY = 10.0
MOST_MEMORY = 250.0
"""MiB a worker may ever have."""
MORE_MEMORY = 60.0
"""MiB the living worker may have more in the end."""
MORE_DESCRIPTORS = 3
"""Descriptors, apart from connections, it may have more: an inotify, and what SQLite keeps for its next connection,
are made when first needed."""
REST = 30.0
"""Seconds in which everything must have come to rest when nobody asks any more."""

SETTINGS = f"""workers = {WORKERS}
[limits]
stop_timeout = "2s"
[defaults]
timeout = "2s"
retry_delay = "1s"
"""
STORE = f"""max_size = "{MAX_SIZE}"
min_free = "1MiB"
"""


@define(eq=False)
class Soak:
    """One run. `problems` is the verdict: empty when all is well."""

    seconds: float
    seed: int
    directory: Path
    tally: Tally = field(factory=Tally)
    problems: list[str] = field(factory=list)
    most_memory: float = 0.0
    before: Held | None = None
    after: Held | None = None
    shelf: Shelf | None = None
    content: list[Blob] = field(init=False)
    _daemon: Daemon = field(init=False)
    _upstream: Server = field(init=False)
    _url: str = field(init=False)
    _over: threading.Event = field(factory=threading.Event)
    _source: random.Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.content = blobs(self.seed)
        self._source = random.Random(f"events {self.seed}")

    def run(self) -> None:
        """All of it."""
        home = environment(self.directory / "home", PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")
        command = [sys.executable, "-m", "tests.load.upstream", str(self.seed), str(self.directory)]
        self._upstream = Server.start("the registry", command, home, self.directory / "upstream.log")
        try:
            self._upstream.wait_until_ready(lambda: self._upstream.output().endswith("\n"))
            self._url = self._upstream.output().splitlines()[-1]
            self._start()
            try:
                self._course()
            finally:
                self._stop()
        finally:
            self._upstream.stop()

    def _course(self) -> None:
        first = self.seconds * FIRST_PART
        self._tell_upstream(AIL)
        with self._clients():
            self._events(first, restarts=RESTARTS, may_die=lambda: children(self._pid))
        self._tell_upstream(HEAL)
        self._restart()
        self._warm_up()
        survivor = children(self._pid)[0]
        self.before = self._at_rest(survivor, "before the second part")
        self._tell_upstream(AIL)
        with self._clients():
            self._events(
                self.seconds - first,
                restarts=0,
                may_die=lambda: [pid for pid in children(self._pid) if pid != survivor],
            )
        self._tell_upstream(HEAL)
        self.after = self._at_rest(survivor, "after the second part", self.before.other + MORE_DESCRIPTORS)
        if survivor not in children(self._pid):
            self.problems.append("the worker that was to live has died")
        self._judge_leaks()
        self._nothing_lost()
        self._restart()  # whatever a new daemon has to clear away, it has now
        time.sleep(1)
        self.shelf = examine(self._store)
        self._judge_store(self.shelf)

    def _tell_upstream(self, what: signal.Signals) -> None:
        self._upstream.process.send_signal(what)
        time.sleep(0.1)

    # -- the daemon

    @property
    def _pid(self) -> int:
        return self._daemon.server.process.pid

    @property
    def _store(self) -> Path:
        return self._daemon.directory / "store"

    def _start(self) -> None:
        authority = self.directory / "ca.pem"
        self._daemon = Daemon.start(self.directory / "regcachd", self._url, authority, SETTINGS, STORE)
        wait_until(lambda: len(children(self._pid)) == WORKERS, "all workers")

    def _stop(self) -> None:
        try:
            self._daemon.stop(patience=30.0)
        except ProgramError as error:
            self.problems.append(str(error).partition("\n")[0])
            self.problems += [line for line in str(error).splitlines() if "Error" in line][:5]

    def _restart(self) -> None:
        self._stop()
        self._start()
        self.tally.count("restarts of the daemon")

    # -- what happens

    @contextmanager
    def _clients(self) -> Any:
        """Clients ask for random things for the time of a `with`."""
        self._over.clear()
        threads = []
        for _ in range(CLIENTS):
            client = Client(
                random.Random(self._source.random()),
                self.content,
                daemon=lambda: self._daemon,
                go_on=lambda: not self._over.is_set(),
                tally=self.tally,
                pause=self._over.wait,
            )
            threads.append(threading.Thread(target=client.run, daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(60)
            if any(thread.is_alive() for thread in threads):
                self.problems.append("a client has not come to an end")

    def _events(self, seconds: float, restarts: int, may_die: Callable[[], list[int]]) -> None:
        """Kill, restart and scrub for so long."""
        start = time.monotonic()
        restart_at = [start + seconds * (number + 1) / (restarts + 1) for number in range(restarts)]
        kill_at = start + self._source.uniform(*KILL_EVERY)
        scrub_at = start + SCRUB_EVERY / 2
        while (now := time.monotonic()) < start + seconds and not self.tally.wrong:
            self.most_memory = max(self.most_memory, *map(memory, [*children(self._pid), self._pid]))
            if restart_at and now > restart_at[0]:
                restart_at.pop(0)
                self._restart()
            elif now > kill_at:
                kill_at = now + self._source.uniform(*KILL_EVERY)
                if victims := may_die():
                    os.kill(self._source.choice(victims), signal.SIGKILL)
                    self.tally.count("workers killed")
            elif now > scrub_at:
                scrub_at = now + SCRUB_EVERY
                self._scrub()
            time.sleep(0.1)

    def _scrub(self) -> None:
        """Have everything stored checked."""
        socket = self._daemon.directory / "admin.sock"
        command = [sys.executable, "-m", "regcachd.cli", "--socket", str(socket), "scrub", "--no-wait"]
        done = subprocess.run(
            command,
            env=environment(self.directory / "home", PYTHONPATH=str(ROOT)),
            capture_output=True,
            check=False,
        )
        self.tally.count("scrubs" if done.returncode == 0 else "scrubs that could not begin")

    def _warm_up(self) -> None:
        """Every worker has done everything once; a connection comes to any of them."""
        quiet = Tally()
        for number in range(16):
            self._client(number, self.content, quiet).act()

    def _client(self, number: int, content: list[Blob], tally: Tally) -> Client:
        """A client that is not in a hurry, for this thread."""
        return Client(random.Random(number), content, lambda: self._daemon, lambda: True, tally, time.sleep)

    # -- the verdict

    def _at_rest(self, pid: int, when: str, most: int | None = None) -> Held:
        """What the process holds once nobody asks, no fill is under way, and it has at most so many descriptors."""
        port = self._daemon.port
        upstream = int(self._url.rpartition(":")[2])
        deadline = time.monotonic() + REST
        while True:
            found = held(pid, self._store, port, upstream)
            busy = found.store or found.clients
            if not busy and (most is None or found.other <= most):
                return found
            if time.monotonic() > deadline:
                if not busy:
                    return found
                self.problems.append(
                    f"{when} a worker still holds {found.store} files of the store and {found.clients} clients"
                )
                return found
            time.sleep(0.2)

    def _judge_leaks(self) -> None:
        assert self.before is not None
        assert self.after is not None
        if self.after.other > self.before.other + MORE_DESCRIPTORS:
            new = Counter(self.after.others) - Counter(self.before.others)
            self.problems.append(
                f"{self.after.other - self.before.other} more descriptors, among {', '.join(new)}"
            )
        if self.after.memory > self.before.memory + MORE_MEMORY:
            self.problems.append(
                f"memory: {self.before.memory:.0f} MiB before, {self.after.memory:.0f} after"
            )
        if self.most_memory > MOST_MEMORY:
            self.problems.append(f"a process had {self.most_memory:.0f} MiB")

    def _nothing_lost(self) -> None:
        """With upstream well again, every blob can be had, at the first try."""
        for number, blob in enumerate(
            reversed(self.content)
        ):  # the large ones first, to have many in the end
            why = self._client(number, [blob], self.tally).misses(blob)
            if why is not None:
                self.problems.append(f"{blob.digest} cannot be had any more: {why}")
                lines = self._daemon.server.output().splitlines()
                self.problems += [line for line in lines if blob.digest[-64:] in line][-8:]

    def _judge_store(self, shelf: Shelf) -> None:
        for what, found in (
            ("rotten blobs", shelf.rotten),
            ("partials that nobody fills", shelf.partials),
            ("blobs that the index does not know", shelf.unknown),
            ("blobs that only the index knows", shelf.missing),
        ):
            if found:
                self.problems.append(f"{len(found)} {what}: {', '.join(found[:3])}")
        if shelf.bytes > MAX_SIZE:
            self.problems.append(f"the store has {shelf.bytes} bytes, more than {MAX_SIZE}")


def report(soak: Soak) -> str:
    """The table."""
    rows: list[tuple[str, str, str]] = [("what", "before", "after")]
    if soak.before and soak.after:
        for name in ("store", "clients", "upstream", "other"):
            what = {"store": "descriptors of the store", "clients": "connections of clients"}.get(
                name, f"descriptors, {name}"
            )
            rows.append((what, str(getattr(soak.before, name)), str(getattr(soak.after, name))))
        rows.append(("memory, MiB", f"{soak.before.memory:.0f}", f"{soak.after.memory:.0f}"))
    rows.append(("most memory of any process, MiB", "", f"{soak.most_memory:.0f}"))
    if soak.shelf:
        rows.append(("blobs stored", "", str(soak.shelf.blobs)))
        rows.append(("MiB stored", "", f"{soak.shelf.bytes / 2**20:.0f}"))
        for name in ("rotten", "partials", "unknown", "missing"):
            what = {"unknown": "blobs not in the index", "missing": "blobs only in the index"}.get(
                name, f"{name} blobs" if name == "rotten" else "partials left"
            )
            rows.append((what, "", str(len(getattr(soak.shelf, name)))))
    rows.append(("MiB that clients got", "", f"{soak.tally.bytes / 2**20:.0f}"))
    rows += [(name, "", str(count)) for name, count in sorted(soak.tally.counts.items())]
    rows.append(("answers that are wrong", "", str(len(soak.tally.wrong))))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    verdict = [*soak.tally.wrong[:10], *soak.problems]
    return "\n".join([*lines, *(f"FAILED: {each}" for each in verdict)])


def is_well(soak: Soak) -> bool:
    """Nothing wrong, lost or leaked, and it was a load at all."""
    if soak.tally.counts["blobs, right"] < soak.seconds:
        soak.problems.append("hardly anything was asked for")
    if not soak.tally.counts["scrubs"]:
        soak.problems.append("nothing was scrubbed")
    return not (soak.tally.wrong or soak.problems)
