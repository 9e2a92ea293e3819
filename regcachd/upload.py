"""A request's body on its way from a client to an upstream, at the pace of the slower.

    client's connection --feed, end, lose--> Upload --> Sender --> upstream's connection
                        <--pause, resume, 100 Continue--

What it never is: kept. So a body that has begun cannot be sent a second time, and nobody tries.
"""

from collections.abc import Callable
from typing import Any, Protocol

import h11
from attrs import define, field
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


class Taker(Protocol):
    """What takes a request's body. Exactly one of `body_done` and `body_failed` ends it, or `Upload.stop` does."""

    def body_received(self, data: bytes) -> None: ...
    def body_done(self) -> None: ...
    def body_failed(self) -> None: ...


class Sending(Protocol):
    """The client's connection, which sends the body."""

    def pause_body(self) -> None: ...
    def resume_body(self) -> None: ...
    def send_continue(self) -> None: ...


@define(eq=False)
class Upload:
    """A request's body, of which nothing is read until `deliver` is called.

    `length` is its Content-Length, None for chunks; `asks` is true while the client waits to
    be told that the body is wanted (Expect: 100-continue, RFC 9110 section 10.1.1).
    """

    length: int | None
    asks: bool
    _client: Sending = field(repr=False)
    received: int = field(default=0, init=False)
    complete: bool = field(default=False, init=False)
    """Has all of it come from the client?"""
    _lost: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _taker: Taker | None = field(default=None, init=False)
    _early: list[bytes] = field(factory=list, init=False, repr=False)
    """What had been read with the head: less than the client's connection reads at once."""

    # -- for who takes it

    def deliver(self, taker: Taker) -> None:
        """Start the flow. To be called at most once."""
        self._taker = taker
        early, self._early = self._early, []
        for data in early:
            taker.body_received(data)
        if self._lost:
            taker.body_failed()
        elif self.complete:
            taker.body_done()
        elif not self._paused:
            self._client.resume_body()

    def pause(self) -> None:
        """Stop reading from the client: its send window closes by itself."""
        self._paused = True
        if not self.complete:
            self._client.pause_body()

    def resume(self) -> None:
        """Go on reading."""
        self._paused = False
        if not (self.complete or self._stopped):
            self._client.resume_body()

    def proceed(self) -> None:
        """Upstream wants the body: tell the client, if it asked."""
        if self.asks:
            self.asks = False
            self._client.send_continue()

    def stop(self) -> None:
        """Nobody takes the rest."""
        self._taker, self._stopped = None, True
        self._early.clear()
        if not self.complete:
            self._client.pause_body()

    # -- for the client's connection

    def feed(self, data: bytes) -> None:
        """The next bytes have come."""
        self.received += len(data)
        self.asks = False  # whoever sends does not wait
        if self._taker is not None:
            self._taker.body_received(data)
        elif not self._stopped:
            self._early.append(data)

    def end(self) -> None:
        """That was all."""
        self.complete = True
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.body_done()

    def lose(self) -> None:
        """The client has left before the end."""
        self._lost = True
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.body_failed()


@implementer(IPushProducer)
@define(eq=False)
class Sender:
    """Writes an upload to the upstream `connection`, framed by `parser`; `moved` is called when something has gone."""

    upload: Upload
    _parser: h11.Connection
    _connection: Any
    _moved: Callable[[], None]
    blocked: bool = field(default=False, init=False)
    """Is it upstream that takes no more for now?"""
    done: bool = field(default=False, init=False)

    def start(self) -> None:
        """Begin, after the head."""
        self._connection.transport.registerProducer(self, True)
        self.upload.deliver(self)

    def stop(self) -> None:
        """Send nothing more."""
        if not self.done:
            self.done = True
            self._connection.transport.unregisterProducer()
            self.upload.stop()

    def body_received(self, data: bytes) -> None:
        self._write(h11.Data(data=data))
        self._moved()

    def body_done(self) -> None:
        self.done = True
        self._connection.transport.unregisterProducer()
        self._write(h11.EndOfMessage())
        self._moved()

    def body_failed(self) -> None:
        self._connection.break_off()

    def _write(self, event: "h11.Data | h11.EndOfMessage") -> None:
        if data := self._parser.send(event):
            self._connection.transport.write(data)

    def pauseProducing(self) -> None:
        self.blocked = True
        self._moved()
        self.upload.pause()

    def resumeProducing(self) -> None:
        self.blocked = False
        self._moved()
        self.upload.resume()

    def stopProducing(self) -> None:
        """The connection is lost, and will say so itself."""
