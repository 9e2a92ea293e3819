"""A daemon for the length of a test, downloads in steps, and what was logged meanwhile."""

import base64
import select
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from regcachd.growing import Growing
from regcachd.reference import Digest
from regcachd.testing import FakeRegistry
from regcachd.testing.message import Body, Request
from tests.wire import connect_through, trusting
from tests.world import NAME, Client, Reply, World

reactor: Any = _reactor

THREADS = 64
"""Blocking clients that may be under way at once."""


@asynccontextmanager
async def running(
    directory: Path, registry: FakeRegistry | None = None, **settings: Any
) -> AsyncIterator[World]:
    """A world that is stopped at the end, however the test ends."""
    reactor.suggestThreadPoolSize(THREADS)
    world = World(directory, registry or FakeRegistry(reactor), **settings)
    await world.start()
    try:
        yield world
    finally:
        world.registry.release()
        await world.stop()


def limits(**values: str) -> str:
    """The table of limits, for World.tables."""
    return "[limits]\n" + "".join(f'{key} = "{value}"\n' for key, value in values.items())


def blob_path(digest: Digest, repository: str = "team/app") -> str:
    """Where clients ask for a blob."""
    return f"/v2/{repository}/blobs/{digest}"


def add_sha512(registry: FakeRegistry, data: bytes, repository: str = "team/app") -> Digest:
    """Put a blob into a repository under its sha512 digest."""
    digest = Digest.of(data, "sha512")
    registry.blobs.setdefault(repository, {})[digest] = Body.of(data)
    return digest


def questions(world: World) -> list[Request]:
    """What upstream was asked; the ping that tells the daemon how to ask does not count."""
    return [request for request in world.registry.requests if request.path != "/v2/"]


def basic(user: str, password: str) -> str:
    """An Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def fill_of(world: World, digest: Digest) -> Growing:
    """What the fill that is under way has so far."""
    growing = world.service.fills.get(digest)
    assert growing is not None
    return growing


def start(client: Client, path: str, method: str = "GET", **headers: str) -> "Deferred[Reply]":
    """A request on its way: to be awaited later."""
    return Deferred.fromCoroutine(client.do(method, path, **headers))


async def together(*replies: "Deferred[Reply]") -> list[Reply]:
    """All of them."""
    found: list[Reply] = await gatherResults(replies, consumeErrors=True)
    return found


class Download:
    """One exchange in steps, through CONNECT and TLS, on a socket that is read only when the test says so."""

    def __init__(
        self, world: World, path: str, *lines: str, method: str = "GET", buffer: int | None = None
    ) -> None:
        self._world = world
        head = [f"{method} {path} HTTP/1.1", f"Host: {NAME}", "Connection: close", *lines, "", ""]
        self._request = "\r\n".join(head).encode("latin-1")
        self._buffer = buffer
        world.clients.append(self)  # type: ignore[arg-type]  # to be closed with the others
        self._socket: Any = None
        self.status = 0
        self.head: list[str] = []
        """The header lines as they came."""
        self.body = b""

    async def begin(self) -> "Download":
        """Send the request and read the head."""
        port, ca = self._world.port, self._world.service.ca.root_pem.decode()
        await deferToThread(self._begin, port, ca)
        return self

    def _begin(self, port: int, ca: str) -> None:
        plain = connect_through(port, f"{NAME}:443")
        if self._buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
        self._socket = trusting(ca).wrap_socket(plain, server_hostname=NAME)
        self._socket.sendall(self._request)
        while self.status < 200:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                piece = self._socket.recv(1)
                assert piece, head
                head += piece
            first, *self.head = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            self.status = int(first.split()[1])

    def header(self, name: str) -> list[str]:
        """The values of a header, one for each line."""
        found = [line.partition(":") for line in self.head]
        return [value.strip(" ") for key, _, value in found if key.lower() == name.lower()]

    async def read(self, count: int) -> bytes:
        """The next bytes of the body; fewer only when the connection has ended."""
        data: bytes = await deferToThread(self._read, count)
        self.body += data
        return data

    def _read(self, count: int) -> bytes:
        data = bytearray()
        try:
            while len(data) < count and (piece := self._socket.recv(min(65536, count - len(data)))):
                data += piece
        except (ConnectionError, ssl.SSLError):
            pass
        return bytes(data)

    async def rest(self) -> bytes:
        """The whole body, once the connection has ended."""
        await self.read(2**40)
        return self.body

    async def available(self) -> bytes:
        """What comes until nothing more comes, for now."""
        data: bytes = await deferToThread(self._available)
        self.body += data
        return data

    def _available(self) -> bytes:
        data = b""
        while not self._quiet() and (piece := self._socket.recv(65536)):
            data += piece
        return data

    async def quiet(self) -> bool:
        """Does nothing more come, for now?"""
        found: bool = await deferToThread(self._quiet)
        return found

    def _quiet(self) -> bool:
        return not self._socket.pending() and not select.select([self._socket], [], [], 0.1)[0]

    @property
    def whole(self) -> bool:
        """Does the client take what it has for the whole? (Content-Length, or the last chunk.)"""
        lengths = self.header("content-length")
        return len(self.body) == int(lengths[0]) if lengths else self.body.endswith(b"0\r\n\r\n")

    def close(self) -> None:
        """Leave."""
        if self._socket is not None:
            self._socket.close()


@contextmanager
def logged(least: LogLevel = LogLevel.warn) -> Iterator[list[str]]:
    """The lines that are logged meanwhile at this level or above; a failure in one of them fails the test anyway."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) >= least:
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)
