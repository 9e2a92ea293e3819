"""TLS on the socket: what stands where Twisted's connections have their socket, once they have switched.

OpenSSL is bound to the file descriptor, so nothing goes through a memory BIO. Where the kernel makes the
records (`kernel_tls`), what is sent goes to it in plain.
"""

import errno
import socket
from contextlib import suppress
from typing import Any

from OpenSSL import SSL
from twisted.internet.abstract import isIPAddress, isIPv6Address

from . import kernel_tls
from .errors import RegcachdError

RECORD = 16 * 1024
"""Bytes a TLS record may hold (RFC 8446 section 5.1)."""


class HandshakeFailed(RegcachdError):
    """A TLS handshake did not succeed; the message is OpenSSL's reason."""


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
        `size` is RECORD or more everywhere, so nothing decrypted is ever left behind in OpenSSL where the reactor
        could not see it.
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
        """Send `data`, or its beginning; raises BlockingIOError when the socket is full (rule 3 of `sending`)."""
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
