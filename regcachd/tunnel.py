"""Tunnels: for hosts that are not registries, bytes go through as they are.

The client's connection is paused until the other side answers, so what it sends early waits in the kernel. After
that each side is the other's producer: whoever is slow slows the other down. A half-close is passed on.
"""

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from .connect import Authority
from .dial import Dialer
from .errors import RegcachdError
from .guard import Rule
from .http1 import UpstreamFailed
from .parent import Parent


class TunnelFailed(RegcachdError):
    """The host could not be reached."""


@implementer(IHalfCloseableProtocol)
class Splice(Protocol):
    """One end of a tunnel."""

    transport: Any
    other: "Splice | None" = None
    _heard_all = False
    _said_all = False

    def join(self, other: "Splice") -> None:
        """Become the two ends of one tunnel. Both are connected, and paused until now."""
        for end, far in ((self, other), (other, self)):
            end.other = far
            end.transport.registerProducer(far.transport, True)
            far.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        assert self.other is not None
        self.other.transport.write(data)

    def readConnectionLost(self) -> None:
        assert self.other is not None
        self._heard_all = True
        self.other.transport.loseWriteConnection()
        self._close_if_done()

    def writeConnectionLost(self) -> None:
        """The other end has said its last; this one may still be speaking."""
        self._said_all = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        """Closed for reading and for writing is not yet closed: the reactor would hear of it no more."""
        if self._heard_all and self._said_all:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.other is None:
            return  # the client left before it was joined to its far end
        self.transport.unregisterProducer()
        self.other.transport.unregisterProducer()
        self.other.transport.loseConnection()


async def open_tunnel(
    reactor: Any, authority: Authority, timeout: float, rule: Rule, parent: Parent | None = None
) -> Splice:
    """Connect to a host that `rule` allows, through the parent if there is one for it.

    Raises guard.Forbidden or TunnelFailed.
    """
    far = _Waiting()
    dialer = Dialer(reactor, parent, timeout)
    try:
        await dialer.dial(authority.host, authority.port, str(authority), rule, far)
    except UpstreamFailed as error:
        raise TunnelFailed(str(error)) from error
    return far


class _Waiting(Splice):
    """The far end, quiet until it is joined."""

    def connectionMade(self) -> None:
        self.transport.pauseProducing()
