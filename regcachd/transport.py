"""The data path: transports that switch to TLS on the socket and send files.

How a cached layer reaches a client:

    page cache --preadv--> one reused buffer --SSL_write--> socket          (TLS)
    page cache ----------------sendfile-------------------> socket          (plain HTTP, and TLS by the kernel)

Stock Twisted TLS moves every byte through a memory BIO and two buffers; here OpenSSL is bound to the
file descriptor, and the buffer is one per process, because each use of it ends before the next begins.

Rules that hold this file together:

1. The reactor's thread never waits for a disk: files are read with RWF_NOWAIT, and what is not in the
   page cache is read by a disk thread while other connections go on.
2. One connection sends at most TURN bytes before the reactor looks at the others.
3. A blocked TLS connection keeps nothing: what the client has not taken is read again from the page cache when
   it takes more. OpenSSL demands that a write it could not finish is repeated with the same bytes, no
   fewer (SSL_write(3), SSL_ERROR_WANT_WRITE): `again` says how many. It need not be the same address, because every
   context used here has SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER (`tls.MODE`). Where the kernel encrypts (`kernel_tls`)
   nothing of this holds: the socket is written to as in plain.
4. The head of a CONNECT is taken from the kernel to its last byte and no further (MSG_PEEK), so a
   ClientHello sent in the same segment is still there for OpenSSL, and tunnelled bytes for the splice.

Of Twisted's internals this leans on: the class an accepted connection is made of (`tcp.Port.transport`),
`tcp.Connection.socket` (anything with recv/send/shutdown/close), and `doRead`/`doWrite`, which are the
documented interface of descriptors (IReadWriteDescriptor).
"""

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from typing import Protocol as Shape

from OpenSSL import SSL
from twisted.internet import main, tcp, unix
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from . import kernel_tls
from .errors import RegcachdError

CHUNK = 128 * 1024
"""Bytes read from a file, and given to OpenSSL, at once: enough to make Python's part in it small, and little enough
to stay in the processor's L2 cache."""

TURN = 1024 * 1024
"""Bytes one connection may send per turn of the reactor."""

PEEK = 16 * 1024
"""Bytes looked at together while a request head is read."""

_buffer = memoryview(bytearray(CHUNK))

InThread = Callable[..., "Deferred[Any]"]
"""`DiskThreads.run`: calls a function in a thread."""


class HandshakeFailed(RegcachdError):
    """A TLS handshake did not succeed; the message is OpenSSL's reason."""


class FileUnreadable(RegcachdError):
    """The file behind a response could not be read to the end; the response must be cut."""


class HeadReader(Shape):
    """A protocol that takes a request head byte-exactly from a `DirectServer` (see `read_head`)."""

    def take_head(self, data: bytes) -> int:
        """Say how many bytes of `data`, at least one, belong to the head; the rest stays in the kernel."""

    def head_taken(self) -> None:
        """Those bytes have been consumed: act on them."""


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words for an error, such as "tlsv1 alert unknown ca"."""
    if error.args and isinstance(error.args[0], list):
        return ", ".join(entry[-1] for entry in error.args[0]) or "no reason given"
    return " ".join(str(arg) for arg in error.args) or "no reason given"


class TLSSocket:
    """What `tcp.Connection` calls a socket, with OpenSSL bound to the file descriptor."""

    kernel_encrypts = False
    """Does the kernel, once the handshake is done, make the records of what is sent?"""

    def __init__(self, raw: socket.socket, context: SSL.Context, server_name: str | None) -> None:
        self._raw = raw
        self.tls = SSL.Connection(context, raw)
        if server_name is None:
            self.tls.set_accept_state()
        else:
            self.tls.set_connect_state()
            if not (isIPAddress(server_name) or isIPv6Address(server_name)):  # RFC 6066 section 3: names only
                self.tls.set_tlsext_host_name(server_name.encode("ascii"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def do_handshake(self) -> None:
        """Go on with the handshake.

        Raises SSL.WantReadError or SSL.WantWriteError when it needs the peer, HandshakeFailed when it is over.
        """
        try:
            self.tls.do_handshake()
        except (SSL.WantReadError, SSL.WantWriteError):
            raise
        except SSL.SysCallError as error:
            raise HandshakeFailed("the peer closed the connection during the handshake") from error
        except SSL.Error as error:
            raise HandshakeFailed(_reason(error)) from error
        self.kernel_encrypts = kernel_tls.has_taken(self._raw)

    def recv(self, size: int) -> bytes:
        """Decrypted bytes of at most one record; b"" when the peer has said that there will be no more.

        A connection that ends without close_notify is lost, whatever TCP says: what it carried may be cut short (RFC
        9112 section 9.8).
        `size` is larger than a record everywhere, so nothing decrypted is ever left behind in OpenSSL
        where the reactor could not see it.
        """
        data: bytes | None = None
        try:
            data = self.tls.recv(size)
        except (SSL.WantReadError, SSL.WantWriteError):
            pass
        except SSL.ZeroReturnError:
            return b""
        except SSL.SysCallError as error:
            raise OSError(errno.ECONNRESET, _reason(error)) from None
        except SSL.Error as error:
            raise OSError(errno.EPROTO, _reason(error)) from None
        if self.kernel_encrypts and kernel_tls.key_update_seen(self.tls):
            raise OSError(errno.EPROTO, "the client wants new keys, which the kernel cannot change")
        if data is None:
            raise BlockingIOError(errno.EWOULDBLOCK, "TLS wants more")
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Send `data`, or its beginning; raises BlockingIOError when the socket is full (rule 3)."""
        if not data:
            return 0  # as a socket does; SSL_write(3) leaves an empty write undefined
        if self.kernel_encrypts:
            return self._raw.send(data)
        try:
            return self.tls.send(data)
        except (SSL.WantReadError, SSL.WantWriteError):
            raise BlockingIOError(errno.EWOULDBLOCK, "TLS wants more") from None
        except SSL.SysCallError as error:
            raise OSError(*error.args) from None
        except SSL.Error as error:
            raise OSError(errno.EPROTO, _reason(error)) from None

    def shutdown(self, how: int) -> None:
        """Say close_notify (RFC 8446 section 6.1) before the TCP half or whole is closed."""
        if how != socket.SHUT_RD:
            with suppress(SSL.Error):  # the peer is gone already, or the handshake never ended
                self.tls.shutdown()
        self._raw.shutdown(how)


class _FileSend:
    """A file on its way to the client.

    `held` is what a thread has read from its beginning; `again` is how many bytes of it OpenSSL has begun to send.
    """

    __slots__ = ("again", "count", "done", "fd", "held", "offset")

    def __init__(self, fd: int, offset: int, count: int) -> None:
        self.fd = fd
        self.offset = offset
        self.count = count
        self.held: bytes | None = None
        self.again = 0
        self.done: Deferred[None] = Deferred()


def _read_cold(fd: int, offset: int, count: int) -> bytes:
    """In a thread: read what is not in the page cache, and ask the kernel to read on ahead."""
    os.posix_fadvise(fd, offset, 8 * CHUNK, os.POSIX_FADV_WILLNEED)
    return os.pread(fd, min(count, CHUNK), offset)


def _read_warm(fd: int, offset: int, view: memoryview) -> int | None:
    """Read from the page cache into `view`; None when that would have to wait for the disk."""
    try:
        return os.preadv(fd, [view], offset, os.RWF_NOWAIT)
    except OSError as error:
        # EOPNOTSUPP: a file system without RWF_NOWAIT (some network ones): there a thread reads everything
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise


class DirectMixin:
    """Over `tcp.Server` or `unix.Server`: `read_head`, `start_tls` and `send_file`."""

    in_thread: InThread

    bytes_moved = 0
    """Bytes the client has taken so far; the watch for stalled clients compares it."""

    when_lost: "Callable[[Any], None] | None" = None
    """Called with this transport when the connection is lost, whatever protocol it carries by then."""

    _file: _FileSend | None = None
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
        return tcp.Connection.doRead(self)

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
        job = self._file = _FileSend(fd, offset, count)
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
        try:
            more = self._encrypt(job) if self._encrypts else self._sendfile(job)
        except FileUnreadable as error:
            self._file_done(Failure(error))
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not more:
            self.stopWriting()
            self.in_thread(_read_cold, job.fd, job.offset, job.count).addBoth(self._cold_read, job)
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

    def _cold_read(self: Any, result: bytes | Failure, job: _FileSend) -> None:
        self._reading_cold = False
        if self.disconnected:
            job.done.errback(Failure(ConnectionLost("the client has gone")))
        elif isinstance(result, Failure):
            self._file_done(
                Failure(FileUnreadable(f"reading a stored blob failed: {result.getErrorMessage()}"))
            )
        elif not result:
            self._file_done(Failure(FileUnreadable("a stored blob is shorter than its recorded size")))
        elif len(result) < job.again:
            self._file_done(Failure(FileUnreadable("a stored blob has become shorter")))
        else:
            job.held = result
            self.startWriting()

    def _encrypt(self: Any, job: _FileSend) -> bool:
        """Send up to a turn through TLS; False when the next bytes must come from the disk."""
        send = self.socket.send
        budget = TURN
        while job.count and budget > 0:
            if job.held is not None:
                view, job.held = memoryview(job.held), None
            else:
                got = _checked(job, _buffer[: min(CHUNK, job.count)])
                if got is None or got < job.again:
                    return False
                view = _buffer[:got]
            at, end = 0, len(view)
            try:
                while at < end:
                    at += send(view[at:])
                job.again = 0
            except BlockingIOError:
                job.again = end - at  # rule 3
                budget = 0
            job.offset += at
            job.count -= at
            self.bytes_moved += at
            budget -= at
        return True

    def _sendfile(self: Any, job: _FileSend) -> bool:
        """Send up to a turn as it is; False when the next bytes must come from the disk.

        sendfile(2) would sleep on the disk, so it runs only over a stretch whose two ends are in the page
        cache (read-ahead fills what lies between) or which a thread has just read.
        """
        stretch = min(job.count, TURN)
        if job.held is not None:
            stretch, job.held = len(job.held), None
        else:
            for at in (job.offset, job.offset + stretch - 1):
                if _checked(job, _buffer[:1], at) is None:
                    return False
        try:
            sent = os.sendfile(self.socket.fileno(), job.fd, job.offset, stretch)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno == errno.EIO:
                raise FileUnreadable(f"reading a stored blob failed: {error}") from error
            raise
        if not sent:
            raise FileUnreadable("a stored blob is shorter than its recorded size")
        job.offset += sent
        job.count -= sent
        self.bytes_moved += sent
        return True

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


def _checked(job: _FileSend, view: memoryview, at: int | None = None) -> int | None:
    """`_read_warm`, with failures as FileUnreadable. Where nothing comes, `_read_cold` finds out why."""
    try:
        return _read_warm(job.fd, job.offset if at is None else at, view) or None
    except OSError as error:
        raise FileUnreadable(f"reading a stored blob failed: {error}") from error


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


class DualPort(tcp.Port):
    """A port on `::` that takes IPv4 clients too, whatever net.ipv6.bindv6only says."""

    def createInternetSocket(self) -> socket.socket:
        skt: socket.socket = super().createInternetSocket()
        skt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        return skt


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
