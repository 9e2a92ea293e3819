"""The front door: what a connection's first request gets, and the watch over limits and idle times."""

import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from regcachd import frontdoor
from regcachd.certificates import PkiError
from regcachd.frontdoor import FrontDoor
from regcachd.schema import Limits
from regcachd.testing import FakeRegistry, StallAfter
from tests.wire import Hand, LogLines, Place, Talk, connect_through, dial, read_exactly, read_to_end, trusting
from tests.world import NAME, World, raw, until

reactor: Any = _reactor

LAYER = os.urandom(3_000_000)
TLS = pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
GET = b"GET /v2/ HTTP/1.1\r\nHost: " + NAME.encode() + b"\r\n\r\n"

Start = Callable[..., Awaitable[World]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A function that starts a daemon in front of a registry with one image of one layer; the test itself sweeps."""
    monkeypatch.setattr(frontdoor, "SWEEP", 3600.0)
    worlds: list[World] = []

    async def begin(**settings: Any) -> World:
        registry = FakeRegistry(reactor)
        registry.add_image("team/app", "1", [LAYER])
        worlds.append(World(tmp_path, registry, **settings))
        return await worlds[0].start()

    yield begin
    for world in worlds:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.stop()))


@pytest.fixture
def log() -> Iterator[LogLines]:
    """The log."""
    lines = LogLines()
    globalLogPublisher.addObserver(lines)
    yield lines
    globalLogPublisher.removeObserver(lines)


class Later:
    """The reactor as it will be in some seconds."""

    def __init__(self, seconds: float) -> None:
        self._ahead = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def seconds(self) -> float:
        return float(reactor.seconds()) + self._ahead


def sweep_in(door: FrontDoor, seconds: float) -> None:
    """Sweep as if so much more time had passed."""
    before, door.reactor = door.reactor, Later(seconds)
    door.sweep()
    door.reactor = before


def ca_of(world: World) -> str:
    """What its clients trust."""
    return world.service.ca.root_pem.decode()


def secure(world: World, context: ssl.SSLContext | None = None, **options: Any) -> ssl.SSLSocket:
    """A connection through CONNECT with TLS inside. Blocking."""
    context = context or trusting(ca_of(world))
    return context.wrap_socket(connect_through(world.port, f"{NAME}:443"), server_hostname=NAME, **options)


def blob_path(world: World) -> str:
    """The layer's."""
    return f"/v2/team/app/blobs/{world.registry.add_image('team/app', '1', [LAYER]).layers[0]}"


def get(path: str, extra: str = "") -> bytes:
    """A request."""
    return f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\n{extra}\r\n".encode()


# -- intercept


@TLS
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_connect_to_a_registry(start: Start, tls: ssl.TLSVersion, version: str) -> None:
    """A CONNECT, of either version of HTTP, becomes TLS under the registry's name."""
    world = await start()

    def talk() -> tuple[int, str | None]:
        connection = connect_through(world.port, f"{NAME}:443", version)
        client = trusting(ca_of(world), tls).wrap_socket(connection, server_hostname=NAME)
        talk = Talk(client)
        talk.send(GET)
        result = talk.reply().status, client.version()
        talk.close()
        return result

    status, spoken = await deferToThread(talk)
    assert (status, spoken) == (200, tls.name.replace("_", "."))


@TLS
async def test_client_hello_in_the_segment_of_the_connect(start: Start, tls: ssl.TLSVersion) -> None:
    """A client that does not wait for the 200 is understood."""
    world = await start()

    def talk() -> bytes:
        client = dial(world.port)
        hand = Hand(trusting(ca_of(world), tls), client)
        client.sendall(f"CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\n\r\n".encode() + hand.hello())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += read_exactly(client, 1)
        assert head.startswith(b"HTTP/1.1 200 ")
        hand.shake()
        hand.write(get("/v2/", "Connection: close\r\n"))
        data = hand.read_to_end()
        client.close()
        return data

    assert (await deferToThread(talk)).startswith(b"HTTP/1.1 200 OK\r\n")


@TLS
async def test_new_connection_for_every_request(start: Start, tls: ssl.TLSVersion) -> None:
    """CONNECT, handshake, one request with Connection: close, again and again; sessions are resumed."""
    world = await start()
    path = blob_path(world)
    context = trusting(ca_of(world), tls)

    def talk() -> tuple[list[bytes], list[bool | None]]:
        bodies, reused = [], []
        session = None
        for _ in range(3):
            client = secure(world, context, session=session)
            talk = Talk(client)
            talk.send(get(path, "Connection: close\r\n"))
            bodies.append(talk.reply().body)
            reused.append(client.session_reused)
            session = client.session
            assert talk.at_end()
            talk.close()
        return bodies, reused

    bodies, reused = await deferToThread(talk)
    assert bodies == [LAYER] * 3
    assert reused == [False, True, True]
    assert world.registry.requests.count("GET", "/blobs/") == 1


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
)
async def test_alpn(start: Start, offered: list[str], chosen: str | None) -> None:
    """http/1.1 is chosen where it is offered; who offers only h2 is answered in HTTP/1.1 all the same."""
    world = await start()
    context = trusting(ca_of(world))
    if offered:
        context.set_alpn_protocols(offered)

    def talk() -> tuple[str | None, int]:
        client = secure(world, context)
        talk = Talk(client)
        talk.send(GET)
        result = client.selected_alpn_protocol(), talk.reply().status
        talk.close()
        return result

    assert await deferToThread(talk) == (chosen, 200)


async def test_client_that_insists_on_h2(start: Start) -> None:
    """HTTP/2 inside an intercepted connection is refused in words."""
    world = await start()

    def talk() -> tuple[int, bytes]:
        talk = Talk(secure(world))
        talk.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        reply = talk.reply()
        assert talk.at_end()
        talk.close()
        return reply.status, reply.body

    status, body = await deferToThread(talk)
    assert status in (400, 505)
    assert "HTTP/1.1" in json.loads(body)["errors"][0]["message"]


@TLS
async def test_half_close_after_the_request(start: Start, tls: ssl.TLSVersion) -> None:
    """A client that says its last, by close_notify and FIN, after the request gets the layer."""
    world = await start()
    path = blob_path(world)

    def talk() -> bytes:
        client = connect_through(world.port, f"{NAME}:443")
        hand = Hand(trusting(ca_of(world), tls), client)
        hand.shake()
        hand.write(get(path))
        hand.end()
        data = hand.read_to_end()
        client.close()
        return data

    assert (await deferToThread(talk)).endswith(b"\r\n\r\n" + LAYER)


@TLS
async def test_client_that_does_not_trust_the_ca(start: Start, log: LogLines, tls: ssl.TLSVersion) -> None:
    """The log says which client it is, and what to do about it."""
    world = await start()

    def talk() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = tls
        with pytest.raises(ssl.SSLCertVerificationError):
            secure(world, context)

    await deferToThread(talk)
    await until(lambda: log.has("install /ca.crt there"))
    (line,) = (line for line in log.lines if "install /ca.crt there" in line)
    assert "127.0.0.1" in line
    assert f"for {NAME}" in line
    assert "does not trust this proxy's CA" in line


async def test_no_certificate(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no certificate can be made, the client is told before it would begin with TLS."""
    world = await start()

    def refuse(host: str) -> Any:
        raise PkiError("the issuing CA has expired")

    monkeypatch.setattr(world.service.edition.contexts, "for_host", refuse)
    answer = await deferToThread(raw, world.port, f"CONNECT {NAME}:443 HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"the issuing CA has expired" in answer


async def test_curl(start: Start, tmp_path: Path) -> None:
    """curl, which offers h2, pulls a layer through the proxy."""
    world = await start()
    path = blob_path(world)
    (tmp_path / "root.pem").write_text(ca_of(world))
    command = [
        "curl",
        "-sS",
        "--proxy",
        f"http://127.0.0.1:{world.port}",
        "--cacert",
        str(tmp_path / "root.pem"),
    ]
    done = await deferToThread(
        subprocess.run, [*command, f"https://{NAME}{path}"], capture_output=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == LAYER


# -- refuse


@pytest.mark.parametrize(
    ("tables", "target", "status", "says"),
    [
        ("", "example.org:22", 403, "tunnels lead to 443 only"),
        ("", f"{NAME}:444", 403, "add 444 to ports of [tunnel]"),
        ('[tunnel]\npolicy = "deny"', "example.org:443", 403, "tunnels are off"),
        ('[tunnel]\npolicy = "list"', "example.org:443", 403, "add example.org to hosts of [tunnel]"),
        ("", "example.org", 400, "the port is missing"),
        ("", "example.org:0", 400, "a number from 1 to 65535"),
        ("", "example org:443", 400, "the request line is malformed"),
        ("", "127.1:443", 400, "four decimal numbers"),
    ],
)
async def test_refused_connects(start: Start, tables: str, target: str, status: int, says: str) -> None:
    """The answer has the status, and says to a person why and what can be done."""
    world = await start(tables=tables)
    answer = await deferToThread(raw, world.port, f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert says in body.decode()


async def test_refused_client_reads_its_answer_however_much_it_sends(start: Start) -> None:
    """The rest of what it sends does not turn the answer into a reset."""
    world = await start()
    data = b"CONNECT example.org:22 HTTP/1.1\r\n\r\n" + b"x" * 3_000_000
    answer = await deferToThread(raw, world.port, data, end=True)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"\n")


async def test_client_that_is_not_admitted(start: Start) -> None:
    """A client from elsewhere is told who can let it in."""
    world = await start(top='clients = ["10.0.0.0/8"]')
    for request in b"GET /healthz HTTP/1.1\r\n\r\n", f"CONNECT {NAME}:443 HTTP/1.1\r\n\r\n".encode():
        answer = await deferToThread(raw, world.port, request)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"clients at 127.0.0.1 are not admitted" in answer


async def test_too_many_connections(start: Start) -> None:
    """Over the limit a connection is refused in words, and under it again it is served."""
    world = await start(tables="[limits]\nconnections = 2")
    silent = [dial(world.port) for _ in range(2)]
    await until(lambda: world.service.door.connections == 2)
    request = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"
    answer = await deferToThread(raw, world.port, request)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"as many connections as it may" in answer
    silent[0].close()
    await until(lambda: world.service.door.connections == 1)
    assert (await deferToThread(raw, world.port, request)).startswith(b"HTTP/1.1 200 ")
    silent[1].close()


# -- limits of time


async def test_slow_first_head(start: Start) -> None:
    """A head that comes a byte at a time gets 408 when its time is over, however lately a byte has come."""
    world = await start()
    client = dial(world.port)
    client.sendall(b"GET / HTTP/1.1\r\nX")
    await until(lambda: any(transport.protocol.reading for transport in world.service.door._seen))
    sweep_in(world.service.door, 29)
    client.sendall(b"-")
    sweep_in(world.service.door, 31)
    answer = await deferToThread(read_to_end, client)
    assert answer.startswith(b"HTTP/1.1 408 Request Time-out\r\n")
    assert b"not complete after 30 s" in answer
    client.close()


async def test_silent_connection(start: Start) -> None:
    """One that never says anything is closed."""
    world = await start()
    client = dial(world.port)
    await until(lambda: world.service.door.connections == 1)
    sweep_in(world.service.door, 29)
    await until(lambda: world.service.door.connections == 1)
    sweep_in(world.service.door, 31)
    await until(lambda: world.service.door.connections == 0)
    client.close()


async def test_handshake_that_stalls(start: Start) -> None:
    """A client that says CONNECT and then nothing is closed."""
    world = await start()
    client = await deferToThread(connect_through, world.port, f"{NAME}:443")
    door = world.service.door
    sweep_in(door, 0)
    sweep_in(door, 31)
    await until(lambda: door.connections == 0)
    client.close()


async def test_slow_head_inside_tls(start: Start) -> None:
    """A later head, or a body, that does not end gets 408 too."""
    world = await start()
    door = world.service.door

    def begin() -> Talk:
        talk = Talk(secure(world))
        talk.send(GET)
        talk.reply()
        talk.send(b"GET /v2/ HT")
        return talk

    talk = await deferToThread(begin)
    (transport,) = door._seen
    await until(lambda: transport.protocol.head_since is not None)
    sweep_in(door, 29)
    sweep_in(door, 31)
    reply = await deferToThread(talk.reply)
    assert reply.status == 408
    assert "not complete after 30 s" in json.loads(reply.body)["errors"][0]["message"]
    talk.close()


async def test_idle_connection(start: Start) -> None:
    """A kept connection is closed when it has been idle for its time, not before."""
    world = await start()
    door = world.service.door

    def begin() -> Talk:
        talk = Talk(secure(world))
        talk.send(GET)
        talk.reply()
        return talk

    talk = await deferToThread(begin)
    sweep_in(door, 299)
    talk.send(GET)
    assert (await deferToThread(talk.reply)).status == 200
    sweep_in(door, 301)
    await until(lambda: door.connections == 0)
    talk.close()


async def test_client_that_stops_reading(start: Start) -> None:
    """It may stop for the send timeout, from the last byte it took; then it is cut off, and others are not."""
    world = await start()
    path = blob_path(world)
    door = world.service.door
    assert (await world.client().get(path)).body == LAYER

    def begin() -> ssl.SSLSocket:
        client = socket.socket()
        client.settimeout(20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", world.port))
        client.sendall(f"CONNECT {NAME}:443 HTTP/1.1\r\n\r\n".encode())
        read_exactly(client, len(b"HTTP/1.1 200 Connection established\r\n\r\n"))
        tls = trusting(ca_of(world)).wrap_socket(client, server_hostname=NAME)
        tls.sendall(get(path) * 20)
        return tls

    client = await deferToThread(begin)
    await until(lambda: any(transport.blocked for transport in door._seen))
    sweep_in(door, 0)
    sweep_in(door, 599)
    assert len(door.busy()) == 1
    await deferToThread(read_exactly, client, 2_000_000)
    await until(lambda: all(t.bytes_moved != moved for t, (moved, _) in door._seen.items() if t.blocked))
    sweep_in(door, 601)
    assert len(door.busy()) == 1
    sweep_in(door, 601 + 601)
    await until(lambda: not door.busy())
    client.close()
    assert (await world.client().get(path)).body == LAYER


# -- the end


async def test_stopping_lets_responses_finish(start: Start) -> None:
    """A response that is under way ends whole; idle connections and listening end at once."""
    world = await start()
    path = blob_path(world)
    world.registry.fault("/blobs/", StallAfter(1_000_000))
    idle = world.client()
    await idle.get("/v2/")
    running = Deferred.fromCoroutine(world.client().get(path))
    await until(lambda: bool(world.service.door.busy()))
    port = world.port
    stopped = world.service.stopService()
    await until(lambda: world.service.door.connections == 1)
    with pytest.raises(ConnectionRefusedError):
        await deferToThread(connect_through, port, f"{NAME}:443")
    world.registry.release()
    assert (await running).body == LAYER
    await stopped


async def test_stopping_does_not_wait_for_ever(start: Start) -> None:
    """A client that does not take its response is cut off after the stop timeout."""
    world = await start(tables='[limits]\nstop_timeout = "200ms"')
    path = blob_path(world)
    client = await deferToThread(secure, world)
    client.sendall(get(path) * 20)
    await until(lambda: any(transport.blocked for transport in world.service.door._seen))
    began = time.monotonic()
    await world.service.stopService()
    assert 0.15 < time.monotonic() - began < 10
    client.close()


# -- other listeners


async def test_unix_socket(start: Start, tmp_path: Path) -> None:
    """Through a Unix socket everything works, and its file's mode decides who may: it has no address."""
    world = await start(top='clients = ["10.0.0.0/8"]')
    path = blob_path(world)
    place = Place(world.service.door, tmp_path / "socket")
    client, _ = place.dial()

    def talk() -> bytes:
        client.sendall(f"CONNECT {NAME}:443 HTTP/1.1\r\n\r\n".encode())
        read_exactly(client, len(b"HTTP/1.1 200 Connection established\r\n\r\n"))
        talk = Talk(trusting(ca_of(world)).wrap_socket(client, server_hostname=NAME))
        talk.send(get(path))
        body = talk.reply().body
        talk.close()
        return body

    assert await deferToThread(talk) == LAYER
    await place.stop()


def has_ipv6() -> bool:
    """Is there ::1 on this machine?"""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("clients", "admitted"),
    [
        (["127.0.0.0/8"], {"127.0.0.1"}),
        (["::1/128"], {"::1"}),
        (["127.0.0.0/8", "::1/128"], {"127.0.0.1", "::1"}),
        (["10.0.0.0/8"], set()),
    ],
)
async def test_dual(start: Start, clients: list[str], admitted: set[str]) -> None:
    """One port for IPv4 and IPv6, and an IPv4 client is compared by its IPv4 address."""
    world = await start(listen="dual:0", top=f"clients = {json.dumps(clients)}")

    def ask(address: str) -> bytes:
        with socket.create_connection((address, world.port), timeout=20) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
            return read_to_end(client)

    for address in ("127.0.0.1", "::1"):
        answer = await deferToThread(ask, address)
        assert answer.startswith(b"HTTP/1.1 200 " if address in admitted else b"HTTP/1.1 403 ")


def test_limits_are_what_the_sweep_tests_assume() -> None:
    """The times above are the defaults."""
    limits = Limits()
    assert (limits.head_timeout, limits.idle_timeout, limits.send_timeout) == (30, 300, 600)
