"""One connection to an upstream, over an in-memory transport that behaves like a socket."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import h11
import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from regcachd.http1 import HEAD_LIMIT, Http1Connection
from regcachd.response import MOST_DISCARDED, Response, UpstreamFailed

TIMEOUT = 60.0


@define(eq=False)
class Body:
    """A consumer that keeps what it gets, and counts how it was ended."""

    data: bytes = b""
    done: int = 0
    errors: list[UpstreamFailed] = field(factory=list)
    leave_after: int | None = None
    """Abandon the response when this many bytes have come."""
    response: Response | None = None

    def body_received(self, data: bytes) -> None:
        assert not self.done
        assert not self.errors
        self.data += data
        if self.leave_after is not None and len(self.data) >= self.leave_after and self.response is not None:
            self.response.abandon()

    def body_done(self) -> None:
        self.done += 1

    def body_failed(self, error: UpstreamFailed) -> None:
        self.errors.append(error)

    @property
    def ends(self) -> int:
        return self.done + len(self.errors)


class Wire:
    """A connection on a transport that holds back what comes while it is paused, as the kernel does."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.sent = b""
        self.paused = self.aborted = False
        self.idle = self.gone = 0
        self._waiting: list[bytes | Failure] = []
        self.connection = Http1Connection(self.clock, "registry.test", self._idled, self._went)
        self.connection.makeConnection(self)

    def _idled(self, connection: Http1Connection) -> None:
        assert connection is self.connection
        self.idle += 1

    def _went(self, connection: Http1Connection) -> None:
        assert connection is self.connection
        self.gone += 1

    # -- the transport

    def write(self, data: bytes) -> None:
        self.sent += data

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self.clock.callLater(0, self._flush)

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.clock.callLater(0, self._lose, Failure(ConnectionAborted()))

    def _lose(self, reason: Failure) -> None:
        if not self.connection.lost:
            self.connection.connectionLost(reason)

    # -- upstream's side

    def receive(self, *pieces: bytes) -> None:
        """These bytes arrive, piece by piece."""
        self._waiting += pieces
        self._flush()

    def close(self, reason: Exception | None = None) -> None:
        """The connection ends, in good order or not, after what has been sent."""
        self._waiting.append(Failure(reason or ConnectionDone()))
        self._flush()

    def _flush(self) -> None:
        while self._waiting and not (self.paused or self.aborted or self.connection.lost):
            item = self._waiting.pop(0)
            if isinstance(item, bytes):
                self.connection.dataReceived(item)
            else:
                self._lose(item)

    # -- our side

    def ask(
        self,
        method: bytes = b"GET",
        target: bytes = b"/v2/",
        headers: Sequence[tuple[bytes, bytes]] = ((b"Host", b"registry.test"),),
        body: bytes = b"",
    ) -> "Asked":
        return Asked(self.connection.request(method, target, headers, body, TIMEOUT))

    def body(self, response: Response, **settings: Any) -> Body:
        """Deliver, and let everything happen that can."""
        body = Body(response=response, **settings)
        response.deliver(body)
        self.turn()
        return body

    def turn(self) -> None:
        for _ in range(5):
            self.clock.advance(0)


class Asked:
    """The outcome of a request."""

    def __init__(self, deferred: Any) -> None:
        self.outcomes: list[Any] = []
        deferred.addBoth(self.outcomes.append)

    @property
    def response(self) -> Response:
        (response,) = self.outcomes
        assert isinstance(response, Response), response
        return response

    @property
    def error(self) -> UpstreamFailed:
        (failure,) = self.outcomes
        assert isinstance(failure, Failure)
        assert isinstance(failure.value, UpstreamFailed)
        return failure.value


@pytest.fixture
def wire() -> Wire:
    return Wire()


OK = b"HTTP/1.1 200 OK\r\n"
WITH_LENGTH = OK + b"Content-Length: 5\r\nX-Odd-CASE: Kept\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n"
TO_THE_END = OK + b"Content-Type: text/plain\r\n\r\nhello"


def test_a_request_goes_out_with_its_headers_and_body_as_given(wire: Wire) -> None:
    headers = [(b"Host", b"registry.test"), (b"X-odd-CASE", b"a  b"), (b"Content-Length", b"3")]
    wire.ask(b"POST", b"/token?scope=a%3Ab", headers, b"x=y")
    head, _, body = wire.sent.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /token?scope=a%3Ab HTTP/1.1",
        b"Host: registry.test",
        b"X-odd-CASE: a  b",
        b"Content-Length: 3",
    ]
    assert body == b"x=y"


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"/v2/a b", []),
        (b"/v2/\xc3\xa9", []),
        (b"/v2/\x01", []),
        (b"/v2/", [(b"X-Bad", b"a\x00b")]),
        (b"/v2/", [(b"X-Bad", b"a\r\nX-Smuggled: b")]),
        (b"/v2/", [(b"Bad Name", b"a")]),
    ],
)
def test_what_cannot_be_written_as_http_is_the_clients_fault_and_nothing_of_it_leaves(
    wire: Wire, target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    asked = wire.ask(target=target, headers=[(b"Host", b"registry.test"), *headers])
    wire.turn()
    assert asked.error.status == 400
    assert not wire.sent
    assert wire.gone == 1
    assert not wire.clock.getDelayedCalls()


@pytest.mark.parametrize("raw", [WITH_LENGTH, CHUNKED], ids=["length", "chunked"])
def test_a_response_may_be_split_anywhere(raw: bytes) -> None:
    for cut in range(1, len(raw)):
        wire = Wire()
        asked = wire.ask()
        wire.receive(raw[:cut], raw[cut:])
        body = wire.body(asked.response)
        assert (body.data, body.done, body.errors) == (b"hello", 1, [])
        assert wire.idle == 1


@pytest.mark.parametrize("raw", [WITH_LENGTH, CHUNKED], ids=["length", "chunked"])
def test_a_response_may_come_byte_by_byte(wire: Wire, raw: bytes) -> None:
    asked = wire.ask()
    wire.receive(*(raw[i : i + 1] for i in range(len(raw))))
    body = wire.body(asked.response)
    assert (body.data, body.done) == (b"hello", 1)


def test_a_response_says_what_upstream_said_in_its_spelling(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(
        b'HTTP/1.1 401 Who are you\r\nWWW-authenticate: Bearer  realm="a",x=B\r\n'
        b"WWW-authenticate: Basic realm=b\r\nContent-Length: 0\r\n\r\n"
    )
    response = asked.response
    assert (response.status, response.reason, response.length) == (401, b"Who are you", 0)
    assert list(response.headers)[:2] == [
        (b"WWW-authenticate", b'Bearer  realm="a",x=B'),
        (b"WWW-authenticate", b"Basic realm=b"),
    ]
    assert response.header(b"www-authenticate") == b'Bearer  realm="a",x=B'
    assert response.header(b"location") is None


def test_interim_responses_are_passed_over(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    assert asked.outcomes == []
    wire.receive(WITH_LENGTH)
    assert asked.response.status == 200


@pytest.mark.parametrize(
    ("method", "raw", "length"),
    [
        (b"HEAD", OK + b"Content-Length: 268435456\r\n\r\n", 268435456),
        (b"HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n", None),
        (b"HEAD", OK + b"\r\n", None),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: "a"\r\n\r\n', 7),
        (b"GET", OK + b"Content-Length: 0\r\n\r\n", 0),
    ],
)
def test_a_response_without_a_body_keeps_its_length_and_is_over_with_its_head(
    wire: Wire, method: bytes, raw: bytes, length: int | None
) -> None:
    asked = wire.ask(method)
    wire.receive(raw)
    assert asked.response.length == length
    assert wire.idle == 1
    assert not wire.paused
    body = wire.body(asked.response)
    assert (body.data, body.done) == (b"", 1)
    asked.response.pause()
    asked.response.resume()
    asked.response.abandon()
    assert not wire.aborted


def test_a_connection_serves_one_request_after_the_other(wire: Wire) -> None:
    for count, raw in enumerate([WITH_LENGTH, CHUNKED, WITH_LENGTH], 1):
        asked = wire.ask()
        wire.receive(raw)
        assert wire.body(asked.response).data == b"hello"
        assert wire.idle == count
    assert wire.gone == 0
    assert not wire.clock.getDelayedCalls()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: X-A, Close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_a_connection_that_is_to_be_closed_is_not_offered_again(wire: Wire, raw: bytes) -> None:
    asked = wire.ask()
    wire.receive(raw)
    body = wire.body(asked.response)
    assert (body.data, body.done) == (b"hello", 1)
    assert (wire.idle, wire.gone) == (0, 1)


@pytest.mark.parametrize(
    ("method", "raw", "expected"),
    [
        (b"GET", WITH_LENGTH + b"HTTP/1.1 200 OK\r\n", b"hello"),
        (b"GET", CHUNKED + b"HTTP/1.1 200 OK\r\n", b"hello"),
        (b"HEAD", WITH_LENGTH, b""),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\n\r\nhello", b""),
        (b"GET", OK + b"Content-Length: 0\r\n\r\nhello", b""),
    ],
    ids=["length", "chunked", "HEAD", "304", "empty"],
)
@pytest.mark.parametrize("together", [True, False], ids=["one segment", "late"])
def test_bytes_in_excess_are_never_part_of_this_answer_nor_of_the_next(
    wire: Wire, method: bytes, raw: bytes, expected: bytes, together: bool
) -> None:
    asked = wire.ask(method)
    end = raw.index(b"\r\n\r\n") + 4
    wire.receive(*([raw] if together else [raw[:end], raw[end:]]))
    body = wire.body(asked.response)
    assert (body.data, body.done) == (expected, 1)
    wire.turn()
    assert wire.gone == 1


def test_bytes_that_nobody_asked_for_end_the_connection(wire: Wire) -> None:
    wire.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    wire.turn()
    assert (wire.idle, wire.gone) == (0, 1)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01 this is not HTTP \xff\xfe\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        OK + b"X: " + b"x" * HEAD_LIMIT,
        (OK + b"X: y\r\n" * HEAD_LIMIT)[: 2 * HEAD_LIMIT],
    ],
)
def test_what_is_not_http_or_has_no_end_is_a_502_and_the_connection_is_closed(wire: Wire, raw: bytes) -> None:
    asked = wire.ask()
    wire.receive(raw)
    wire.turn()
    assert asked.error.status == 502
    assert not asked.error.unused
    assert "registry.test" in str(asked.error)
    assert wire.gone == 1
    assert not wire.clock.getDelayedCalls()


@pytest.mark.parametrize("reason", [ConnectionDone(), ConnectionLost(), ConnectionAborted()])
def test_a_connection_that_ends_before_a_byte_came_may_be_tried_again(wire: Wire, reason: Exception) -> None:
    asked = wire.ask()
    wire.close(reason)
    assert asked.error.unused
    assert asked.error.status == 502


def test_a_connection_that_ends_within_the_head_may_not_be_tried_again(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(OK)
    wire.close()
    assert not asked.error.unused


def test_unused_is_said_of_the_latest_request_not_of_an_earlier_one(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(WITH_LENGTH)
    wire.body(asked.response)
    asked = wire.ask()
    wire.close()
    assert asked.error.unused


# -- bodies that end early or without a length


def test_a_body_without_length_ends_with_the_connection(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(TO_THE_END)
    assert asked.response.length is None
    wire.close()
    body = wire.body(asked.response)
    assert (body.data, body.done, body.errors) == (b"hello", 1, [])
    assert wire.idle == 0


def test_a_body_without_length_is_not_whole_when_the_connection_was_reset(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(TO_THE_END)
    body = wire.body(asked.response)
    wire.close(ConnectionLost())
    assert (body.data, body.done, len(body.errors)) == (b"hello", 0, 1)


@pytest.mark.parametrize("early", [True, False], ids=["lost before delivery", "lost after"])
@pytest.mark.parametrize("clean", [True, False])
def test_a_body_without_length_counts_as_whole_however_late_it_is_asked_for(
    wire: Wire, early: bool, clean: bool
) -> None:
    asked = wire.ask()
    wire.receive(TO_THE_END)
    if early:
        wire.connection.connectionLost(Failure(ConnectionDone() if clean else ConnectionLost()))
        body = wire.body(asked.response)
    else:
        body = wire.body(asked.response)
        wire.close(None if clean else ConnectionLost())
    assert body.data == b"hello"
    assert (body.done, len(body.errors)) == ((1, 0) if clean else (0, 1))


@pytest.mark.parametrize(
    "raw",
    [
        OK + b"Content-Length: 6\r\n\r\nhello",
        OK + b"Content-Length: 6\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
    ],
)
@pytest.mark.parametrize("reason", [ConnectionDone(), ConnectionLost()])
def test_a_body_that_ends_early_fails_once(wire: Wire, raw: bytes, reason: Exception) -> None:
    asked = wire.ask()
    wire.receive(raw)
    wire.close(reason)
    body = wire.body(asked.response)
    wire.turn()
    assert (body.done, len(body.errors)) == (0, 1)
    assert b"hello".startswith(body.data)
    assert "too early" in str(body.errors[0]) or "broke off" in str(body.errors[0])
    assert wire.gone == 1
    assert not wire.clock.getDelayedCalls()


def test_garbage_in_place_of_a_chunk_fails_the_body(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    body = wire.body(asked.response)
    wire.receive(b"this is no chunk\r\n")
    wire.turn()
    assert (body.data, body.done, len(body.errors)) == (b"hello", 0, 1)
    assert wire.gone == 1


def test_a_response_whose_connection_was_lost_before_delivery_fails_then(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(OK + b"Content-Length: 100\r\n\r\nhello")
    wire.connection.abandon()
    wire.turn()
    body = wire.body(asked.response)
    assert (body.data, body.done, len(body.errors)) == (b"hello", 0, 1)


# -- flow


def test_nothing_of_the_body_is_read_before_somebody_wants_it(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(OK + b"Content-Length: 10\r\n\r\nhello", b"world")
    assert wire.paused
    wire.turn()
    assert wire.paused
    body = wire.body(asked.response)
    assert (body.data, body.done) == (b"helloworld", 1)


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (b"Content-Length: 10\r\n\r\n", [b"hello", b"world"]),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"5\r\nhello\r\n", b"5\r\nworld\r\n0\r\n\r\n"]),
    ],
)
def test_a_paused_response_is_not_read_on(wire: Wire, head: bytes, pieces: list[bytes]) -> None:
    asked = wire.ask()
    wire.receive(OK + head + pieces[0])
    body = wire.body(asked.response)
    asked.response.pause()
    wire.receive(pieces[1])
    wire.turn()
    assert (body.data, body.ends) == (b"hello", 0)
    asked.response.resume()
    wire.turn()
    assert (body.data, body.done) == (b"helloworld", 1)
    assert wire.idle == 1
    assert not wire.paused


def test_a_response_paused_as_soon_as_it_is_delivered_stays_paused(wire: Wire) -> None:
    """A fill that has enough in memory pauses the answers that come meanwhile before they have begun."""
    asked = wire.ask()
    wire.receive(OK + b"Content-Length: 10\r\n\r\n")
    body = Body()
    asked.response.deliver(body)
    asked.response.pause()
    wire.turn()
    wire.receive(b"helloworld")
    wire.turn()
    assert (body.data, wire.paused) == (b"", True)
    asked.response.resume()
    wire.turn()
    assert (body.data, body.done) == (b"helloworld", 1)


def test_an_idle_connection_listens_for_its_end(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(WITH_LENGTH)
    wire.body(asked.response)
    assert not wire.paused
    wire.close()
    assert wire.gone == 1


@pytest.mark.parametrize("raw", [OK + b"Content-Length: 9\r\n\r\nhello", CHUNKED[:-20], TO_THE_END])
def test_abandoning_closes_the_connection_and_tells_the_consumer_once(wire: Wire, raw: bytes) -> None:
    asked = wire.ask()
    wire.receive(raw)
    body = wire.body(asked.response, leave_after=1)
    wire.turn()
    assert (body.done, len(body.errors)) == (0, 1)
    assert (wire.idle, wire.gone) == (0, 1)
    assert not wire.clock.getDelayedCalls()


def test_abandoning_before_delivery_leaves_nothing_behind(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(OK + b"Content-Length: 9\r\n\r\nhello")
    asked.response.abandon()
    wire.turn()
    assert (wire.idle, wire.gone) == (0, 1)
    assert not wire.clock.getDelayedCalls()


def test_discarding_reads_a_small_body_away_and_keeps_the_connection(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(WITH_LENGTH)
    asked.response.discard()
    wire.turn()
    assert (wire.idle, wire.gone) == (1, 0)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d" % (MOST_DISCARDED + 1), b"Transfer-Encoding: chunked"]
)
def test_discarding_does_not_wait_for_a_body_that_is_large_or_may_be(wire: Wire, framing: bytes) -> None:
    asked = wire.ask()
    wire.receive(OK + framing + b"\r\n\r\n")
    asked.response.discard()
    wire.turn()
    assert (wire.idle, wire.gone) == (0, 1)


# -- patience


def test_an_upstream_that_does_not_answer_in_time_is_a_504(wire: Wire) -> None:
    asked = wire.ask()
    wire.clock.advance(TIMEOUT - 1)
    assert asked.outcomes == []
    wire.clock.advance(1)
    wire.turn()
    assert asked.error.status == 504
    assert "registry.test did not answer for 60 s" in str(asked.error)
    assert not asked.error.unused
    assert wire.gone == 1


def test_a_head_that_comes_in_drops_is_as_late_as_none(wire: Wire) -> None:
    asked = wire.ask()
    for _ in range(7):
        wire.receive(b"HTTP/1.1 200 OK\r\nX: y\r\n" if not wire.connection._heard else b"X: y\r\n")
        wire.clock.advance(10)
    wire.turn()
    assert asked.error.status == 504


def test_a_body_may_take_its_time_as_long_as_it_never_falls_silent(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(OK + b"Content-Length: 100\r\n\r\n")
    body = wire.body(asked.response)
    for _ in range(10):
        wire.clock.advance(TIMEOUT - 1)
        wire.receive(b"x")
    assert (len(body.data), body.ends) == (10, 0)
    wire.clock.advance(TIMEOUT)
    wire.turn()
    assert [error.status for error in body.errors] == [504]
    assert "sent nothing more for 60 s" in str(body.errors[0])
    assert wire.gone == 1


def test_the_clock_does_not_run_while_we_are_the_slow_ones(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(OK + b"Content-Length: 10\r\n\r\n")
    wire.clock.advance(10 * TIMEOUT)  # nobody has asked for the body yet
    body = wire.body(asked.response)
    asked.response.pause()
    wire.clock.advance(10 * TIMEOUT)
    assert body.ends == 0
    asked.response.resume()
    wire.clock.advance(TIMEOUT - 1)
    assert body.ends == 0
    wire.clock.advance(TIMEOUT)
    assert len(body.errors) == 1
    wire.turn()


def test_an_idle_connection_has_no_timer(wire: Wire) -> None:
    asked = wire.ask()
    wire.receive(WITH_LENGTH)
    wire.body(asked.response)
    wire.clock.advance(10 * TIMEOUT)
    assert (wire.idle, wire.gone) == (1, 0)
    assert not wire.clock.getDelayedCalls()


# -- at random


def framed(body: bytes, framing: str, sizes: list[int]) -> bytes:
    """The response as a server writes it."""
    if framing == "length":
        return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if framing == "close":
        return OK + b"\r\n" + body
    chunks = b""
    rest = body
    for size in sizes:
        piece, rest = rest[:size], rest[size:]
        if piece:
            chunks += b"%x\r\n%b\r\n" % (len(piece), piece)
    if rest:
        chunks += b"%X\r\n%b\r\n" % (len(rest), rest)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@given(
    body=st.binary(max_size=300),
    framing=st.sampled_from(["length", "chunked", "close"]),
    sizes=st.lists(st.integers(1, 60), max_size=8),
    cuts=st.lists(st.integers(0, 500), max_size=12),
    pauses=st.lists(st.booleans(), max_size=12),
    deliver_at=st.integers(0, 12),
)
def test_however_it_is_cut_and_paused_the_body_is_the_same(
    body: bytes, framing: str, sizes: list[int], cuts: list[int], pauses: list[bool], deliver_at: int
) -> None:
    raw = framed(body, framing, sizes)
    marks = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    pieces = [raw[a:b] for a, b in itertools.pairwise(marks)]
    wire = Wire()
    asked = wire.ask()
    taker = Body()
    delivered = False
    for number, piece in enumerate(pieces):
        wire.receive(piece)
        if asked.outcomes and not delivered and number >= deliver_at:
            asked.response.deliver(taker)
            delivered = True
        if delivered and number < len(pauses):
            asked.response.pause() if pauses[number] else asked.response.resume()
        wire.turn()
    if framing == "close":
        wire.close()
    if not delivered:
        asked.response.deliver(taker)
    asked.response.resume()
    wire.turn()
    assert taker.data == body
    assert (taker.done, taker.errors) == (1, [])
    assert wire.idle == (0 if framing == "close" else 1)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_no_bytes_whatever_make_it_raise_or_answer_twice(data: bytes, cuts: list[int]) -> None:
    for prefix in (b"", OK, OK + b"Transfer-Encoding: chunked\r\n\r\n"):
        wire = Wire()
        asked = wire.ask()
        raw = prefix + data
        marks = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
        wire.receive(*(raw[a:b] for a, b in itertools.pairwise(marks)))
        wire.turn()
        body = None
        if asked.outcomes and isinstance(asked.outcomes[0], Response):
            body = wire.body(asked.outcomes[0])
        wire.close()
        wire.turn()
        assert len(asked.outcomes) == 1
        assert body is None or body.ends == 1
        assert not wire.clock.getDelayedCalls()


def test_the_requests_we_write_are_read_by_another_parser(wire: Wire) -> None:
    wire.ask(b"GET", b"/v2/?a=b", [(b"Host", b"r"), (b"Accept", b"*/*")])
    server = h11.Connection(h11.SERVER)
    server.receive_data(wire.sent)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (b"GET", b"/v2/?a=b")
    assert re.match(rb"GET /v2/\?a=b HTTP/1.1\r\n", wire.sent)
