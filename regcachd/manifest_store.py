"""Manifests in the store: small, kept like blobs under their digests, and checked whenever they are read."""

from attrs import define, evolve
from twisted.logger import Logger

from .freshness import essence, matches
from .recent import Manifest
from .reference import Digest, InvalidReference, Repository, Target
from .registry import CachedRegistry
from .relay import VIA, Answer
from .response import UpstreamFailed
from .source import is_page
from .web import Request

log = Logger()

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
"""Its digest leaves the signatures out, so the bytes cannot be checked: such manifests are not stored."""


class WrongManifest(UpstreamFailed):
    """What upstream sent is no manifest that can be used. It did answer, so nothing older will do instead."""


@define(eq=False)
class ManifestStore:
    """The manifests that one registry has given, of which all that are alike are stored once."""

    _registry: CachedRegistry

    async def take(
        self, repository: Repository, target: Target, answer: Answer
    ) -> tuple[Answer, Digest | None]:
        """Store what upstream has sent. Returns it as it goes on to the client, and its digest if it is stored.

        Raises WrongManifest when the bytes do not have the digest that was asked for or promised.
        """
        registry = self._registry
        media_type = media_type_of(answer)
        is_encoded = answer.header(b"content-encoding") is not None
        if media_type.startswith(_SCHEMA_1) or is_encoded or is_page(answer):
            return answer, None
        digest = _verified(repository, target, answer)
        known = registry.shared.index.media_type(digest)
        if known is not None and essence(known) != essence(media_type):
            # the same bytes are something else elsewhere, where anybody may have pushed them
            return answer, None
        await self._put(digest, answer.body, media_type)
        registry.shared.index.link(repository, digest)
        named = (b"Docker-Content-Digest", str(digest).encode())  # upstream's may be missing, or wrong
        headers = [h for h in answer.headers if h[0].lower() != b"docker-content-digest"]
        return evolve(answer, headers=[*headers, named]), digest

    async def _put(self, digest: Digest, body: bytes, media_type: str) -> None:
        shared = self._registry.shared
        try:
            await shared.in_thread(shared.store.put, digest, body)
        except OSError as error:
            shared.trouble.report(error)
            return
        shared.index.add(digest, len(body), media_type, shared.now())

    def get(self, digest: Digest) -> Manifest | None:
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

    def send(self, request: Request, digest: Digest, manifest: Manifest, *added: tuple[bytes, bytes]) -> None:
        """Answer with a manifest, or with 304 to a client that has it."""
        shared = self._registry.shared
        headers = [*describe(digest), *added]
        shared.index.used(digest, shared.now())
        if not not_modified(request, digest, headers):
            content_type = (b"Content-Type", manifest.media_type.encode("latin-1"))
            request.answer(200, [content_type, *headers], manifest.body)


def media_type_of(answer: Answer) -> str:
    """What upstream says that it is."""
    return (answer.header(b"content-type") or b"application/octet-stream").decode("latin-1")


def describe(digest: Digest) -> list[tuple[bytes, bytes]]:
    """The headers that say which manifest it is."""
    named = str(digest).encode()
    return [
        (b"Docker-Content-Digest", named),
        (b"ETag", b'"' + named + b'"'),
        (b"Docker-Distribution-Api-Version", b"registry/2.0"),
        VIA,
    ]


def not_modified(request: Request, digest: Digest, headers: list[tuple[bytes, bytes]]) -> bool:
    """Answer 304 if the client has this manifest: without Content-Length, which would have to be that of the manifest
    (RFC 9110 section 8.6). Returns whether it has."""
    if not matches(request.header("if-none-match"), f'"{digest}"'):
        return False
    if not request.gone:
        request.begin(304, headers, None)
        request.finish()
    return True


def _verified(repository: Repository, target: Target, answer: Answer) -> Digest:
    """The digest of a manifest's bytes. Raises WrongManifest when it is not the one asked for or promised."""
    if isinstance(target, Digest):
        expected = target
    else:
        named = answer.header(b"docker-content-digest")
        try:
            expected = Digest.parse(named.decode("latin-1")) if named is not None else Digest.of(answer.body)
        except InvalidReference as error:
            raise WrongManifest(
                f"{repository.registry} sent a manifest with a bad digest: {error}"
            ) from error
    if Digest.of(answer.body, expected.algorithm) != expected:
        log.error(
            "upstream sent wrong bytes for the manifest {repository}:{target}",
            repository=str(repository),
            target=str(target),
        )
        raise WrongManifest(
            f"{repository.registry} sent a manifest whose bytes do not have the digest {expected}"
        )
    return expected
