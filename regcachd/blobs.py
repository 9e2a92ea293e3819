"""Blobs: from the store, from a fill that is under way, or from upstream by starting one."""

from attrs import define, field, frozen
from twisted.logger import Logger

from .access import Word
from .delivery import Delivery, check_empty, describe
from .fills import Followed, NotGiven, Started, Stored
from .freshness import matches
from .growing import FillFailed, Growing
from .http1 import Response
from .passing import pass_whole
from .reference import Digest, Repository
from .registry import CachedRegistry, Question
from .relay import HIT, STALE, Answer, cache_status, captured, stream
from .requester import Requester
from .singleflight import SingleFlight
from .source import begins_at
from .web import Request

log = Logger()

MISS = cache_status("fwd=uri-miss; stored")
COLLAPSED = cache_status("fwd=uri-miss; collapsed")
UNSTORED = cache_status("fwd=uri-miss")


@define
class UpstreamSource:
    """A blob at its registry, asked for by one requester (source.Source).

    Whatever happened before, it is the registry that is asked, never an address it once redirected to: those expire.
    """

    requester: Requester
    repository: Repository
    digest: Digest
    _etag: bytes | None = field(default=None, init=False, eq=False)
    _answered: bool = field(default=False, init=False, eq=False)
    """Has upstream answered before? What began then has patience of its own."""

    async def open(self, start: int, stop: int | None) -> Response:
        """The bytes from `start`, to the end or before `stop`."""
        extra: list[tuple[bytes, bytes]] = []
        if start or stop is not None:
            extra.append((b"Range", b"bytes=%d-" % start + (b"" if stop is None else b"%d" % (stop - 1))))
            if self._etag is not None:
                extra.append((b"If-Range", self._etag))
        response = await self.requester.ask(
            b"GET", "blobs", self.repository, self.digest, extra, patient=self._answered
        )
        self._answered = True
        if response.status == 200:
            etag = response.header(b"etag")
            self._etag = (
                etag if etag is not None and etag.startswith(b'"') else None
            )  # RFC 9110: strong ones only
        return response


@frozen
class _Refused:
    """Upstream answered the one who asked with something other than the blob."""

    repository: Repository
    requester: Requester
    answer: Answer


@frozen
class _Unstored:
    """The store takes nothing, or not what upstream sends: everybody asks upstream for himself."""


_Opening = Started | Followed | Stored | _Refused | _Unstored

Openings = SingleFlight[Digest, _Opening]
"""The answers of upstream that are being waited for, shared by all registries: a digest is a digest."""


@define(eq=False)
class Blobs:
    """The blob endpoint of one registry."""

    _registry: CachedRegistry
    _openings: Openings

    async def answer(self, request: Request, name: str, digest: Digest) -> None:
        """GET or HEAD of a blob."""
        registry = self._registry
        fills = registry.shared.fills
        source = UpstreamSource(registry.requester(request), registry.repository(name), digest)
        while not request.gone:
            if fills.get(digest) is not None or registry.shared.store.has(digest):
                if not await self._present(request, source):
                    continue
                return
            if request.method == b"HEAD":
                await self._ask(request, source)
                return
            mine = digest not in self._openings
            opening = await self._openings.run(digest, lambda: self._open(source))
            if isinstance(opening, Started) and mine and not request.gone:
                await self._delivery(request, source).send(opening.growing, MISS)
                return
            if isinstance(opening, _Unstored):
                await self._pass(request, source)
                return
            if isinstance(opening, _Refused) and (
                mine or (opening.repository, opening.requester) == (source.repository, source.requester)
            ):
                opening.answer.send(request, UNSTORED)
                return
            # it is there for us to be shown our right to it, or somebody else was refused: once more

    def _delivery(self, request: Request, source: UpstreamSource) -> Delivery:
        return Delivery(self._registry.shared, request, source.digest, source)

    # -- what we have

    def _size(self, digest: Digest) -> int | None:
        """The bytes of what is there or comes."""
        growing = self._registry.shared.fills.get(digest)
        return self._registry.shared.store.size(digest) if growing is None else growing.size

    async def _present(self, request: Request, source: UpstreamSource) -> bool:
        """Serve what is there or comes, if the client may have it; False when it is not there any more."""
        digest, shared = source.digest, self._registry.shared
        question = Question("blobs", source.repository, digest, lambda: self._size(digest))
        right = await self._registry.may_read(request, source.requester, question)
        if isinstance(right, Answer):
            right.send(request, UNSTORED)
            return True
        if right is None:
            await self._pass(request, source)
            return True
        source = UpstreamSource(right.requester, source.repository, digest)
        try:
            blob = shared.store.open(digest)
        except OSError as error:
            shared.trouble.report(error)
            await self._pass(request, source)
            return True
        if blob is not None:
            try:
                await self._delivery(request, source).send(blob, STALE if right.is_stale else HIT)
            finally:
                blob.close()
            return True
        growing = shared.fills.get(digest)
        if growing is None:
            return False
        shared.fills.offer(digest, source)
        await self._delivery(request, source).send(growing, COLLAPSED)
        return True

    # -- from upstream

    async def _ask(self, request: Request, source: UpstreamSource) -> None:
        """HEAD of something that is not served from here: upstream says, nothing is downloaded.

        That links nothing: there is nothing yet that the answer could be compared with.
        """
        registry, asked = self._registry, self._registry.shared.now()
        response = await registry.head_blob(source.requester, source.repository, source.digest)
        registry.heard_status(source.requester, source.repository, response, asked)
        registry.restraint.heard_elsewhere(source.requester.proof, response)
        if response.status == 200 and begins_at(response) is not None:
            self._describe(request, source.digest, response.length)
        else:
            answer = Answer(response.status, response.reason, response.headers, b"", response.length)
            answer.send(request, UNSTORED)

    def _describe(self, request: Request, digest: Digest, size: int | None) -> None:
        """Answer a HEAD as a GET that brings the blob would be answered."""
        if request.gone:
            return
        headers = [*describe(digest), UNSTORED]
        if matches(request.header("if-none-match"), f'"{digest}"'):
            request.begin(304, headers, None)
        elif size is None:
            request.begin(200, headers, None)
        else:
            request.begin(200, [*headers, (b"Accept-Ranges", b"bytes")], size)
        request.finish()

    async def _open(self, source: UpstreamSource) -> _Opening:
        registry = self._registry
        requester, repository, asked = source.requester, source.repository, registry.shared.now()

        def given(growing: Growing) -> None:
            registry.heard(requester, repository, Word.YES, asked)
            registry.promise(repository, growing)

        try:
            opened = await registry.shared.fills.open(source.digest, source, registry.fill_settings, given)
        except OSError as error:
            registry.shared.trouble.report(error)
            return _Unstored()
        if isinstance(opened, NotGiven) and 200 <= opened.response.status < 300:
            opened.response.abandon()
            return _Unstored()
        if isinstance(opened, NotGiven):
            answer = await captured(opened.response)
            registry.restraint.heard_elsewhere(requester.proof, answer, answer.body)
            registry.heard_status(requester, repository, answer, asked)
            return _Refused(repository, requester, answer)
        return opened

    async def _pass(self, request: Request, source: UpstreamSource) -> None:
        """Straight from upstream, without the store."""
        if request.method == b"HEAD":
            await self._ask(request, source)
            return
        registry, digest, asked = self._registry, source.digest, self._registry.shared.now()
        response = await source.open(0, None)
        if response.status != 200 or begins_at(response) is None:
            registry.heard_status(source.requester, source.repository, response, asked)
            await stream(request, response, (UNSTORED,))
            return
        check_empty(digest, response.length)
        request.begin(200, [*describe(digest), UNSTORED], response.length)
        try:
            await pass_whole(request, response, digest, digest.hasher(), 0, 0)
        except FillFailed as error:
            log.info("response cut short: {why}", why=error)
            request.cut()
            return
        if not request.gone:
            registry.heard(source.requester, source.repository, Word.YES, asked)
            registry.link(source.repository, digest)
            request.finish()
