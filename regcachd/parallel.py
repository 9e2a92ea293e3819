"""Whether a fill is worth another connection: a pure decision from what has arrived.

Some storage serves each connection at a fixed rate; there more of them help. From others one connection gets all
there is, and more would only cost. So one is added at a time, and another only if the last one helped.
"""

from attrs import define, field

LARGE = 64 * 1024 * 1024
"""Bytes from which a blob is large enough."""
WORTH = 1.15
"""How much faster the whole must have become through the last stream."""


@define
class Parallel:
    """The decisions for one fill. `interval` is how many seconds a rate is measured."""

    most: int
    """Connections at most; 1 never adds one."""
    wanted: int = field(default=1, init=False)
    """Connections that are thought to help."""
    interval: float = 1.0
    _stopped: bool = field(default=False, init=False)
    _received: int = field(default=0, init=False)
    _at: float | None = field(default=None, init=False)
    _streams: int = field(default=0, init=False)
    _best: float = field(default=0.0, init=False)

    def stop(self) -> None:
        """Upstream does not do ranges, or does not want more connections."""
        self._stopped = True
        self.wanted = 1

    def wants_more(self, total: int | None) -> bool:
        """May there be more streams at all?"""
        return not self._stopped and self.most > 1 and total is not None and total >= LARGE

    def measure(self, received: int, now: float, streams: int) -> None:
        """Adapt `wanted`. `received` are all bytes so far, `now` is in seconds. To be called once per interval."""
        last, self._received = self._received, received
        since, self._at = self._at, now
        before, self._streams = self._streams, streams
        if self._stopped or since is None or now <= since or before != streams or streams != self.wanted:
            return  # measure a whole interval with this number of streams first
        rate = (received - last) / (now - since)
        if self._best and rate < self._best * WORTH:
            self.wanted -= 1  # the last one did not help
            self._stopped = True
        elif streams >= self.most:
            self._stopped = True
        else:
            self._best = rate
            self.wanted += 1
