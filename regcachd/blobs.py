"""Blobs: from the store, from a fill that is under way, or from upstream by starting one."""

from attrs import define, field, frozen
from twisted.logger import Logger

from .evidence import Credential
from .examine import discard, is_medium
from .fills import Followed, NotGiven, Started, Stored
from .freshness import matches
from .growing import FillFailed, Growing, StoreFailed
from .http1 import RawHeaders, Response, UpstreamFailed
from .partial import is_at
from .passing import bring_part, go_on_without_store, pass_whole
from .ranges import Part, Unsatisfiable, content_range, decide_range, unsatisfied_range
from .reference import Digest, Repository
from .registry import CachedRegistry, target_of
from .relay import HIT, VIA, Answer, TooLarge, asking, cache_status, capture, downward, stream
from .sending import FileUnreadable
from .singleflight import SingleFlight
from .source import Source, begins_at
from .store import OpenBlob
from .upstream import Upstream
from .web import Request

log = Logger()

MISS = cache_status("fwd=uri-miss; stored")
COLLAPSED = cache_status("fwd=uri-miss; collapsed")
UNSTORED = cache_status("fwd=uri-miss")
AHEAD = cache_status("fwd=partial")

MOST_ERROR = 64 * 1024
"""Bytes of an error body of upstream that are passed on."""
FAR = 64 * 1024 * 1024
"""A range that begins so many bytes beyond what a fill has is fetched by itself."""


@define
class UpstreamSource:
    """A blob at its registry, asked for with one client's credential (source.Source).

    Whatever happened before, it is the registry that is asked, never an address it once redirected to: those expire.
    """

    upstream: Upstream = field(eq=False)
    target: bytes
    headers: RawHeaders
    _etag: bytes | None = field(default=None, init=False, eq=False)
    _answered: bool = field(default=False, init=False, eq=False)
    """Has upstream answered before? What began then has patience of its own."""

    async def open(self, start: int, stop: int | None) -> Response:
        """The bytes from `start`, to the end or before `stop`."""
        headers = list(self.headers)
        if start or stop is not None:
            headers.append((b"Range", b"bytes=%d-" % start + (b"" if stop is None else b"%d" % (stop - 1))))
            if self._etag is not None:
                headers.append((b"If-Range", self._etag))
        response = await self.upstream.request(
            b"GET", self.target, headers, follow=True, patient=self._answered
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
                await self._send(request, digest, source, opening.growing, MISS)
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
                await self._send(request, digest, source, blob, HIT)
            finally:
                blob.close()
            return True
        growing = self._registry.shared.fills.get(digest)
        if growing is None:
            return False
        self._registry.shared.fills.offer(digest, source)
        await self._send(request, digest, source, growing, COLLAPSED)
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
        _check_empty(digest, response.length)
        request.begin(200, [*_describe(digest), UNSTORED], response.length)
        try:
            await pass_whole(request, response, digest, digest.hasher(), 0, 0)
        except FillFailed as error:
            log.info("response cut short: {why}", why=error)
            request.cut()
            return
        if not request.gone:
            request.finish()

    # -- to the client

    async def _send(
        self,
        request: Request,
        digest: Digest,
        source: Source,
        file: OpenBlob | Growing,
        status: tuple[bytes, bytes],
    ) -> None:
        _check_empty(digest, file.size)
        etag = f'"{digest}"'
        headers = [*_describe(digest), status]
        if matches(request.header("if-none-match"), etag):
            request.begin(304, headers, None)
            request.finish()
            return
        start, stop, code = 0, file.size, 200
        if file.size is not None:
            headers.append((b"Accept-Ranges", b"bytes"))
            # for HEAD a Range means nothing (RFC 9110 section 14.2)
            wanted = request.header("range") if request.method == b"GET" else None
            part = decide_range(wanted, file.size, request.header("if-range"), etag)
            if isinstance(part, Unsatisfiable):
                unsatisfied = (b"Content-Range", unsatisfied_range(file.size).encode())
                request.answer_error(
                    416, "RANGE_INVALID", f"the blob has {file.size} bytes", [VIA, unsatisfied]
                )
                return
            if isinstance(part, Part):
                start, stop, code = part.start, part.stop, 206
                if isinstance(file, Growing) and start > file.watermark + FAR:
                    await stream(request, await source.open(start, stop), (AHEAD,))
                    return
                headers.append((b"Content-Range", content_range(part, file.size).encode()))
        request.begin(code, headers, None if stop is None else stop - start)
        if request.method != b"HEAD":
            if isinstance(file, OpenBlob):
                assert stop is not None
                try:
                    await request.send_file(file.fd, start, stop - start)
                except FileUnreadable as error:
                    await self._give_up(digest, file, error)
                    raise
            else:
                if not await self._follow(request, digest, source, file, start, stop):
                    return
        if isinstance(file, OpenBlob):
            self._registry.shared.index.used(digest, self._registry.shared.now())
        if not request.gone:
            request.finish()

    async def _give_up(self, digest: Digest, blob: OpenBlob, error: FileUnreadable) -> None:
        """A stored blob cannot be read: whoever asks for it again, as this client will, gets it from upstream."""
        shared = self._registry.shared
        path = shared.store.blob_path(digest)
        if (error.__cause__ is None or is_medium(error.__cause__)) and is_at(blob.fd, path):
            shared.index.remove([digest])
            try:
                await shared.in_thread(discard, shared.store, digest, str(error))
            except OSError as failed:
                log.error("{digest} cannot be removed: {why}", digest=str(digest), why=failed)

    async def _follow(
        self, request: Request, digest: Digest, source: Source, growing: Growing, start: int, stop: int | None
    ) -> bool:
        """Send a growing file, from `start` to `stop` or to its end; False when the response had to be cut."""
        reader = growing.reader(start)
        request.when_gone(reader.stop_waiting)
        try:
            while stop is None or reader.position < stop or not stop:
                edge = await reader.edge()
                if stop is not None:
                    edge = min(edge, stop)
                if edge <= reader.position:
                    break  # verified, and nothing more comes
                await request.send_file(reader.fd, reader.position, edge - reader.position)
                reader.position = edge
        except FillFailed as error:
            if isinstance(error, StoreFailed) and not request.gone:
                shared = self._registry.shared
                shared.trouble.report(error)
                if start == 0 and stop == growing.total:
                    await go_on_without_store(
                        request, source, digest, reader.fd, reader.position, shared.in_thread
                    )
                else:
                    await bring_part(request, source, reader.position, stop)
            else:
                log.info("response cut short: {why}", why=error)
                request.cut()
                return False
        finally:
            reader.close()
        return True


def _check_empty(digest: Digest, size: int | None) -> None:
    """A response without a body is complete with its head: nothing could be held back until the digest is right."""
    if size == 0 and Digest.of(b"", digest.algorithm) != digest:
        raise UpstreamFailed(f"upstream sent nothing for {digest}")


def _describe(digest: Digest) -> list[tuple[bytes, bytes]]:
    named = str(digest).encode()
    return [
        (b"Content-Type", b"application/octet-stream"),
        (b"Docker-Content-Digest", named),
        (b"ETag", b'"' + named + b'"'),
        (b"Docker-Distribution-Api-Version", b"registry/2.0"),
        (b"Cache-Control", b"max-age=31536000"),
        VIA,
    ]


async def _captured(response: Response) -> Answer:
    """An error of upstream, with its body if that is small."""
    try:
        return await capture(response, MOST_ERROR)
    except (TooLarge, UpstreamFailed):
        return Answer(response.status, response.reason, response.headers, b"")
