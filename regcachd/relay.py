"""Relaying: what of a message goes on to the other side, and how its body gets there.

Headers that belong to one connection stay there (RFC 9110 section 7.6.1); everything else goes through as it
came, spelling included. Via (section 7.6.3) and Cache-Status (RFC 9211) are added.
"""

from collections.abc import Iterable

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from .errors import RegcachdError
from .response import RawHeaders, Response, UpstreamFailed
from .web import Request, raw_headers

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization "
    b"te trailer transfer-encoding upgrade".split()
)
_OURS_UPWARD = _HOP_BY_HOP | frozenset((b"host", b"content-length", b"expect"))
_OURS_DOWNWARD = _HOP_BY_HOP | frozenset((b"content-length",))

VIA = (b"Via", b"1.1 regcachd")


def cache_status(detail: str) -> tuple[bytes, bytes]:
    """The Cache-Status header: `hit`, or why the request was forwarded (RFC 9211 section 2)."""
    return (b"Cache-Status", b"regcachd; " + detail.encode())


HIT = cache_status("hit")
STALE = cache_status("hit; detail=offline")
"""What is stored, for a client whose right to it upstream, which is away, cannot be asked about."""
REVALIDATED = cache_status("hit; detail=revalidated")
"""What is stored, upstream having just said that it is still so."""
IN_NEED = cache_status("fwd=stale")
"""What is stored, and old, because upstream has failed to say what is new."""
MISS = cache_status("fwd=uri-miss; stored")
FORWARDED = cache_status("fwd=uri-miss")
BYPASS = cache_status("fwd=bypass")


def _end_to_end(headers: RawHeaders, ours: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    named = {t.strip().lower() for n, v in headers if n.lower() == b"connection" for t in v.split(b",")}
    return [(n, v) for n, v in headers if n.lower() not in ours and n.lower() not in named]


def upward(request: Request) -> list[tuple[bytes, bytes]]:
    """The client's headers as they go on to upstream."""
    return [*_end_to_end(raw_headers(request.requestHeaders), _OURS_UPWARD), VIA]


_ASKING = frozenset((b"authorization", b"accept", b"user-agent"))


def asking(request: Request) -> list[tuple[bytes, bytes]]:
    """The headers for a question of our own on the client's behalf: its credential, what it accepts, its name.

    Bytes that are hashed must not be re-encoded on the way.
    """
    kept = [(n, v) for n, v in raw_headers(request.requestHeaders) if n.lower() in _ASKING]
    return [*kept, (b"Accept-Encoding", b"identity"), VIA]


def downward(headers: RawHeaders, *added: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Upstream's headers as they go on to the client."""
    return [*_end_to_end(headers, _OURS_DOWNWARD), VIA, *added]


@frozen
class Answer:
    """A whole, small response of upstream, for one client or for all that wait for it."""

    status: int
    reason: bytes
    headers: RawHeaders = field(repr=False)
    body: bytes = field(repr=False)
    length: int | None = None
    """The Content-Length that upstream gave, for a body that is not here: an answer to HEAD has none."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def send(self, request: Request, *added: tuple[bytes, bytes]) -> None:
        """Answer `request` with it."""
        headers = downward(self.headers, *added)
        if request.method != b"HEAD":
            request.answer(self.status, headers, self.body)
        elif not request.gone:
            request.begin(self.status, headers, len(self.body) if self.body else self.length)
            request.finish()


MOST_ERROR = 64 * 1024
"""Bytes of an error body of upstream that are passed on."""


class TooLarge(RegcachdError):
    """A response that had to be kept whole is larger than its limit."""


@define(eq=False)
class _Capture:
    limit: int
    response: Response
    done: "Deferred[bytes]" = field(factory=Deferred)
    pieces: list[bytes] = field(factory=list)
    size: int = 0

    def body_received(self, data: bytes) -> None:
        self.size += len(data)
        if self.size <= self.limit:
            self.pieces.append(data)
        else:
            self.response.abandon()

    def body_done(self) -> None:
        if self.size > self.limit:
            self.done.errback(Failure(TooLarge(f"more than {self.limit} bytes")))
        else:
            self.done.callback(b"".join(self.pieces))

    def body_failed(self, error: UpstreamFailed) -> None:
        self.done.errback(
            Failure(TooLarge(f"more than {self.limit} bytes") if self.size > self.limit else error)
        )


async def capture(response: Response, limit: int) -> Answer:
    """Read a response whole. Raises TooLarge over `limit` bytes, UpstreamFailed."""
    if response.length is not None and response.length > limit and response.connection is not None:
        response.abandon()
        raise TooLarge(f"{response.length} bytes, more than {limit}")
    taker = _Capture(limit, response)
    response.deliver(taker)
    body = await taker.done
    return Answer(response.status, response.reason, response.headers, body, response.length)


async def captured(response: Response) -> Answer:
    """An error of upstream, with its body if that is small."""
    try:
        return await capture(response, MOST_ERROR)
    except (TooLarge, UpstreamFailed):
        return Answer(response.status, response.reason, response.headers, b"", response.length)


@implementer(IPushProducer)
@define(eq=False)
class _Stream:
    """A body on its way from upstream to one client, at the pace of the slower."""

    request: Request
    response: Response
    done: "Deferred[None]" = field(factory=Deferred)

    def body_received(self, data: bytes) -> None:
        self.request.write(data)

    def body_done(self) -> None:
        self.done.callback(None)

    def body_failed(self, error: UpstreamFailed) -> None:
        self.done.errback(Failure(error))

    def pauseProducing(self) -> None:
        self.response.pause()

    def resumeProducing(self) -> None:
        self.response.resume()

    def stopProducing(self) -> None:
        self.response.abandon()


async def stream(request: Request, response: Response, added: Iterable[tuple[bytes, bytes]]) -> None:
    """Send upstream's response on to the client as it comes. Raises UpstreamFailed, after which the response is cut."""
    if request.gone:
        response.abandon()
        return
    request.begin(response.status, downward(response.headers, *added), response.length)
    await pour(request, response)
    if not request.gone:
        request.finish()


async def pour(request: Request, response: Response) -> None:
    """Send the body only. Raises UpstreamFailed."""
    if request.gone:
        response.abandon()
        return
    taker = _Stream(request, response)
    request.registerProducer(taker, True)
    try:
        response.deliver(taker)
        await taker.done
    finally:
        if not request.gone:
            request.unregisterProducer()
