"""A slow line: a TCP relay on the loopback interface that lets bytes come back at a set rate."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from attrs import define, field

CHUNK = 64 * 1024
SLACK = 0.05
"""Seconds; without some slack every sleep that lasts too long would lower the rate."""
BULK = 16 * 1024
"""
Bytes towards the client after which a connection carries a body and no longer only a handshake and a
head.
"""


@define
class SlowLine:
    """
    Relays each connection to 127.0.0.1:`target`; all of them together get `rate` bytes per second towards
    the client.

    `first_bulk` and `last_byte` are times (time.monotonic) of the bytes that came back, None before there
    are any.
    """

    target: int
    rate: float
    port: int = 0
    first_bulk: float | None = None
    last_byte: float | None = None
    _free_at: float = 0.0
    _lock: threading.Lock = field(factory=threading.Lock)
    _open: list[socket.socket] = field(factory=list)
    _threads: list[threading.Thread] = field(factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[SlowLine]:
        """Listen on a free port, `port`, for the time of a with block."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._open.append(listener)
        self._start(self._accept, listener)
        try:
            yield self
        finally:
            for opened in self._open:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join(10)
            for opened in self._open:
                opened.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                self._open.append(near)
                far = socket.create_connection(("127.0.0.1", self.target))
                self._open.append(far)
                self._start(self._pump, near, far, False)
                self._start(self._pump, far, near, True)

    def _pump(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while chunk := source.recv(CHUNK):
                if slow:
                    self._wait_for_turn(len(chunk))
                sink.sendall(chunk)
                passed += len(chunk)
                if slow:
                    self.last_byte = time.monotonic()
                    if self.first_bulk is None and passed > BULK:
                        self.first_bulk = self.last_byte
        for end, how in ((source, socket.SHUT_RD), (sink, socket.SHUT_WR)):
            with contextlib.suppress(OSError):
                end.shutdown(how)

    def _wait_for_turn(self, count: int) -> None:
        """Wait until `count` bytes are due; a delay shorter than SLACK is made up for."""
        with self._lock:
            due = max(time.monotonic() - SLACK, self._free_at)
            self._free_at = due + count / self.rate
        if (early := due - time.monotonic()) > 0:
            time.sleep(early)
