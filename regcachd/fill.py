"""A fill: one download of one blob from upstream into a partial.

    upstream ==stream==> queue --disk thread: write, hash--> partial --watermark--> growing blob --> readers

One stream, an answer of upstream, is enough; large blobs get more of them while that makes it faster (parallel.py).
Each stream has a stretch of the file to itself: from where it stands to its `stop`. When one breaks, what
it has not brought is a hole, and holes are asked for again with Range, by the streams that are left
or after a pause (back-off with jitter). Bytes are written and hashed in a thread in batches: while one batch is on
its way the next gathers, and when too much gathers, upstream is paused.

A fill belongs to nobody: it goes on when the client that caused it leaves.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any
from typing import Protocol as Shape

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .disk import InThread
from .extents import Extents
from .growing import FillFailed, Growing, StoreFailed
from .http1 import Response, UpstreamFailed
from .parallel import Parallel
from .partial import PIECE, Conflict, Partial, Phase
from .ranges import parse_content_range
from .store import Store

log = Logger()

QUEUE_HIGH = 4 * 1024 * 1024
"""Bytes waiting for the disk at which upstream is paused: what one fill holds in memory."""
QUEUE_LOW = 1024 * 1024
"""Bytes at which it is resumed."""
SPAN = 4 * PIECE
"""Bytes an additional stream asks for at a time."""
BATCH_CATCH_UP = 16
"""Megabytes hashed again per batch, so that the watermark is told about in between."""

PROGRESS = 64 * 1024
"""Bytes that a try must have brought to count as one that got somewhere."""

_ENDLESS = 2**63
"""More than a blob has."""

REFUSALS = (401, 403)
HOPELESS = (404, 410)


class Source(Shape):
    """Where a blob comes from: upstream, asked with somebody's credential."""

    async def open(self, start: int, stop: int | None) -> Response:
        """Ask for the bytes from `start`, to the end or before `stop`; 0 and None ask for the whole blob."""


@frozen
class Patience:
    """How often a broken download is tried again."""

    retries: int = 8
    """Tries in a row that bring nothing, before the fill is given up."""
    first_delay: float = 0.25
    """Seconds before the second try; each later one waits twice as long."""
    longest_delay: float = 15.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row; `chance` is from 0 to 1, for jitter."""
        return min(self.longest_delay, self.first_delay * 2.0 ** (failures - 1)) * (0.5 + chance / 2)


@define
class _Run:
    """Bytes that belong one behind the other, waiting for the disk."""

    start: int
    stop: int
    pieces: list[bytes]


@define(eq=False)
class Stream:
    """One answer of upstream, bringing the bytes from `at` on (http1.BodyConsumer)."""

    fill: "Fill"
    response: Response
    at: int
    stop: int | None
    """Where another's stretch begins; None for the end of the blob."""
    ended: bool = False
    began: int = field(init=False)
    seen: int = field(default=-1, init=False)
    """How far it was when the speed was measured last."""
    final: int | None = field(init=False)
    """Where the answer ends, if upstream has said."""

    def __attrs_post_init__(self) -> None:
        self.began = self.at
        self.final = None if self.response.length is None else self.at + self.response.length

    def body_received(self, data: bytes) -> None:
        if self.ended:
            return
        if self.stop is not None and self.at + len(data) > self.stop:
            data = data[: self.stop - self.at]
        offset, self.at = self.at, self.at + len(data)
        self.fill.received(offset, data)
        if self.at == self.stop and self.at != self.final:  # else body_done comes, and the connection is kept
            self.end(None)

    def body_done(self) -> None:
        self.end(None)

    def body_failed(self, error: UpstreamFailed) -> None:
        self.end(error)

    def end(self, error: UpstreamFailed | None) -> None:
        """It brings no more, for whatever reason."""
        if not self.ended:
            self.ended = True
            self.response.abandon()
            self.fill.stream_ended(self, error)


@define(eq=False)
class Fill:
    """One download. `over` fires with None when it has ended, well or not, and the partial is closed."""

    growing: Growing
    _partial: Partial
    _sources: Sequence[Source]
    """Whom to ask, the latest last; others add to it while the fill runs."""
    _store: Store
    _in_thread: InThread
    _clock: Any
    _chance: Callable[[], float]
    _patience: Patience
    _parallel: Parallel
    _stored: "Callable[[Growing], None]"
    _count_wrong: Callable[[], None]
    over: "Deferred[None]" = field(factory=Deferred, init=False)
    bytes_received: int = field(default=0, init=False)
    _taken: Extents = field(factory=Extents, init=False)
    _streams: list[Stream] = field(factory=list, init=False)
    _asking: list[tuple[int, int | None]] = field(factory=list, init=False)
    """The stretches for which streams are being opened."""
    _failures: int = field(default=0, init=False)
    _received_at_failure: int = field(default=0, init=False)
    _queue: list[_Run] = field(factory=list, init=False)
    _queued: int = field(default=0, init=False)
    _writing: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _ending: bool = field(default=False, init=False)
    _look: Any = field(default=None, init=False)
    _again: Any = field(default=None, init=False)
    _phase: Phase | None = field(default=None, init=False)
    """What to tell the followers in other processes at the end; None leaves the fill to them."""
    _discard: bool = field(default=False, init=False)
    """Is what is on the disk worthless?"""

    # -- streams

    def begin(self, response: Response, start: int) -> None:
        """Begin with an answer of upstream whose first byte is that at `start`."""
        self._take_stock()
        self._flow(response, start, self._taken.hole(max(start, self._partial.committed))[1])
        self._watch_speed()

    def go_on(self) -> None:
        """Begin without an answer yet, with a partial whose filler is gone."""
        self._take_stock()
        self._next(failed=False)
        self._watch_speed()

    def _take_stock(self) -> None:
        """Of what the partial has already."""
        for stretch in self._partial.there.stretches:
            self._taken.add(*stretch)
        self._received_at_failure = self._taken.size
        self.growing.total = self._partial.total
        self.growing.grown(max(self._partial.committed, self.growing.watermark))

    def _flow(self, response: Response, start: int, stop: int | None) -> None:
        stream = Stream(self, response, start, stop)
        self._streams.append(stream)
        response.deliver(stream)

    def received(self, offset: int, data: bytes) -> None:
        """A stream has brought bytes."""
        if self._ending or not data:
            return
        self.bytes_received += len(data)
        self._taken.add(offset, offset + len(data))
        if self._queue and self._queue[-1].stop == offset:
            self._queue[-1].pieces.append(data)
            self._queue[-1].stop += len(data)
        else:
            self._queue.append(_Run(offset, offset + len(data), [data]))
        self._queued += len(data)
        if self._queued > QUEUE_HIGH:
            self._pause(True)  # each time: a stream that has begun meanwhile flows
        self._write()

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        for stream in self._streams:
            if paused:
                stream.response.pause()
            else:
                stream.response.resume()

    def stream_ended(self, stream: Stream, error: UpstreamFailed | None) -> None:
        """A stream is over: the whole blob is there, or there is a hole to ask for."""
        self._streams.remove(stream)
        if self._ending:
            return
        if error is not None:
            log.info("the download of {digest} broke: {why}", digest=str(self.growing.digest), why=error)
        if self.growing.total is None and error is None and stream.stop is None:
            self.growing.total = stream.at  # upstream had not said; its end says
        # an answer that ends in good order but early is no better: asked at once, it would be asked for ever
        wanted = self.growing.total if stream.stop is None else stream.stop
        failed = error is not None or wanted is None or stream.at < wanted
        if failed and self._streams and stream.at == stream.began:
            self._parallel.stop()
            self._give_back(stream)
        self._next(failed)

    def _give_back(self, stream: Stream) -> None:
        """A stream that has brought nothing had its stretch from another, which may still go on with it."""
        for other in self._streams:
            if other.stop == stream.began:
                _, stop = self._covered().hole(stream.began)
                ends = [end for end in (stop, other.final) if end is not None]
                other.stop = min(ends) if ends else None

    def _next(self, failed: bool) -> None:
        """Ask for what nobody is bringing, at once or after a pause."""
        if not failed:
            self._fill_up()
        if self._next_hole() is None:
            self._write()  # perhaps that was the last
        elif failed and not self._streams and not self._asking:
            if self._taken.size - self._received_at_failure > PROGRESS:
                self._failures = 0
            self._failures, self._received_at_failure = self._failures + 1, self._taken.size
            if self._failures > self._patience.retries:
                self._give_up(f"the download broke {self._failures} times in a row")
            else:
                delay = self._patience.delay(self._failures, self._chance())
                self._again = self._clock.callLater(delay, self._ask_again)

    def _next_hole(self) -> tuple[int, int | None] | None:
        """The first stretch that is not there and that nobody is bringing."""
        start, stop = self._covered().hole(0)
        end = _ENDLESS if self.growing.total is None else self.growing.total
        return (start, stop) if start < end else None

    def _covered(self) -> Extents:
        """What is there or being brought."""
        covered = Extents(list(self._taken.stretches))
        end = _ENDLESS if self.growing.total is None else self.growing.total
        for start, stop in (*((each.at, each.stop) for each in self._streams), *self._asking):
            stop = end if stop is None else stop
            if start < stop:
                covered.add(start, stop)
        return covered

    def _ask_again(self) -> None:
        self._again = None
        if not self._ending:
            self._fill_up()

    async def _ask(self, start: int, stop: int | None, sharing: Stream | None = None) -> None:
        """Open a stream for a stretch, with the latest credential that upstream accepts.

        `sharing` has the stretch so far, and keeps it until upstream has said yes.
        """
        self._asking.append((start, stop))
        response = None
        try:
            for source in reversed(list(self._sources)):
                response = await source.open(start, stop)
                if response.status not in REFUSALS:
                    break
                response.abandon()
        except UpstreamFailed as error:
            log.info(
                "the download of {digest} does not go on: {why}", digest=str(self.growing.digest), why=error
            )
            response = None
        finally:
            self._asking.remove((start, stop))
        if self._ending:
            if response is not None:
                response.abandon()
            return
        if response is None or response.status not in (200, 206):
            self._refused(response, extra=bool(self._streams))
            return
        begins, total = begins_at(response), total_of(response)
        fits = begins == start or (begins is not None and begins < start and not self._streams)
        if not fits or (self.growing.total is not None and total not in (None, self.growing.total)):
            response.abandon()  # not the range we asked for; harmless when others bring bytes
            self._parallel.stop()
            if not self._streams:
                self._next(failed=True)
            return
        assert begins is not None
        if self._taken.reach(start) > start:  # brought by the stream that was to share it
            response.abandon()
            self._next(failed=False)
            return
        if sharing is not None and (sharing.stop is None or sharing.stop > start):
            sharing.stop = start
        self._flow(response, begins, stop)

    def _refused(self, response: Response | None, extra: bool) -> None:
        if response is not None:
            response.abandon()
            if not extra and response.status in HOPELESS:
                self._give_up(f"upstream does not have it any more ({response.status})")
                return
        if extra:
            self._parallel.stop()
        self._next(failed=True)

    def _run(self, work: Any) -> None:
        Deferred.fromCoroutine(work).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        log.failure("the fill of {digest} failed", failure, digest=str(self.growing.digest))
        self._give_up("of an error in regcachd; its log says which")

    # -- more streams

    def _watch_speed(self) -> None:
        if not self._parallel.wants_more(self.growing.total) or self._ending:
            self._look = None
            return
        self._look = self._clock.callLater(self._parallel.interval, self._consider)

    def _consider(self) -> None:
        self._look = None
        self._parallel.measure(self.bytes_received, self._clock.seconds(), len(self._streams))
        by_progress = sorted(self._streams, key=lambda stream: stream.at - stream.seen)
        silent = [stream for stream in by_progress if stream.at == stream.seen]
        too_many = len(by_progress) - self._parallel.wanted
        if len(silent) == len(by_progress):
            silent = []  # the disk is slow, or upstream is
        for stream in by_progress[: max(too_many, len(silent))]:
            stream.end(None)
        for stream in self._streams:
            stream.seen = stream.at
        self._fill_up()
        self._watch_speed()

    def _fill_up(self) -> None:
        """Have as many streams as are wanted, while there is something to bring."""
        while len(self._streams) + len(self._asking) < self._parallel.wanted:
            asking = len(self._asking)
            self._add_stream()
            if len(self._asking) == asking:
                return  # nothing left to share out, or upstream has answered already

    def _add_stream(self) -> None:
        """Give a new stream a stretch of its own: a hole, or a part of the longest one that is under way."""
        total, hole = self.growing.total, self._next_hole()
        if hole is not None:
            start, stop = hole
            if self._parallel.wanted > 1 and total is not None:
                stop = min(start + SPAN, total if stop is None else stop)
            self._run(self._ask(start, stop))
        elif total is not None and self._streams:
            longest = max(self._streams, key=lambda s: (total if s.stop is None else s.stop) - s.at)
            stop = total if longest.stop is None else longest.stop
            start = -(-(longest.at + min(SPAN, (stop - longest.at) // 2)) // PIECE) * PIECE
            if stop - start >= PIECE:
                self._run(self._ask(start, min(start + SPAN, stop), longest))

    # -- the disk

    def _write(self) -> None:
        if self._writing or self.over.called:
            return
        if self._ending:
            self._close()
        elif self._queue:
            batch, self._queue = self._queue, []
            self._writing = True
            self._in_thread(self._write_batch, batch).addCallbacks(self._written, self._disk_failed)
        elif self.growing.total is not None and self._taken.reach(0) >= self.growing.total:
            self._writing = True
            self._in_thread(self._finish).addCallbacks(self._verified, self._disk_failed)

    def _write_batch(self, batch: list[_Run]) -> int:
        """In a thread. Returns how many bytes of the queue that was."""
        self._partial.expect(self.growing.total)
        count = 0
        for run in batch:
            self._partial.write(run.start, b"".join(run.pieces))
            count += run.stop - run.start
        for _ in range(BATCH_CATCH_UP):
            if not self._partial.catch_up():
                break
        return count

    def _written(self, count: int) -> None:
        self._writing = False
        self._queued -= count
        self.growing.grown(self._partial.committed)
        if self._paused and self._queued < QUEUE_LOW:
            self._pause(False)
        self._write()

    def _finish(self) -> bool:
        """In a thread: is it the blob?"""
        self._partial.expect(self.growing.total)
        while self._partial.catch_up():
            pass
        right = self._partial.is_right()
        if right:
            self._partial.verified()
        return right

    def _verified(self, right: bool) -> None:
        self.growing.grown(self._partial.committed)
        if not right:
            self._wrong(f"{self.growing.watermark} bytes with another digest")
            return
        self._ending = True
        for stream in list(self._streams):
            stream.end(None)
        self.growing.verified()
        self._in_thread(self._store.commit, self._partial).addCallbacks(self._committed, self._not_committed)

    def _committed(self, _: None) -> None:
        self._writing = False
        self._stored(self.growing)
        self._close()

    def _not_committed(self, failure: Failure) -> None:
        self._writing = False
        log.error(
            "{digest} could not be stored: {why}",
            digest=str(self.growing.digest),
            why=failure.getErrorMessage(),
        )
        self._close()

    def _disk_failed(self, failure: Failure) -> None:
        self._writing = False
        if failure.check(Conflict):
            self._wrong(failure.getErrorMessage())
            return
        if not failure.check(OSError):
            log.failure("writing {digest} failed", failure, digest=str(self.growing.digest))
        self._end(StoreFailed(f"the store failed: {failure.getErrorMessage()}"), Phase.STORE_FAILED)

    def _wrong(self, what: str) -> None:
        log.error(
            "upstream sent wrong bytes for {digest}: {what}; nothing was stored",
            digest=str(self.growing.digest),
            what=what,
        )
        self._writing = False
        self._discard = True
        self._count_wrong()
        self._end(FillFailed(f"upstream sent wrong bytes for {self.growing.digest}"), Phase.GIVEN_UP)

    # -- ends

    def stop(self, why: str) -> None:
        """Stop here; what is on the disk stays, for another worker or a later fill to go on with."""
        self._end(FillFailed(f"the fill of {self.growing.digest} was stopped: {why}"), None)

    def _give_up(self, why: str) -> None:
        self._end(FillFailed(f"{self.growing.digest} could not be downloaded: {why}"), Phase.GIVEN_UP)

    def _end(self, error: FillFailed, phase: Phase | None) -> None:
        if not self._ending:
            self._ending, self._phase = True, phase
            self.growing.failed(error)
            for stream in list(self._streams):
                stream.end(None)
        self._write()

    def _close(self) -> None:
        self._ending = True
        for call in (self._look, self._again):
            if call is not None:
                call.cancel()
        self._look = self._again = None
        self._writing = True
        self._in_thread(self._let_go).addBoth(self._closed)

    def _let_go(self) -> None:
        """In a thread."""
        with closing(self._partial):
            try:
                if self._phase is not None:
                    self._partial.give_up(self._phase)
            finally:
                if self._discard or (self._phase is not None and self._partial.is_empty):
                    self._partial.discard()

    def _closed(self, result: "Failure | None") -> None:
        if isinstance(result, Failure):
            log.error("a partial could not be closed: {why}", why=result.getErrorMessage())
        self.over.callback(None)


def begins_at(response: Response) -> int | None:
    """The offset of a response's first byte; None when that cannot be told, or its bytes are not the blob's."""
    if response.header(b"content-encoding") not in (None, b"identity"):
        return None
    if response.status == 200:
        return 0
    header = response.header(b"content-range")
    found = None if header is None else parse_content_range(header.decode("latin-1"))
    return None if found is None else found[0]


def total_of(response: Response) -> int | None:
    """How large the whole blob is, by what a 200 or 206 says."""
    if response.status == 200:
        return response.length
    header = response.header(b"content-range")
    found = None if header is None else parse_content_range(header.decode("latin-1"))
    return None if found is None else found[2]
