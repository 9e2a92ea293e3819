"""Files over real sockets: sizes, paces, and disks and clients that fail on the way."""

import errno
import hashlib
import os
import random
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.error import ConnectionAborted, ConnectionClosed
from twisted.internet.threads import deferToThread

from regcachd.sending import CHUNK, TURN, FileUnreadable
from tests.direct import KIND, NO_LINGER, File, identity, make_file, pair, place
from tests.wire import Identity, Place, descriptors, read_exactly, read_to_end, resident, standstill
from tests.world import until

__all__ = ["identity", "make_file", "place"]  # fixtures

reactor: Any = _reactor

RECORD = 16 * 1024
"""The most plain text one TLS record holds (RFC 8446 section 5.1)."""


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
        await until(lambda: server.transport.blocked)
        assert await standstill(lambda: server.transport.bytes_moved) < size // 2
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
