"""A forward proxy in this process, as companies have them: CONNECT, absolute-form requests, Basic, and bad manners."""

import base64
import re
from collections.abc import Mapping
from typing import Any

from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

reactor: Any = _reactor


class Far(Protocol):
    """The connection to the host."""

    near: "Near"
    transport: Any

    def connectionMade(self) -> None:
        self.near.joined(self)

    def dataReceived(self, data: bytes) -> None:
        if self.near.transport is not None:
            self.near.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.near.transport is not None:
            self.near.transport.loseConnection()


class Near(Protocol):
    """The connection of the one who asks."""

    factory: "ForwardProxy"
    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.far: Far | None = None
        self.is_connect = False

    def connectionMade(self) -> None:
        self.factory.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self.far is not None:
            self.far.transport.write(data if self.is_connect else self._origin_form(data))
            return
        self.data += data
        if b"\r\n\r\n" not in self.data or self.factory.asked_before(self):
            return
        proxy, head = self.factory, self.data.decode("latin-1").split("\r\n")
        proxy.asked[self] = head[0]
        proxy.heads.append(head)
        if proxy.answer is not None:
            self.transport.write(proxy.answer)
            if proxy.closes:
                self.transport.loseConnection()
        elif not proxy.admits(head):
            self.transport.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
            )
        elif not proxy.holding:
            self.connect()

    def connect(self) -> None:
        """Do what was asked."""
        method, target, _ = self.factory.asked[self].split(" ")
        self.is_connect = method == "CONNECT"
        authority = target if self.is_connect else target.split("/")[2]
        host, _, port = authority.partition(":")
        address = self.factory.names.get(host, (host, int(port or 80)))
        far = Far()
        far.near = self
        reactor.connectTCP(*address, _Client(far, self))

    def joined(self, far: Far) -> None:
        """The host is there."""
        self.far = far
        if self.is_connect:
            self.transport.write(b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n")
        else:
            far.transport.write(self._origin_form(self.data))

    def _origin_form(self, data: bytes) -> bytes:
        if data != self.data:
            self.factory.heads.append(data.decode("latin-1").split("\r\n"))
        return re.sub(rb"^(\w+) http://[^/ ]+", rb"\1 ", data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.discard(self)
        if self.far is not None and self.far.transport is not None:
            self.far.transport.abortConnection()


class _Client(ClientFactory):
    noisy = False

    def __init__(self, far: Far, near: Near) -> None:
        self._far, self._near = far, near

    def buildProtocol(self, addr: Any) -> Far:
        return self._far

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._near.transport.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


@define(eq=False)
class ForwardProxy(Factory):
    """It knows `names`, which nobody else does, and admits `users`; all, if there are none."""

    names: Mapping[str, tuple[str, int]] = field(factory=dict)
    users: Mapping[str, str] = field(factory=dict)
    answer: bytes | None = None
    """What it answers to everything, instead of connecting."""
    closes: bool = True
    """Does it close after that?"""
    holding: bool = False
    """Does it keep all waiting until `release`?"""
    heads: list[list[str]] = field(factory=list)
    """The lines of all request heads."""
    asked: dict[Near, str] = field(factory=dict)
    connections: set[Near] = field(factory=set)
    _port: Any = None

    noisy = False

    def start(self) -> "ForwardProxy":
        """Listen."""
        self._port = reactor.listenTCP(0, self, interface="127.0.0.1")
        return self

    def buildProtocol(self, addr: Any) -> Any:
        near = Near()
        near.factory = self
        return near

    @property
    def authority(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self._port.getHost().port}"

    @property
    def lines(self) -> list[str]:
        """The request lines."""
        return [head[0] for head in self.heads]

    def asked_before(self, near: Near) -> bool:
        """Has this connection asked already?"""
        return near in self.asked

    def admits(self, head: list[str]) -> bool:
        """Is it one of the users?"""
        if not self.users:
            return True
        given = [line.partition(": ")[2] for line in head if line.lower().startswith("proxy-authorization:")]
        known = [base64.b64encode(f"{u}:{p}".encode()).decode() for u, p in self.users.items()]
        return bool(given) and given[0].removeprefix("Basic ") in known

    def release(self) -> None:
        """Let all who wait through."""
        self.holding = False
        for near in list(self.asked):
            if near.far is None:
                near.connect()

    def cut(self) -> None:
        """Reset all connections."""
        for near in list(self.connections):
            near.transport.abortConnection()

    async def stop(self) -> None:
        """Stop listening, and close."""
        self.cut()
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()
