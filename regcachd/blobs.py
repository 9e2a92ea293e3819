"""Blobs: from the store, from a fill that is under way, or from upstream by starting one."""

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, frozen
from twisted.logger import Logger

from .evidence import Credential
from .fill import Fill, FillFailed
from .freshness import matches
from .http1 import Response, UpstreamFailed
from .ranges import Part, Unsatisfiable, content_range, decide_range, unsatisfied_range
from .reference import Digest, Repository
from .registry import CachedRegistry, target_of
from .relay import HIT, VIA, Answer, TooLarge, asking, cache_status, capture, downward, stream
from .singleflight import SingleFlight
from .store import OpenBlob
from .web import Request

log = Logger()

MISS = cache_status("fwd=uri-miss; stored")
COLLAPSED = cache_status("fwd=uri-miss; collapsed")
UNSTORED = cache_status("fwd=uri-miss")

MOST_ERROR = 64 * 1024
"""Bytes of an error body of upstream that are passed on."""


@frozen
class _Refused:
    """Upstream answered the one who asked, with these credentials, with something other than the blob."""

    repository: Repository
    credential: Credential
    answer: Answer


@frozen
class _Unstored:
    """Upstream's answer, which the store does not take: it can serve the one who asked, and nobody else."""

    response: Response


_Opening = Fill | _Refused | _Unstored

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
        repository = registry.repository(name)
        while not request.gone:
            source = self._stored(digest) or registry.shared.fills.get(digest)
            if source is not None:
                if await self._serve(request, repository, digest, source):
                    return
                continue
            if request.method == b"HEAD":
                await self._ask(request, repository, digest)
                return
            mine = digest not in self._openings
            opening = await self._openings.run(digest, self._opener(request, repository, digest))
            if isinstance(opening, Fill):
                if await self._serve(request, repository, digest, opening, fresh=mine):
                    return
            elif isinstance(opening, _Unstored):
                if mine:
                    await stream(request, opening.response, (UNSTORED,))
                    return
            elif (opening.repository, opening.credential) == (repository, registry.credential(request)):
                opening.answer.send(request, UNSTORED)
                return
            # somebody else was refused, the store is unusable or the fill is over: look again

    def _stored(self, digest: Digest) -> OpenBlob | None:
        try:
            return self._registry.shared.store.open(digest)
        except OSError as error:
            log.error("the store cannot be read: {why}", why=error, digest=str(digest))
            return None

    async def _ask(self, request: Request, repository: Repository, digest: Digest) -> None:
        """HEAD of something we do not have: upstream says, nothing is downloaded."""
        registry = self._registry
        response = await registry.head_blob(repository, digest, asking(request))
        registry.heard(repository, registry.credential(request), response.status)
        if 200 <= response.status < 300:
            registry.shared.index.link(repository, digest)
        if not request.gone:
            request.begin(response.status, downward(response.headers, UNSTORED), response.length)
            request.finish()

    # -- from upstream

    def _opener(
        self, request: Request, repository: Repository, digest: Digest
    ) -> Callable[[], Coroutine[Any, Any, _Opening]]:
        headers = [h for h in asking(request) if h[0].lower() != b"accept"]
        credential = self._registry.credential(request)
        return lambda: self._open(repository, digest, credential, headers)

    async def _open(
        self,
        repository: Repository,
        digest: Digest,
        credential: Credential,
        headers: list[tuple[bytes, bytes]],
    ) -> _Opening:
        registry = self._registry
        target = target_of("blobs", repository, digest)
        response = await registry.upstream.request(b"GET", target, headers, follow=True)
        if response.status != 200:
            registry.heard(repository, credential, response.status)
            return _Refused(repository, credential, await _captured(response))
        registry.heard(repository, credential, 200)
        if response.header(b"content-encoding") not in (None, b"identity"):
            return _Unstored(response)  # its bytes are not the blob's
        try:
            fill = await registry.shared.fills.start(digest, response)
        except OSError as error:
            log.error("the store takes nothing, serving from upstream: {why}", why=error, digest=str(digest))
            return _Unstored(response)
        registry.shared.index.link(repository, digest)
        return fill

    # -- to the client

    async def _serve(
        self,
        request: Request,
        repository: Repository,
        digest: Digest,
        source: OpenBlob | Fill,
        fresh: bool = False,
    ) -> bool:
        """From a file that is complete or growing, if the client may; False if there is no such file any more."""
        try:
            refused = None if fresh else await self._registry.may_read(request, "blobs", repository, digest)
            if refused is not None:
                refused.send(request, UNSTORED)
            elif isinstance(source, Fill) and (source.failed or source.ended.called):
                if fresh:
                    raise UpstreamFailed(f"{repository.registry} sent nothing for {digest}")
                return False
            elif not request.gone:
                status = HIT if isinstance(source, OpenBlob) else MISS if fresh else COLLAPSED
                await self._send(request, digest, source, status)
            return True
        finally:
            if isinstance(source, OpenBlob):
                source.close()

    async def _send(
        self, request: Request, digest: Digest, source: OpenBlob | Fill, status: tuple[bytes, bytes]
    ) -> None:
        etag = f'"{digest}"'
        headers = [
            (b"Docker-Content-Digest", str(digest).encode()),
            (b"ETag", etag.encode()),
            (b"Docker-Distribution-Api-Version", b"registry/2.0"),
            (b"Cache-Control", b"max-age=31536000"),
            VIA,
            status,
        ]
        if matches(request.header("if-none-match"), etag):
            request.begin(304, headers, None)
            request.finish()
            return
        headers.append((b"Content-Type", b"application/octet-stream"))
        start, stop, code = 0, source.size, 200
        if source.size is not None:
            headers.append((b"Accept-Ranges", b"bytes"))
            # for HEAD a Range means nothing (RFC 9110 section 14.2)
            wanted = request.header("range") if request.method == b"GET" else None
            part = decide_range(wanted, source.size, request.header("if-range"), etag)
            if isinstance(part, Unsatisfiable):
                unsatisfied = (b"Content-Range", unsatisfied_range(source.size).encode())
                request.answer_error(
                    416, "RANGE_INVALID", f"the blob has {source.size} bytes", [VIA, unsatisfied]
                )
                return
            if isinstance(part, Part):
                start, stop, code = part.start, part.stop, 206
                headers.append((b"Content-Range", content_range(part, source.size).encode()))
        request.begin(code, headers, None if stop is None else stop - start)
        if request.method != b"HEAD":
            if isinstance(source, OpenBlob):
                assert stop is not None
                await request.send_file(source.fd, start, stop - start)
            else:
                try:
                    await _follow(request, source, start, stop)
                except FillFailed as error:
                    log.info("response cut short: {why}", why=error)
                    request.cut()
                    return
        if isinstance(source, OpenBlob):
            self._registry.shared.index.used(digest, self._registry.shared.now())
        if not request.gone:
            request.finish()


async def _follow(request: Request, fill: Fill, start: int, stop: int | None) -> None:
    """Send a growing file, from `start` to `stop` or to its end. Raises FillFailed."""
    reader = fill.reader(start)
    request.when_gone(reader.close)
    try:
        while stop is None or reader.position < stop or not stop:
            edge = await reader.edge()
            if stop is not None:
                edge = min(edge, stop)
            if edge == reader.position:
                break  # verified, and nothing more comes
            await request.send_file(reader.fd, reader.position, edge - reader.position)
            reader.position = edge
    finally:
        reader.close()


async def _captured(response: Response) -> Answer:
    """An error of upstream, with its body if that is small."""
    try:
        return await capture(response, MOST_ERROR)
    except (TooLarge, UpstreamFailed):
        return Answer(response.status, response.reason, response.headers, b"")
