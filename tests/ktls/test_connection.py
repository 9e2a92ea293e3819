"""Single connections that the kernel encrypts: what goes how, new keys, and the end."""

import os
import random
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.direct import TLS, File, pair
from tests.ktls.conftest import taken
from tests.wire import Hand, Identity, Place, Served, pause, read_exactly
from tests.world import NAME, until


async def hand_shaken(
    place: Place, identity: Identity, tls: ssl.TLSVersion, receive_buffer: int | None = None
) -> tuple[Served, Hand]:
    """A connection whose client notices a missing close_notify."""
    raw, accepted = place.dial(receive_buffer)
    server: Served = await accepted
    shaken = server.transport.start_tls(identity.server)
    hand = Hand(identity.client(tls), raw)
    await deferToThread(hand.shake)
    await shaken
    return server, hand


@TLS
async def test_the_kernel_takes_the_connection(
    place: Place,
    identity: Identity,
    make_file: Callable[[int], File],
    monkeypatch: pytest.MonkeyPatch,
    tls: ssl.TLSVersion,
) -> None:
    """It counts one more, and all of a file leaves by sendfile."""
    file = make_file(3_000_000)
    sent: list[int] = []
    sendfile = os.sendfile

    def counting(*args: int) -> int:
        sent.append(sendfile(*args))
        return sent[-1]

    monkeypatch.setattr(os, "sendfile", counting)
    before = taken()
    server, client = await pair(place, identity, tls)
    assert taken() == before + 1
    assert server.transport.socket.kernel_encrypts
    reading = deferToThread(read_exactly, client, file.size)
    await server.transport.send_file(file.fd, 0, file.size)
    assert await reading == file.content
    assert sum(sent) == file.size
    client.close()


@TLS
async def test_the_configuration_can_forbid_it(place: Place, tmp_path: Path, tls: ssl.TLSVersion) -> None:
    """A context that does not allow it keeps the kernel out."""
    before = taken()
    server, client = await pair(place, Identity.make(tmp_path, kernel=False), tls)
    assert not server.transport.socket.kernel_encrypts
    assert taken() == before
    client.close()


@TLS
@pytest.mark.parametrize("buffer", [None, 4096], ids=["large buffers", "small buffers"])
async def test_responses_one_after_another_and_the_end(
    place: Place,
    identity: Identity,
    make_file: Callable[[int], File],
    tls: ssl.TLSVersion,
    buffer: int | None,
) -> None:
    """Heads, parts of files and bodies keep their order over full buffers; close_notify follows the last byte."""
    file = make_file(700_001)
    server, hand = await hand_shaken(place, identity, tls, buffer)
    reading = deferToThread(hand.read_to_end)
    expected = []
    for number in range(12):
        head, body = f"head {number}\r\n\r\n".encode(), random.Random(number).randbytes(number * 9_973)
        start, count = number * 31_337, 200_000 + number
        server.transport.write(head)
        await server.transport.send_file(file.fd, start, count)
        server.transport.write(body)
        expected += [head, file.content[start : start + count], body]
    server.transport.loseConnection()
    assert await reading == b"".join(expected)
    hand.connection.close()


@TLS
async def test_large_bodies_from_memory(place: Place, identity: Identity, tls: ssl.TLSVersion) -> None:
    """What is written while the client does not read arrives as it was, however the reactor cuts and moves it."""
    server, hand = await hand_shaken(place, identity, tls, 4096)
    pieces = [random.Random(number).randbytes(9_973) for number in range(400)]
    for piece in pieces:
        server.transport.write(piece)
        await pause(0)  # so that what is stuck is joined with what follows, in another place
    server.transport.loseConnection()
    assert await deferToThread(hand.read_to_end) == b"".join(pieces)
    hand.connection.close()


@pytest.mark.parametrize("sending", [False, True], ids=["idle", "in the middle of a file"])
async def test_new_keys_end_the_connection(
    place: Place, identity: Identity, make_file: Callable[[int], File], tmp_path: Path, sending: bool
) -> None:
    """After a KeyUpdate the client gets nothing that it could not decrypt, and close_notify."""
    file = make_file(20_000_000)
    accepted: Deferred[Served] = Deferred()
    place._waiting.append(accepted)
    output = tmp_path / "output"
    with output.open("wb") as writing:
        client = subprocess.Popen(
            [
                "openssl",
                "s_client",
                "-connect",
                f"127.0.0.1:{place.number}",
                "-servername",
                NAME,
                "-tls1_3",
                "-msg",
            ],
            stdin=subprocess.PIPE,
            stdout=writing,
            stderr=subprocess.STDOUT,
        )
    assert client.stdin is not None
    server = await accepted
    await server.transport.start_tls(identity.server)
    assert server.transport.socket.kernel_encrypts
    if sending:
        done = server.transport.send_file(file.fd, 0, file.size)
        done.addErrback(lambda failure: None)  # it may be out by then
        await until(lambda: server.transport.bytes_moved > 0)
    client.stdin.write(b"K\n")
    client.stdin.flush()
    await until(lambda: server.lost is not None, seconds=60)
    await deferToThread(client.communicate)
    said = output.read_bytes()
    assert b"KEYUPDATE" in said
    assert b"close_notify" in said.split(b"KEYUPDATE")[-1]
    assert b"bad record mac" not in said
    assert b"decryption failed" not in said
