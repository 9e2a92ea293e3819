"""The data path: transports that switch to TLS on the socket and send files.

Stock Twisted TLS moves every byte through a memory BIO and two buffers; here OpenSSL is bound to the
file descriptor (`tls_socket`), and files go to it by the rules of `sending`.

The head of a CONNECT is taken from the kernel to its last byte and no further (MSG_PEEK), so a
ClientHello sent in the same segment is still there for OpenSSL, and tunnelled bytes for the splice.

Of Twisted's internals this leans on: the class an accepted connection is made of (`tcp.Port.transport`),
`tcp.Connection.socket` (anything with recv/send/shutdown/close), and `doRead`/`doWrite`, which are the
documented interface of descriptors (IReadWriteDescriptor).
"""

import socket
from collections.abc import Callable
from typing import Any
from typing import Protocol as Shape

from OpenSSL import SSL
from twisted.internet import main, tcp, unix
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from .disk import InThread
from .sending import FileUnreadable, Sending
from .tls_socket import RECORD, HandshakeFailed, TLSSocket

PEEK = 16 * 1024
"""Bytes looked at together while a request head is read."""
READ = 256 * 1024
"""Bytes that one TLS connection may receive per turn of the reactor."""


class HeadReader(Shape):
    """A protocol that takes a request head byte-exactly from a `DirectServer` (see `read_head`)."""

    def take_head(self, data: bytes) -> int:
        """Say how many bytes of `data`, at least one, belong to the head; the rest stays in the kernel."""

    def head_taken(self) -> None:
        """Those bytes have been consumed: act on them."""


class DirectMixin:
    """Over `tcp.Server` or `unix.Server`: `read_head`, `start_tls` and `send_file`."""

    in_thread: InThread

    bytes_moved = 0
    """Bytes the client has taken so far; the watch for stalled clients compares it."""

    when_lost: "Callable[[Any], None] | None" = None
    """Called with this transport when the connection is lost, whatever protocol it carries by then."""

    _file: Sending | None = None
    _reading_cold = False
    _head_reader: HeadReader | None = None
    _context: SSL.Context | None = None
    _server_name: str | None = None
    _handshake: "Deferred[None] | None" = None

    # -- reading

    def read_head(self, reader: HeadReader) -> None:
        """From now on give `reader` what arrives, leaving in the kernel what it does not take."""
        self._head_reader = reader

    def stop_reading_head(self) -> None:
        """From now on data goes to the protocol's dataReceived again."""
        self._head_reader = None

    def doRead(self: Any) -> Any:
        if self._head_reader is not None:
            return self._peek()
        if self._handshake is not None:
            return self._shake()
        if isinstance(self.socket, TLSSocket):
            return self._read_records()
        return tcp.Connection.doRead(self)

    def _read_records(self: Any) -> Any:
        """Give the protocol all that is there, some records at once: each alone would cost a turn of the reactor."""
        recv, size = self.socket.recv, 0
        records: list[bytes] = []
        while size < READ:
            try:
                data = recv(RECORD)
            except BlockingIOError:
                break
            except OSError:
                if records:
                    break  # it is said again in the next turn
                return main.CONNECTION_LOST
            if not data:
                if records:
                    break
                return main.CONNECTION_DONE
            records.append(data)
            size += len(data)
            if len(data) < RECORD:
                break  # nothing more follows at once, most of the time
        if records:
            self.protocol.dataReceived(records[0] if len(records) == 1 else b"".join(records))
        return None

    def _peek(self: Any) -> Any:
        try:
            data = self.socket.recv(PEEK, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        reader = self._head_reader
        self.socket.recv(reader.take_head(data))
        reader.head_taken()
        return None

    # -- TLS

    @property
    def tls(self: Any) -> SSL.Connection | None:
        """The TLS connection, once `start_tls` has switched."""
        return self.socket.tls if isinstance(self.socket, TLSSocket) else None

    @property
    def _encrypts(self: Any) -> bool:
        """Is it this process that makes the TLS records?"""
        return isinstance(self.socket, TLSSocket) and not self.socket.kernel_encrypts

    def start_tls(self: Any, context: SSL.Context, server_name: str | None = None) -> "Deferred[None]":
        """Switch to TLS once everything written so far has left in plain.

        We are the server, or with `server_name` the client of that server. Fires when the handshake is done;
        fails with HandshakeFailed or the reason the connection was lost.
        """
        self._context = context
        self._server_name = server_name
        shake: Deferred[None] = Deferred()
        self._handshake = shake
        if self._nothing_buffered():
            self._switch()
        return shake

    def _nothing_buffered(self: Any) -> bool:
        return not (self.dataBuffer or self._tempDataBuffer)

    def _switch(self: Any) -> None:
        self.socket = TLSSocket(self.socket, self._context, self._server_name)
        self._context = None
        self.startReading()
        if self._server_name is not None:
            self.startWriting()  # a client speaks first

    def _shake(self: Any) -> Any:
        if self._context is not None:
            self.stopReading()  # the client has spoken, but our plain answer has not left yet: _switch goes on
            return None
        try:
            self.socket.do_handshake()
        except SSL.WantReadError:
            self.stopWriting()
            return None
        except SSL.WantWriteError:
            self.startWriting()
            return None
        except HandshakeFailed as failed:
            return failed
        done, self._handshake = self._handshake, None
        if self._nothing_buffered():
            self.stopWriting()
        else:
            self.startWriting()
        done.callback(None)
        return None

    # -- writing

    @property
    def blocked(self: Any) -> bool:
        """Is there something to send that the client does not take?"""
        return self._file is not None or not self._nothing_buffered()

    def writeSomeData(self: Any, data: bytes) -> Any:
        sent = super().writeSomeData(data)  # type: ignore[misc]
        if isinstance(sent, int):
            self.bytes_moved += sent
        return sent

    def send_file(self: Any, fd: int, offset: int, count: int) -> "Deferred[None]":
        """Send `count` bytes of the file from `offset`, after everything that has been written.

        The caller keeps `fd` open until the Deferred fires: with None when the last byte has been given to
        the kernel, with FileUnreadable when the disk failed or the file is too short (the caller then
        aborts the connection: the response cannot be made whole), or with the reason the connection was lost.
        """
        if self.disconnected or self.disconnecting:
            return fail(ConnectionLost("the client has gone"))
        if self._file is not None:
            raise RuntimeError("one file at a time on a connection")
        if not count:
            return succeed(None)
        job = self._file = Sending(fd, offset, count)
        self.startWriting()
        return job.done

    def doWrite(self: Any) -> Any:
        if self._handshake is not None and self._context is None:
            return main.CONNECTION_DONE if self.disconnecting else self._shake()
        if not self._nothing_buffered():
            result = super().doWrite()  # type: ignore[misc]
            if result is not None or not self._nothing_buffered():
                return result
            if self._context is not None:
                self._switch()
                return None
            if self._file is None or self._reading_cold:
                return None
            self.startWriting()
        if self._file is None:
            return super().doWrite()  # type: ignore[misc]
        return self._send_some()

    def _postLoseConnection(self: Any) -> Any:
        """loseConnection() means: after the file, too."""
        if self._file is not None:
            if not self._reading_cold:
                self.startWriting()
            return None
        return super()._postLoseConnection()  # type: ignore[misc]

    def _send_some(self: Any) -> Any:
        job = self._file
        left = job.count
        try:
            try:
                more = job.encrypt(self.socket.send) if self._encrypts else job.sendfile(self.socket.fileno())
            finally:
                self.bytes_moved += left - job.count
        except FileUnreadable as error:
            self._file_done(Failure(error))
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not more:
            self.stopWriting()
            self.in_thread(job.read_cold).addBoth(self._cold_read, job)
            self._reading_cold = True
        elif not job.count:
            self._file_done(None)
        return None

    def _file_done(self: Any, result: Failure | None) -> None:
        job, self._file = self._file, None
        closing = self.disconnecting or self._writeDisconnecting
        if self.connected and not closing and self._nothing_buffered():
            self.stopWriting()
        job.done.callback(result)

    def _cold_read(self: Any, result: bytes | Failure, job: Sending) -> None:
        self._reading_cold = False
        if self.disconnected:
            job.done.errback(Failure(ConnectionLost("the client has gone")))
        elif isinstance(result, Failure):
            error = FileUnreadable(f"reading a stored blob failed: {result.getErrorMessage()}")
            error.__cause__ = result.value
            self._file_done(Failure(error))
        else:
            try:
                job.hold(result)
            except FileUnreadable as error:
                self._file_done(Failure(error))
            else:
                self.startWriting()

    # -- the end

    def connectionLost(self: Any, reason: Failure) -> None:
        job, self._file = self._file, None
        shake, self._handshake = self._handshake, None
        self._head_reader = self._context = None
        super().connectionLost(reason)  # type: ignore[misc]
        if shake is not None:
            shake.errback(reason)
        if job is not None and not self._reading_cold:  # else when the thread no longer uses the descriptor
            job.done.errback(reason)
        if self.when_lost is not None:
            self.when_lost(self)


class DirectServer(DirectMixin, tcp.Server):  # type: ignore[misc]  # the socket changes its type
    """An accepted TCP connection."""


class DirectUnixServer(DirectMixin, unix.Server):  # type: ignore[misc]  # the socket changes its type
    """An accepted connection on a Unix socket."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """A Unix socket has nothing to switch off; Twisted before 24.10 would fail here."""


class DirectClient(DirectMixin, tcp.Client):  # type: ignore[misc]  # the socket changes its type
    """A connection to an upstream.

    A server that answers before it has read all of a request may close, and the kernel then refuses what is still being
    sent, with the answer lying there to be read (RFC 9112 section 9.6). So a write that fails ends the writing only.
    """

    _unheard = False

    def doWrite(self: Any) -> Any:
        result = super().doWrite()
        if result is not main.CONNECTION_LOST or self._handshake is not None:
            return result
        self._unheard = True
        self.dataBuffer, self.offset = b"", 0
        self._tempDataBuffer, self._tempDataLen = [], 0
        self.stopWriting()
        return None

    def doRead(self: Any) -> Any:
        result = super().doRead()
        return main.CONNECTION_LOST if self._unheard and result is main.CONNECTION_DONE else result


class DirectConnector(tcp.Connector):
    """Connects with a `DirectClient`."""

    def _makeTransport(self) -> DirectClient:
        return DirectClient(self.host, self.port, self.bindAddress, self, self.reactor)


def use_direct_transport(port: Any, in_thread: InThread) -> None:
    """Make `port`, a listening `tcp.Port` or `unix.Port`, give its connections this module's transport."""
    kind = DirectUnixServer if isinstance(port, unix.Port) else DirectServer

    def transport(*args: Any) -> DirectMixin:
        server = kind(*args)
        server.in_thread = in_thread
        return server

    port.transport = transport


class QuietFactory(Factory):
    """Makes one protocol, and says nothing of it in the log."""

    noisy = False


def name_of(peer: Any) -> str:
    """A peer's address as an operator writes it."""
    host = getattr(peer, "host", None)
    if host is None:
        return "a Unix socket"
    return f"[{host}]:{peer.port}" if ":" in host else f"{host}:{peer.port}"
