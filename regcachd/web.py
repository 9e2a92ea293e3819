"""One exchange with a client: twisted.web's request, fitted to the direct transport.

What answers it is an async function given to the `channel.WebFactory`; whatever that raises becomes an answer here, so
that no exception of one request harms another.
"""

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers

from .connect import Authority
from .destination import Destination, Whom
from .errors import RegcachdError
from .response import UpstreamFailed
from .upload import Upload
from .web_links import relinked

if TYPE_CHECKING:
    from .channel import Channel

log = Logger()

JSON = b"application/json"
_REASONS = {**http.RESPONSES, 421: b"Misdirected Request"}
"""Reason phrases; the latter Twisted does not know."""
LONGEST_REASON = 250
"""Bytes of a reason phrase."""

MOST_BODY = 1024 * 1024
"""Bytes of a request body that is read before the request is answered: token requests are the largest."""

MOST_UNREAD = 256 * 1024
"""Bytes of an upload that nobody wants which are read so that the connection can be kept."""


class Request(http.Request):
    """One request of a client."""

    channel: "Channel"
    upload: Upload | None = None
    """The body, of a request that is answered while it comes; then there is no `body`."""
    too_large = False
    whom: Whom = None
    """Whom it is for. Then `uri`, `path` and `query` are what that is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gone_calls: list[Callable[[], None]] = []
        self._reason = b""

    def handleContentChunk(self, data: bytes) -> None:
        if self.upload is not None:
            self.upload.feed(data)
            return
        assert self.content is not None
        if self.content.tell() + len(data) > MOST_BODY:
            self.too_large = True
        else:
            self.content.write(data)

    def gotLength(self, length: int | None) -> None:
        is_kept = self.upload is None and length is not None and length <= MOST_BODY
        super().gotLength(length if is_kept else 0)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The end of the request. Twisted's own would parse forms, which may be enormous and are never ours to read."""
        if self.upload is not None:
            self.upload.end()
            return
        assert self.content is not None
        self.content.seek(0)
        self.process_if_spoken(version)

    def named(self, command: bytes, target: bytes, version: bytes) -> None:
        """What the request line says."""
        self.method, self.clientproto = command, version
        self.address(None, target)

    def address(self, whom: Whom, target: bytes) -> None:
        """Make it one for what is at `target` there."""
        self.whom, self.uri = whom, target
        self.path, _, self.query = target.partition(b"?")

    @property
    def destination(self) -> Destination | None:
        """The registry that it is for, if it is for one."""
        return self.whom if isinstance(self.whom, Destination) else None

    @property
    def authority(self) -> Authority | None:
        """What the client calls the registry's host, where it does."""
        return self.whom.authority if isinstance(self.whom, Destination) else None

    @property
    def is_mirrored(self) -> bool:
        """Does the client take this daemon for the registry?"""
        return isinstance(self.whom, Destination) and self.whom.is_mirrored

    def process_if_spoken(self, version: bytes) -> None:
        """Answer, if the request is in a version of HTTP that is spoken here."""
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
        if self.upload is not None:
            self.upload.lose()
        if not self.finished:
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
        self.setResponseCode(status, self._reason or _REASONS.get(status))
        add, destination = self.responseHeaders.addRawHeader, self.destination
        for name, value in headers:
            if destination is not None and destination.is_mirrored and name.lower() == b"link":
                value = relinked(value, self.uri, destination)
            add(name, value)
        if self.upload is not None and not self._will_be_read(self.upload):
            self.channel.persistent = False
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        if not self.responseHeaders.hasHeader(b"Date"):
            add(b"Date", http.datetimeToString())
        if length is not None:
            self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % length])
        self.write(b"")

    @staticmethod
    def _will_be_read(upload: Upload) -> bool:
        """Has an upload come, or is it known to be short? Who waits to be told to send it may send it, or not."""
        if upload.complete:
            return True
        return upload.length is not None and upload.length <= MOST_UNREAD and not upload.asks

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
        """Send an error as the OCI distribution spec says ("Error codes").

        Of a 5xx, docker, containerd, podman and skopeo show the status line alone, so the message is there, too.
        """
        if status >= 500:
            self._reason = reason_of(status, message)
        self.answer(status, [(b"Content-Type", JSON), *headers], error_body(code, message))

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


def reason_of(status: int, message: str) -> bytes:
    """A reason phrase (RFC 9112 section 4) that tells a person why."""
    told = "".join(each if " " <= each <= "~" else "?" for each in message)
    return (_REASONS.get(status, b"Error") + b": " + told.encode())[:LONGEST_REASON]


def error_body(code: str, message: str) -> bytes:
    """An error as the OCI distribution spec has it ("Error codes")."""
    return json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode() + b"\n"


def raw_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Every header line of a request, in order of names."""
    return [(name, value) for name, values in headers.getAllRawHeaders() for value in values]
