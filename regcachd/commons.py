"""The commons: upstream's answers to requests without any credential, which one client's question gets for all.

What may be kept, and how long, its users say (`pings`, `tokens`). All workers share it by the `bulletin`, so that a
thousand nodes with one question cost upstream one: who is first claims it, the others wait for the answer
here or, in another worker, look for it a few times a second. Answers that may not be kept go to those who are
waiting in this worker already, and to nobody else.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from .bulletin import Bulletin, Notice
from .http1 import UpstreamFailed
from .relay import HIT, Answer, cache_status
from .singleflight import HURRY, SingleFlight, TooSlow
from .web import Request

log = Logger()

LARGEST = 64 * 1024
"""Bytes of a body that is kept; tokens have some three thousand."""
MOST_UNWRITTEN = 100
"""Answers kept by a process itself while the bulletin does not take them."""
CLAIM = 15.0
"""Seconds for which the workers leave a question to the one that was first."""
LOOK = 0.03
"""Seconds between looks for the answer to another worker's question."""
TOO_NEW = 10.0
"""Seconds for which an answer is not given up, whoever complains of it: so often upstream may be asked again."""

STORED = cache_status("fwd=uri-miss; stored")
FORWARDED = cache_status("fwd=uri-miss")
STALE = cache_status("fwd=stale")

_PERSONAL = frozenset((b"set-cookie", b"date", b"age", b"alt-svc", b"etag", b"last-modified"))
"""Headers that are true for one client, or at one time."""


@frozen
class Common:
    """An answer for everybody: given unasked until `fresh_until`, and until `ends` when upstream cannot be asked."""

    answer: Answer
    came: float
    fresh_until: float
    ends: float
    status: tuple[bytes, bytes] = HIT
    """The Cache-Status header for those who get it now."""


def impersonal(answer: Answer) -> Answer:
    """Without the headers that are not everybody's."""
    headers = [each for each in answer.headers if each[0].lower() not in _PERSONAL]
    return Answer(answer.status, answer.reason, headers, answer.body)


def once(answer: Answer, now: float) -> Common:
    """An answer that is not kept."""
    return Common(impersonal(answer), now, now, now, FORWARDED)


def is_anybodys(request: Request) -> bool:
    """Does nothing in a request tell its client from others? (GET or HEAD, no credential, no cookie, no body)."""
    return (
        request.method in (b"GET", b"HEAD")
        and not any(request.requestHeaders.hasHeader(name) for name in (b"authorization", b"cookie"))
        and request.requestHeaders.getRawHeaders(b"content-length", [b"0"]) == [b"0"]
        and not request.requestHeaders.hasHeader(b"transfer-encoding")
    )


Fetch = Callable[[], Coroutine[Any, Any, Common]]


class Commons:
    """The answers, by keys that name the registry, and all of the question. `clock` is a reactor, for waiting."""

    def __init__(self, bulletin: Bulletin, clock: Any, now: Callable[[], float]) -> None:
        self._bulletin = bulletin
        self._clock = clock
        self._now = now
        self._flights: SingleFlight[str, Common] = SingleFlight()
        self._unwritten: OrderedDict[str, Common] = OrderedDict()
        self._waits: set[Deferred[None]] = set()
        self._is_closed = False

    def known(self, key: str) -> Common | None:
        """The answer that is kept, fresh or not."""
        found = self._unwritten.get(key)
        if found is None:
            notice = self._bulletin.read(key)
            if notice is None:
                return None
            found = Common(_read(notice.answer), notice.came, notice.fresh_until, notice.ends)
        return found if found.came <= self._now() < found.ends else None  # clocks are set back, too

    async def get(self, key: str, fetch: Fetch) -> Common:
        """The answer: one that is fresh, or what `fetch` brings for all who ask meanwhile, or, should upstream be
        unreachable, out of order or very slow, a stale one. Raises UpstreamFailed."""
        found = self.known(key)
        if found is not None and self._now() < found.fresh_until:
            return found
        if found is None:
            return await self._flights.run(key, lambda: self._bring(key, fetch))
        try:
            return await self._flights.run_within(HURRY, self._clock, key, lambda: self._bring(key, fetch))
        except TooSlow as error:
            return self._stale(key, str(error)) or found

    def forget(self, key: str) -> None:
        """Upstream does not stand by this answer any more."""
        before = self._now() - TOO_NEW
        if key in self._unwritten and self._unwritten[key].came <= before:
            del self._unwritten[key]
        self._bulletin.take_down(key, before)

    def forget_all(self, prefix: str) -> None:
        """Somebody has changed what the answers are about whose keys begin so."""
        self._bulletin.take_down_all(prefix)

    def close(self) -> None:
        """Wait for no other worker any more."""
        self._is_closed = True
        for wait in list(self._waits):
            wait.cancel()

    def _fresh(self, key: str) -> Common | None:
        found = self.known(key)
        return found if found is not None and self._now() < found.fresh_until else None

    async def _bring(self, key: str, fetch: Fetch) -> Common:
        while not self.claim(key):
            await self.wait()
            found = self._fresh(key)
            if found is not None:
                return found
        try:
            found = self._fresh(key)  # another worker may have brought it between our look and our claim
            if found is None:
                found = await self._fetched(key, fetch)
        finally:
            self.release(key)
        return found

    async def _fetched(self, key: str, fetch: Fetch) -> Common:
        try:
            found = await fetch()
        except UpstreamFailed as error:
            stale = self._stale(key, str(error))
            if stale is None:
                raise
            return stale
        if found.answer.status == 429 or found.answer.status >= 500:
            return self._stale(key, f"it answered {found.answer.status}") or found
        if found.ends <= found.came or len(found.answer.body) > LARGEST:
            return found
        notice = Notice(_written(found.answer), found.came, found.fresh_until, found.ends)
        if self._bulletin.post(key, notice):
            self._unwritten.pop(key, None)
        else:
            self._unwritten[key] = Common(found.answer, found.came, found.fresh_until, found.ends)
            if len(self._unwritten) > MOST_UNWRITTEN:
                self._unwritten.popitem(last=False)
        return found

    def keep(self, key: str, common: Common) -> None:
        """Keep an answer that was got in another way, and is not for everybody: who reads it has to ask who may."""
        if len(common.answer.body) <= LARGEST:
            self._bulletin.post(
                key, Notice(_written(common.answer), common.came, common.fresh_until, common.ends)
            )

    def _stale(self, key: str, why: str) -> Common | None:
        found = self.known(key)
        if found is None:
            return None
        log.warn("upstream failed ({why}), answering from memory: {key}", why=why, key=key)
        return Common(found.answer, found.came, found.fresh_until, found.ends, STALE)

    # -- one of all workers

    def claim(self, key: str) -> bool:
        """May this worker ask upstream, because no other does? A claim ends with `release`, or after CLAIM."""
        return self._bulletin.claim(key, self._now(), self._now() + CLAIM)

    def release(self, key: str) -> None:
        """This worker has asked."""
        self._bulletin.release(key)

    async def wait(self) -> None:
        """Give the worker that has the claim time for its question. Raises UpstreamFailed when the daemon stops."""
        if self._is_closed:
            raise UpstreamFailed("regcachd is stopping", status=503)
        wait = deferLater(self._clock, LOOK, lambda: None)
        self._waits.add(wait)
        try:
            await wait
        except CancelledError:
            raise UpstreamFailed("regcachd is stopping", status=503) from None
        finally:
            self._waits.discard(wait)


def _written(answer: Answer) -> str:
    """As text: every byte is a character of Latin-1."""
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
    return json.dumps(
        [answer.status, answer.reason.decode("latin-1"), headers, answer.body.decode("latin-1")]
    )


def _read(text: str) -> Answer:
    status, reason, headers, body = json.loads(text)
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return Answer(status, reason.encode("latin-1"), pairs, body.encode("latin-1"))
