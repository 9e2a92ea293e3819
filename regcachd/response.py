"""A response of an upstream: its head, and the flow of its body to a consumer."""

from collections.abc import Sequence
from typing import Protocol

from attrs import define, field

from .errors import RegcachdError

MOST_DISCARDED = 16 * 1024
"""Bytes of an unwanted body that are read so that the connection can be kept: cheaper than a new handshake."""

RawHeaders = Sequence[tuple[bytes, bytes]]


class UpstreamFailed(RegcachdError):
    """Upstream could not be reached, did not answer in time, or answered with something that is not HTTP.

    `status` is what the client is told: 502, or 504 for a timeout (RFC 9110 sections 15.6.3 and 15.6.5).
    `unused` means the connection ended before a byte of the response came, so that a fresh one may be tried.
    """

    def __init__(self, message: str, status: int = 502, unused: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.unused = unused


class BodyConsumer(Protocol):
    """What takes a body. Exactly one of `body_done` and `body_failed` ends it."""

    def body_received(self, data: bytes) -> None: ...
    def body_done(self) -> None: ...
    def body_failed(self, error: UpstreamFailed) -> None: ...


class Flow(Protocol):
    """Where a body comes from: a connection."""

    def deliver(self, consumer: BodyConsumer) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abandon(self) -> None: ...


@define(eq=False)
class Response:
    """A response whose head has come; its body waits in the socket until `deliver` is called.

    When the body has ended the connection serves others, and the methods do nothing any more.
    """

    status: int
    reason: bytes
    headers: RawHeaders
    length: int | None
    """Content-Length, also of an answer to HEAD; None when upstream did not say."""
    connection: Flow | None = field(repr=False)

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def deliver(self, consumer: BodyConsumer) -> None:
        """Start the flow of the body. To be called at most once; a response without a body is done at once."""
        if self.connection is None:
            consumer.body_done()
        else:
            self.connection.deliver(consumer)

    def pause(self) -> None:
        """Stop reading from upstream: its send window closes by itself."""
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        """Go on reading."""
        if self.connection is not None:
            self.connection.resume()

    def abandon(self) -> None:
        """Close the connection: nobody wants the rest. A consumer that waits hears body_failed."""
        if self.connection is not None:
            self.connection.abandon()

    def discard(self) -> None:
        """Nobody wants the body: read it away if it is small, else close the connection."""
        if self.length is not None and self.length <= MOST_DISCARDED:
            self.deliver(_Discarded())
        else:
            self.abandon()


class _Discarded:
    """The body consumer of those who want none."""

    def body_received(self, data: bytes) -> None:
        pass

    def body_done(self) -> None:
        pass

    def body_failed(self, error: UpstreamFailed) -> None:
        pass
