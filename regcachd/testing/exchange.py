"""One request and its response on a real connection, misbehaving as planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from regcachd.testing.faults import CutAfter, Delivery, GarbageChunks, Mark, StallAfter
from regcachd.testing.listener import Connection
from regcachd.testing.message import Request

CHUNK = 128 * 1024
"""Bytes read and written at a time: more than a transport takes before it pauses its producer."""
TICK = 0.02
"""Seconds between the writes of a throttled body."""
LONGEST_TICK = 0.1
"""Seconds of allowance that a throttled body can save up while the client, or this process, is slow."""
NO_BODY = (204, 304)


class Stall:
    """One response that waits, with a clock or until it is released."""

    def __init__(self, stalls: set[Stall], resume: Callable[[], None]) -> None:
        self._stalls = stalls
        self._resume = resume
        self._call: IDelayedCall | None = None
        stalls.add(self)

    def end_after(self, clock: IReactorTime, seconds: float) -> None:
        """Go on by itself after this time."""
        self._call = clock.callLater(seconds, self.end)

    def end(self) -> None:
        """Go on with the response."""
        self.cancel()
        self._resume()

    def cancel(self) -> None:
        """Forget it: the response goes on no more."""
        self._stalls.discard(self)
        if self._call is not None and self._call.active():
            self._call.cancel()


class Owner(Protocol):
    """What an exchange needs from the registry it belongs to."""

    clock: IReactorTime
    stalls: set[Stall]

    def receive(self, request: Request) -> Delivery:
        """Log a request and say how to answer it."""

    def notice(self) -> None:
        """Something that somebody may wait for has happened."""


class HTTPRequest(http.Request):
    """Twisted's side of an exchange."""

    def __init__(self, channel: Any, owner: Owner) -> None:
        super().__init__(channel)
        self._owner = owner

    def process(self) -> None:
        """Begin to answer: the whole request is there."""
        Exchange(self, self._owner).begin()


class Exchange:
    """A request to a fake registry and the response to it."""

    def __init__(self, http: Any, owner: Owner) -> None:
        self._http = http
        self._owner = owner
        self._stall: Stall | None = None
        self._sender: _Sender | None = None

    @property
    def _connection(self) -> Any:
        """The TCP connection below TLS, if there is TLS."""
        transport = self._http.channel.transport
        return transport if isinstance(transport, Connection) else transport.transport

    def begin(self) -> None:
        """Let the registry see the request, and respond as it says."""
        http = self._http
        path, _, query = http.uri.decode("latin-1").partition("?")
        request = Request(
            method=http.method.decode("latin-1"),
            path=path,
            query=query,
            headers={
                name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
                for name, values in http.requestHeaders.getAllRawHeaders()
            },
            time=self._owner.clock.seconds(),
            connection=self._connection.serial,
            body=http.content.read().decode("latin-1"),
        )
        http.notifyFinish().addErrback(self._lost)
        delivery = self._owner.receive(request)
        if delivery.stall is None:
            self._respond(delivery)
        else:
            self.stall(delivery.stall.seconds, lambda: self._respond(delivery))

    def stall(self, seconds: float | None, resume: Callable[[], None]) -> None:
        """Do nothing for a time, or until released, then resume."""
        self._stall = Stall(self._owner.stalls, resume)
        if seconds is not None:
            self._stall.end_after(self._owner.clock, seconds)
        self._owner.notice()

    def cut(self, reset: bool) -> None:
        """End the connection where it is, with no word of TLS or HTTP."""
        connection = self._connection
        self._http.channel.transport.unregisterProducer()
        if reset:
            connection.abortConnection()
        else:
            connection.loseConnection()

    def write_raw(self, data: bytes) -> None:
        """Write to the connection, past HTTP's framing."""
        self._http.channel.transport.write(data)

    def _lost(self, reason: Failure) -> None:
        """The client has gone, or was cut off: nothing more to do for it."""
        if self._stall is not None:
            self._stall.cancel()
        if self._sender is not None:
            self._sender.stopProducing()
        self._owner.notice()

    def _respond(self, delivery: Delivery) -> None:
        http = self._http
        if delivery.raw is not None:
            self.write_raw(delivery.raw)
            http.loseConnection()
            return
        reply = delivery.reply
        http.setResponseCode(reply.status)
        for name, value in reply.headers.items():
            http.setHeader(name.encode(), value.encode())
        if delivery.announced is not None and reply.status not in NO_BODY:
            http.setHeader(b"Content-Length", b"%d" % delivery.announced)
        http.write(b"")  # the headers leave now, even if the body stalls
        if http.method == b"HEAD" or reply.status in NO_BODY:
            http.finish()
            return
        self._sender = _Sender(self, http, delivery, self._owner.clock)
        http.registerProducer(self._sender, True)
        self._sender.resumeProducing()


@implementer(IPushProducer)
class _Sender:
    """Writes a body no faster than the client reads it, and stops at its marks."""

    def __init__(self, exchange: Exchange, http: Any, delivery: Delivery, clock: IReactorTime) -> None:
        self._exchange = exchange
        self._http = http
        self._body = delivery.reply.body
        self._marks = list(delivery.marks)
        self._close = delivery.close
        self._rate = delivery.bytes_per_second
        self._clock = clock
        self._last = clock.seconds() - TICK
        self._tick: IDelayedCall | None = None
        self._sent = 0
        self._paused = False
        self._waiting = False
        self._done = False

    def resumeProducing(self) -> None:
        """Write until the transport has enough."""
        self._paused = False
        while not (self._paused or self._waiting or self._done):
            self._step()

    def pauseProducing(self) -> None:
        """Write no more for now."""
        self._paused = True

    def stopProducing(self) -> None:
        """Write no more at all."""
        self._done = True
        if self._tick is not None and self._tick.active():
            self._tick.cancel()

    def _step(self) -> None:
        """Act on the next mark, write the next piece, or end."""
        if self._marks and self._marks[0].after == self._sent:
            self._act(self._marks.pop(0))
            return
        left = self._body.size - self._sent
        if left == 0:
            self._end()
            return
        count = min(CHUNK, left)
        if self._marks:
            count = min(count, self._marks[0].after - self._sent)
        if self._rate is not None:
            now = self._clock.seconds()
            count = min(count, int(self._rate * min(now - self._last, LONGEST_TICK)))
            if count == 0:
                self._wait_for_tick()
                return
            self._last = now
        data = self._body.read(self._sent, count)
        self._sent += len(data)
        self._http.write(data)

    def _wait_for_tick(self) -> None:
        self._waiting = True
        assert self._rate is not None
        self._tick = self._clock.callLater(max(TICK, 1 / self._rate), self._go_on)

    def _go_on(self) -> None:
        self._waiting = False
        if not self._paused:
            self.resumeProducing()

    def _act(self, mark: Mark) -> None:
        match mark:
            case StallAfter():
                self._waiting = True
                self._exchange.stall(mark.seconds, self._go_on)
            case CutAfter():
                self._done = True
                self._exchange.cut(mark.reset)
            case GarbageChunks():
                self._exchange.write_raw(b"this is no chunk\r\n")
                self._close = True
                self._end()

    def _end(self) -> None:
        self._done = True
        self._http.unregisterProducer()
        if self._close:
            self._http.loseConnection()
        else:
            self._http.finish()
