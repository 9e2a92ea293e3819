"""TLS on the socket, over real ones: handshakes that fail, sessions, new keys, and the end."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.threads import deferToThread

from regcachd.tls_socket import RECORD, HandshakeFailed
from tests.direct import KIND, NO_LINGER, TLS, File, identity, make_file, place
from tests.wire import Hand, Identity, Place, Served, pause, read_exactly, read_to_end
from tests.world import NAME, until

__all__ = ["identity", "make_file", "place"]  # fixtures


@TLS
async def test_client_that_does_not_trust_us(place: Place, identity: Identity, tls: ssl.TLSVersion) -> None:
    """The alert of a client that rejects the certificate is the reason the handshake failed."""
    client, accepted = place.dial()
    server = await accepted
    shaken = server.transport.start_tls(identity.server)
    context = ssl.create_default_context(cadata=identity.ca.root_pem.decode())
    context.minimum_version = context.maximum_version = tls
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.minimum_version = stranger.maximum_version = tls
    with pytest.raises(ssl.SSLCertVerificationError):
        await deferToThread(stranger.wrap_socket, client, server_hostname=NAME)
    with pytest.raises(HandshakeFailed, match="unknown ca"):
        await shaken
    client.close()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 500])
async def test_what_is_no_client_hello(place: Place, identity: Identity, data: bytes) -> None:
    """Garbage instead of a ClientHello fails the handshake."""
    client, accepted = place.dial()
    server = await accepted
    shaken = server.transport.start_tls(identity.server)
    client.sendall(data)
    with pytest.raises(HandshakeFailed):
        await shaken
    client.close()


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_client_leaves_during_the_handshake(place: Place, identity: Identity, reset: bool) -> None:
    """A client that goes away in mid-handshake fails it."""
    client, accepted = place.dial()
    server = await accepted
    shaken = server.transport.start_tls(identity.server)
    hand = Hand(identity.client(), client)
    client.sendall(hand.hello())
    await deferToThread(read_exactly, client, 5)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    client.close()
    with pytest.raises((HandshakeFailed, ConnectionClosed)):
        await shaken
    await until(lambda: server.lost is not None)


@TLS
async def test_sessions_are_resumed(place: Place, identity: Identity, tls: ssl.TLSVersion) -> None:
    """A second connection goes on with the first one's session."""
    context = identity.client(tls)
    session: ssl.SSLSession | None = None
    reused = []
    for _ in range(2):
        raw, accepted = place.dial()
        server = await accepted
        shaken = server.transport.start_tls(identity.server)
        client = await deferToThread(context.wrap_socket, raw, server_hostname=NAME, session=session)
        await shaken
        server.transport.write(b"x")
        await deferToThread(read_exactly, client, 1)  # TLS 1.3 sends tickets with the first data
        session = client.session
        reused.append(client.session_reused)
        client.close()
    assert reused == [False, True]


@TLS
async def test_records_that_are_there_come_together(
    place: Place, identity: Identity, tls: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many records cost few turns of the reactor, and the end that follows at once is not lost among them."""
    client, accepted = place.dial()
    server = await accepted
    shaken = server.transport.start_tls(identity.server)
    hand = Hand(identity.client(tls), client)
    await deferToThread(hand.shake)
    await shaken
    pieces: list[int] = []
    take = server.dataReceived

    def count(data: bytes) -> None:
        pieces.append(len(data))
        take(data)

    monkeypatch.setattr(server, "dataReceived", count)
    said = os.urandom(20 * RECORD + 5)
    server.transport.pauseProducing()
    await deferToThread(hand.write, said)
    await deferToThread(hand.end)
    server.transport.resumeProducing()
    await until(lambda: server.read_ended)
    assert server.received == said
    assert max(pieces) > RECORD
    server.transport.loseConnection()
    client.close()


@KIND
async def test_half_close(place: Place, identity: Identity, tls: ssl.TLSVersion | None) -> None:
    """After the client has said its last, by close_notify or FIN, the server can still speak."""
    client, accepted = place.dial()
    server = await accepted
    if tls is None:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
    else:
        shaken = server.transport.start_tls(identity.server)
        hand = Hand(identity.client(tls), client)
        await deferToThread(hand.shake)
        await shaken
        await deferToThread(hand.write, b"question")
        await deferToThread(hand.end)
    await until(lambda: server.read_ended)
    assert server.received == b"question"
    server.transport.write(b"answer" * 100_000)
    server.transport.loseConnection()
    got = await deferToThread(read_to_end, client) if tls is None else await deferToThread(hand.read_to_end)
    assert got == b"answer" * 100_000
    client.close()


async def test_key_update(place: Place, tmp_path: Path, make_file: Callable[[int], File]) -> None:
    """New keys in mid-connection (RFC 8446 section 4.6.3), asked for by the client, change nothing."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl(1) is not installed")
    identity = Identity.make(tmp_path, kernel=False)
    file = make_file(300_000)
    accepted: Deferred[Served] = Deferred()
    place._waiting.append(accepted)
    client = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{place.number}", "-servername", NAME, "-tls1_3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    server = await accepted
    await server.transport.start_tls(identity.server)
    client.stdin.write(b"before\n")
    client.stdin.flush()
    await until(lambda: server.received == b"before\n")
    client.stdin.write(b"K\n")  # s_client's command for a KeyUpdate that asks for one in return
    client.stdin.flush()
    await pause(0.2)  # what s_client reads at once it takes for one line
    client.stdin.write(b"after\n")
    client.stdin.flush()
    await until(lambda: server.received == b"before\nafter\n")
    await server.transport.send_file(file.fd, 0, file.size)
    server.transport.loseConnection()
    output = await deferToThread(client.stdout.read)
    await deferToThread(client.communicate)
    assert file.content in output
    assert b"KEYUPDATE" in output
