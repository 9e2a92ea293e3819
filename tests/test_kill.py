"""Workers that are killed while they fill: the others go on, and no client ever gets a wrong byte for it.

The workers are processes on one store. In each round one of them downloads a blob for a client while clients of
the two others follow, and is killed at a random point. REGCACHD_KILL_ROUNDS says how many rounds, REGCACHD_KILL_SEED
repeats a run.
"""

import hashlib
import os
import random
import subprocess
import sys
from http.client import HTTPException
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from regcachd.config import parse_config
from regcachd.preparation import prepare
from regcachd.reference import Digest
from regcachd.testing import FakeRegistry, Throttle
from regcachd.testing.message import Body
from tests.world import NAME, Client, Reply, until

reactor: Any = _reactor

ROUNDS = int(os.environ.get("REGCACHD_KILL_ROUNDS", "10"))
SEED = int(os.environ.get("REGCACHD_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
SIZE = 16_000_000
SPEED = 16_000_000
"""Bytes per second that upstream sends."""
READERS = 8
TAKEOVER = 2.0
"""Seconds after which another worker must have asked upstream for the rest."""
REPOSITORY = "team/app"


@define(eq=False)
class Worker:
    """One process."""

    directory: Path
    config: str
    process: Any = field(default=None, init=False)
    port: int = field(default=0, init=False)

    async def start(self) -> "Worker":
        """Start it, and wait until it listens."""
        with (self.directory / "workers.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.daemon", self.config], stdout=subprocess.PIPE, stderr=log
            )
        self.port = int(await deferToThread(self.process.stdout.readline))
        return self

    async def kill(self) -> None:
        """SIGKILL, and wait until the kernel has taken everything away."""
        self.process.kill()
        await deferToThread(self.process.wait)
        self.process.stdout.close()

    def client(self) -> Client:
        """A new client of it."""
        return Client(self.port, (self.directory / "state/ca/root.crt").read_text())


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the pieces of blobs that upstream has sent."""
    sizes: list[int] = []
    read = Body.read

    def counted(body: Body, offset: int, count: int) -> bytes:
        data = read(body, offset, count)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(Body, "read", counted)
    return sizes


@define(eq=False)
class Scene:
    """What one test has running."""

    directory: Path
    registry: FakeRegistry
    workers: list[Worker]
    dice: random.Random

    def ask(self, worker: Worker, digest: Digest) -> "Deferred[Reply]":
        """A client of this worker asks for the blob."""

        def get() -> Reply:
            client = worker.client()
            try:
                return client.ask("GET", f"/v2/{REPOSITORY}/blobs/{digest}")
            except (OSError, HTTPException):  # killed before it had answered
                return Reply(0, {}, b"", broken=True)
            finally:
                client.close()

        result: Deferred[Reply] = deferToThread(get)
        return result

    async def ask_soon(self, worker: Worker, digest: Digest) -> Reply:
        """The same, after a random part of the time that the download takes."""
        await deferLater(reactor, self.dice.random() * 0.6 * SIZE / SPEED, lambda: None)
        return await self.ask(worker, digest)

    def partial(self, digest: Digest) -> int:
        """Bytes of the partial, -1 before there is one."""
        try:
            return (self.directory / "store/partial/sha256" / digest.hex).stat().st_size
        except FileNotFoundError:
            return -1

    def stored(self) -> list[Path]:
        """All blobs."""
        return [each for each in (self.directory / "store/blobs").rglob("*") if each.is_file()]


@define
class Outcome:
    """What was measured in a round."""

    offset: int
    whole: int
    upstream: float
    gap: float | None


async def one_round(scene: Scene, sent: list[int]) -> Outcome:
    """Kill whoever fills."""
    dice, registry = scene.dice, scene.registry
    data = dice.randbytes(SIZE)
    digest = registry.add_blob(REPOSITORY, data)
    registry.fault(digest, Throttle(SPEED))
    registry.requests.clear()
    sent.clear()
    leader, *others = dice.sample(scene.workers, 3)
    first = scene.ask(leader, digest)
    await until(lambda: registry.requests.count("GET", digest.hex) == 1)
    rest = [Deferred.fromCoroutine(scene.ask_soon(others[n % 2], digest)) for n in range(READERS)]
    offset = dice.choice([0, *(dice.randrange(SIZE) for _ in range(6)), SIZE - 1])
    await until(lambda: scene.partial(digest) >= offset or bool(scene.stored()))
    killed = reactor.seconds()
    dead = Deferred.fromCoroutine(leader.kill())
    cut, *replies = await gatherResults([first, *rest], consumeErrors=True)
    await dead
    assert data.startswith(cut.body)
    assert cut.broken or cut.body == data
    for reply in replies:
        assert reply.status == 200
        assert data.startswith(reply.body)
        assert not reply.broken
        assert reply.body == data
    await until(lambda: [each.name for each in scene.stored()] == [digest.hex])
    (blob,) = scene.stored()
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == digest.hex
    await until(lambda: scene.partial(digest) < 0)
    later = [r.time for r in registry.requests.matching("GET", digest.hex)[1:]]
    gap = min(later) - killed if later else None
    assert gap is None or gap < TAKEOVER
    assert sum(sent) <= 1.5 * SIZE, (
        f"upstream sent {sum(sent)} bytes, {[r.headers for r in registry.requests]}"
    )
    blob.unlink()
    await leader.start()
    return Outcome(offset, len(replies), sum(sent) / SIZE, gap)


async def test_killed_at_any_point(tmp_path: Path, sent: list[int]) -> None:
    """Eight readers of two other workers get every byte; upstream sends little more than the blob; 2 s at most."""
    reactor.suggestThreadPoolSize(64)
    registry = FakeRegistry(reactor)
    await registry.start()
    config = f"""
        listen = ["tcp:0:interface=127.0.0.1"]
        state = "{tmp_path}/state"
        [store]
        path = "{tmp_path}/store"
        max_size = {2**40}
        min_free = 0
        [registries."{NAME}"]
        upstream = "{registry.url}"
        retry_delay = "50ms"
        """
    scene = Scene(tmp_path, registry, [Worker(tmp_path, config) for _ in range(3)], random.Random(SEED))
    print("seed", SEED)
    prepare(parse_config([("daemon.toml", config)]))
    try:
        for worker in scene.workers:
            await worker.start()
        costs = []
        for number in range(ROUNDS):
            outcome = await one_round(scene, sent)
            costs.append(outcome.upstream)
            gap = "-" if outcome.gap is None else f"{outcome.gap * 1000:.0f} ms"
            print(
                f"round {number}: killed at {outcome.offset}, whole {outcome.whole}, upstream "
                f"{outcome.upstream:.3f}, gap {gap}"
            )
        # in one round more may have been on its way to the one that was killed, on a machine that has other work
        assert mean(costs) <= 1.1
    finally:
        for worker in scene.workers:
            if worker.process is not None and worker.process.poll() is None:
                await worker.kill()
        await registry.stop()
