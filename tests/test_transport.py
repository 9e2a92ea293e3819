"""The direct transport over real sockets: the switch to TLS, heads, and other kinds of sockets."""

import random
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.threads import deferToThread

from tests.direct import KIND, TLS, File, identity, make_file, pair, place
from tests.wire import Hand, Identity, Place, read_exactly, read_to_end
from tests.world import NAME, until

__all__ = ["identity", "make_file", "place"]  # fixtures

reactor: Any = _reactor


# -- the switch to TLS


@TLS
async def test_switch_waits_for_the_plain_answer_to_leave(
    place: Place, identity: Identity, tls: ssl.TLSVersion
) -> None:
    """What was written before start_tls arrives in plain, however slowly the client takes it."""
    client, accepted = place.dial(receive_buffer=4096)
    server = await accepted
    plain = random.Random(1).randbytes(3_000_000)
    server.transport.write(plain)
    shaken = server.transport.start_tls(identity.server)
    assert server.transport.tls is None
    got = await deferToThread(read_exactly, client, len(plain))
    assert got == plain
    client = await deferToThread(identity.client(tls).wrap_socket, client, server_hostname=NAME)
    await shaken
    server.transport.write(b"secret")
    assert await deferToThread(read_exactly, client, 6) == b"secret"
    client.close()


async def test_client_hello_before_the_plain_answer_has_left(place: Place, identity: Identity) -> None:
    """A client that speaks TLS too early is heard when the plain answer is out, and costs nothing until then."""
    client, accepted = place.dial(receive_buffer=4096)
    server = await accepted
    plain = random.Random(2).randbytes(3_000_000)
    server.transport.write(plain)
    shaken = server.transport.start_tls(identity.server)
    hand = Hand(identity.client(), client)
    client.sendall(hand.hello())
    await until(lambda: server.transport not in reactor.getReaders())
    assert await deferToThread(read_exactly, client, len(plain)) == plain
    await deferToThread(hand.shake)
    await shaken
    server.transport.write(b"secret")
    server.transport.loseConnection()
    assert await deferToThread(hand.read_to_end) == b"secret"
    client.close()


async def test_head_is_taken_to_its_last_byte_only(place: Place, identity: Identity) -> None:
    """What follows the head in the same segment stays in the kernel for OpenSSL."""

    class Reader:
        head = b""

        def take_head(self, data: bytes) -> int:
            end = data.find(b"\n\n")
            taken = len(data) if end < 0 else end + 2
            self.head += data[:taken]
            return taken

        def head_taken(self) -> None:
            if self.head.endswith(b"\n\n"):
                server.transport.stop_reading_head()
                server.transport.write(b"yes\n")
                shaken.append(server.transport.start_tls(identity.server))

    shaken: list[Deferred[None]] = []
    client, accepted = place.dial()
    server = await accepted
    server.transport.read_head(reader := Reader())
    hand = Hand(identity.client(), client)
    hello = hand.hello()
    client.sendall(b"one\nt")
    await until(lambda: reader.head == b"one\nt")
    client.sendall(b"wo\n\n" + hello)
    assert await deferToThread(read_exactly, client, 4) == b"yes\n"
    await deferToThread(hand.shake)
    await shaken[0]
    assert reader.head == b"one\ntwo\n\n"
    await deferToThread(hand.write, b"hello")
    await until(lambda: server.received == b"hello")
    client.close()


async def test_closing_does_not_wait_for_a_handshake(place: Place, identity: Identity) -> None:
    """loseConnection closes a connection whose client never shakes hands."""
    client, accepted = place.dial()
    server = await accepted
    shaken = server.transport.start_tls(identity.server)
    server.transport.loseConnection()
    with pytest.raises(ConnectionClosed):
        await shaken
    assert await deferToThread(read_to_end, client) == b""
    client.close()


async def test_what_is_written_during_the_handshake_follows_it(place: Place, identity: Identity) -> None:
    """Data written before the handshake is done goes out encrypted after it."""
    client, accepted = place.dial()
    server = await accepted
    shaken = server.transport.start_tls(identity.server)
    hand = Hand(identity.client(), client)
    client.sendall(hand.hello())
    await deferToThread(client.recv, 1, socket.MSG_PEEK)  # now the server waits for our Finished
    server.transport.write(b"early")
    await deferToThread(hand.shake)
    await shaken
    server.transport.loseConnection()
    assert await deferToThread(hand.read_to_end) == b"early"
    client.close()


# -- other sockets


@KIND
async def test_unix_socket(
    identity: Identity, make_file: Callable[[int], File], tmp_path: Path, tls: ssl.TLSVersion | None
) -> None:
    """A Unix socket serves as well as a TCP one."""
    file = make_file(2_000_000)
    place = Place(path=tmp_path / "socket")
    try:
        server, client = await pair(place, identity, tls)
        server.transport.setTcpNoDelay(True)
        server.transport.setTcpKeepAlive(True)
        reading = deferToThread(read_exactly, client, file.size + 4)
        server.transport.write(b"head")
        await server.transport.send_file(file.fd, 0, file.size)
        assert await reading == b"head" + file.content
        client.close()
    finally:
        await place.stop()
