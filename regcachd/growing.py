"""A growing blob: a file that is being filled, as those see it who read it meanwhile.

Whoever drives it, a download in this process or the watch over one in another, says how far the file is
(`grown`), that its digest is right (`verified`) or that it will never be whole (`failed`). Readers are let as
far as that, but while the digest is not known to be right never into the last HELD_BACK bytes, so
that no client ever has a complete wrong body.
"""

import os
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .errors import RegcachdError
from .reference import Digest, Repository

HELD_BACK = 64 * 1024
"""Bytes at the end that readers get only when the digest is right."""


class FillFailed(RegcachdError):
    """The blob did not come, or came wrong. Responses that follow the fill are cut."""


class StoreFailed(FillFailed):
    """The blob could not be written. Upstream still has it: responses can go on without the store."""


@define(eq=False)
class Reader:
    """One client's view, from `position` on. It has a descriptor of its own, for `send_file`."""

    fd: int
    position: int
    _blob: "Growing"
    waiting: "Deferred[int] | None" = None

    def edge(self) -> "Deferred[int]":
        """How far the file may be read now, as soon as that is past `position` or the blob is verified.

        Fails with FillFailed when there will be no more. One call at a time.
        """
        waiting: Deferred[int] = Deferred()
        self.waiting = waiting
        self._blob.look(self)
        return waiting

    def stop_waiting(self) -> None:
        """The client has gone: a wait under way fails with FillFailed. The descriptor may still be in use."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.errback(Failure(FillFailed("the client has gone")))

    def close(self) -> None:
        """Leave, when nothing uses the descriptor any more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._blob.leave(self)
        self.stop_waiting()


@define(eq=False)
class Growing:
    """One growing blob. `fd` is the driver's descriptor of the file: readers get duplicates."""

    digest: Digest
    fd: int
    total: int | None = None
    """Bytes of the whole blob, when upstream has said."""
    watermark: int = field(default=0, init=False)
    """Bytes from the start that are in the file."""
    links: "set[Repository]" = field(factory=set, init=False)
    """Repositories that are believed to have it, until it is known what came."""
    is_verified: bool = field(default=False, init=False)
    error: FillFailed | None = field(default=None, init=False)
    left: "Callable[[], None]" = field(default=lambda: None, init=False)
    """Called when the last reader has left."""
    _readers: "set[Reader]" = field(factory=set, init=False)

    # -- for clients

    @property
    def size(self) -> int | None:
        """Bytes of the whole blob: said by upstream, or known because it is verified."""
        return self.watermark if self.is_verified else self.total

    @property
    def readers(self) -> int:
        """How many read it."""
        return len(self._readers)

    def reader(self, position: int) -> Reader:
        """A new reader, from byte `position` on."""
        reader = Reader(os.dup(self.fd), position, self)
        self._readers.add(reader)
        return reader

    def look(self, reader: Reader) -> None:
        """Answer `reader` if there is an answer for it."""
        if reader.waiting is None:
            return
        edge = self._released()
        if edge > reader.position or self.is_verified:
            waiting, reader.waiting = reader.waiting, None
            waiting.callback(edge)
        elif self.error is not None:
            waiting, reader.waiting = reader.waiting, None
            waiting.errback(Failure(self.error))

    def leave(self, reader: Reader) -> None:
        """A reader has closed."""
        self._readers.discard(reader)
        if not self._readers:
            self.left()

    def _released(self) -> int:
        if self.is_verified:
            return self.watermark
        end = self.watermark if self.total is None else self.total
        return min(self.watermark, max(0, end - HELD_BACK))

    # -- for the driver

    @property
    def is_over(self) -> bool:
        """Has it come to its end, good or bad?"""
        return self.is_verified or self.error is not None

    @property
    def has_begun(self) -> bool:
        """Has there been any news of it, good or bad?"""
        return self.is_over or self.total is not None or self.watermark > 0

    def grown(self, watermark: int) -> None:
        """The file has its first `watermark` bytes."""
        self.watermark = watermark
        self._tell()

    def verified(self) -> None:
        """The file is whole and its digest is right."""
        self.is_verified = True
        self._tell()

    def failed(self, error: FillFailed) -> None:
        """It will never be whole. The first error stays."""
        if not self.is_over:
            self.error = error
            self._tell()

    def close(self) -> None:
        """Give the driver's descriptor back. No new readers after this."""
        os.close(self.fd)
        self.fd = -1

    def _tell(self) -> None:
        for reader in list(self._readers):
            self.look(reader)
