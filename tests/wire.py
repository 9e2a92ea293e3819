"""Bare servers over the direct transport, and blocking clients that look at every byte, for tests."""

import http.client
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import define, field
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from regcachd.pki import CA, open_ca
from regcachd.tls import LeafContexts
from regcachd.transport import use_direct_transport
from tests.world import NAME, Reply

reactor: Any = _reactor

TIMEOUT = 60.0
"""Seconds after which a blocking client gives up: the test has failed by then."""


@define
class Identity:
    """A CA, and the contexts of server and client that go with it."""

    ca: CA
    server: SSL.Context

    @classmethod
    def make(cls, directory: Path, kernel: bool = True) -> "Identity":
        """With a certificate for `NAME`; without `kernel`, this process encrypts everything itself."""
        ca = open_ca(directory, {NAME}, datetime.now(UTC))
        contexts = LeafContexts(ca, lambda: datetime.now(UTC), lambda host: frozenset(), kernel=kernel)
        return cls(ca, contexts.for_host(NAME))

    def client(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A new context of a client that trusts the CA, for one version of TLS or for all."""
        return trusting(self.ca.root_pem.decode(), version)


def trusting(ca: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client's context, for one version of TLS or for all."""
    context = ssl.create_default_context(cadata=ca)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@implementer(IHalfCloseableProtocol)
class Served(Protocol):
    """The server's end of one connection, driven by the test."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.read_ended = False
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        self.read_ended = True

    def writeConnectionLost(self) -> None:
        """As intended."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


@define(eq=False)
class DiskThread:
    """An `in_thread` that counts, and holds back what it has read for as long as the test wants."""

    calls: int = 0
    holding: bool = False
    held: list[Deferred[None]] = field(factory=list)

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        self.calls += 1
        done: Deferred[Any] = deferToThread(function, *args)
        if self.holding:
            gate: Deferred[None] = Deferred()
            self.held.append(gate)
            done.addBoth(lambda result: gate.addCallback(lambda _: result))
        return done

    def release(self) -> None:
        """Let go of everything."""
        self.holding = False
        held, self.held = self.held, []
        for gate in held:
            gate.callback(None)


@implementer(ILogObserver)
class LogLines:
    """A log observer that keeps the lines as text, and apart those that are worse than information."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.worse: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        self.lines.append(formatEvent(event))
        if event.get("log_level", LogLevel.info) not in (LogLevel.debug, LogLevel.info):
            self.worse.append(self.lines[-1])

    def has(self, text: str) -> bool:
        """Is there a line that contains this?"""
        return any(text in line for line in self.lines)


class Place(Factory):
    """A listening port whose connections the test drives, or which are for a factory of the daemon's."""

    noisy = False

    def __init__(self, factory: Any = None, path: Path | None = None) -> None:
        self.disk = DiskThread()
        self.connections: list[Any] = []
        """The protocols of all connections so far."""
        self._factory = factory
        self._path = path
        self._waiting: list[Deferred[Any]] = []
        if path is None:
            self._port: Any = tcp.Port(0, self, interface="127.0.0.1", reactor=reactor)
        else:
            self._port = unix.Port(bytes(path), self, reactor=reactor)
        use_direct_transport(self._port, self.disk.run)
        self._port.startListening()
        self.number = 0 if path is not None else self._port.getHost().port

    def buildProtocol(self, addr: Any) -> Any:
        protocol = Served() if self._factory is None else self._factory.buildProtocol(addr)
        self.connections.append(protocol)
        reactor.callLater(0, self._arrived, protocol)
        return protocol

    def _arrived(self, protocol: Any) -> None:
        if self._waiting:
            self._waiting.pop(0).callback(protocol)

    def dial(self, receive_buffer: int | None = None) -> "tuple[socket.socket, Deferred[Any]]":
        """Connect; returns the client's socket and what will fire with the server's protocol."""
        family = socket.AF_INET if self._path is None else socket.AF_UNIX
        client = socket.socket(family, socket.SOCK_STREAM)
        client.settimeout(TIMEOUT)
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        accepted: Deferred[Any] = Deferred()
        self._waiting.append(accepted)
        client.connect(("127.0.0.1", self.number) if self._path is None else str(self._path))
        return client, accepted

    async def stop(self) -> None:
        """Stop listening and reset the connections."""
        self.disk.release()
        for protocol in self.connections:
            if protocol.transport is not None and protocol.transport.connected:
                protocol.transport.abortConnection()
        stopped = self._port.stopListening()
        if stopped is not None:
            await stopped


class Hand:
    """The client's side of TLS, done by hand: what is to be sent waits until the test sends it."""

    def __init__(self, context: ssl.SSLContext, connection: socket.socket) -> None:
        self.connection = connection
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=NAME)

    def hello(self) -> bytes:
        """The ClientHello."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return self.outgoing.read()
        raise AssertionError("no handshake is that short")

    def _flush(self) -> None:
        if data := self.outgoing.read():
            self.connection.sendall(data)

    def _until_done(self, step: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                result = step(*args)
            except ssl.SSLWantReadError:
                self._flush()
                data = self.connection.recv(65536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            else:
                self._flush()
                return result

    def shake(self) -> None:
        """Go through with the handshake."""
        self._until_done(self.tls.do_handshake)

    def write(self, data: bytes) -> None:
        """Send."""
        self._until_done(self.tls.write, data)

    def end(self) -> None:
        """Say close_notify, and that nothing more comes on the socket."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._flush()
        self.connection.shutdown(socket.SHUT_WR)

    def read_to_end(self) -> bytes:
        """Everything until the server's close_notify; fails if there is none."""
        data = b""
        while True:
            try:
                piece = self._until_done(self.tls.read, 65536)
            except ssl.SSLZeroReturnError:
                return data
            if not piece:
                return data
            data += piece


def read_exactly(connection: socket.socket, count: int, step: int = 65536) -> bytes:
    """Read this many bytes, or fail."""
    pieces = []
    while count:
        piece = connection.recv(min(step, count))
        assert piece, f"the connection ended {count} bytes too early"
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the other side closes; over TLS, fails if it does not say so."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def dial(port: int) -> socket.socket:
    """A connection to a port of this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def connect_through(port: int, authority: str, version: str = "1.1") -> socket.socket:
    """CONNECT; the socket with the 200 read and nothing else."""
    connection = dial(port)
    connection.sendall(f"CONNECT {authority} HTTP/{version}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += read_exactly(connection, 1)
    assert head.startswith(b"HTTP/1.1 200 "), head
    return connection


class Talk:
    """One connection that speaks HTTP: requests are sent as bytes, responses read one by one."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._file = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.connection.sendall(data)

    def reply(self, method: str = "GET") -> Reply:
        """Read one response."""
        response = http.client.HTTPResponse(self, method=method)  # type: ignore[arg-type]
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        try:
            return Reply(response.status, headers, response.read())
        except http.client.IncompleteRead as error:
            return Reply(response.status, headers, error.partial, broken=True)
        except (ConnectionError, ssl.SSLError):
            return Reply(response.status, headers, b"", broken=True)

    def makefile(self, mode: str) -> Any:
        """For HTTPResponse: our one buffered reader, that it must not close."""
        return _Unclosed(self._file)

    def at_end(self) -> bool:
        """Has the server closed, in order?"""
        return self._file.read(1) == b""

    def close(self) -> None:
        """Close."""
        self._file.close()
        self.connection.close()


class _Unclosed:
    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None:
        """Later responses are read from it."""


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Bytes of memory this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def pause(seconds: float) -> None:
    """Let the reactor run, to see what it would do if it were wrong."""
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    await done


async def standstill(count: Callable[[], int], seconds: float = 0.7) -> int:
    """Wait until this has been the same for so long; returns it."""
    while True:
        before = count()
        await pause(seconds)
        if count() == before:
            return before
