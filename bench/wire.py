"""One connection of a node: real sockets, CONNECT, TLS, and no cheaper way round.

Its work is done in generators, which yield what they wait for: many nodes share a thread (`nodes`).
"""

import selectors
import socket
import ssl
from collections.abc import Callable, Generator
from typing import Any

from attrs import define, field, frozen

TURN = 256 * 1024
"""Bytes that one connection may take before the others are looked at."""

Wait = tuple["Wire", int]
"""A connection, and selectors.EVENT_READ or EVENT_WRITE."""
Steps = Generator[Wait, None, None]
"""Work that yields what it waits for."""
Taker = Callable[[memoryview], object]

_buffer = memoryview(bytearray(64 * 1024))


class NodeFailed(Exception):
    """A node did not get what it was to get; the message says what it got."""


@frozen
class Front:
    """What nodes are told: to ask for `registry`, port 443, at 127.0.0.1:`port`."""

    port: int
    registry: str
    by_connect: bool = True


@define(eq=False)
class Wire:
    """One connection of a node."""

    front: Front
    context: ssl.SSLContext
    socket: Any = field(init=False, factory=socket.socket)
    status: int = field(init=False, default=0)
    headers: dict[str, str] = field(init=False, factory=dict)
    """Of the latest response; names in lowercase, of several with one name the last."""

    def open(self) -> Steps:
        """CONNECT, and the handshake."""
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = self.socket.connect_ex(("127.0.0.1", self.front.port))
        yield self, selectors.EVENT_WRITE
        if error := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise NodeFailed(f"no connection: {error}")
        name = self.front.registry
        if self.front.by_connect:
            self.socket.send(f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n".encode())
            _, rest = yield from self._head()
            if self.status != 200 or rest:
                raise NodeFailed(f"CONNECT was answered with {self.status}")
        self.socket = self.context.wrap_socket(
            self.socket, server_hostname=name, do_handshake_on_connect=False
        )
        while True:
            try:
                self.socket.do_handshake()
                return
            except ssl.SSLWantReadError:
                yield self, selectors.EVENT_READ
            except ssl.SSLWantWriteError:
                yield self, selectors.EVENT_WRITE

    def ask(self, method: str, target: str, take: Taker, token: str = "", accept: str = "*/*") -> Steps:
        """One request; `take` gets the body of the response piece by piece."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.front.registry}", f"Accept: {accept}"]
        lines += ["User-Agent: node/1", *([f"Authorization: Bearer {token}"] if token else []), "", ""]
        self.socket.send("\r\n".join(lines).encode())
        length, rest = yield from self._head()
        if method == "HEAD":
            return
        if rest:
            take(memoryview(rest))
        left, turn = length - len(rest), TURN
        while left > 0:
            try:
                count = self.socket.recv_into(_buffer)
            except ssl.SSLWantReadError:
                turn = TURN
                yield self, selectors.EVENT_READ
                continue
            if not count:
                raise NodeFailed(f"{target} ended {left} of {length} bytes early")
            take(_buffer[:count])
            left -= count
            turn -= count
            if turn <= 0 < left:  # after the last byte there is nothing to wait for
                turn = TURN
                yield self, selectors.EVENT_READ
        if left:
            raise NodeFailed(f"{target} has {-left} bytes too many")

    def _head(self) -> Generator[Wait, None, tuple[int, bytes]]:
        """Read a head; the bytes that follow it, and which of them have come."""
        data = b""
        while b"\r\n\r\n" not in data:
            try:
                piece = self.socket.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                yield self, selectors.EVENT_READ
                continue
            if not piece:
                raise NodeFailed(f"the connection ended within a head: {data!r}")
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        return int(self.headers.get("content-length", 0)), rest

    def close(self) -> None:
        """Leave at once."""
        self.socket.close()
