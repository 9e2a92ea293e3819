"""Nodes that pull one image at once, many in one thread.

Each does what containerd does with a public image: the ping, a token, HEAD of the tag, the index, the manifest and
the config over one connection, then the layers over as many as LANES. What is small is checked by its digest;
of layers the length always, and the digest for nodes that are `thorough`: a thousand nodes on one machine would
hash longer than they pull.

A node is made of generators, as its connections are; `pull_together` runs them.
"""

import hashlib
import json
import re
import selectors
import ssl
import time
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from bench.wire import Front, NodeFailed, Steps, Taker, Wait, Wire

LANES = 3
"""Layers that a node downloads at once, as containerd and dockerd do by default."""
PATIENCE = 120.0
"""Seconds without anything for anybody after which it is over."""
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def _ignore(data: memoryview) -> None:
    """The body says nothing more than the head."""


class Leaves(Exception):
    """A node goes away in the middle, as it was told to."""


@define(eq=False)
class Node:
    """One node, and how it fared. Times are those of time.monotonic."""

    front: Front
    context: ssl.SSLContext
    repository: str
    tag: str
    thorough: bool = True
    leaves_after: int | None = None
    """Bytes of a layer after which it goes away."""
    only_small: bool = False
    """Does it get nothing but what is small, over a new connection for each request, as skopeo and dockerd do?"""
    began: float = 0.0
    first_byte: float | None = None
    """Of a layer."""
    finished: float | None = None
    received: int = 0
    """Bytes of layers."""
    failure: str | None = None
    has_left: bool = False
    lanes: int = 0
    """How many are under way."""
    wires: list[Wire] = field(init=False, factory=list)
    _token: str = field(init=False, default="")
    _named: str = field(init=False, default="")
    """The digest that the tag names."""
    _layers: "deque[dict[str, Any]]" = field(init=False, factory=deque)

    def pull(self) -> Steps:
        """All up to the layers."""
        self.began = time.monotonic()
        yield from self._prepare()
        index = yield from self._manifest(self._named, INDEX)
        manifest = yield from self._manifest(index["manifests"][0]["digest"], MANIFEST)
        config = manifest["config"]["digest"]
        self._check((yield from self._whole(self._path("blobs", config))), config)
        if not self.only_small:
            self._layers.extend(manifest["layers"])

    def lane(self, number: int) -> Steps:
        """Layers, one after the other, while there are any."""
        wire = self.wires[0]
        if number:
            if not self._layers:
                return
            wire = yield from self._wire()
        while self._layers:
            yield from self._layer(wire, self._layers.popleft())

    def lane_ended(self) -> None:
        """When all have, the image is here."""
        self.lanes -= 1
        if not self.lanes:
            self.finished = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Does it do nothing more?"""
        return self.failure is not None or self.has_left or self.finished is not None

    def leave(self) -> None:
        """Close all connections, at once."""
        for wire in self.wires:
            wire.close()

    def _wire(self) -> Generator[Wait, None, Wire]:
        wire = Wire(self.front, self.context)
        self.wires.append(wire)
        yield from wire.open()
        return wire

    def _prepare(self) -> Steps:
        """The ping, the token, and what the tag names."""
        wire = yield from self._ask("GET", "/v2/")
        if wire.status == 401:
            parameters = dict(_PARAMETER.findall(wire.headers["www-authenticate"]))
            path = "/" + parameters["realm"].partition("://")[2].partition("/")[2]
            query = f"?service={parameters['service']}&scope=repository:{self.repository}:pull"
            self._token = json.loads((yield from self._whole(path + query)))["token"]
        elif wire.status != 200:
            raise NodeFailed(f"the ping was answered with {wire.status}")
        path = self._path("manifests", self.tag)
        wire = yield from self._ask("HEAD", path, accept=f"{INDEX}, {MANIFEST}")
        if wire.status != 200:
            raise NodeFailed(f"the tag was answered with {wire.status}")
        self._named = wire.headers["docker-content-digest"]

    def _manifest(self, digest: str, accept: str) -> Generator[Wait, None, dict[str, Any]]:
        data = yield from self._whole(self._path("manifests", digest), accept)
        self._check(data, digest)
        found: dict[str, Any] = json.loads(data)
        return found

    def _whole(self, path: str, accept: str = "*/*") -> Generator[Wait, None, bytes]:
        data = bytearray()
        wire = yield from self._ask("GET", path, data.extend, accept)
        if wire.status != 200:
            raise NodeFailed(f"{path} was answered with {wire.status}: {bytes(data)!r}")
        return bytes(data)

    def _ask(
        self, method: str, path: str, take: Taker = _ignore, accept: str = "*/*"
    ) -> Generator[Wait, None, Wire]:
        """One small request over the first connection, or over a new one."""
        if self.only_small:
            self.leave()
            self.wires.clear()
        wire = self.wires[0] if self.wires else (yield from self._wire())
        yield from wire.ask(method, path, take, self._token, accept)
        return wire

    def _layer(self, wire: Wire, layer: dict[str, Any]) -> Steps:
        size, digest, said = 0, hashlib.sha256() if self.thorough else None, b""

        def take(data: memoryview) -> None:
            nonlocal size, said
            if wire.status != 200:
                said += data
            self.first_byte = self.first_byte or time.monotonic()
            size += len(data)
            if digest is not None:
                digest.update(data)
            if self.leaves_after is not None and size >= self.leaves_after:
                raise Leaves

        yield from wire.ask("GET", self._path("blobs", layer["digest"]), take, self._token)
        if wire.status != 200 or size != layer["size"]:
            raise NodeFailed(f"{layer} was answered with {wire.status}, {size} bytes: {said!r}")
        if digest is not None and f"sha256:{digest.hexdigest()}" != layer["digest"]:
            raise NodeFailed(f"wrong bytes for {layer['digest']}")
        self.received += size

    def _path(self, kind: str, what: str) -> str:
        return f"/v2/{self.repository}/{kind}/{what}"

    @staticmethod
    def _check(data: bytes, digest: str) -> None:
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise NodeFailed(f"wrong bytes for {digest}: {data[:200]!r}")


def trusting(authority: Path | None = None, pem: str | None = None) -> ssl.SSLContext:
    """What all nodes have: the one CA they trust."""
    return ssl.create_default_context(cafile=authority, cadata=pem)


def pull_together(nodes: Sequence[Node]) -> None:
    """All nodes begin at once; returns when each has the image, has failed or has left."""
    with selectors.DefaultSelector() as selector:
        crew = _Crew(selector)
        try:
            crew.work(nodes)
        finally:
            for node in nodes:
                node.leave()


@define(eq=False)
class _Task:
    """Steps of a node, and what they wait for."""

    node: Node
    steps: Steps
    is_lane: bool
    wait: Wait | None = None
    fd: int = -1


@define(eq=False)
class _Crew:
    """Runs the steps of all nodes, each when its socket is ready."""

    _selector: selectors.BaseSelector

    def work(self, nodes: Sequence[Node]) -> None:
        """Raises NodeFailed when all wait for long."""
        for node in nodes:
            self._go_on(_Task(node, node.pull(), False))
        while self._selector.get_map():
            ready = self._selector.select(PATIENCE)
            if not ready:
                raise NodeFailed(f"nothing has come for {PATIENCE:.0f} s")
            for key, _ in ready:
                if not key.data.node.is_over:
                    self._go_on(key.data)

    def _go_on(self, task: _Task) -> None:
        node = task.node
        try:
            wait = next(task.steps)
        except StopIteration:
            self._forget(task)
            if not task.is_lane:
                node.lanes = LANES
                for number in range(LANES):
                    self._go_on(_Task(node, node.lane(number), True))
            else:
                node.lane_ended()
        except Leaves:
            node.has_left = True
            self._end(task)
        except (NodeFailed, OSError, LookupError, ValueError) as error:
            node.failure = repr(error)
            self._end(task)
        else:
            if wait != task.wait:
                self._wait(task, *wait)

    def _wait(self, task: _Task, wire: Wire, event: int) -> None:
        if task.wait is not None and task.wait[0] is wire:
            self._selector.modify(task.fd, event, task)
        else:
            self._forget(task)
            task.fd = wire.socket.fileno()
            self._selector.register(task.fd, event, task)
        task.wait = wire, event

    def _forget(self, task: _Task) -> None:
        if task.wait is not None:
            self._selector.unregister(task.fd)
            task.wait = None

    def _end(self, task: _Task) -> None:
        """The node does nothing more."""
        for key in list(self._selector.get_map().values()):
            if key.data.node is task.node:
                self._selector.unregister(key.fd)
        task.node.leave()
