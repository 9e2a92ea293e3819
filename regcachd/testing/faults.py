"""The ways a registry can misbehave, when they apply, and what they make of a reply.

A fault is a value; `FakeRegistry.fault` says for which requests it holds. Offsets and lengths are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

from attrs import define, evolve, field, frozen

from regcachd.reference import Digest
from regcachd.testing.message import Body, Reply, Request

_NOBODYS = Digest("sha256", "0" * 64)


@frozen
class CutAfter:
    """Close the connection after ``after`` bytes of the body; over TLS without a close alert.

    With ``reset`` the peer gets a TCP reset, which may overtake bytes on their way.
    """

    after: int
    reset: bool = False


@frozen
class StallAfter:
    """Fall silent after ``after`` bytes of the body: for ``seconds``, or until `FakeRegistry.release`."""

    after: int
    seconds: float | None = None


@frozen
class StallBeforeHeaders:
    """Take the request and fall silent: for ``seconds``, or until `FakeRegistry.release`."""

    seconds: float | None = None


@frozen
class WrongBytes:
    """Invert ``count`` bytes from ``offset``, counted in the whole content even if a part is sent."""

    offset: int
    count: int = 1


@frozen
class WrongLength:
    """Announce ``delta`` bytes more (or, if negative, fewer) than are sent, then close the connection."""

    delta: int


@frozen
class Status:
    """Answer with this status, before anything else is looked at; without ``body``, with an OCI error."""

    code: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes | None = None


class Storage(Protocol):
    """Where a redirect can lead: a place that makes presigned URLs for content."""

    def presign(self, body: Body, method: str, name: str) -> str:
        """An absolute URL that serves this body to this method, without Authorization."""


@frozen
class RedirectTo:
    """Redirect instead of serving: a successful GET or HEAD, after the access check.

    ``target`` is a URL or path to be sent as it is; or another `FakeRegistry`, which then serves the
    content under a presigned URL as storage hosts do (400 to a request with Authorization, 403 to a wrong
    signature or to another method); or None for such a URL on the registry itself, as a relative reference.
    """

    target: str | Storage | None
    status: int = 307


@frozen
class NoContentLength:
    """Send the body chunked, without Content-Length."""


@frozen
class GarbageChunks:
    """Send the body chunked and, after ``after`` bytes, what is no chunk; then close."""

    after: int = 0


@frozen
class GarbageResponse:
    """Send ``data`` where a response should be, then close."""

    data: bytes = b"\x00\x01 this is not HTTP \xff\xfe\r\n\r\n"


@frozen
class IgnoreRange:
    """Answer a request for a range with 200 and everything, and announce no ranges."""


@frozen
class Throttle:
    """Send no more than this many bytes per second on each connection."""

    bytes_per_second: float


@frozen
class NoDigestHeader:
    """Leave Docker-Content-Digest out."""


@frozen
class WrongDigestHeader:
    """Send this Docker-Content-Digest."""

    digest: Digest = _NOBODYS


@frozen
class ExtraHeaders:
    """Add these headers, or replace them."""

    headers: Mapping[str, str]


@frozen
class CloseAtAccept:
    """Close new connections at once. Its rule's match is not looked at: there is no request yet."""


Stall: TypeAlias = StallAfter | StallBeforeHeaders
Mark: TypeAlias = StallAfter | CutAfter | GarbageChunks
Fault: TypeAlias = (
    Mark
    | StallBeforeHeaders
    | WrongBytes
    | WrongLength
    | Status
    | RedirectTo
    | NoContentLength
    | GarbageResponse
    | IgnoreRange
    | Throttle
    | NoDigestHeader
    | WrongDigestHeader
    | ExtraHeaders
    | CloseAtAccept
)
Match: TypeAlias = str | Digest | Callable[[Request], bool]


@define
class Rule:
    """Faults for the requests that match, except the first ``skip``, and for at most ``times`` of them.

    ``match`` is a part of the request line (``/blobs/``, ``HEAD /v2/app/manifests/latest``), a digest in the
    path, or a function of the request.
    """

    match: Match
    faults: tuple[Fault, ...]
    times: int | None = None
    skip: int = 0
    applied: int = 0
    """Requests (or connections) that have had these faults so far."""

    def matches(self, request: Request) -> bool:
        """Whether this rule is about such a request."""
        if isinstance(self.match, Digest):
            return str(self.match) in request.path
        return self.match in request.line if isinstance(self.match, str) else self.match(request)

    def use(self) -> tuple[Fault, ...]:
        """Count one more occurrence, and return the faults that it gets."""
        if self.skip > 0:
            self.skip -= 1
            return ()
        if self.times is not None and self.applied >= self.times:
            return ()
        self.applied += 1
        return self.faults


@frozen
class Delivery:
    """How to send a reply: ``raw`` instead of it, or the reply with ``marks`` to act on at their offsets."""

    reply: Reply
    raw: bytes | None = None
    stall: StallBeforeHeaders | None = None
    marks: tuple[Mark, ...] = ()
    bytes_per_second: float | None = None
    announced: int | None = None
    """Content-Length; None for a chunked body."""
    close: bool = False


def plan(reply: Reply, faults: Iterable[Fault]) -> Delivery:
    """Apply the faults that concern a reply's sending, in order."""
    delivery = Delivery(reply, announced=reply.body.size)
    for fault in faults:
        delivery = _apply(delivery, fault)
    return delivery


def _apply(delivery: Delivery, fault: Fault) -> Delivery:
    reply = delivery.reply
    match fault:
        case CutAfter() | StallAfter():
            marks = sorted((*delivery.marks, fault), key=lambda mark: mark.after)
            return evolve(delivery, marks=tuple(marks))
        case GarbageChunks():
            marks = sorted((*delivery.marks, fault), key=lambda mark: mark.after)
            return evolve(delivery, marks=tuple(marks), announced=None)
        case StallBeforeHeaders():
            return evolve(delivery, stall=fault)
        case WrongBytes():
            flips = (*reply.body.flips, range(fault.offset, fault.offset + fault.count))
            return evolve(delivery, reply=evolve(reply, body=evolve(reply.body, flips=flips)))
        case WrongLength():
            return evolve(delivery, announced=reply.body.size + fault.delta, close=True)
        case NoContentLength():
            return evolve(delivery, announced=None)
        case GarbageResponse():
            return evolve(delivery, raw=fault.data)
        case IgnoreRange():
            return evolve(delivery, reply=reply.without_header("Accept-Ranges"))
        case Throttle():
            return evolve(delivery, bytes_per_second=fault.bytes_per_second)
        case NoDigestHeader():
            return evolve(delivery, reply=reply.without_header("Docker-Content-Digest"))
        case WrongDigestHeader():
            headers = {"Docker-Content-Digest": str(fault.digest)}
            return evolve(delivery, reply=reply.with_headers(headers))
        case ExtraHeaders():
            return evolve(delivery, reply=reply.with_headers(fault.headers))
        case Status() | RedirectTo() | CloseAtAccept():
            return delivery  # these decided on the reply, or came before it
