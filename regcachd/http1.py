"""One persistent HTTP/1.1 connection to an upstream, used for one request at a time.

h11 reads and writes the heads and the chunked bodies, with all of RFC 9112's traps; a body with a
Content-Length, which is what layers are, goes from the transport to its consumer untouched.

Header names keep the spelling the registry used: some clients parse challenges with less than a parser.
"""

import re
from collections.abc import Callable
from typing import Any

import h11
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from .response import BodyConsumer, RawHeaders, Response, UpstreamFailed
from .upload import Sender, Upload

# What comes from a connection is part of its interface.
__all__ = ["HEAD_LIMIT", "Http1Connection", "RawHeaders", "Response", "UpstreamFailed"]

HEAD_LIMIT = 64 * 1024
"""Bytes a response head may have; presigned redirects make long ones."""

MOST_BYTES = 2**63 - 1
"""Bytes a body may be said to have: as many as a file can."""

_QUOTED = re.compile(r" (b|bytearray\(b)['\"].*", re.DOTALL)
"""What h11 repeats of a header in its errors, which may be a credential."""


class Http1Connection(Protocol):
    """The client side of one connection.

    `idle(connection)` is called when a response has been read to its end and another request may be sent,
    `gone(connection)` when the connection is lost.
    """

    def __init__(
        self,
        clock: Any,
        name: str,
        idle: "Callable[[Http1Connection], None]",
        gone: "Callable[[Http1Connection], None]",
    ) -> None:
        self._clock = clock
        self._name = name
        self._idle = idle
        self._gone = gone
        self._parser: h11.Connection | None = None
        self._answer: Deferred[Response] | None = None
        self._sender: Sender | None = None  # while a request's body is on its way
        self._method = b""
        self._response: Response | None = None  # while its body has not ended
        self._consumer: BodyConsumer | None = None
        self._remaining: int | None = None  # of a Content-Length body; None: h11 finds the end
        self._early: list[bytes] = []  # body bytes that came with the head
        self._keep = False
        self._heard = False
        self._timeout = 60.0
        self._last = 0.0
        self._paused = False
        self._check: Any = None
        self._closed_well = False
        self.lost = False

    # -- the request

    def request(
        self, method: bytes, target: bytes, headers: RawHeaders, body: bytes | Upload, timeout: float
    ) -> "Deferred[Response]":
        """Send a request; the Deferred fires with a Response or fails with UpstreamFailed.

        `timeout` (seconds) bounds the wait for the whole head, from the end of the request on, and every silence within
        the body. What cannot be written as HTTP/1.1, a control character in a header say, is the client's fault:
        status 400. An answer that comes before an upload has ended ends that, and the connection after it.
        """
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        self._method, self._timeout, self._heard = method, timeout, False
        try:
            message = h11.Request(method=method, target=target, headers=list(headers))
            wire = [self._parser.send(message)]
            if not isinstance(body, Upload):
                wire += [self._parser.send(h11.Data(body))] if body else []
                wire.append(self._parser.send(h11.EndOfMessage()))
        except h11.LocalProtocolError as error:
            self.abandon()
            what = _QUOTED.sub("", str(error))
            return fail(
                UpstreamFailed(f"the request cannot be passed on to {self._name}: {what}", status=400)
            )
        self._answer = Deferred()
        self._last = self._clock.seconds()
        self._watch(timeout)
        self.transport.write(b"".join(part for part in wire if part))  # type: ignore[union-attr]
        answer = self._answer
        if isinstance(body, Upload):
            self._sender = Sender(body, self._parser, self, self._moved)
            self._sender.start()
        return answer

    def _moved(self) -> None:
        """Something of the upload has gone."""
        self._last = self._clock.seconds()
        if self._sender is not None and self._sender.done:
            self._sender = None

    def break_off(self) -> None:
        """The client has left before the end of its upload: upstream must not take what it has for the whole."""
        self._fail(UpstreamFailed("the client left before the end of its upload", status=400))

    # -- the response

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        if self._answer is not None:
            self._head(data)  # and a head that comes in drops is no less late
            return
        self._last = self._clock.seconds()
        if self._consumer is not None:
            self._body(data)
        elif self._response is not None:
            self._early.append(data)
        else:
            self.abandon()  # bytes that nobody asked for

    def _head(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.receive_data(data)
            event = self._parser.next_event()
            while isinstance(event, h11.InformationalResponse):
                if self._sender is not None and event.status_code == 100:
                    self._sender.upload.proceed()
                event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            self._fail(UpstreamFailed(f"{self._name} answered with something that is not HTTP: {error}"))
            return
        if event is h11.NEED_DATA:
            return
        assert isinstance(event, h11.Response)
        answer, self._answer = self._answer, None
        assert answer is not None
        headers = event.headers.raw_items()
        length = next((int(v) for k, v in event.headers if k == b"content-length"), None)
        if length is not None and length > MOST_BYTES:
            self._answer = answer
            self._fail(UpstreamFailed(f"{self._name} announces a body of {length} bytes"))
            return
        tokens = {t.strip().lower() for k, v in event.headers if k == b"connection" for t in v.split(b",")}
        self._keep = event.http_version >= b"1.1" and b"close" not in tokens and self._sender is None
        self._stop_sending()
        chunked = any(k == b"transfer-encoding" for k, _ in event.headers)
        response = Response(
            status=event.status_code,
            reason=bytes(event.reason),
            headers=headers,
            length=None if chunked else length,
            connection=self,
        )
        self._response = response
        if self._method == b"HEAD" or event.status_code in (204, 304) or length == 0:
            self._keep = self._keep and not self._parser.trailing_data[0]
            self._exchange_done()
        else:
            self._last = self._clock.seconds()
            self._remaining = None if chunked else length
            rest = self._parser.trailing_data[0]
            if self._remaining is not None and rest:
                self._early.append(rest)
            self.pause()
        answer.callback(response)

    def deliver(self, consumer: BodyConsumer) -> None:
        self._consumer = consumer
        self._last = self._clock.seconds()
        self._paused = False  # unless the consumer pauses before we have begun
        self._clock.callLater(0, self._begin)

    def _begin(self) -> None:
        if self._consumer is None:
            return  # lost meanwhile, and the consumer has been told
        if not self._paused:
            self.resume()
        early, self._early = self._early, []
        if self._remaining is None:
            self._events()
        for data in early:
            if self._consumer is not None:
                self._body(data)
        if self.lost and self._consumer is not None:
            self._stream_ended()
            self._fail(UpstreamFailed(f"{self._name} closed the connection too early"))

    def _body(self, data: bytes) -> None:
        assert self._consumer is not None
        if self._remaining is None:
            assert self._parser is not None
            self._parser.receive_data(data)
            self._events()
            return
        if len(data) > self._remaining:
            data, self._keep = data[: self._remaining], False
        self._remaining -= len(data)
        self._consumer.body_received(data)
        if not self._remaining and self._consumer is not None:
            self._complete()

    def _events(self) -> None:
        """Deliver what h11 has of a chunked or close-delimited body."""
        assert self._parser is not None
        while self._consumer is not None:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                self._fail(UpstreamFailed(f"{self._name} broke off its answer: {error}"))
                return
            if isinstance(event, h11.Data):
                self._consumer.body_received(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._keep = self._keep and not self._parser.trailing_data[0]
                self._complete()
            else:
                return

    def _stream_ended(self) -> None:
        """A body without a length ends with its connection, if upstream closed that in good order."""
        if not self._closed_well or self._consumer is None or self._remaining is not None:
            return
        assert self._parser is not None
        try:
            self._parser.receive_data(b"")
        except h11.RemoteProtocolError:
            return
        self._events()

    def _complete(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._exchange_done()
        assert consumer is not None
        consumer.body_done()

    def _exchange_done(self) -> None:
        """The response has ended: let go of it, and offer the connection for the next request."""
        assert self._response is not None
        self._response.connection = None
        self._response = None
        self._unwatch()
        if self.lost:
            return
        if self._keep:
            self.resume()  # an idle connection must hear that it is closed
            self._idle(self)
        else:
            self.abandon()

    # -- flow and ends

    def pause(self) -> None:
        self._paused = True
        if not self.lost:
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def resume(self) -> None:
        self._paused = False
        self._last = self._clock.seconds()
        if not self.lost:
            self.transport.resumeProducing()  # type: ignore[union-attr]

    def abandon(self) -> None:
        self._keep = False
        if not self.lost:
            self.transport.abortConnection()  # type: ignore[union-attr]

    def _watch(self, delay: float) -> None:
        self._unwatch()
        self._check = self._clock.callLater(delay, self._silence)

    def _unwatch(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _silence(self) -> None:
        self._check = None
        quiet = self._clock.seconds() - self._last
        not_theirs = self._paused or (self._sender is not None and not self._sender.blocked)
        if not_theirs or quiet < self._timeout:
            self._watch(self._timeout if not_theirs else self._timeout - quiet)
            return
        what = "did not answer" if self._answer is not None else "sent nothing more"
        if self._sender is not None:
            what = "took nothing more"
        self._fail(UpstreamFailed(f"{self._name} {what} for {self._timeout:g} s", status=504))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._closed_well = reason.check(ConnectionDone) is not None
        self._gone(self)
        self._stream_ended()
        self._fail(
            UpstreamFailed(
                f"{self._name} closed the connection too early ({reason.getErrorMessage()})",
                unused=not self._heard,
            )
        )

    def _stop_sending(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.stop()

    def _fail(self, error: UpstreamFailed) -> None:
        self._unwatch()
        self._stop_sending()
        self.abandon()
        answer, self._answer = self._answer, None
        consumer, self._consumer = self._consumer, None
        if consumer is not None and self._response is not None:
            self._response.connection = None
            self._response = None
        if answer is not None:
            answer.errback(Failure(error))
        if consumer is not None:
            consumer.body_failed(error)
