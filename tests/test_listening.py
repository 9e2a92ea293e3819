"""listening.py: sockets that several processes hold; here one process plays them all."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from regcachd.listening import ACCEPTS, CannotListen, adopt, bind, where, withdraw
from tests.world import until

reactor: Any = _reactor


class Greeter(Factory):
    """Says its name to everybody and closes."""

    noisy = False

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.met = 0

    def buildProtocol(self, addr: Any) -> Protocol:
        self.met += 1
        name = self.name

        class Greeting(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(name)
                self.transport.loseConnection()

        return Greeting()


def meet(address: Any, family: int = socket.AF_INET) -> bytes:
    """Connect, and read to the end. Blocking."""
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(address)
        return client.recv(100)


async def close(ports: list[Any]) -> None:
    for port in ports:
        result = port.stopListening()
        if isinstance(result, Deferred):
            await result


@pytest.mark.parametrize("kind", ["tcp", "dual", "unix"])
async def test_workers_share_a_socket_that_the_parent_holds(tmp_path: Path, kind: str) -> None:
    """The parent accepts nothing; each worker does; when one has closed its port the others go on, and when the last
    one has, new clients wait until there is another."""
    path = str(tmp_path / "socket")
    description = {"tcp": "tcp:0:interface=127.0.0.1", "dual": "dual:0", "unix": f"unix:{path}:mode=600"}[
        kind
    ]
    parent = Greeter(b"parent")
    held = bind(reactor, [description], parent)
    withdraw(held)
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    address: Any = path if kind == "unix" else ("127.0.0.1", held[0].getHost().port)
    waiting = deferToThread(meet, address, family)
    one, other = Greeter(b"one"), Greeter(b"other")
    first = adopt(reactor, [os.dup(held[0].fileno())], one)
    second = adopt(reactor, [os.dup(held[0].fileno())], other)
    assert await waiting in (b"one", b"other")
    if kind == "dual":
        assert await deferToThread(meet, ("::1", address[1]), socket.AF_INET6) in (b"one", b"other")
    await close(first)
    for _ in range(3):
        assert await deferToThread(meet, address, family) == b"other"
    await close(second)
    waiting = deferToThread(meet, address, family)
    third = adopt(reactor, [os.dup(held[0].fileno())], Greeter(b"third"))
    assert await waiting == b"third"
    await close(third)
    if kind == "unix":
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    await close(held)
    assert not os.path.exists(path)
    assert parent.met == 0
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        meet(address, family)


async def test_a_burst_is_shared(tmp_path: Path) -> None:
    """Of clients who come at once each worker takes a few and lets the other have its turn."""
    held = bind(reactor, ["tcp:0:interface=127.0.0.1"], Greeter(b"parent"))
    withdraw(held)
    clients = [socket.create_connection(("127.0.0.1", held[0].getHost().port)) for _ in range(4 * ACCEPTS)]
    greeters = [Greeter(b"one"), Greeter(b"other")]
    ports = [adopt(reactor, [os.dup(held[0].fileno())], greeter)[0] for greeter in greeters]
    await until(lambda: sum(greeter.met for greeter in greeters) == len(clients))
    assert [greeter.met for greeter in greeters] == [2 * ACCEPTS, 2 * ACCEPTS]
    for client in clients:
        client.close()
    await close(ports)
    await close(held)


async def test_bind_all_or_nothing() -> None:
    """When one address cannot be had the others are given back."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with pytest.raises(CannotListen, match="nonsense"):
        bind(reactor, [f"tcp:{free}:interface=127.0.0.1", "nonsense"], Greeter(b""))
    await until(lambda: _refuses(free))


def _refuses(number: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", number)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_addresses_for_people(tmp_path: Path) -> None:
    ports = bind(reactor, ["tcp:0:interface=127.0.0.1", "dual:0", f"unix:{tmp_path}/socket"], Greeter(b""))
    numbers = [port.getHost().port for port in ports[:2]]
    assert where(ports) == f"127.0.0.1:{numbers[0]}, port {numbers[1]}, {tmp_path}/socket"
    await close(ports)


@pytest.mark.parametrize("description", ["nonsense", "tcp:x", "ssl:0", "fd:1"])
async def test_what_is_no_endpoint_of_ours_is_refused(description: str) -> None:
    with pytest.raises(CannotListen, match=description):
        bind(reactor, [description], Greeter(b""))
