"""Bad input over real sockets, from clients and from upstream.

Each gets a clear answer or a clean end, the daemon goes on serving, and nothing is logged as an error of its own.
"""

import json
import os
import socket
import ssl
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import frozen
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from regcachd.guard import never_ours
from regcachd.testing import (
    Certificate,
    CloseAtAccept,
    CutAfter,
    FakeRegistry,
    Fault,
    GarbageChunks,
    GarbageResponse,
    Image,
    StallAfter,
    StallBeforeHeaders,
)
from tests.wire import LogLines, Talk, connect_through, dial, trusting
from tests.world import NAME, Reply, World, raw, until

reactor: Any = _reactor

MIB = 1024 * 1024
LAYER = os.urandom(300_000)


@pytest.fixture(autouse=True)
def log() -> Iterator[LogLines]:
    """The log; fails the test if anything in it is worse than information."""
    lines = LogLines()
    globalLogPublisher.addObserver(lines)
    yield lines
    globalLogPublisher.removeObserver(lines)
    assert lines.worse == []


@frozen
class Scene:
    """A world with one image in its registry."""

    world: World
    image: Image

    @property
    def blob(self) -> str:
        """The path of the only layer."""
        return f"/v2/team/app/blobs/{self.image.layers[0]}"

    async def still_serves(self) -> None:
        """The daemon answers others, through CONNECT and on its own pages, and holds no connection."""
        client = self.world.client()
        reply = await client.get("/v2/team/app/manifests/1", Accept="*/*")
        assert (reply.status, reply.broken) == (200, False)
        assert (await client.get(self.blob)).body == LAYER
        await deferToThread(client.close)
        page = await deferToThread(raw, self.world.port, b"GET /healthz HTTP/1.0\r\n\r\n")
        assert page.endswith(b"ok\n")
        await until(lambda: self.world.service.door.connections == 0)


Start = Callable[..., Awaitable[Scene]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a daemon, with the rule for tunnels that it has in production."""
    worlds: list[World] = []

    async def begin(certificate: Certificate | None = None, settings: str = "", limits: str = "") -> Scene:
        tls = certificate is not None
        registry = FakeRegistry(reactor, tls=tls, certificate=certificate or Certificate.GOOD)
        image = registry.add_image("team/app", "1", [LAYER])
        tables = f"[limits]\n{limits}"
        world = World(tmp_path, registry, settings=settings, tables=tables, tunnel_rule=never_ours)
        worlds.append(world)
        return Scene(await world.start(), image)

    yield begin
    for world in worlds:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.stop()))


def secure(world: World, context: ssl.SSLContext | None = None, sni: str | None = NAME) -> ssl.SSLSocket:
    """A connection through CONNECT with TLS inside. Blocking."""
    connection = connect_through(world.port, f"{NAME}:443")
    context = context or trusting(world.service.ca.root_pem.decode())
    try:
        return context.wrap_socket(connection, server_hostname=sni)
    except (OSError, ValueError):
        connection.close()
        raise


# -- what clients send to the port

PLAIN = {
    "garbage": (b"\x80\xff\x00garbage\r\n\r\n", 400, "something that does not begin with an HTTP method"),
    "garbage without lines": (
        os.urandom(1).replace(b"G", b"\0") * 3000 + b"\x01",
        400,
        "this port speaks HTTP",
    ),
    "a ClientHello": (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        400,
        "use http:// for the proxy address",
    ),
    "SOCKS": (b"\x05\x01\x00", 400, "a SOCKS request; use http:// for the proxy address"),
    "1 MiB of headers": (
        b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * MIB + b"\r\n\r\n",
        431,
        "larger than 16384 bytes",
    ),
    "1 MiB of headers of a CONNECT": (
        f"CONNECT {NAME}:443 HTTP/1.1\r\n".encode() + b"A: bcdefghijk\r\n" * (MIB // 15),
        431,
        "larger than 16384 bytes: send fewer or shorter headers",
    ),
    "HTTP/0.9": (b"GET /\r\n", 400, "HTTP/0.9 is not served, use HTTP/1.1"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "this port speaks HTTP/1.1 and HTTP/1.0"),
    "bare LF": (b"GET / HTTP/1.1\nHost: x\n\n", 400, "end lines in CR LF"),
    "a folded header": (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400, "send it on one"),
    "absolute-form": (
        b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
        403,
        "no other hosts",
    ),
    "a refused port": (b"CONNECT example.org:22 HTTP/1.1\r\n\r\n", 403, "tunnels lead to 443 only"),
    "this machine": (b"CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n", 403, "127.0.0.1 is a loopback address"),
    "this machine in IPv6": (b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", 403, "::1 is a loopback address"),
    "this machine by name": (b"CONNECT localhost:443 HTTP/1.1\r\n\r\n", 403, "is a loopback address"),
    "this machine in hex": (b"CONNECT 0x7f000001:443 HTTP/1.1\r\n\r\n", 400, "four decimal numbers"),
    "metadata": (
        b"CONNECT 169.254.169.254:443 HTTP/1.1\r\n\r\n",
        403,
        "169.254.169.254 is a link-local address",
    ),
    "no authority": (b"CONNECT / HTTP/1.1\r\n\r\n", 400, "is not a host and port: write host:port"),
    "chunks that are none": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nwhat?\r\n\r\n",
        400,
        "this is not an HTTP/1.1 request",
    ),
}


@pytest.mark.parametrize("name", PLAIN)
async def test_on_the_port(start: Start, name: str) -> None:
    """What is not a request for us is refused in a sentence of plain text."""
    data, status, says = PLAIN[name]
    scene = await start()
    answer = await deferToThread(raw, scene.world.port, data, end=True)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"text/plain" in head
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert says in body.decode()
    await scene.still_serves()


async def test_slow_header(start: Start) -> None:
    """A header that comes too slowly is given up."""
    scene = await start(limits='head_timeout = "100ms"')
    client = dial(scene.world.port)
    client.sendall(b"GET / HTT")
    answer = deferToThread(Talk(client).reply)
    await until(lambda: scene.world.service.door.connections == 1)
    while not answer.called:
        scene.world.service.door.sweep()
        await deferLater(reactor, 0.02, lambda: None)
    reply = await answer
    assert (reply.status, reply.body) == (408, b"the request was not complete after 0.1 s\n")
    client.close()
    await scene.still_serves()


async def test_a_hundred_silent_connections(start: Start) -> None:
    """They cost others nothing."""
    scene = await start()
    silent = await deferToThread(lambda: [dial(scene.world.port) for _ in range(100)])
    await until(lambda: scene.world.service.door.connections == 100)
    assert (await scene.world.client().get(scene.blob)).body == LAYER
    for client in silent:
        client.close()
    scene.world.clients[0].close()
    await scene.still_serves()


# -- handshakes


async def test_no_sni(start: Start) -> None:
    """Without SNI the certificate is for the host of the CONNECT."""
    scene = await start()

    def talk() -> Any:
        context = trusting(scene.world.service.ca.root_pem.decode())
        context.check_hostname = False
        client = secure(scene.world, context, None)
        certificate = client.getpeercert()
        client.close()
        return certificate

    certificate = await deferToThread(talk)
    assert certificate["subjectAltName"] == (("DNS", NAME),)
    await scene.still_serves()


@pytest.mark.parametrize("sni", ["example.org", "docker.io", "localhost"])
async def test_sni_of_another_host(start: Start, log: LogLines, sni: str) -> None:
    """A name that the CONNECT was not for ends the handshake, and the log says both."""
    scene = await start()
    with pytest.raises(ssl.SSLError):
        await deferToThread(secure, scene.world, None, sni)
    await until(lambda: log.has(f"TLS refused: CONNECT was for {NAME}, SNI is for '{sni}'"))
    await scene.still_serves()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_tls(start: Start, log: LogLines, version: ssl.TLSVersion) -> None:
    """TLS 1.0 and 1.1 are refused by an alert, and the log says what the matter is."""
    scene = await start()
    context = trusting(scene.world.service.ca.root_pem.decode())
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        await deferToThread(secure, scene.world, context)
    await until(lambda: log.has("the client speaks no TLS newer than 1.1"))
    await scene.still_serves()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET /v2/ HTTP/1.1\r\n\r\n", "the client speaks plain HTTP where TLS is expected"),
        (b"\x00" * 1000, "no TLS with client"),
        (b"\x16\x03\x01\x40\x00" + b"x" * 16384, "no TLS with client"),
        (b"", "no TLS with client"),
    ],
    ids=["plain HTTP", "zeros", "a wild record", "nothing"],
)
async def test_no_client_hello(start: Start, log: LogLines, data: bytes, says: str) -> None:
    """What is not TLS after a CONNECT ends the connection, with a line in the log."""
    scene = await start()

    def talk() -> None:
        with connect_through(scene.world.port, f"{NAME}:443") as client, suppress(OSError):
            client.sendall(
                data
            )  # what is wrong may be seen, and the connection reset, at any time from now on
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass

    await deferToThread(talk)
    await until(lambda: log.has(says))
    await scene.still_serves()


# -- inside TLS

HEAD = f"GET /v2/ HTTP/1.1\r\nHost: {NAME}\r\n"
INSIDE = {
    "another host": (
        b"GET /v2/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
        421,
        f"this connection is for {NAME}",
    ),
    "a host that is none": (b"GET /v2/ HTTP/1.1\r\nHost: a b\r\n\r\n", 421, f"this connection is for {NAME}"),
    "CONNECT": (f"CONNECT {NAME}:443 HTTP/1.1\r\n\r\n".encode(), 421, f"this connection is for {NAME}"),
    "garbage": (b"\x80\xff\x00garbage\r\n\r\n", 400, "not an HTTP/1.1 request"),
    "HTTP/0.9": (b"GET /v2/\r\n", 400, "not an HTTP/1.1 request"),
    "1 MiB of headers": (HEAD.encode() + b"A: bcdefghijk\r\n" * (MIB // 15), 431, "headers"),
    "a header of 1 MiB": (HEAD.encode() + b"A: " + b"b" * MIB + b"\r\n\r\n", 431, "more than 16384 bytes"),
    "chunks that are none": (
        HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\nwhat?\r\n\r\n",
        400,
        "not an HTTP/1.1 request",
    ),
    "a push": (b"POST" + HEAD[3:].encode() + b"Content-Length: 0\r\n\r\n", 405, "read-only"),
    "an unknown method": (b"BREW" + HEAD[3:].encode() + b"\r\n", 405, "BREW"),
}


@pytest.mark.parametrize("name", INSIDE)
async def test_inside_tls(start: Start, name: str) -> None:
    """It is refused by an OCI error with a message a person understands."""
    data, status, says = INSIDE[name]
    scene = await start()

    def talk() -> Reply:
        talk = Talk(secure(scene.world))
        talk.send(data)
        reply = talk.reply()
        talk.close()
        return reply

    reply = await deferToThread(talk)
    assert reply.status == status
    (error,) = json.loads(reply.body)["errors"]
    assert error["code"] == "UNSUPPORTED"
    assert says in error["message"]
    await scene.still_serves()


async def test_body_of_a_get(start: Start) -> None:
    """A GET with a body is answered, and the next request is found after it."""
    scene = await start()

    def talk() -> list[int]:
        talk = Talk(secure(scene.world))
        talk.send(f"{HEAD}Content-Length: 5\r\n\r\nhello{HEAD}\r\n".encode())
        statuses = [talk.reply().status, talk.reply().status]
        talk.close()
        return statuses

    assert await deferToThread(talk) == [200, 200]
    await scene.still_serves()


async def test_client_that_breaks_off(start: Start) -> None:
    """A client that leaves in the middle of a header or of a record leaves nothing behind."""
    scene = await start()

    def talk() -> None:
        client = secure(scene.world)
        client.sendall(b"GET /v2/ HTT")
        client.close()
        client = secure(scene.world)
        bare = socket.socket(fileno=os.dup(client.fileno()))
        bare.sendall(b"\x17\x03\x03\x00\x50half a record")
        bare.close()
        client.close()

    await deferToThread(talk)
    await scene.still_serves()


# -- upstream


def message_of(reply: Reply) -> str:
    """The message of an OCI error."""
    (error,) = json.loads(reply.body)["errors"]
    assert reply.headers["content-type"] == "application/json"
    return str(error["message"])


UPSTREAM: dict[str, tuple[Fault, int, str]] = {
    "garbage": (GarbageResponse(), 502, "registry.test answered with something that is not HTTP"),
    "a page without a head": (
        GarbageResponse(b"<html>hello</html>\n"),
        502,
        "registry.test closed the connection",
    ),
    "a header without end": (GarbageResponse(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000), 502, "not HTTP"),
    "nothing": (StallBeforeHeaders(), 504, "registry.test did not answer for 0.3 s"),
    "a close at accept": (CloseAtAccept(), 502, "registry.test closed the connection too early"),
    "an empty answer": (GarbageResponse(b""), 502, "registry.test closed the connection too early"),
}


@pytest.mark.parametrize("path", ["/v2/", "/v2/team/app/manifests/1", "blob", "/v2/team/app/tags/list"])
@pytest.mark.parametrize("name", UPSTREAM)
async def test_upstream_does_not_answer_in_http(start: Start, name: str, path: str) -> None:
    """The client gets 502 or 504 and is told which registry did what."""
    fault, status, says = UPSTREAM[name]
    scene = await start(settings='timeout = "300ms"')
    scene.world.registry.fault(lambda request: True, fault)
    client = scene.world.client()
    reply = await client.get(scene.blob if path == "blob" else path, Accept="*/*")
    assert reply.status == status
    assert says in message_of(reply)
    client.close()
    scene.world.registry.heal()
    scene.world.registry.release()
    await scene.still_serves()


@pytest.mark.parametrize("path", ["/v2/team/app/manifests/1", "blob", "/v2/team/app/tags/list"])
@pytest.mark.parametrize("after", [0, 10])
@pytest.mark.parametrize("fault", [GarbageChunks, CutAfter, StallAfter])
async def test_upstream_breaks_off(start: Start, path: str, after: int, fault: Any) -> None:
    """The client never takes a broken answer for a whole one: it is told, or its connection is cut."""
    scene = await start(settings='timeout = "300ms"')
    scene.world.registry.fault(lambda request: True, fault(after), times=1)
    client = scene.world.client()
    try:
        reply = await client.get(scene.blob if path == "blob" else path, Accept="*/*")
    except ConnectionError:
        pass  # cut before the head had left
    else:
        if reply.status == 200:
            assert reply.broken
        else:
            assert reply.status in (502, 504)
            assert NAME in message_of(reply)
    client.close()
    scene.world.registry.heal()
    scene.world.registry.release()
    await scene.still_serves()


@pytest.mark.parametrize(
    ("certificate", "says"),
    [
        (Certificate.WRONG_NAME, "the certificate of registry.test is refused: it is not for localhost"),
        (Certificate.EXPIRED, "the certificate of registry.test is refused: it has expired"),
        (Certificate.UNTRUSTED, "the certificate of registry.test is refused: "),
    ],
)
@pytest.mark.parametrize("path", ["/v2/", "/v2/team/app/manifests/1", "blob"])
async def test_upstream_with_a_wrong_certificate(
    start: Start, certificate: Certificate, says: str, path: str
) -> None:
    """The client gets 502 with what is wrong with it; nothing was asked of that upstream."""
    scene = await start(certificate)
    client = scene.world.client()
    reply = await client.get(scene.blob if path == "blob" else path)
    assert reply.status == 502
    assert message_of(reply).startswith(says)
    assert len(scene.world.registry.requests) == 0
    assert (await deferToThread(raw, scene.world.port, b"GET /healthz HTTP/1.0\r\n\r\n")).endswith(b"ok\n")


async def test_upstream_that_is_down(start: Start) -> None:
    """The client gets 502 and is told that the connection was refused."""
    scene = await start()
    await scene.world.registry.stop()
    client = scene.world.client()
    reply = await client.get("/v2/")
    assert reply.status == 502
    assert message_of(reply).startswith("registry.test cannot be reached: Connection was refused")
    client.close()
    await scene.world.registry.start()
    await scene.still_serves()


@pytest.mark.parametrize("name", ["Authorization", "If-None-Match", "If-Range", "Range", "Accept", "Host"])
async def test_headers_that_are_no_text(tmp_path: Path, name: str) -> None:
    """Header values may be any bytes (RFC 9110 section 5.5): such a request gets an answer, and no traceback."""
    registry = FakeRegistry(reactor)
    image = registry.add_image("team/app", "1", [b"layer"])
    world = await World(tmp_path, registry).start()
    try:
        for path, status in (
            (f"/v2/team/app/blobs/{image.layers[0]}", 200),
            ("/v2/team/app/manifests/1", 404 if name == "Accept" else 200),
        ) * 2:
            expected = 421 if name == "Host" else status
            connection = world.client().connection()

            def ask(connection: Any = connection, path: str = path) -> int:
                connection.putrequest("GET", path, skip_host=name == "Host")
                connection.putheader(name, b"\xff\xfe")
                connection.endheaders()
                response = connection.getresponse()
                response.read()
                return int(response.status)

            assert await deferToThread(ask) == expected
    finally:
        await world.stop()
