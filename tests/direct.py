"""Connections over the direct transport whose both ends a test holds, and files to send over them."""

import os
import random
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.wire import Identity, Place, Served
from tests.world import NAME

__all__ = ["KIND", "NO_LINGER", "TLS", "File", "identity", "make_file", "pair", "place"]

TLS = pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
KIND = pytest.mark.parametrize(
    "tls", [None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["plain", "1.2", "1.3"]
)
NO_LINGER = struct.pack("ii", 1, 0)


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
