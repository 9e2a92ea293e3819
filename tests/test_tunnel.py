"""Tunnels through the daemon to servers on this machine: both directions, both ends, and what cannot be reached."""

import random
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from regcachd import frontdoor
from regcachd.connect import Authority
from regcachd.guard import Forbidden, Rule, anywhere, never_ours
from regcachd.testing import FakeRegistry
from regcachd.tunnel import TunnelFailed, open_tunnel
from tests.test_frontdoor import sweep_in
from tests.wire import (
    Place,
    Served,
    connect_through,
    descriptors,
    dial,
    pause,
    read_exactly,
    read_to_end,
    resident,
    standstill,
)
from tests.world import World, raw, until

reactor: Any = _reactor

LARGE = 48 * 1024 * 1024
BLOCK = random.Random(11).randbytes(1024 * 1024)

Start = Callable[..., Awaitable[World]]


@pytest.fixture
def far() -> Iterator[Place]:
    """The server at the far end, driven by the test."""
    place = Place()
    yield place
    pytest_twisted.blockon(Deferred.fromCoroutine(place.stop()))


@pytest.fixture
def start(tmp_path: Path, far: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A function that starts a daemon whose tunnels lead to the far end; the test itself sweeps."""
    monkeypatch.setattr(frontdoor, "SWEEP", 3600.0)
    worlds: list[World] = []

    async def begin(rule: Rule = anywhere, limits: str = "", ports: list[int] | None = None) -> World:
        tables = f"[tunnel]\nports = {ports or [far.number]}\n[limits]\n{limits}"
        worlds.append(World(tmp_path, FakeRegistry(reactor), tables=tables, tunnel_rule=rule))
        return await worlds[0].start()

    yield begin
    for world in worlds:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.stop()))


async def joined(world: World, far: Place, host: str = "localhost") -> tuple[socket.socket, Served]:
    """The two ends of a tunnel."""
    client = await deferToThread(connect_through, world.port, f"{host}:{far.number}")
    await until(lambda: bool(far.connections) and far.connections[-1].transport is not None)
    return client, far.connections[-1]


def sum_of(connection: socket.socket) -> int:
    """Read LARGE bytes and say how many blocks of them are right."""
    return sum(read_exactly(connection, len(BLOCK)) == BLOCK for _ in range(LARGE // len(BLOCK)))


# -- bytes


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST."])
async def test_both_directions(start: Start, far: Place, host: str) -> None:
    """What one side says the other hears; when the client closes, the far end hears that."""
    world = await start()
    client, server = await joined(world, far, host)
    client.sendall(b"question")
    await until(lambda: server.received == b"question")
    server.transport.write(b"answer")
    assert await deferToThread(read_exactly, client, 6) == b"answer"
    client.close()
    await until(lambda: server.read_ended)
    server.transport.loseConnection()
    await until(lambda: world.service.door.connections == 0)


async def test_early_data(start: Start, far: Place) -> None:
    """What the client sends in one segment with the CONNECT reaches the far end, every byte of it."""
    world = await start()
    data = random.Random(5).randbytes(300_000)

    def talk() -> socket.socket:
        client = dial(world.port)
        client.sendall(f"CONNECT localhost:{far.number} HTTP/1.1\r\n\r\n".encode() + data)
        return client

    client = await deferToThread(talk)
    await until(lambda: bool(far.connections) and len(far.connections[0].received) == len(data))
    assert far.connections[0].received == data
    client.close()


async def test_far_end_speaks_first(start: Start, far: Place) -> None:
    """What the far end says before the client has said anything comes after the 200."""
    world = await start()

    def greet(protocol: Any) -> None:
        protocol.transport.write(b"220 welcome\r\n")

    arrived: Deferred[Any] = Deferred()
    far._waiting.append(arrived)
    arrived.addCallback(greet)
    client, _ = await joined(world, far)
    assert await deferToThread(read_exactly, client, 13) == b"220 welcome\r\n"
    client.close()


async def test_client_ends_first(start: Start, far: Place) -> None:
    """The client's FIN is passed on, the answer still comes, and then both connections are gone."""
    world = await start()
    before = descriptors()
    client, server = await joined(world, far)
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    await until(lambda: server.read_ended)
    assert server.received == b"question"
    server.transport.write(b"answer" * 100_000)
    server.transport.loseConnection()
    assert await deferToThread(read_to_end, client) == b"answer" * 100_000
    client.close()
    await until(lambda: world.service.door.connections == 0 and server.lost is not None)
    assert descriptors() == before


async def test_far_end_ends_first(start: Start, far: Place) -> None:
    """The far end's FIN is passed on, the client can go on speaking, and then both connections are gone."""
    world = await start()
    before = descriptors()
    client, server = await joined(world, far)
    server.transport.write(b"bye")
    server.transport.loseWriteConnection()
    assert await deferToThread(read_to_end, client) == b"bye"
    await deferToThread(client.sendall, b"last words" * 100_000)
    client.close()
    await until(lambda: server.read_ended)
    assert server.received == b"last words" * 100_000
    await until(lambda: world.service.door.connections == 0)
    server.transport.loseConnection()
    await until(lambda: server.lost is not None)
    assert descriptors() == before


@pytest.mark.parametrize("who", ["client", "far end"])
async def test_reset(start: Start, far: Place, who: str) -> None:
    """A reset on one side closes the other."""
    world = await start()
    client, server = await joined(world, far)
    if who == "client":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        await until(lambda: server.read_ended)
    else:
        server.transport.abortConnection()
        assert await deferToThread(read_to_end, client) == b""
    await until(lambda: world.service.door.connections == 0)
    client.close()


# -- flow


async def test_far_end_that_stops_reading(start: Start, far: Place) -> None:
    """The client is slowed down, memory stays flat, and later everything arrives."""
    world = await start()
    client, server = await joined(world, far)
    server.transport.pauseProducing()
    before = resident()

    def send() -> None:
        for _ in range(LARGE // len(BLOCK)):
            client.sendall(BLOCK)
        client.close()

    sending = deferToThread(send)
    await pause(0.5)
    assert not sending.called
    assert resident() - before < 8 * 1024 * 1024
    received = bytearray()
    server.dataReceived = received.extend  # type: ignore[assignment,method-assign]
    server.transport.resumeProducing()
    await sending
    await until(lambda: len(received) == LARGE)
    assert received == BLOCK * (LARGE // len(BLOCK))


async def test_client_that_stops_reading(start: Start, far: Place) -> None:
    """The far end is slowed down, memory stays flat, and later everything arrives."""
    world = await start()
    client, server = await joined(world, far)
    source = Source(server)
    (near,) = world.service.door._seen
    await until(lambda: near.blocked)
    assert await standstill(lambda: source.left) > LARGE // 3
    assert near.blocked
    assert await deferToThread(sum_of, client) == LARGE // len(BLOCK)
    assert source.left == 0
    client.close()


class Source:
    """Writes LARGE bytes at the pace of its transport."""

    def __init__(self, server: Served) -> None:
        self.left = LARGE
        self._transport = server.transport
        self._transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self._transport.write(BLOCK)
        self.left -= len(BLOCK)
        if not self.left:
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The connection is lost."""


# -- limits


async def test_idle_tunnel(start: Start, far: Place) -> None:
    """A tunnel in which nothing moves, in either direction, is closed after its time."""
    world = await start(limits='tunnel_idle = "1h"')
    door = world.service.door
    client, server = await joined(world, far)
    sweep_in(door, 0)
    client.sendall(b"up")
    await until(lambda: server.received == b"up")
    sweep_in(door, 3000)
    server.transport.write(b"down")
    await deferToThread(read_exactly, client, 4)
    sweep_in(door, 6000)
    sweep_in(door, 9000)
    await pause(0)
    assert door.connections == 1
    sweep_in(door, 9700)
    await until(lambda: door.connections == 0)
    client.close()


async def test_opening_is_not_a_slow_head(start: Start, far: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the far end is being reached it is the connection's timeout that counts, not the head's."""
    world = await start()
    door = world.service.door
    gate = hold(monkeypatch)
    connecting = deferToThread(connect_through, world.port, f"localhost:{far.number}")
    await until(lambda: gate.waiting)
    sweep_in(door, 0)
    sweep_in(door, 31)
    gate.opened.callback(None)
    (await connecting).close()


class Gate:
    """Holds back the opening of tunnels."""

    def __init__(self) -> None:
        self.waiting = False
        self.opened: Deferred[None] = Deferred()

    async def open_tunnel(self, *args: Any) -> Any:
        self.waiting = True
        await self.opened
        return await open_tunnel(*args)


def hold(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Put a gate before the front door's tunnels."""
    gate = Gate()
    monkeypatch.setattr(frontdoor, "open_tunnel", gate.open_tunnel)
    return gate


async def test_client_leaves_while_the_tunnel_opens(
    start: Start, far: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The far end is closed at once."""
    world = await start()
    gate = hold(monkeypatch)
    client = dial(world.port)
    client.sendall(f"CONNECT localhost:{far.number} HTTP/1.1\r\n\r\n".encode())
    await until(lambda: gate.waiting)
    (transport,) = world.service.door._seen
    transport.abortConnection()
    await until(lambda: world.service.door.connections == 0)
    gate.opened.callback(None)
    await until(lambda: bool(far.connections) and far.connections[0].lost is not None)
    client.close()


# -- what cannot be reached


def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("127.0.0.1", "127.0.0.1:{port} cannot be reached: Connection was refused by other side"),
        ("no-such-host.invalid", "no-such-host.invalid:{port} cannot be reached: "),
        ("xn--a.example", "xn--a.example:{port} cannot be reached: "),
        ("[::1]", "[::1]:{port} cannot be reached: "),
    ],
)
async def test_unreachable(start: Start, host: str, says: str) -> None:
    """The client gets 502 and the reason."""
    port = unused_port()
    world = await start(ports=[port])
    answer = await deferToThread(raw, world.port, f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert says.format(port=port) in answer.decode()


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("localhost", "is a loopback address"),
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
        ("[::1]", "::1 is a loopback address"),
        ("[::ffff:127.0.0.1]", "stands for 127.0.0.1, a loopback address"),
        ("169.254.169.254", "169.254.169.254 is a link-local address"),
        ("0.0.0.0", "0.0.0.0 is an unspecified address"),
        ("[::]", ":: is an unspecified address"),
        ("[fd00:ec2::254]", "a cloud's metadata service"),
    ],
)
async def test_addresses_that_no_tunnel_leads_to(start: Start, far: Place, host: str, says: str) -> None:
    """The daemon's own rule judges what a name resolves to, and the client gets 403 and the reason."""
    world = await start(rule=never_ours)
    answer = await deferToThread(raw, world.port, f"CONNECT {host}:{far.number} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert f"{Authority.parse(f'{host}:{far.number}')} is refused: " in answer.decode()
    assert says in answer.decode()
    assert far.connections == []


async def test_rule_judges_addresses_only(far: Place) -> None:
    """A rule never sees a name; addresses it refuses are not tried, the others are."""
    judged: list[str] = []

    def rule(address: str) -> str | None:
        judged.append(address)
        return "no IPv6 here" if ":" in address else None

    tunnel = await open_tunnel(reactor, Authority("localhost", far.number), 10, rule)
    tunnel.transport.abortConnection()
    assert set(judged) <= {"127.0.0.1", "::1"}
    assert "127.0.0.1" in judged


async def test_refused_connection_is_not_called_forbidden() -> None:
    """If some addresses are forbidden and the others do not answer, the reason is that they do not answer."""
    rule: Rule = lambda address: "no IPv6 here" if ":" in address else None  # noqa: E731
    with pytest.raises(TunnelFailed, match="cannot be reached"):
        await open_tunnel(reactor, Authority("localhost", unused_port()), 10, rule)
    with pytest.raises(Forbidden, match="nothing is allowed"):
        await open_tunnel(reactor, Authority("localhost", 443), 10, lambda address: "nothing is allowed")
