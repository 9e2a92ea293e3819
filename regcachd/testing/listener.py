"""The server side of a registry's connections: HTTP, perhaps in TLS, over TCP that is kept track of."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.web.http import HTTPFactory, Request


class HTTPServer(HTTPFactory):
    """HTTP without idle timeouts, access log or timers."""

    def __init__(self, make_request: Callable[[Any], Request], reactor: Any) -> None:
        super().__init__(timeout=None, reactor=reactor)  # type: ignore[arg-type]
        self._make_request = make_request

    def startFactory(self) -> None:
        """Start no clock for an access log."""

    def log(self, request: Request) -> None:
        """Write no access log: the registry keeps its requests."""

    def buildProtocol(self, addr: Any) -> Any:
        """Give each connection this server's kind of request."""
        protocol: Any = super().buildProtocol(addr)
        protocol.requestFactory = lambda channel, _queued: self._make_request(channel)
        return protocol


class TLSServer(TLSMemoryBIOFactory):
    """TLS whose writes leave at once.

    Newer Twisted gathers small writes until the next turn of the reactor; a fault that cuts the connection
    below TLS would overtake them.
    """

    protocol = TLSMemoryBIOProtocol


class Connection(ProtocolWrapper):
    """One TCP connection; ``serial`` counts them from 1."""

    serial = 0


if TYPE_CHECKING:
    _ConnectionFactory = WrappingFactory[Connection]
else:
    _ConnectionFactory = WrappingFactory  # no generic class yet in Twisted 22.4


class Connections(_ConnectionFactory):
    """The open TCP connections of a server."""

    protocol = Connection

    def __init__(self, server: HTTPFactory | TLSMemoryBIOFactory, accepts: Callable[[], bool]) -> None:
        super().__init__(server)
        self._accepts = accepts
        self._serials = count(1)
        self._all_gone: Deferred[None] | None = None

    def buildProtocol(self, addr: Any) -> Connection | None:  # type: ignore[override]
        """Accept a connection, or close it at once."""
        if not self._accepts():
            return None
        connection = super().buildProtocol(addr)
        connection.serial = next(self._serials)
        return connection

    def unregisterProtocol(self, p: Connection) -> None:
        """Notice the last one's end."""
        super().unregisterProtocol(p)
        if not self.protocols and self._all_gone is not None:
            gone, self._all_gone = self._all_gone, None
            gone.callback(None)

    async def abort_all(self) -> None:
        """Reset every connection, and wait until they are gone."""
        if self.protocols:
            self._all_gone = Deferred()
            for connection in list(self.protocols):
                connection.abortConnection()
            await self._all_gone
