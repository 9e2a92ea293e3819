"""HTTP towards clients over real sockets: responses from files, pipelining, half-closes, and what goes wrong."""

import json
import os
import random
import re
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.threads import deferToThread

from regcachd.channel import WebFactory
from regcachd.http1 import UpstreamFailed
from regcachd.sending import FileUnreadable
from regcachd.web import MOST_BODY, Request, reason_of
from tests.conftest import FlushErrors
from tests.wire import Hand, Identity, Place, Talk, dial, read_to_end
from tests.world import NAME, Reply, until

reactor: Any = _reactor

CONTENT = random.Random(7).randbytes(700_001)
HEAD_SIZE = 4096
SECURE = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


class Answers:
    """What the server under test answers, by path, and what it has seen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(CONTENT)
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.gate: Deferred[None] = Deferred()
        self.gone = 0

    async def respond(self, request: Request) -> None:
        """Call the method that is named like the path."""
        self.requests.append(request)
        assert request.content is not None
        self.bodies.append(request.content.read())
        answer: Callable[[Request], Coroutine[Any, Any, None]] = getattr(self, request.path[1:].decode())
        await answer(request)

    async def file(self, request: Request, length: int | None = len(CONTENT)) -> None:
        request.begin(200, [], length)
        if request.method != b"HEAD":
            fd = os.open(self.path, os.O_RDONLY)
            try:
                await request.send_file(fd, 0, 100_000)
                await request.send_file(fd, 100_000, 0)
                await request.send_file(fd, 100_000, len(CONTENT) - 100_000)
            finally:
                os.close(fd)
        request.finish()

    async def unknown_length(self, request: Request) -> None:
        await self.file(request, None)

    async def small(self, request: Request) -> None:
        request.answer(200, [(b"X-Query", request.query)], b"small")

    async def waiting(self, request: Request) -> None:
        request.when_gone(self._left)
        await self.gate
        request.when_gone(self._left)
        request.answer(200, [], b"at last")

    def _left(self) -> None:
        self.gone += 1

    async def bug(self, request: Request) -> None:
        raise ZeroDivisionError

    async def late_bug(self, request: Request) -> None:
        request.begin(200, [], 100)
        request.write(b"ten bytes.")
        await self.gate
        raise ZeroDivisionError

    async def upstream(self, request: Request) -> None:
        raise UpstreamFailed("registry.test did not answer for 1 s", status=504)

    async def late_upstream(self, request: Request) -> None:
        request.begin(200, [], 100)
        await self.gate
        raise UpstreamFailed("registry.test sent nothing more for 1 s", status=504)

    async def disk(self, request: Request) -> None:
        raise FileUnreadable("reading a stored blob failed: Input/output error")

    async def late_disk(self, request: Request) -> None:
        request.begin(200, [], len(CONTENT) + 1)
        fd = os.open(self.path, os.O_RDONLY)
        try:
            await request.send_file(fd, 0, len(CONTENT) + 1)
        finally:
            os.close(fd)


class _Secure(Protocol):
    """Shakes hands, and then hands over to HTTP."""

    transport: Any

    def __init__(self, identity: Identity, web: WebFactory) -> None:
        self._identity = identity
        self._web = web

    def connectionMade(self) -> None:
        self.transport.start_tls(self._identity.server).addCallback(self._shaken)

    def _shaken(self, _: None) -> None:
        channel = self._web.buildProtocol(None)
        self.transport.protocol = channel
        channel.makeConnection(self.transport)


class _SecureFactory:
    def __init__(self, identity: Identity, web: WebFactory) -> None:
        self.buildProtocol = lambda addr: _Secure(identity, web)


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers(tmp_path / "content")


@pytest.fixture
def web(answers: Answers) -> WebFactory:
    return WebFactory(reactor, answers.respond, HEAD_SIZE)


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.make(tmp_path / "ca")


@pytest.fixture
def plain(web: WebFactory) -> Iterator[Place]:
    place = Place(web)
    yield place
    pytest_twisted.blockon(Deferred.fromCoroutine(place.stop()))


@pytest.fixture
def secure(web: WebFactory, identity: Identity) -> Iterator[Place]:
    place = Place(_SecureFactory(identity, web))
    yield place
    pytest_twisted.blockon(Deferred.fromCoroutine(place.stop()))


Open = Callable[[bool], socket.socket]


@pytest.fixture
def opened(plain: Place, secure: Place, identity: Identity) -> Open:
    """A function to be called in a thread: a new connection, with TLS or without."""

    def connect(tls: bool) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", (secure if tls else plain).number), timeout=20)
        return identity.client().wrap_socket(client, server_hostname=NAME) if tls else client

    return connect


async def exchange(opened: Open, tls: bool, data: bytes, *methods: str, end: bool = False) -> list[Reply]:
    """Send all at once, and read the responses to requests with these methods, and the end if there is one."""

    def talk() -> list[Reply]:
        talk = Talk(opened(tls))
        talk.send(data)
        if end:
            talk.connection.shutdown(socket.SHUT_WR)
        replies = [talk.reply(method) for method in methods]
        if end:
            assert talk.at_end()
        talk.close()
        return replies

    replies: list[Reply] = await deferToThread(talk)
    return replies


def get(*paths: str, extra: str = "") -> bytes:
    """Requests, one after the other."""
    return "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n" for path in paths).encode()


# -- responses


@SECURE
async def test_pipelined_requests_and_files(opened: Open, tls: bool) -> None:
    """Requests sent all at once are answered in order, files and others."""
    data = get("/file", "/small?a=b", "/file", "/unknown_length", "/small")
    replies = await exchange(opened, tls, data, "GET", "GET", "GET", "GET", "GET")
    assert [reply.body for reply in replies] == [CONTENT, b"small", CONTENT, CONTENT, b"small"]
    assert replies[1].headers["x-query"] == "a=b"
    assert replies[3].headers["transfer-encoding"] == "chunked"
    assert replies[0].headers["content-length"] == str(len(CONTENT))
    assert all("date" in reply.headers for reply in replies)


@SECURE
async def test_keep_alive(opened: Open, tls: bool) -> None:
    """A request that is sent after the file has come is answered on the same connection."""

    def talk() -> list[bytes]:
        talk = Talk(opened(tls))
        bodies = []
        for path in ("/file", "/file", "/small"):
            talk.send(get(path))
            bodies.append(talk.reply().body)
        talk.close()
        return bodies

    assert await deferToThread(talk) == [CONTENT, CONTENT, b"small"]


@SECURE
@pytest.mark.parametrize(
    "request_",
    [get("/file", extra="Connection: close\r\n"), b"GET /file HTTP/1.0\r\n\r\n"],
    ids=["close", "1.0"],
)
async def test_the_connection_ends_after_the_response(opened: Open, tls: bool, request_: bytes) -> None:
    """`Connection: close` and HTTP/1.0 close after the last byte, with close_notify over TLS."""

    def talk() -> tuple[Reply, bool]:
        talk = Talk(opened(tls))
        talk.send(request_)
        result = talk.reply(), talk.at_end()
        talk.close()
        return result

    reply, ended = await deferToThread(talk)
    assert reply.body == CONTENT
    assert ended


async def test_unknown_length_for_http_1_0(opened: Open) -> None:
    """A client that knows no chunks gets bytes until the end of the connection."""

    def talk() -> bytes:
        client = opened(False)
        client.sendall(b"GET /unknown_length HTTP/1.0\r\n\r\n")
        data = read_to_end(client)
        client.close()
        return data

    head, _, body = (await deferToThread(talk)).partition(b"\r\n\r\n")
    assert body == CONTENT
    assert b"hunked" not in head


async def test_head(opened: Open) -> None:
    """The answer to HEAD has the length and no body."""
    data = b"HEAD /file HTTP/1.1\r\nHost: x\r\n\r\nHEAD /upstream HTTP/1.1\r\nHost: x\r\n\r\n" + get("/small")
    first, error, second = await exchange(opened, False, data, "HEAD", "HEAD", "GET")
    assert (first.body, first.headers["content-length"]) == (b"", str(len(CONTENT)))
    assert (error.status, error.body) == (504, b"")
    assert second.body == b"small"


# -- half-closes and clients that leave


async def test_half_close_after_requests(opened: Open) -> None:
    """All requests that came before the client's FIN are answered, then the connection ends."""
    replies = await exchange(opened, False, get("/file", "/small", "/file"), "GET", "GET", "GET", end=True)
    assert [reply.body for reply in replies] == [CONTENT, b"small", CONTENT]


async def test_half_close_after_the_responses(opened: Open) -> None:
    """A FIN on an idle connection ends it."""

    def talk() -> bool:
        talk = Talk(opened(False))
        talk.send(get("/small"))
        talk.reply()
        talk.connection.shutdown(socket.SHUT_WR)
        ended = talk.at_end()
        talk.close()
        return ended

    assert await deferToThread(talk)


async def test_close_notify_after_a_request(secure: Place, identity: Identity) -> None:
    """A client that says close_notify after its request gets the whole response."""

    def talk() -> bytes:
        client = dial(secure.number)
        hand = Hand(identity.client(), client)
        hand.shake()
        hand.write(get("/file"))
        hand.end()
        data = hand.read_to_end()
        client.close()
        return data

    assert (await deferToThread(talk)).endswith(b"\r\n\r\n" + CONTENT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /sm",
        b"GET /small HTTP/1.1\r\nHost",
        b"POST /small HTTP/1.1\r\nContent-Length: 10\r\n\r\nfive.",
    ],
)
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_client_leaves_in_the_middle_of_a_request(
    plain: Place, opened: Open, answers: Answers, data: bytes, reset: bool
) -> None:
    """Nothing is answered, nothing is logged as an error."""

    def talk() -> None:
        client = opened(False)
        client.sendall(data)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()

    await deferToThread(talk)
    await until(lambda: bool(plain.connections) and not plain.connections[0].transport.connected)
    assert answers.requests == []


async def test_client_leaves_before_the_answer(plain: Place, opened: Open, answers: Answers) -> None:
    """Whoever asked to be told is told, also afterwards; the answer goes nowhere."""

    def talk() -> None:
        client = opened(False)
        client.sendall(get("/waiting"))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        answered.addCallback(lambda _: client.close())

    answered: Deferred[None] = Deferred()
    await deferToThread(talk)
    await until(lambda: bool(answers.requests))
    answered.callback(None)
    await until(lambda: answers.requests[0].gone)
    assert answers.gone == 1
    answers.gate.callback(None)
    assert answers.gone == 2


# -- failures of one request


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/bug", 500, "regcachd failed at this request; its log says why"),
        ("/upstream", 504, "registry.test did not answer for 1 s"),
        ("/disk", 500, "reading a stored blob failed: Input/output error"),
    ],
)
async def test_failure_before_the_response(
    opened: Open, flush_errors: FlushErrors, path: str, status: int, message: str
) -> None:
    """The failure is an OCI error, and the connection serves the next request."""
    error, after = await exchange(opened, False, get(path, "/small"), "GET", "GET")
    assert error.status == status
    assert error.headers["content-type"] == "application/json"
    assert json.loads(error.body)["errors"] == [{"code": "UNKNOWN", "message": message, "detail": None}]
    assert after.body == b"small"
    assert len(flush_errors()) == (path == "/bug")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_status_line_says_why_upstream_failed(opened: Open, method: str) -> None:
    """Clients show no more than that of a 5xx; to HEAD there is nothing else to show."""

    def talk() -> bytes:
        client = opened(False)
        client.sendall(f"{method} /upstream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = read_to_end(client)
        client.close()
        return data

    line = (await deferToThread(talk)).partition(b"\r\n")[0]
    assert line == b"HTTP/1.1 504 Gateway Time-out: registry.test did not answer for 1 s"


@given(st.sampled_from([500, 502, 503, 504, 599]), st.text())
def test_a_reason_is_one_line_of_what_can_be_shown(status: int, message: str) -> None:
    reason = reason_of(status, message)
    assert re.fullmatch(rb"[ -~]{5,250}", reason)
    shown = message[:100]
    assert not (shown.isascii() and shown.isprintable()) or shown.encode() in reason


@SECURE
@pytest.mark.parametrize("path", ["/late_bug", "/late_upstream", "/late_disk"])
async def test_failure_within_the_response(
    opened: Open, answers: Answers, flush_errors: FlushErrors, tls: bool, path: str
) -> None:
    """The response is cut, so that no client takes it for the whole."""

    def talk() -> bool:
        talk = Talk(opened(tls))
        talk.send(get(path))
        try:
            return talk.reply().broken
        except ConnectionResetError:  # the reset overtook the head of the response
            return True
        finally:
            talk.close()

    cut = deferToThread(talk)
    await until(lambda: bool(answers.requests))
    answers.gate.callback(None)
    assert await cut
    assert len(flush_errors(ZeroDivisionError)) == (path == "/late_bug")


# -- what clients send


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
        (b"Content-Length: %d\r\n\r\n" % MOST_BODY + b"x" * MOST_BODY, b"x" * MOST_BODY),
    ],
)
async def test_bodies_of_requests(opened: Open, answers: Answers, body: bytes, read: bytes) -> None:
    """A body up to the limit is there to be read, and the next request follows it."""
    data = b"POST /small HTTP/1.1\r\nHost: x\r\n" + body + get("/small")
    await exchange(opened, False, data, "POST", "GET")
    assert answers.bodies == [read, b""]
    assert not answers.requests[0].too_large


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_over_the_limit(opened: Open, answers: Answers, chunked: bool) -> None:
    """It is read to its end, kept only in part, and marked."""
    body = b"x" * (MOST_BODY + 1)
    if chunked:
        data = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        data = b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    await exchange(
        opened, False, b"POST /small HTTP/1.1\r\nHost: x\r\n" + data + get("/small"), "POST", "GET"
    )
    assert answers.requests[0].too_large
    assert len(answers.bodies[0]) <= MOST_BODY
    assert not answers.requests[1].too_large


async def test_expect_continue(opened: Open, answers: Answers) -> None:
    """A client that asks whether to send its body is told to go on."""

    def talk() -> tuple[bytes, Reply]:
        talk = Talk(opened(False))
        talk.send(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        first = talk._file.readline() + talk._file.readline()
        talk.send(b"hello")
        result = first, talk.reply("POST")
        talk.close()
        return result

    first, reply = await deferToThread(talk)
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert reply.body == b"small"
    assert answers.bodies == [b"hello"]


BAD = {
    "garbage": (b"\xff\xfe\x00\x01\r\n\r\n", 400),
    "http/0.9": (b"GET /small\r\n", 400),
    "one word": (b"hello\r\n", 400),
    "no colon": (b"GET /small HTTP/1.1\r\nHost\r\n\r\n", 400),
    "two lengths": (b"GET /small HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "length and chunks": (
        b"GET /small HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "negative length": (b"GET /small HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    "unknown coding": (b"GET /small HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    "bad chunk": (b"POST /small HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n", 400),
    "chunk too long": (b"POST /small HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhello\r\n", 400),
    "long line": (b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n", 431),
    "long line without end": (b"GET /" + b"a" * 1_000_000, 431),
    "long header": (b"GET /small HTTP/1.1\r\nA: " + b"a" * 1_000_000 + b"\r\n\r\n", 431),
    "many headers": (b"GET /small HTTP/1.1\r\n" + b"A: b\r\n" * 200_000 + b"\r\n", 431),
}


@SECURE
@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_request(opened: Open, answers: Answers, tls: bool, name: str) -> None:
    """It gets one answer that says why, whole even if the client goes on sending, and then the end."""
    data, status = BAD[name]

    def talk() -> tuple[Reply, bool]:
        talk = Talk(opened(tls))
        talk.send(data)
        talk.send(get("/small"))
        result = talk.reply(), talk.at_end()
        talk.close()
        return result

    reply, ended = await deferToThread(talk)
    assert reply.status == status
    assert reply.headers["connection"] == "close"
    assert reply.headers["content-type"].startswith("text/plain")
    assert len(reply.body) > 20
    assert ended
    assert answers.requests == []


async def test_other_versions(opened: Open, answers: Answers) -> None:
    """What a client of HTTP/2 says first is answered in HTTP/1.1."""
    (reply,) = await exchange(opened, False, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET")
    assert reply.status in (400, 505)  # depends on who notices: Twisted before 25 does not
    assert b"HTTP/1.1" in reply.body
    assert answers.requests == []


async def test_bad_request_after_good_ones(opened: Open) -> None:
    """What came before is answered first."""
    first, second, error = await exchange(
        opened, False, get("/file", "/small") + b"??\r\n\r\n", "GET", "GET", "GET"
    )
    assert (first.body, second.body, error.status) == (CONTENT, b"small", 400)


async def test_refused_client_is_not_waited_for(
    plain: Place, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that does not close after its refusal is closed."""
    monkeypatch.setattr("regcachd.farewell.LINGER", 0.05)

    def talk() -> socket.socket:
        client = opened(False)
        client.sendall(b"??\r\n\r\n")
        return client

    client = await deferToThread(talk)
    await until(lambda: bool(plain.connections) and not plain.connections[0].transport.connected)
    client.close()
