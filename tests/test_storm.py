"""A storm: all nodes of a cluster pull one new image at once, and upstream is asked for each part of it once."""

import http.client
import json
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from bench.nodes import LANES, Node, pull_together, trusting
from bench.wire import Front
from regcachd.testing import OCI_INDEX, OCI_MANIFEST, FakeRegistry, StallAfter, StallBeforeHeaders
from regcachd.testing.access import SERVICE
from tests.test_registry import Wall
from tests.through import running, start, together
from tests.world import NAME, World, until

reactor: Any = _reactor

NODES = 60
FEW = 20
LAYERS = [bytes([number]) * 150_000 for number in range(8)]
TAG, REPOSITORY = "1", "team/app"
ACCEPT = f"{OCI_INDEX}, {OCI_MANIFEST}"
MIDWAY = 70_000
"""Bytes: less than is sent before a digest is known to be right."""


@frozen
class Cluster:
    """The nodes, the workers that they meet, and what upstream has."""

    workers: Sequence[World]
    index: str
    parts: dict[str, int]
    """What there is to be asked for, and how often upstream may be."""

    @property
    def registry(self) -> FakeRegistry:
        return self.workers[0].registry

    def nodes(self, count: int = NODES, **settings: Any) -> list[Node]:
        """Nodes that have not begun yet, as many for each worker."""
        context = trusting(pem=self.workers[0].service.ca.root_pem.decode())
        fronts = [Front(worker.port, NAME) for worker in self.workers]
        return [
            Node(fronts[number % len(fronts)], context, REPOSITORY, TAG, **settings)
            for number in range(count)
        ]

    def busy(self) -> int:
        """Requests that are being answered."""
        return sum(len(worker.service.door.busy()) for worker in self.workers)

    def asked(self) -> dict[str, int]:
        """How often upstream was asked for what, and by which method."""
        found: dict[str, int] = {}
        for request in self.registry.requests:
            what = f"{request.method} {request.path}"
            found[what] = found.get(what, 0) + 1
        return found


@asynccontextmanager
async def cluster(directory: Path, workers: int) -> AsyncIterator[Cluster]:
    """A cluster in front of so many workers; nothing is cached."""
    registry = FakeRegistry(reactor, auth="token")
    async with running(directory, registry) as world:
        registry.access.realm = f"https://{NAME}/token"
        image = registry.add_image(REPOSITORY, None, LAYERS)
        index = registry.add_index(REPOSITORY, TAG, {"amd64": image})
        once = [
            "/v2/",
            "/token",
            *(f"/v2/{REPOSITORY}/manifests/{digest}" for digest in (index, image.manifest)),
            *(f"/v2/{REPOSITORY}/blobs/{digest}" for digest in (image.config, *image.layers)),
        ]
        parts = {**{f"GET {path}": 1 for path in once}, f"HEAD /v2/{REPOSITORY}/manifests/{TAG}": 1}
        others = [world.second() for _ in range(workers - 1)]
        try:
            yield Cluster([world, *others], str(index), parts)
        finally:
            registry.heal()
            registry.release()
            for other in others:
                await other.stop()


async def token_of(storm: Cluster) -> str:
    """The Authorization of somebody who has shown no credential."""
    path = f"/token?service={SERVICE}&scope=repository:{REPOSITORY}:pull"
    return "Bearer " + str(json.loads((await storm.workers[0].client().get(path)).body)["token"])


def pull(nodes: Sequence[Node]) -> "Deferred[None]":
    """All at once, in a thread."""
    return deferToThread(pull_together, nodes)


def all_well(nodes: Sequence[Node]) -> bool:
    """Does each have the whole image? Every digest was compared on the way."""
    assert not [node.failure for node in nodes if node.failure]
    return all(node.finished and node.received == sum(map(len, LAYERS)) for node in nodes)


@pytest.mark.parametrize("workers", [1, 2])
async def test_upstream_is_asked_for_each_part_once(tmp_path: Path, workers: int) -> None:
    async with cluster(tmp_path, workers) as storm:
        nodes = storm.nodes()
        await pull(nodes)
        assert all_well(nodes)
        assert storm.asked() == storm.parts


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "slow", ["/v2/", "/token", f"/manifests/{TAG}", "/manifests/sha256:", "/blobs/sha256:"]
)
async def test_all_who_come_while_upstream_thinks_are_one_question(
    tmp_path: Path, workers: int, slow: str
) -> None:
    async with cluster(tmp_path, workers) as storm:
        storm.registry.fault(
            lambda request: request.path == slow if slow == "/v2/" else slow in request.path,
            StallBeforeHeaders(),
        )
        nodes = storm.nodes(FEW)
        pulled = pull(nodes)
        await until(lambda: storm.busy() == FEW)
        storm.registry.heal()
        storm.registry.release()
        await pulled
        assert all_well(nodes)
        assert storm.asked() == storm.parts


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("path", ["/v2/", f"/token?service={SERVICE}&scope=repository:{REPOSITORY}:pull"])
async def test_who_asked_first_may_leave_before_the_answer(tmp_path: Path, workers: int, path: str) -> None:
    """The question is for those who come after it, too."""
    async with cluster(tmp_path, workers) as storm:
        await storm.workers[0].client().get("/v2/")  # which tells where tokens are
        storm.registry.requests.clear()
        wait = {request: 1 for request in storm.parts if request != "GET /v2/"}
        if path == "/v2/":
            wait = storm.parts
            storm.workers[0].service._commons.forget_all("ping ")
        storm.registry.fault(path.partition("?")[0], StallBeforeHeaders())
        first = storm.workers[0].client()
        asked = start(first, path)
        asked.addErrback(lambda failure: failure.trap(OSError, http.client.HTTPException))
        await storm.registry.until(lambda registry: bool(registry.stalls))
        assert first._connection is not None
        with socket.socket(fileno=os.dup(first._connection.sock.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)  # below TLS, which another thread is reading
        await asked
        await until(lambda: not storm.busy())
        nodes = storm.nodes(FEW)
        pulled = pull(nodes)
        await until(lambda: storm.busy() == FEW)
        storm.registry.heal()
        storm.registry.release()
        await pulled
        assert all_well(nodes)
        assert storm.asked() == wait


@pytest.mark.parametrize("workers", [1, 2])
async def test_leaders_that_leave_midway_leave_their_downloads_to_the_others(
    tmp_path: Path, workers: int
) -> None:
    async with cluster(tmp_path, workers) as storm:
        storm.registry.fault("/blobs/", StallAfter(MIDWAY + 65536))
        leaders = storm.nodes(2, leaves_after=MIDWAY)
        await pull(leaders)
        assert all(node.has_left for node in leaders)
        nodes = storm.nodes(FEW)
        pulled = pull(nodes)
        await until(lambda: storm.busy() == FEW * LANES)
        storm.registry.heal()
        storm.registry.release()
        await pulled
        assert all_well(nodes)
        assert storm.asked() == storm.parts


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stale_tag_is_looked_up_once_in_an_interval_for_each_accept_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    wall = Wall(monkeypatch)
    async with cluster(tmp_path, workers) as storm:
        await pull(storm.nodes(1))
        tag = f"/v2/{REPOSITORY}/manifests/{TAG}"
        token = await token_of(storm)
        accepts = (ACCEPT, OCI_INDEX)
        for accept in accepts:
            await storm.workers[0].client().get(tag, Accept=accept, Authorization=token)
        for interval in range(3):
            storm.registry.requests.clear()
            wall.time += 5
            storm.registry.fault(tag, StallBeforeHeaders())
            for method in ("HEAD", "GET"):
                asked = [
                    start(worker.client(), tag, method, Accept=accept, Authorization=token)
                    for worker in storm.workers
                    for accept in accepts
                    for _ in range(6)
                ]
                if method == "HEAD":
                    await until(lambda: storm.busy() == len(asked))  # noqa: B023
                    storm.registry.heal()
                    storm.registry.release()
                assert {reply.headers["docker-content-digest"] for reply in await together(*asked)} == {
                    storm.index
                }
                assert storm.asked() == {f"HEAD {tag}": len(accepts)}, interval
            wall.time += 1
            assert storm.asked() == {f"HEAD {tag}": len(accepts)}
