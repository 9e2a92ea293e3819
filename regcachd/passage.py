"""A passage through the parent: CONNECT, and its answer, on a connection that carries the bytes of another after that.

The answer's head is bounded in size and time, and taken from the kernel byte-exactly: what follows it belongs to the
host behind the parent.
"""

import re
from typing import Any

import h11
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from .errors import RegcachdError
from .http1 import UpstreamFailed
from .parent import Parent

HEAD_LIMIT = 16 * 1024
"""Bytes the head of an answer may have."""

_END = re.compile(rb"\n\r?\n")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")


class NotConnected(UpstreamFailed):
    """No connection has come about: this counts against the host (breaker.py)."""


class Broken(RegcachdError):
    """The parent has said nothing, or nothing that could be understood."""


class Passage(Protocol):
    """Our end of the connection to the parent, until that has answered.

    `answer` fires with the final response's head, which is not necessarily a yes, or fails with Broken.
    """

    transport: Any

    def __init__(self, authority: str, authorization: bytes | None) -> None:
        headers = [(b"Host", authority.encode())]
        if authorization is not None:
            headers.append((b"Proxy-Authorization", authorization))
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        message = h11.Request(method=b"CONNECT", target=authority.encode(), headers=headers)
        self._request = self._parser.send(message)
        self._head = b""
        self._is_whole = False
        self.answer: Deferred[h11.Response] = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.read_head(self)
        self.transport.write(self._request)

    def take_head(self, data: bytes) -> int:
        joined = self._head + data
        end = _END.search(joined)
        taken = len(data) if end is None else end.end() - len(self._head)
        self._head, self._is_whole = joined[: len(self._head) + taken], end is not None
        return taken

    def head_taken(self) -> None:
        if len(self._head) > HEAD_LIMIT:
            self._fail(f"answered CONNECT with a head of more than {HEAD_LIMIT} bytes")
        elif self._is_whole:
            head, self._head, self._is_whole = self._head, b"", False
            try:
                self._parser.receive_data(head)
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                self._fail(f"answered CONNECT with something that is not HTTP: {error}")
                return
            if isinstance(event, h11.Response) and not self.answer.called:
                self.transport.stop_reading_head()
                self.answer.callback(event)

    def become(self, protocol: Any) -> None:
        """Hand the connection over."""
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)

    def late(self) -> None:
        """The parent has used up its time."""
        self._fail("did not answer CONNECT in time")

    def _fail(self, what: str) -> None:
        self.transport.abortConnection()
        if not self.answer.called:
            self.answer.errback(Failure(Broken(what)))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._fail(f"closed the connection instead of answering CONNECT ({reason.getErrorMessage()})")


def refusal(parent: Parent, authority: str, response: h11.Response) -> UpstreamFailed:
    """What a no of the parent means, and what to do about it."""
    status = response.status_code
    reason = re.sub(r"[^ -~]", "?", response.reason.decode("latin-1"))[:80]
    said = f"{status} {reason}".rstrip()
    if status == 407:
        return UpstreamFailed(unauthorized(parent, [(n, v) for n, v in response.headers]))
    if status in (502, 503):
        return NotConnected(f"the parent {parent} could not connect to {authority} ({said})")
    if status == 504:
        return NotConnected(f"the parent {parent} could not connect to {authority} in time ({said})", 504)
    if status in (401, 403):
        advice = f"allow {authority} there, or name the host in no_proxy"
        return UpstreamFailed(f"the parent {parent} refuses to connect to {authority} ({said}): {advice}")
    return UpstreamFailed(
        f"the parent {parent} does not connect to {authority} ({said}): is upstream_proxy really a proxy?"
    )


def unauthorized(parent: Parent, headers: list[tuple[bytes, bytes]]) -> str:
    """What a 407 means (RFC 9110 section 15.5.8)."""
    offers = [v.decode("latin-1").split(" ")[0] for n, v in headers if n.lower() == b"proxy-authenticate"]
    schemes = list(dict.fromkeys(offer for offer in offers if _SCHEME.fullmatch(offer)))
    if schemes and "basic" not in map(str.lower, schemes):
        return (
            f"the parent {parent} wants authentication by {', '.join(schemes)} (407), and only Basic is spoken here: "
            "have it admit this machine by address, or with Basic"
        )
    if parent.user is None:
        return (
            f"the parent {parent} wants a user and a password (407): write http://USER@HOST:PORT in upstream_proxy, "
            "and where the password is in upstream_proxy_password"
        )
    return (
        f"the parent {parent} does not accept the user and the password (407): "
        "see upstream_proxy and upstream_proxy_password"
    )
