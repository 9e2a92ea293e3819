"""The last answer on a connection: why it ends, and time to read that.

A socket that is closed while the client is still sending is reset by the kernel, and the reset may overtake the answer.
So the connection is closed for writing only, and what the client still sends is thrown away (RFC 9112 section 9.6).
"""

from collections.abc import Iterable
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES
from zope.interface import implementer

LINGER = 2.0
"""Seconds a client has to read its answer and to close."""
UPLOAD_LINGER = 30.0
"""The same for one that is sending a large body, and may not look at its answer before it has sent all of it."""

PLAIN = b"text/plain; charset=utf-8"

_HEAD = b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n"


@implementer(IHalfCloseableProtocol)
class Farewell(Protocol):
    """What a connection carries after its last answer has been written."""

    transport: Any

    def __init__(self, clock: Any, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self._end: Any = None

    def connectionMade(self) -> None:
        self._end = self._clock.callLater(self._patience, self._give_up)
        self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        """Not of interest any more."""

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """As intended."""

    def _give_up(self) -> None:
        self._end = None
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._end is not None:
            self._end.cancel()


def take_leave(
    transport: Any,
    clock: Any,
    status: int,
    body: bytes,
    content_type: bytes = PLAIN,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Answer with `status` and `body`, and close. What the protocol of `transport` was hears nothing any more."""
    transport.write(plain_answer(status, body, content_type, [*headers, (b"Connection", b"close")]))
    linger(transport, clock, LINGER)


def plain_answer(
    status: int, body: bytes, content_type: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """A whole response."""
    head = _HEAD % (status, RESPONSES.get(status, b"Refused"), content_type, len(body))
    return head + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + body


def linger(transport: Any, clock: Any, patience: float) -> None:
    """Close, once what has been written has left and been read; not later than in `patience` seconds."""
    transport.protocol = farewell = Farewell(clock, patience)
    farewell.makeConnection(transport)
    transport.resumeProducing()
