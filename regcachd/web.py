"""HTTP towards clients: twisted.web's channel and request, fitted to the direct transport.

A `Request` is one exchange. What answers it is an async function given to the `WebFactory`; whatever that
raises becomes an answer here, so that no exception of one request harms another.
"""

import json
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers
from zope.interface import implementer

from .errors import RegcachdError
from .farewell import PLAIN, take_leave
from .http1 import UpstreamFailed
from .transport import name_of

if TYPE_CHECKING:
    from .config import Registry
    from .connect import Authority

log = Logger()

_JSON = b"application/json"
_REASONS = {421: b"Misdirected Request"}
"""Reason phrases that Twisted does not know."""

MOST_BODY = 1024 * 1024
"""Bytes of a request body: token requests are the largest that pass."""


class Request(http.Request):
    """One request of a client."""

    channel: "Channel"
    too_large = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gone_calls: list[Callable[[], None]] = []

    def handleContentChunk(self, data: bytes) -> None:
        assert self.content is not None
        if self.content.tell() + len(data) > MOST_BODY:
            self.too_large = True
        else:
            self.content.write(data)

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0 if length is None or length > MOST_BODY else length)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Twisted's own, without the parsing of forms, which may be enormous and are never ours to read."""
        assert self.content is not None
        self.content.seek(0)
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, self.query = path.partition(b"?")
        if version in (b"HTTP/1.1", b"HTTP/1.0"):
            self.process()
        else:  # Twisted before 25 lets any version through
            self.channel.refuse(505, "this proxy speaks HTTP/1.1 and HTTP/1.0")

    def process(self) -> None:
        Deferred.fromCoroutine(self.channel.factory.respond(self)).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if self._disconnected:
            return
        if isinstance(failure.value, UpstreamFailed):
            log.info("upstream failed: {why}", why=failure.getErrorMessage(), path=self.path)
            status, message = failure.value.status, failure.getErrorMessage()
        elif failure.check(ConnectionClosed):
            return
        elif failure.check(RegcachdError):
            log.error("a response failed: {why}", why=failure.getErrorMessage(), path=self.path)
            status, message = 500, failure.getErrorMessage()
        else:
            log.failure("a request failed: {method} {path}", failure, method=self.method, path=self.path)
            status, message = 500, "regcachd failed at this request; its log says why"
        if self.startedWriting:
            self.cut()
        else:
            self.answer_error(status, "UNKNOWN", message)

    @property
    def gone(self) -> bool:
        """Has the client left?"""
        return bool(self._disconnected)

    def when_gone(self, call: Callable[[], None]) -> None:
        """Call `call` should the client leave before the response is finished."""
        if self.gone:
            call()
        else:
            self._gone_calls.append(call)

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        for call in self._gone_calls:
            call()

    # -- what came

    def body(self) -> bytes:
        """The whole request body, unless it was `too_large`."""
        assert self.content is not None
        content: bytes = self.content.read()
        return content

    def header(self, name: str) -> str | None:
        """All values of a header in one line (RFC 9110 section 5.3), or None."""
        return ", ".join(self.lines(name)) if self.requestHeaders.hasHeader(name) else None

    def lines(self, name: str) -> list[str]:
        """The lines of a header, as they came: any bytes at all, which only Latin-1 can always read."""
        return [line.decode("latin-1") for line in self.requestHeaders.getRawHeaders(name.encode(), [])]

    # -- what goes

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], length: int | None) -> None:
        """Send the head. With `length` None the body is chunked, or ends with the connection for HTTP/1.0."""
        self.setResponseCode(status, _REASONS.get(status))
        add = self.responseHeaders.addRawHeader
        for name, value in headers:
            add(name, value)
        if not self.responseHeaders.hasHeader(b"Date"):
            add(b"Date", http.datetimeToString())
        if length is not None:
            self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % length])
        self.write(b"")

    def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """Send a whole response; its body is left out for HEAD."""
        if self.gone:
            return
        self.begin(status, headers, len(body))
        if body and self.method != b"HEAD":
            self.write(body)
        self.finish()

    def answer_error(
        self, status: int, code: str, message: str, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send an error as the OCI distribution spec says ("Error codes")."""
        self.answer(status, [(b"Content-Type", _JSON), *headers], _error_body(code, message))

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send a part of a file as (the next part of) the body. Raises FileUnreadable or why the client left."""
        if not count:
            return  # in chunks it would be the end
        transport: Any = self.channel.transport
        if self.chunked:
            self.channel.write(b"%x\r\n" % count)
        await transport.send_file(fd, offset, count)
        if self.chunked:
            self.channel.write(b"\r\n")

    def cut(self) -> None:
        """Close the connection before the last byte: the client must not take what it has for the whole."""
        if not self.gone:
            self.channel.transport.abortConnection()


@implementer(IHalfCloseableProtocol)
class Channel(http.HTTPChannel):
    """One client connection speaking HTTP. `registry` is what an intercepted connection is for, `authority` what the
    client calls it."""

    requestFactory = Request
    factory: "WebFactory"
    transport: Any
    registry: "Registry | None" = None
    authority: "Authority | None" = None
    head_since: float | None = None
    """When the head that is being read began (reactor seconds)."""
    quiet_since = 0.0
    """Since when the connection is idle, while no request is under way."""
    _heard_all = False
    _refused = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self.quiet_since = self.factory.clock.seconds()

    @property
    def busy(self) -> bool:
        """Is a response under way?"""
        return bool(self._handlingRequest)

    def dataReceived(self, data: bytes) -> None:
        if self.head_since is None and not self._handlingRequest:
            self.head_since = self.factory.clock.seconds()
        super().dataReceived(data)
        self._close_if_done()

    def allContentReceived(self) -> None:
        self.head_since = None
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        self.quiet_since = self.factory.clock.seconds()
        super().requestDone(request)
        self._close_if_done()

    def _close_if_done(self) -> None:
        """After the client's last request has been answered."""
        if self._heard_all and not (self.busy or self._busyReceiving):
            self.loseConnection()

    def refuse(self, status: int, message: str) -> None:
        """Answer a request that cannot be read, and close: where the next one begins cannot be told."""
        if self._refused:
            return
        self._refused = True
        self.lineReceived = self.rawDataReceived = _ignore  # type: ignore[method-assign]
        self.transport.unregisterProducer()
        peer = name_of(self.transport.getPeer())
        log.info("refused {peer}: {status} {why}", peer=peer, status=status, why=message)
        body, kind = message.encode() + b"\n", PLAIN
        if self.registry is not None:
            body, kind = _error_body("UNSUPPORTED", message), _JSON
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
        self._heard_all = True
        self._close_if_done()

    def writeConnectionLost(self) -> None:
        self.transport.loseConnection()


Respond = Callable[[Request], Coroutine[Any, Any, None]]


class WebFactory(http.HTTPFactory):
    """Makes channels whose requests are answered by `respond`.

    Idle times are watched by the front door for all connections together, so Twisted's timer per connection is off.
    """

    def __init__(self, clock: Any, respond: Respond, head_size: int) -> None:
        super().__init__(reactor=clock)
        self.clock = clock
        self.respond = respond
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


def _error_body(code: str, message: str) -> bytes:
    """An error as the OCI distribution spec has it ("Error codes")."""
    return json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode() + b"\n"


def raw_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Every header line of a request, in order of names."""
    return [(name, value) for name, values in headers.getAllRawHeaders() for value in values]
