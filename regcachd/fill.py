"""A fill: one download of one blob from upstream into a partial.

    upstream ==stream==> writer --> partial, growing blob

One stream, an answer of upstream, is enough; large blobs get more of them while that makes it faster (parallel.py).
Each stream has a stretch of the file to itself: from where it stands to its `stop`. When one breaks, what
it has not brought is a hole, and holes are asked for again with Range, by the streams that are left
or after a pause (back-off with jitter). What the streams bring is the `writer`'s.

A fill belongs to nobody: it goes on when the client that caused it leaves.
"""

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .disk import InThread
from .extents import Extents
from .growing import FillFailed, Growing
from .http1 import Response, UpstreamFailed
from .parallel import Parallel
from .partial import PIECE, Partial, Phase
from .patience import Patience
from .source import Source, begins_at, total_of
from .store import Store
from .stream import Stream
from .writer import Writer

log = Logger()

SPAN = 4 * PIECE
"""Bytes an additional stream asks for at a time."""
PROGRESS = 64 * 1024
"""Bytes that a try must have brought to count as one that got somewhere."""

_ENDLESS = 2**63
"""More than a blob has."""

REFUSALS = (401, 403)
HOPELESS = (404, 410)


class Fill:
    """One download. `over` fires with None when it has ended, well or not, and the partial is closed."""

    def __init__(
        self,
        growing: Growing,
        partial: Partial,
        sources: Sequence[Source],
        store: Store,
        in_thread: InThread,
        clock: Any,
        chance: Callable[[], float],
        patience: Patience,
        parallel: Parallel,
        stored: Callable[[Growing], None],
        count_wrong: Callable[[], None],
    ) -> None:
        """`sources` is whom to ask, the latest last; others add to it while the fill runs."""
        self.growing = growing
        self._writer = Writer(
            growing,
            partial,
            store,
            in_thread,
            stored,
            count_wrong,
            self._pause,
            self._end_streams,
            self._cancel_calls,
        )
        self.over = self._writer.over
        self._sources = sources
        self._clock = clock
        self._chance = chance
        self._patience = patience
        self._parallel = parallel
        self._streams: list[Stream] = []
        self._asking: list[tuple[int, int | None]] = []
        """The stretches for which streams are being opened."""
        self._failures = 0
        self._taken_at_failure = 0
        self._look: Any = None
        self._again: Any = None

    # -- streams

    def begin(self, response: Response, start: int) -> None:
        """Begin with an answer of upstream whose first byte is that at `start`."""
        self._take_stock()
        self._flow(response, start, self._writer.taken.hole(max(start, self._writer.committed))[1])
        self._watch_speed()

    def go_on(self) -> None:
        """Begin without an answer yet, with a partial whose filler is gone."""
        self._take_stock()
        self._next(failed=False)
        self._watch_speed()

    def _take_stock(self) -> None:
        self._writer.take_stock()
        self._taken_at_failure = self._writer.taken.size

    def _flow(self, response: Response, start: int, stop: int | None) -> None:
        stream = Stream(response, start, stop, self._writer.take, self._stream_ended)
        self._streams.append(stream)
        response.deliver(stream)

    def _pause(self, paused: bool) -> None:
        for stream in self._streams:
            if paused:
                stream.response.pause()
            else:
                stream.response.resume()

    def _stream_ended(self, stream: Stream, error: UpstreamFailed | None) -> None:
        """A stream is over: the whole blob is there, or there is a hole to ask for."""
        self._streams.remove(stream)
        if self._writer.is_ending:
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
            self._writer.write()  # perhaps that was the last
        elif failed and not self._streams and not self._asking:
            if self._writer.taken.size - self._taken_at_failure > PROGRESS:
                self._failures = 0
            self._failures, self._taken_at_failure = self._failures + 1, self._writer.taken.size
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
        covered = Extents(list(self._writer.taken.stretches))
        end = _ENDLESS if self.growing.total is None else self.growing.total
        for start, stop in (*((each.at, each.stop) for each in self._streams), *self._asking):
            stop = end if stop is None else stop
            if start < stop:
                covered.add(start, stop)
        return covered

    def _ask_again(self) -> None:
        self._again = None
        if not self._writer.is_ending:
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
        if self._writer.is_ending:
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
        if self._writer.taken.reach(start) > start:  # brought by the stream that was to share it
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
        if not self._parallel.wants_more(self.growing.total) or self._writer.is_ending:
            self._look = None
            return
        self._look = self._clock.callLater(self._parallel.interval, self._consider)

    def _consider(self) -> None:
        self._look = None
        self._parallel.measure(self._writer.bytes_taken, self._clock.seconds(), len(self._streams))
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

    # -- ends

    def stop(self, why: str) -> None:
        """Stop here; what is on the disk stays, for another worker or a later fill to go on with."""
        self._writer.end(FillFailed(f"the fill of {self.growing.digest} was stopped: {why}"), None)

    def _give_up(self, why: str) -> None:
        self._writer.end(FillFailed(f"{self.growing.digest} could not be downloaded: {why}"), Phase.GIVEN_UP)

    def _end_streams(self) -> None:
        for stream in list(self._streams):
            stream.end(None)

    def _cancel_calls(self) -> None:
        for call in (self._look, self._again):
            if call is not None:
                call.cancel()
        self._look = self._again = None
