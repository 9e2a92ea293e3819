"""HTTP towards clients: twisted.web's channel, fitted to the direct transport.

A request is answered when all of it has come, except for uploads: those are answered from their head, and their body
waits in the socket for whoever takes it (`upload`). An answer may then end before its upload does. What is left of a
short one is read away; otherwise the answer says that the connection ends, and the client gets time to read that.
"""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from .farewell import PLAIN, UPLOAD_LINGER, linger, take_leave
from .transport import name_of
from .upload import Upload
from .web import JSON, Request, error_body

if TYPE_CHECKING:
    from .destination import Destination

log = Logger()


@implementer(IHalfCloseableProtocol)
class Channel(http.HTTPChannel):
    """One client connection speaking HTTP. `destination` is what all requests of an intercepted connection are for."""

    requestFactory = Request
    factory: "WebFactory"
    transport: Any
    destination: "Destination | None" = None
    head_since: float | None = None
    """When the head that is being read began (reactor seconds)."""
    quiet_since = 0.0
    """Since when the connection is idle, while no request is under way."""
    body_since: float | None = None
    """Since when nothing has come of an upload for which we wait."""
    _body_paused = False
    _heard_all = False
    _refused = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self.quiet_since = self.factory.clock.seconds()

    @property
    def busy(self) -> bool:
        """Is a response under way?"""
        upload = self._upload
        return bool(self._handlingRequest) or (upload is not None and not self.requests[0].finished)

    @property
    def _upload(self) -> Upload | None:
        """The body that is coming for a request that is being answered, or has been."""
        upload: Upload | None = self.requests[0].upload if self.requests else None
        return None if upload is None or upload.complete else upload

    def dataReceived(self, data: bytes) -> None:
        now = self.factory.clock.seconds()
        if self._upload is not None:
            self.body_since = now if self.body_since is not None else None
        elif self.head_since is None and not self._handlingRequest:
            self.head_since = now
        super().dataReceived(data)
        self._close_if_done()

    def allHeadersReceived(self) -> None:
        request: Request = self.requests[-1]
        request.named(self._command, self._path, self._version)
        self.factory.address(request)
        is_upload = self.length != 0 and self.factory.is_upload(request)
        if is_upload:
            expected = request.lines("expect")[:1]
            asks = self._version == b"HTTP/1.1" and [e.lower() for e in expected] == ["100-continue"]
            request.upload = Upload(self.length, asks, self)
        super().allHeadersReceived()
        if is_upload:
            self.head_since = None
            self.pause_body()
            self.setRawMode()
            request.process_if_spoken(self._version)

    def _send100Continue(self) -> None:
        if self.requests[-1].upload is None:  # else whoever takes the upload says so
            super()._send100Continue()

    def allContentReceived(self) -> None:
        self.head_since = self.body_since = None
        request: Request = self.requests[-1]
        if self._body_paused:
            self.resume_body()
        super().allContentReceived()
        if request.upload is not None and request.finished:
            self.requestDone(request)  # answered early

    def requestDone(self, request: Request) -> None:
        self.quiet_since = self.factory.clock.seconds()
        upload = self._upload
        if upload is None:
            super().requestDone(request)
            self._close_if_done()
            return
        upload.stop()
        if self.persistent:
            self.resume_body()  # what comes before the next request
        else:
            self.transport.unregisterProducer()
            linger(self.transport, self.factory.clock, UPLOAD_LINGER)
        self.body_since = None

    # -- uploads (upload.Sending)

    def pause_body(self) -> None:
        self._body_paused, self.body_since = True, None
        self._networkProducer.pauseProducing()

    def resume_body(self) -> None:
        self._body_paused, self.body_since = False, self.factory.clock.seconds()
        if not self._waitingForTransport:
            self._networkProducer.resumeProducing()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._body_paused:
            self._networkProducer.pauseProducing()

    def send_continue(self) -> None:
        super()._send100Continue()

    def _close_if_done(self) -> None:
        """After the client's last request has been answered."""
        if self._heard_all and not (self.busy or self._busyReceiving):
            self.loseConnection()

    def refuse(self, status: int, message: str) -> None:
        """Answer a request that cannot be read, and close: where the next one begins cannot be told."""
        if self._refused:
            return
        self._refused = True
        for request in self.requests:
            request.connectionLost(Failure(ConnectionDone()))
        self.lineReceived = self.rawDataReceived = _ignore  # type: ignore[method-assign]
        self.transport.unregisterProducer()
        peer = name_of(self.transport.getPeer())
        log.info("refused {peer}: {status} {why}", peer=peer, status=status, why=message)
        body, kind = message.encode() + b"\n", PLAIN
        if self.destination is not None:
            body, kind = error_body("UNSUPPORTED", message), JSON
        take_leave(self.transport, self.factory.clock, status, body, kind)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(431, f"the request's head has more than {self.totalHeadersSize} bytes")

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize:
            self.lineLengthExceeded(b"")
        elif self._receivedHeaderCount > self.maxHeaders:
            self.refuse(431, f"the request has more than {self.maxHeaders} headers")
        else:
            self.refuse(400, "this is not an HTTP/1.1 request")

    def readConnectionLost(self) -> None:
        """The client will send nothing more, but may be reading (RFC 9293 section 3.6): finish what is under way."""
        if self._upload is not None:
            self.transport.abortConnection()  # there was to be more
            return
        self._heard_all = True
        self._close_if_done()

    def writeConnectionLost(self) -> None:
        self.transport.loseConnection()


Address = Callable[[Request], None]
"""Finds out whom a request is for, of which the head has come."""
Respond = Callable[[Request], Coroutine[Any, Any, None]]
IsUpload = Callable[[Request], bool]
"""Is a request with a body, of which the head has come, to be answered while the body comes?"""


def _nothing_is(request: Request) -> bool:
    return False


def _to_whom_the_connection_is(request: Request) -> None:
    request.address(request.channel.destination, request.uri)


class WebFactory(http.HTTPFactory):
    """Makes channels whose requests are answered by `respond`.

    Idle times are watched by the front door for all connections together, so Twisted's timer per connection is off.
    """

    def __init__(
        self,
        clock: Any,
        respond: Respond,
        head_size: int,
        is_upload: IsUpload = _nothing_is,
        address: Address = _to_whom_the_connection_is,
    ) -> None:
        super().__init__(reactor=clock)
        self.address = address
        self.clock = clock
        self.respond = respond
        self.is_upload = is_upload
        self._head_size = head_size

    def buildProtocol(self, addr: Any) -> Any:
        channel = Channel()
        channel.factory = self
        channel.callLater = self.clock.callLater  # type: ignore[method-assign]
        channel.timeOut = None
        channel.totalHeadersSize = channel.MAX_LENGTH = self._head_size
        return channel

    def startFactory(self) -> None:
        """No access log file here."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def log(self, request: Any) -> None:
        """No access log line here."""


def _ignore(data: bytes) -> None:
    """What comes after the end."""
