"""Passing on: a blob goes from upstream to one client without the store, because the store cannot take it.

The client notices nothing, not even when the store fails in the middle of its response. The digest is computed on the
way, and the last bytes are held back until it is right, as in a fill.
"""

import os
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from .disk import InThread
from .growing import HELD_BACK, FillFailed
from .http1 import Response, UpstreamFailed
from .reference import Digest
from .relay import pour
from .source import Source, begins_at, total_of
from .web import Request

log = Logger()

_READ = 1024 * 1024


@implementer(IPushProducer)
@define(eq=False)
class _Passing:
    """A body on its way. `at` is where in the blob the next byte from upstream belongs, `hashed` how many bytes from
    its start the hasher knows."""

    request: Request
    response: Response
    digest: Digest
    hasher: Any
    hashed: int
    at: int
    sent: int
    """Bytes from the start of the blob that the client has."""
    total: int | None
    done: "Deferred[None]" = field(factory=Deferred)
    _held: bytearray = field(factory=bytearray)

    def body_received(self, data: bytes) -> None:
        at, self.at = self.at, self.at + len(data)
        if self.at > self.hashed:
            self.hasher.update(data[max(0, self.hashed - at) :])
            self.hashed = self.at
        if at + len(data) <= self.sent:
            return
        self._held += data[max(0, self.sent - at) :]
        end = self.sent + len(self._held) if self.total is None else self.total
        free = min(len(self._held), max(0, end - HELD_BACK - self.sent))
        if free:
            self.request.write(bytes(self._held[:free]))
            self.sent += free
            del self._held[:free]

    def body_done(self) -> None:
        if self.hasher.hexdigest() == self.digest.hex:
            self.request.write(bytes(self._held))
            self.done.callback(None)
        else:
            log.error("upstream sent wrong bytes for {digest}, not stored", digest=str(self.digest))
            self.done.errback(Failure(FillFailed(f"upstream sent wrong bytes for {self.digest}")))

    def body_failed(self, error: UpstreamFailed) -> None:
        self.done.errback(Failure(error))

    def pauseProducing(self) -> None:
        self.response.pause()

    def resumeProducing(self) -> None:
        self.response.resume()

    def stopProducing(self) -> None:
        self.response.abandon()


async def pass_whole(
    request: Request, response: Response, digest: Digest, hasher: Any, hashed: int, sent: int
) -> None:
    """Send the rest of a blob whose first `sent` bytes the client has; `hasher` knows the first `hashed`, and the
    response begins there or at the start of the blob.

    The response's head has been sent. Raises UpstreamFailed or FillFailed, after which the client must be cut off.
    """
    if request.gone:
        response.abandon()
        return
    at = begins_at(response) or 0
    passing = _Passing(request, response, digest, hasher, hashed, at, sent, total_of(response))
    request.registerProducer(passing, True)
    try:
        response.deliver(passing)
        await passing.done
    finally:
        if not request.gone:
            request.unregisterProducer()


async def go_on_without_store(
    request: Request, source: Source, digest: Digest, fd: int, sent: int, in_thread: InThread
) -> None:
    """The store has failed when the client had `sent` bytes of the whole blob: bring the rest from upstream.

    What it has is hashed from the file, also when upstream sends it again: that may be something else. Only if it
    cannot be read, what upstream sends stands for it. Raises UpstreamFailed or FillFailed.
    """
    hasher = digest.hasher()
    try:
        await in_thread(_hash, hasher, fd, sent)
        hashed = sent
    except OSError:
        hasher, hashed = digest.hasher(), 0
    response = await source.open(hashed, None)
    begins = begins_at(response) if response.status in (200, 206) else None
    if begins not in (0, hashed):
        response.abandon()
        raise UpstreamFailed(f"upstream answered {response.status} when asked for the rest of {digest}")
    await pass_whole(request, response, digest, hasher, hashed, sent)


async def bring_part(request: Request, source: Source, start: int, stop: int | None) -> None:
    """The store has failed in the middle of a range: bring its rest. A part of a blob cannot be verified.

    Raises UpstreamFailed.
    """
    response = await source.open(start, stop)
    if response.status != 206 or begins_at(response) != start:
        response.abandon()
        raise UpstreamFailed(f"upstream answered {response.status} when asked for the rest of a range")
    await pour(request, response)


def _hash(hasher: Any, fd: int, count: int) -> None:
    """In a thread: hash the first `count` bytes of the file. Raises OSError."""
    offset = 0
    while offset < count:
        data = os.pread(fd, min(_READ, count - offset), offset)
        if not data:
            raise OSError("the file is shorter than it was")
        hasher.update(data)
        offset += len(data)
