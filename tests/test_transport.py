"""The direct transport over real sockets: the switch to TLS, files, and everything that goes wrong on the way."""

import errno
import hashlib
import os
import random
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import define
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionClosed
from twisted.internet.threads import deferToThread

from regcachd.transport import CHUNK, TURN, FileUnreadable, HandshakeFailed
from tests.wire import (
    Hand,
    Identity,
    Place,
    Served,
    descriptors,
    pause,
    read_exactly,
    read_to_end,
    resident,
)
from tests.world import NAME, until

reactor: Any = _reactor

TLS = pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
KIND = pytest.mark.parametrize(
    "tls", [None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["plain", "1.2", "1.3"]
)
NO_LINGER = struct.pack("ii", 1, 0)

RECORD = 16 * 1024
"""The most plain text one TLS record holds (RFC 8446 section 5.1)."""


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.make(tmp_path)


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    pytest_twisted.blockon(Deferred.fromCoroutine(place.stop()))


@define
class File:
    """A file with bytes that do not repeat, and its open descriptor."""

    path: Path
    content: bytes
    fd: int

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content)


@pytest.fixture
def make_file(tmp_path: Path) -> Iterator[Callable[[int], File]]:
    """A function from a size to a `File`."""
    files: list[File] = []

    def make(size: int) -> File:
        path = tmp_path / f"file{len(files)}"
        content = random.Random(size).randbytes(size)
        path.write_bytes(content)
        files.append(File(path, content, os.open(path, os.O_RDONLY)))
        return files[-1]

    yield make
    for file in files:
        os.close(file.fd)


async def pair(
    place: Place,
    identity: Identity,
    tls: ssl.TLSVersion | None,
    *,
    receive_buffer: int | None = None,
    send_buffer: int | None = None,
) -> tuple[Served, socket.socket]:
    """A connection whose both ends are ready, after the handshake if there is one."""
    client, accepted = place.dial(receive_buffer)
    server: Served = await accepted
    if send_buffer is not None:
        server.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    if tls is not None:
        shaken = server.transport.start_tls(identity.server)
        client = await deferToThread(identity.client(tls).wrap_socket, client, server_hostname=NAME)
        await shaken
    return server, client


def evict(file: File) -> bool:
    """Take a file out of the page cache; says whether that is possible here."""
    with file.path.open("rb+") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(file.fd, [bytearray(1)], file.size // 2, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


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


# -- files


@KIND
async def test_file_after_what_was_written(
    place: Place, identity: Identity, make_file: Callable[[int], File], tls: ssl.TLSVersion | None
) -> None:
    """Data, a file, data, another part of the file: all arrive in this order, and closing waits for them."""
    file = make_file(3 * TURN + 4711)
    server, client = await pair(place, identity, tls)
    reading = deferToThread(read_to_end, client)
    server.transport.write(b"head")
    await server.transport.send_file(file.fd, 0, file.size)
    server.transport.write(b"between")
    done = server.transport.send_file(file.fd, 5, file.size - 5)
    server.transport.loseConnection()
    await done
    assert await reading == b"head" + file.content + b"between" + file.content[5:]
    assert server.transport.bytes_moved == 2 * file.size - 5 + 11
    client.close()


@KIND
async def test_empty_file(
    place: Place, identity: Identity, make_file: Callable[[int], File], tls: ssl.TLSVersion | None
) -> None:
    """Nothing of a file is sent at once."""
    file = make_file(0)
    server, client = await pair(place, identity, tls)
    await server.transport.send_file(file.fd, 0, 0)
    server.transport.write(b"after")
    assert await deferToThread(read_exactly, client, 5) == b"after"
    client.close()


@KIND
async def test_small_buffers_and_a_slow_reader(
    place: Place, identity: Identity, make_file: Callable[[int], File], tls: ssl.TLSVersion | None
) -> None:
    """Every write that the socket takes in part or not at all is repeated with the right bytes."""
    file = make_file(2_000_003)
    server, client = await pair(place, identity, tls, receive_buffer=2048, send_buffer=4096)

    def read() -> bytes:
        data = bytearray()
        while len(data) < file.size:
            data += read_exactly(client, min(9973, file.size - len(data)), step=997)
        return bytes(data)

    reading = deferToThread(read)
    await server.transport.send_file(file.fd, 0, file.size)
    assert await reading == file.content
    client.close()


@KIND
async def test_client_that_stops_reading(
    place: Place, identity: Identity, tmp_path: Path, tls: ssl.TLSVersion | None
) -> None:
    """It gets no more than the kernel's buffers hold, memory stays flat, and later it gets everything."""
    size = 64 * 1024 * 1024
    block = random.Random(3).randbytes(1024 * 1024)
    path = tmp_path / "large"
    with path.open("wb") as writing:
        for _ in range(size // len(block)):
            writing.write(block)
    server, client = await pair(place, identity, tls, receive_buffer=65536)
    before = resident()
    with path.open("rb") as file:
        done = server.transport.send_file(file.fileno(), 0, size)
        await pause(0.3)
        moved = server.transport.bytes_moved
        await pause(0.7)
        assert server.transport.bytes_moved == moved < size // 2
        assert server.transport.blocked
        assert resident() - before < 4 * 1024 * 1024

        def read() -> str:
            digest = hashlib.sha256()
            for _ in range(size // len(block)):
                digest.update(read_exactly(client, len(block)))
            return digest.hexdigest()

        reading = deferToThread(read)
        await done
        assert await reading == hashlib.sha256(block * (size // len(block))).hexdigest()
    assert not server.transport.blocked
    client.close()


@KIND
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_client_vanishes(
    place: Place,
    identity: Identity,
    make_file: Callable[[int], File],
    tls: ssl.TLSVersion | None,
    reset: bool,
) -> None:
    """A client that goes in the middle of a file ends the sending, and leaves nothing behind."""
    file = make_file(16 * 1024 * 1024)
    before = descriptors()
    server, client = await pair(place, identity, tls, receive_buffer=65536)
    lost: list[Any] = []
    server.transport.when_lost = lost.append
    done = server.transport.send_file(file.fd, 0, file.size)
    await deferToThread(read_exactly, client, 100_000)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    client.close()
    with pytest.raises(ConnectionClosed):
        await done
    await until(lambda: lost == [server.transport])
    assert server.lost is not None
    assert descriptors() == before


async def test_file_for_a_client_that_has_gone(place: Place, make_file: Callable[[int], File]) -> None:
    """Sending to a closed connection fails at once."""
    file = make_file(10)
    client, accepted = place.dial()
    server = await accepted
    server.transport.abortConnection()
    await until(lambda: server.lost is not None)
    with pytest.raises(ConnectionClosed):
        await server.transport.send_file(file.fd, 0, 10)
    client.close()


async def test_one_file_at_a_time(place: Place, make_file: Callable[[int], File]) -> None:
    """Two files at once on a connection are a mistake of the caller."""
    file = make_file(1000)
    client, accepted = place.dial()
    server = await accepted
    done = server.transport.send_file(file.fd, 0, 1000)
    with pytest.raises(RuntimeError, match="one file at a time"):
        server.transport.send_file(file.fd, 0, 1000)
    await done
    client.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.sampled_from([RECORD, CHUNK, TURN, 2 * TURN, CHUNK + RECORD]).flatmap(
        lambda near: st.integers(near - 2, near + 2)
    ),
    offset=st.sampled_from([0, 1, RECORD - 1, CHUNK]),
    tls=st.sampled_from([None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]),
    steps=st.lists(st.integers(1, 50_000), min_size=1, max_size=8),
    buffers=st.sampled_from([None, 2048, 65536]),
)
async def test_any_size_at_any_pace(
    place: Place,
    identity: Identity,
    tmp_path: Path,
    size: int,
    offset: int,
    tls: ssl.TLSVersion | None,
    steps: list[int],
    buffers: int | None,
) -> None:
    """Sizes around the boundaries of records, chunks and turns come whole, in whatever steps they are read."""
    content = random.Random(size).randbytes(offset + size)
    path = tmp_path / "any"
    path.write_bytes(content)
    server, client = await pair(place, identity, tls, receive_buffer=buffers, send_buffer=buffers)

    def read() -> bytes:
        data = bytearray()
        while len(data) < size:
            for step in steps:
                data += client.recv(min(step, size - len(data)) or 1)
                if len(data) >= size:
                    break
        return bytes(data)

    with path.open("rb") as file:
        reading = deferToThread(read)
        await server.transport.send_file(file.fileno(), offset, size)
    assert await reading == content[offset:]
    client.close()


# -- the disk


@KIND
async def test_cold_file_goes_through_a_thread(
    place: Place, identity: Identity, make_file: Callable[[int], File], tls: ssl.TLSVersion | None
) -> None:
    """What is not in the page cache is read by a disk thread, and meanwhile others are served."""
    cold, warm = make_file(2_000_000), make_file(500_000)
    if not evict(cold):
        pytest.skip("this file system does not give up its page cache")
    slow_server, slow_client = await pair(place, identity, tls)
    server, client = await pair(place, identity, tls)
    place.disk.holding = True
    waiting = slow_server.transport.send_file(cold.fd, 0, cold.size)
    await until(lambda: len(place.disk.held) == 1)
    reading = deferToThread(read_exactly, client, warm.size)
    await server.transport.send_file(warm.fd, 0, warm.size)
    assert await reading == warm.content
    assert not waiting.called
    assert slow_server.transport not in reactor.getWriters()
    place.disk.release()
    reading = deferToThread(read_exactly, slow_client, cold.size)
    await waiting
    assert await reading == cold.content
    client.close()
    slow_client.close()


@KIND
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL])
async def test_page_cache_that_cannot_be_asked(
    place: Place,
    identity: Identity,
    make_file: Callable[[int], File],
    monkeypatch: pytest.MonkeyPatch,
    tls: ssl.TLSVersion | None,
    number: int,
) -> None:
    """Where reading without waiting always fails, threads read everything."""
    file = make_file(3 * CHUNK + 1)
    server, client = await pair(place, identity, tls)
    monkeypatch.setattr(os, "preadv", failing(number))
    reading = deferToThread(read_exactly, client, file.size)
    await server.transport.send_file(file.fd, 0, file.size)
    assert await reading == file.content
    assert place.disk.calls == 4
    client.close()


def failing(number: int) -> Callable[..., Any]:
    """A function that raises this OSError."""

    def fail(*args: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@KIND
@pytest.mark.parametrize("where", ["cache", "thread"])
async def test_disk_that_fails(
    place: Place,
    identity: Identity,
    make_file: Callable[[int], File],
    monkeypatch: pytest.MonkeyPatch,
    tls: ssl.TLSVersion | None,
    where: str,
) -> None:
    """EIO is FileUnreadable for that response, and the next one on another connection is fine."""
    file = make_file(500_000)
    server, client = await pair(place, identity, tls)
    with monkeypatch.context() as broken:
        if where == "cache":
            broken.setattr(os, "preadv", failing(errno.EIO))
        else:
            broken.setattr(os, "preadv", failing(errno.EAGAIN))
            broken.setattr(os, "pread", failing(errno.EIO))
        with pytest.raises(FileUnreadable, match=r"reading a stored blob failed.*Input/output error"):
            await server.transport.send_file(file.fd, 0, file.size)
    other, other_client = await pair(place, identity, tls)
    reading = deferToThread(read_exactly, other_client, file.size)
    await other.transport.send_file(file.fd, 0, file.size)
    assert await reading == file.content
    server.transport.abortConnection()
    await until(lambda: server.lost is not None)
    assert server.lost is not None
    assert server.lost.check(ConnectionAborted)
    client.close()
    other_client.close()


async def test_disk_that_fails_under_sendfile(
    place: Place, make_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO of sendfile is the disk's, EPIPE the client's."""
    file = make_file(1000)
    client, accepted = place.dial()
    server = await accepted
    monkeypatch.setattr(os, "sendfile", failing(errno.EIO))
    with pytest.raises(FileUnreadable, match="Input/output error"):
        await server.transport.send_file(file.fd, 0, 1000)
    monkeypatch.setattr(os, "sendfile", failing(errno.EPIPE))
    with pytest.raises(ConnectionClosed):
        await server.transport.send_file(file.fd, 0, 1000)
    client.close()


@KIND
async def test_file_shorter_than_promised(
    place: Place, identity: Identity, make_file: Callable[[int], File], tls: ssl.TLSVersion | None
) -> None:
    """A file that ends too early is FileUnreadable after what there was of it."""
    file = make_file(100_000)
    server, client = await pair(place, identity, tls)
    with pytest.raises(FileUnreadable, match="shorter than its recorded size"):
        await server.transport.send_file(file.fd, 0, file.size + 1)
    server.transport.abortConnection()
    client.close()


@KIND
async def test_client_vanishes_while_the_disk_is_read(
    place: Place,
    identity: Identity,
    make_file: Callable[[int], File],
    monkeypatch: pytest.MonkeyPatch,
    tls: ssl.TLSVersion | None,
) -> None:
    """The Deferred fires only when the thread no longer uses the descriptor."""
    file = make_file(500_000)
    server, client = await pair(place, identity, tls)
    monkeypatch.setattr(os, "preadv", failing(errno.EAGAIN))
    place.disk.holding = True
    done = server.transport.send_file(file.fd, 0, file.size)
    await until(lambda: len(place.disk.held) == 1)
    server.transport.abortConnection()
    await until(lambda: server.lost is not None)
    assert not done.called
    place.disk.release()
    with pytest.raises(ConnectionClosed):
        await done
    client.close()


async def test_plain_files_are_not_copied(
    place: Place, make_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without TLS a file goes by sendfile alone."""
    file = make_file(2_000_000)
    client, accepted = place.dial()
    server = await accepted
    counts: list[int] = []
    sendfile = os.sendfile

    def counting(*args: Any) -> int:
        sent = sendfile(*args)
        counts.append(sent)
        return sent

    monkeypatch.setattr(os, "sendfile", counting)
    reading = deferToThread(read_exactly, client, file.size)
    await server.transport.send_file(file.fd, 0, file.size)
    assert await reading == file.content
    assert sum(counts) == file.size
    assert max(counts) <= TURN
    client.close()


# -- other sockets, other clients


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
