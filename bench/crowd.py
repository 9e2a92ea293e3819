"""Many clients in one thread: each has a connection of its own, and every byte it gets is compared with the blob."""

import mmap
import selectors
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from attrs import define, field

from bench.clients import connection, trusting
from bench.origin import Blob
from bench.processes import BenchError
from bench.servers import REGISTRY, Target

PIECE = 64 * 1024
PATIENCE = 60.0
"""Seconds without a byte for anybody after which it is over."""


@define(eq=False)
class Member:
    """One client of a crowd, and its response. Times are those of time.monotonic."""

    socket: ssl.SSLSocket
    content: memoryview
    who: str
    at: int = 0
    """Bytes of the body so far."""
    first_byte: float | None = None
    finished: float | None = None
    _head: bytes = field(default=b"", init=False)
    _head_done: bool = field(default=False, init=False)

    def ask(self, path: str) -> None:
        """Send the request; from now on the socket does not block."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {REGISTRY}\r\nAccept: */*\r\n\r\n".encode())
        self.socket.setblocking(False)

    def take(self, most: int, buffer: memoryview) -> int:
        """Read what is there, at most so many bytes; how many of the body it was."""
        before = self.at
        while self.finished is None and self.at - before < most:
            try:
                count = self.socket.recv_into(buffer)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not count:
                raise BenchError(f"{self.who} ended a response after {self.at} bytes")
            self._received(buffer[:count])
        return self.at - before

    def _received(self, data: memoryview) -> None:
        if not self._head_done:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            length = b"\r\ncontent-length: %d" % len(self.content)
            if not head.startswith(b"HTTP/1.1 200 ") or length not in head.lower():
                raise BenchError(f"{self.who} answered\n{head.decode('latin-1')}")
            self._head_done, data = True, memoryview(rest)
        if not data:
            return
        self.first_byte = self.first_byte or time.monotonic()
        if data != self.content[self.at : self.at + len(data)]:
            raise BenchError(f"{self.who} sends wrong bytes after byte {self.at}")
        self.at += len(data)
        if self.at == len(self.content):
            self.finished = time.monotonic()


@contextmanager
def crowd(
    target: Target, blob: Blob, count: int, receive_buffer: int | None = None
) -> Iterator[list[Member]]:
    """So many clients, connected and ready to ask for this blob. `receive_buffer`: bytes in the kernel for each."""
    with ExitStack() as stack:
        file = stack.enter_context(blob.file.open("rb"))
        mapped = stack.enter_context(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        content = stack.enter_context(memoryview(mapped))
        context = trusting(target)
        members = []
        for _ in range(count):
            plain = connection(target, receive_buffer)
            tls = stack.enter_context(context.wrap_socket(plain, server_hostname=REGISTRY))
            members.append(Member(tls, content, target.name))
        try:
            yield members
        finally:
            for member in members:
                member.content = memoryview(b"")  # a mapping with views cannot be closed


def download(members: list[Member], path: str) -> float:
    """All get everything as fast as it comes; the time at which they asked."""
    buffer = memoryview(bytearray(PIECE))
    with selectors.DefaultSelector() as selector:
        start = time.monotonic()
        for member in members:
            member.ask(path)
            selector.register(member.socket, selectors.EVENT_READ, member)
        while selector.get_map():
            ready = selector.select(PATIENCE)
            if not ready:
                raise BenchError(f"{members[0].who} has sent nothing for {PATIENCE:.0f} s")
            for key, _ in ready:
                key.data.take(1 << 20, buffer)
                if key.data.finished:
                    selector.unregister(key.fileobj)
    return start
