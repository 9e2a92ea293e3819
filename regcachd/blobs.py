"""Blobs: from the store, from a fill that is under way, or from upstream by starting one."""

from attrs import define, field, frozen
from twisted.logger import Logger

from .delivery import Delivery, check_empty, describe
from .evidence import Credential
from .fill import Source, begins_at
from .fills import Followed, NotGiven, Started, Stored
from .growing import FillFailed
from .http1 import RawHeaders, Response, UpstreamFailed
from .passing import pass_whole
from .reference import Digest, Repository
from .registry import CachedRegistry, target_of
from .relay import HIT, Answer, TooLarge, asking, cache_status, capture, downward, stream
from .singleflight import SingleFlight
from .upstream import Upstream
from .web import Request

log = Logger()

MISS = cache_status("fwd=uri-miss; stored")
COLLAPSED = cache_status("fwd=uri-miss; collapsed")
UNSTORED = cache_status("fwd=uri-miss")

MOST_ERROR = 64 * 1024
"""Bytes of an error body of upstream that are passed on."""


@define
class UpstreamSource:
    """A blob at its registry, asked for with one client's credential (fill.Source).

    Whatever happened before, it is the registry that is asked, never an address it once redirected to: those expire.
    """

    upstream: Upstream = field(eq=False)
    target: bytes
    headers: RawHeaders
    _etag: bytes | None = field(default=None, init=False, eq=False)

    async def open(self, start: int, stop: int | None) -> Response:
        """The bytes from `start`, to the end or before `stop`."""
        headers = list(self.headers)
        if start or stop is not None:
            headers.append((b"Range", b"bytes=%d-" % start + (b"" if stop is None else b"%d" % (stop - 1))))
            if self._etag is not None:
                headers.append((b"If-Range", self._etag))
        response = await self.upstream.request(b"GET", self.target, headers, follow=True)
        if response.status == 200:
            etag = response.header(b"etag")
            self._etag = (
                etag if etag is not None and etag.startswith(b'"') else None
            )  # RFC 9110: strong ones only
        return response


@frozen
class _Refused:
    """Upstream answered the one who asked, with these credentials, with something other than the blob."""

    repository: Repository
    credential: Credential
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
        repository = registry.repository(name)
        source = self._source(request, repository, digest)
        while not request.gone:
            if fills.get(digest) is not None or self._is_stored(digest):
                if not await self._present(request, repository, digest, source):
                    continue
                return
            if request.method == b"HEAD":
                await self._ask(request, repository, digest)
                return
            mine = digest not in self._openings
            opening = await self._openings.run(
                digest, lambda: self._open(request, repository, digest, source)
            )
            if isinstance(opening, Started) and mine and not request.gone:
                await self._delivery(request, digest, source).send(opening.growing, MISS)
                return
            if isinstance(opening, _Unstored):
                await self._pass(request, repository, digest, source)
                return
            if isinstance(opening, _Refused) and (
                mine or (opening.repository, opening.credential) == (repository, registry.credential(request))
            ):
                opening.answer.send(request, UNSTORED)
                return
            # it is there for us to be shown our right to it, or somebody else was refused: once more

    def _source(self, request: Request, repository: Repository, digest: Digest) -> UpstreamSource:
        headers = [h for h in asking(request) if h[0].lower() != b"accept"]
        return UpstreamSource(self._registry.upstream, target_of("blobs", repository, digest), headers)

    def _delivery(self, request: Request, digest: Digest, source: Source) -> Delivery:
        return Delivery(self._registry.shared, request, digest, source)

    # -- what we have

    def _is_stored(self, digest: Digest) -> bool:
        return self._registry.shared.store.has(digest)

    async def _present(
        self, request: Request, repository: Repository, digest: Digest, source: Source
    ) -> bool:
        """Serve what is there or comes, if the client may have it; False when it is not there any more."""
        refused = await self._registry.may_read(request, "blobs", repository, digest)
        if refused is not None:
            refused.send(request, UNSTORED)
            return True
        try:
            blob = self._registry.shared.store.open(digest)
        except OSError as error:
            self._registry.shared.trouble.report(error)
            await self._pass(request, repository, digest, source)
            return True
        if blob is not None:
            try:
                await self._delivery(request, digest, source).send(blob, HIT)
            finally:
                blob.close()
            return True
        growing = self._registry.shared.fills.get(digest)
        if growing is None:
            return False
        self._registry.shared.fills.offer(digest, source)
        await self._delivery(request, digest, source).send(growing, COLLAPSED)
        return True

    # -- from upstream

    async def _ask(self, request: Request, repository: Repository, digest: Digest) -> None:
        """HEAD of something we do not have: upstream says, nothing is downloaded."""
        registry = self._registry
        response = await registry.head_blob(repository, digest, asking(request))
        self._heard(request, repository, digest, response.status)
        if not request.gone:
            request.begin(response.status, downward(response.headers, UNSTORED), response.length)
            request.finish()

    def _heard(self, request: Request, repository: Repository, digest: Digest, status: int) -> None:
        """Upstream's answer to this client is evidence for its right, and a yes links digest and repository."""
        registry = self._registry
        registry.heard(repository, registry.credential(request), status)
        if 200 <= status < 300:
            registry.shared.index.link(repository, digest)

    async def _open(
        self, request: Request, repository: Repository, digest: Digest, source: Source
    ) -> _Opening:
        registry = self._registry
        try:
            opened = await registry.shared.fills.open(digest, source, registry.fill_settings)
        except OSError as error:
            registry.shared.trouble.report(error)
            return _Unstored()
        if isinstance(opened, NotGiven) and 200 <= opened.response.status < 300:
            opened.response.abandon()
            return _Unstored()
        if isinstance(opened, NotGiven):
            answer = await _captured(opened.response)
            self._heard(request, repository, digest, answer.status)
            return _Refused(repository, registry.credential(request), answer)
        if isinstance(opened, Started):
            self._heard(request, repository, digest, 200)
        return opened

    async def _pass(self, request: Request, repository: Repository, digest: Digest, source: Source) -> None:
        """Straight from upstream, without the store."""
        if request.method == b"HEAD":
            await self._ask(request, repository, digest)
            return
        response = await source.open(0, None)
        self._heard(request, repository, digest, response.status)
        if response.status != 200 or begins_at(response) is None:
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
            request.finish()


async def _captured(response: Response) -> Answer:
    """An error of upstream, with its body if that is small."""
    try:
        return await capture(response, MOST_ERROR)
    except (TooLarge, UpstreamFailed):
        return Answer(response.status, response.reason, response.headers, b"")
