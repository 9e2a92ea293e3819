"""A slow line between the registry and its caches: `python -m bench.line PORT RATE COUNTER`.

It relays connections to 127.0.0.1:PORT; all of them together get RATE bytes per second back. The bytes that have come
back are counted in the file COUNTER, eight bytes that others may read at any time. It prints its own port.
"""

import asyncio
import contextlib
import mmap
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import define, frozen

from bench.processes import BenchError, running

CHUNK = 16 * 1024
SLACK = 0.02
"""Seconds; without some slack every sleep that lasts too long would lower the rate."""
QUIET = 0.5
"""Seconds without a byte after which nothing more is expected."""


@frozen
class Line:
    """A running line, as the benchmark sees it."""

    port: int
    _counter: Path

    def count(self) -> int:
        """Bytes that have come back so far, TLS and all."""
        return int.from_bytes(self._counter.read_bytes(), "little")

    def settled_count(self) -> int:
        """The same, once nothing more comes."""
        before, deadline = -1, time.monotonic() + 60
        while before != (now := self.count()):
            if time.monotonic() > deadline:
                raise BenchError("bytes come and come through the slow line")
            before = now
            time.sleep(QUIET)
        return now


@contextlib.contextmanager
def slow_line(directory: Path, port: int, rate: int) -> Iterator[Line]:
    """A line to `port` for the time of a `with`."""
    counter, log = directory / "line.count", directory / "line.log"
    counter.write_bytes(bytes(8))
    command = [sys.executable, "-m", "bench.line", str(port), str(rate), str(counter)]
    with running("the slow line", command, log, lambda: log.read_text().endswith("\n")):
        yield Line(int(log.read_text()), counter)


@define
class _Relay:
    target: int
    rate: int
    counter: mmap.mmap
    count: int = 0
    free_at: float = 0.0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target, limit=CHUNK)
            await asyncio.gather(self.up(reader, far_writer), self.down(far_reader, writer))
        except OSError:
            writer.close()

    async def up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                due = max(self.free_at, time.monotonic() - SLACK)
                self.free_at = due + len(data) / self.rate
                if (early := due - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                writer.write(data)
                await writer.drain()
                self.count += len(data)
                self.counter[:] = self.count.to_bytes(8, "little")
        writer.close()


async def _serve(target: int, rate: int, counter: mmap.mmap) -> None:
    relay = _Relay(target, rate, counter)
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0, limit=CHUNK, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Run from the command line, until SIGTERM."""
    target, rate, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8) as counter:
        asyncio.run(_serve(target, rate, counter))


if __name__ == "__main__":
    main()
