"""Manifests: small, kept like blobs under their digests, and named by tags that move.

By digest a manifest is immutable and comes from the store. By tag upstream is asked each time with a HEAD, which
Docker Hub does not count as a pull, and the stored manifest is served while the tag still names it.
"""

from attrs import define, evolve, field
from twisted.logger import Logger

from .freshness import TagEntry, TagUse, essence, matches, still_names, use_of
from .http1 import UpstreamFailed
from .recent import Manifest
from .reference import Digest, InvalidReference, Repository, Tag, Target
from .registry import CachedRegistry, Question
from .relay import HIT, STALE, VIA, Answer, TooLarge, cache_status, capture, stream
from .requester import Requester
from .singleflight import SingleFlight
from .source import is_page
from .web import Request

log = Logger()

REVALIDATED = cache_status("hit; detail=revalidated")
MISS = cache_status("fwd=uri-miss; stored")
FORWARDED = cache_status("fwd=uri-miss")

_SCHEMA_1 = b"application/vnd.docker.distribution.manifest.v1+"
"""Its digest leaves the signatures out, so the bytes cannot be checked: such manifests are not stored."""

_Asked = tuple[Repository, Target, str, Requester]


@define(eq=False)
class Manifests:
    """The manifest endpoint of one registry."""

    _registry: CachedRegistry
    _fetches: "SingleFlight[_Asked, Answer]" = field(factory=SingleFlight)

    async def answer(self, request: Request, name: str, target: Target) -> None:
        """GET or HEAD of a manifest."""
        repository = self._registry.repository(name)
        if isinstance(target, Digest):
            await self._by_digest(request, repository, target)
        else:
            await self._by_tag(request, repository, target)

    async def _by_digest(self, request: Request, repository: Repository, digest: Digest) -> None:
        stored = self._stored(digest)
        if stored is None:
            if request.method == b"HEAD":
                await self._head(request, repository, digest)
            else:
                await self._fetch(request, repository, digest)
            return
        size = len(stored.body)
        question = Question("manifests", repository, digest, lambda: size, stored.media_type)
        registry = self._registry
        right = await registry.may_read(request, registry.requester(request), question)
        if isinstance(right, Answer):
            right.send(request, FORWARDED)
        elif right is not None:
            self._send(request, digest, stored, STALE if right.is_stale else HIT)
        elif request.method == b"HEAD":
            await self._head(request, repository, digest)
        else:
            await self._fetch(request, repository, digest)

    async def _by_tag(self, request: Request, repository: Repository, tag: Tag) -> None:
        if request.method == b"HEAD":
            await self._head(request, repository, tag)
            return
        index = self._registry.shared.index
        entry = index.tag(repository, tag, _accept_key(request))
        if (
            entry is not None
            and use_of(entry) is TagUse.REVALIDATE
            and await self._still(request, repository, tag, entry)
        ):
            stored = self._stored(entry.digest)
            if stored is not None and essence(stored.media_type) == essence(entry.media_type):
                index.link(repository, entry.digest)
                self._send(request, entry.digest, stored, REVALIDATED)
                return
        await self._fetch(request, repository, tag)

    # -- from upstream

    async def _still(self, request: Request, repository: Repository, tag: Tag, entry: TagEntry) -> bool:
        """Does upstream, asked with the client's credential, still name the manifest of `entry`?"""
        registry = self._registry
        requester, asked = registry.requester(request), registry.shared.now()
        response = await requester.ask(b"HEAD", "manifests", repository, tag)
        response.discard()
        registry.heard_status(requester, repository, response, asked)
        named = response.header(b"docker-content-digest")
        return response.status == 200 and still_names(
            entry, None if named is None else named.decode("latin-1")
        )

    async def _head(self, request: Request, repository: Repository, target: Target) -> None:
        registry = self._registry
        requester, asked = registry.requester(request), registry.shared.now()
        response = await requester.ask(b"HEAD", "manifests", repository, target)
        registry.heard_status(requester, repository, response, asked)
        await stream(request, response, (FORWARDED,))

    async def _fetch(self, request: Request, repository: Repository, target: Target) -> None:
        requester, accept = self._registry.requester(request), _accept_key(request)
        answer = await self._fetches.run(
            (repository, target, accept, requester),
            lambda: self._download(repository, target, accept, requester),
        )
        if answer.status == 200:
            named = answer.header(b"docker-content-digest")
            if named is not None and matches(request.header("if-none-match"), f'"{named.decode("latin-1")}"'):
                _not_modified(request, [(b"Docker-Content-Digest", named), VIA, MISS])
                return
        answer.send(request, MISS if answer.status == 200 else FORWARDED)

    async def _download(
        self, repository: Repository, target: Target, accept: str, requester: Requester
    ) -> Answer:
        registry = self._registry
        limit, asked = registry.shared.limits.manifest_size, registry.shared.now()
        response = await requester.ask(b"GET", "manifests", repository, target)
        registry.heard_status(requester, repository, response, asked)
        try:
            answer = await capture(response, limit)
        except TooLarge as error:
            raise UpstreamFailed(
                f"the manifest {repository}:{target} is too large: {error} (limits.manifest_size)"
            ) from error
        if answer.status != 200:
            return answer
        media_type = (answer.header(b"content-type") or b"application/octet-stream").decode("latin-1")
        is_encoded = answer.header(b"content-encoding") is not None
        if media_type.encode("latin-1").startswith(_SCHEMA_1) or is_encoded or is_page(answer):
            return answer
        digest = _verified(repository, target, answer)
        known = registry.shared.index.media_type(digest)
        if known is not None and essence(known) != essence(media_type):
            return answer  # the same bytes are something else elsewhere, where anybody may have pushed them
        await self._store(digest, answer.body, media_type)
        registry.shared.index.link(repository, digest)
        if isinstance(target, Tag):
            entry = TagEntry(digest, media_type, registry.shared.now())
            registry.shared.index.set_tag(repository, target, accept, entry)
        named = (b"Docker-Content-Digest", str(digest).encode())  # upstream's may be missing, or wrong
        headers = [h for h in answer.headers if h[0].lower() != b"docker-content-digest"]
        return evolve(answer, headers=[*headers, named])

    # -- the store

    async def _store(self, digest: Digest, body: bytes, media_type: str) -> None:
        shared = self._registry.shared
        try:
            await shared.in_thread(shared.store.put, digest, body)
        except OSError as error:
            shared.trouble.report(error)
            return
        shared.index.add(digest, len(body), media_type, shared.now())

    def _stored(self, digest: Digest) -> Manifest | None:
        """A manifest that we have and that has the digest, from memory or from the store."""
        shared = self._registry.shared
        recent = shared.recent.get(digest)
        if recent is not None:
            return recent
        media_type = shared.index.media_type(digest)
        body = None if media_type is None else self._read(digest)
        if media_type is None or body is None:
            return None
        manifest = Manifest(media_type, body)
        shared.recent.put(digest, manifest)
        return manifest

    def _read(self, digest: Digest) -> bytes | None:
        """A few kilobytes of the store, read at once, and checked since that costs next to nothing."""
        shared = self._registry.shared
        try:
            blob = shared.store.open(digest)
            if blob is None:
                return None
            with open(blob.fd, "rb") as file:
                data = file.read(blob.size) if blob.size <= shared.limits.manifest_size else b""
        except OSError as error:
            log.error("a stored manifest cannot be read: {why}", why=error, digest=str(digest))
            return None
        if Digest.of(data, digest.algorithm) != digest:
            log.error("the stored manifest {digest} is damaged, asking upstream for it", digest=str(digest))
            return None
        return data

    def _send(
        self, request: Request, digest: Digest, manifest: Manifest, status: tuple[bytes, bytes]
    ) -> None:
        named = str(digest).encode()
        headers = [
            (b"Docker-Content-Digest", named),
            (b"ETag", b'"' + named + b'"'),
            (b"Docker-Distribution-Api-Version", b"registry/2.0"),
            VIA,
            status,
        ]
        self._registry.shared.index.used(digest, self._registry.shared.now())
        if matches(request.header("if-none-match"), f'"{digest}"'):
            _not_modified(request, headers)
        else:
            content_type = (b"Content-Type", manifest.media_type.encode("latin-1"))
            request.answer(200, [content_type, *headers], manifest.body)


def _not_modified(request: Request, headers: list[tuple[bytes, bytes]]) -> None:
    """Answer 304: without Content-Length, which would have to be that of the manifest (RFC 9110 section 8.6)."""
    if not request.gone:
        request.begin(304, headers, None)
        request.finish()


def _accept_key(request: Request) -> str:
    """What decides which manifest a tag stands for: the accepted media types, however they are split into lines."""
    return ",".join(part.strip() for line in request.lines("accept") for part in line.split(","))


def _verified(repository: Repository, target: Target, answer: Answer) -> Digest:
    """The digest of a manifest's bytes. Raises UpstreamFailed when it is not the one asked for or promised."""
    if isinstance(target, Digest):
        expected = target
    else:
        named = answer.header(b"docker-content-digest")
        try:
            expected = Digest.parse(named.decode("latin-1")) if named is not None else Digest.of(answer.body)
        except InvalidReference as error:
            raise UpstreamFailed(
                f"{repository.registry} sent a manifest with a bad digest: {error}"
            ) from error
    if Digest.of(answer.body, expected.algorithm) != expected:
        log.error(
            "upstream sent wrong bytes for the manifest {repository}:{target}",
            repository=str(repository),
            target=str(target),
        )
        raise UpstreamFailed(
            f"{repository.registry} sent a manifest whose bytes do not have the digest {expected}"
        )
    return expected
