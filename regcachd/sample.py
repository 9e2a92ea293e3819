"""A sample of an image: its manifest, by tag and by digest, and the first byte of its first layer.

Taken as regcachd takes images, with nothing stored; what it shows is entered into a Record.
"""

from attrs import define, evolve

from .config import Limits, Registry
from .finding import Over, Record, failure, ok, warning
from .http1 import Response
from .interfaces import Scope
from .netloc import parse_url
from .reference import Digest, InvalidReference, Reference, Target
from .relay import TooLarge, capture
from .session import Session
from .upstream import REDIRECTS
from .verdicts import ACCEPT, Headers, contents, download, layer, limits, manifest


@define(eq=False)
class Sample:
    """A sample of one image, on the credential of `session`. Its methods raise Over and UpstreamFailed."""

    _session: Session
    _registry: Registry
    _limits: Limits
    _reference: Reference
    _record: Record

    async def take(self) -> None:
        """Take all of it."""
        digest = await self._manifest()
        blob = await self._first_blob(digest or self._reference.target)
        await self._byte(blob)

    async def head(self) -> Response:
        """HEAD of the manifest."""
        return await self._asked(b"HEAD", "manifests", self._reference.target)

    async def _manifest(self) -> Digest | None:
        self._record.step = "manifest"
        response = await self.head()
        headers = headers_of(response)
        is_own = self._registry.auth is not None
        self._record.add(limits(headers), manifest(response.status, headers, self._reference, is_own=is_own))
        if not 200 <= response.status < 300:
            raise Over
        try:
            return Digest.parse(headers.get("docker-content-digest", ""))
        except InvalidReference:
            return None

    async def _first_blob(self, target: Target) -> Digest:
        """The digest of the first layer, in the manifest for linux/amd64 if there are several."""
        self._record.step = "digest"
        found = contents(await self._fetched(target))
        if found.child is not None:
            found = contents(await self._fetched(found.child))
        if found.blob is None:
            says = f"{self._reference} names no layer: it is of a kind that is older or newer than those known here"
            raise self._record.end(warning("layer", says, "name another image"))
        return found.blob

    async def _fetched(self, target: Target) -> bytes:
        reference = evolve(self._reference, target=target)
        response = await self._asked(b"GET", "manifests", target)
        try:
            answer = await capture(response, self._limits.manifest_size)
        except TooLarge as error:
            too_large = failure("digest", f"{reference} is too large: {error}", "raise limits.manifest_size")
            raise self._record.end(too_large) from None
        if answer.status != 200:
            says = f"{reference}: HEAD finds it, and GET gets status {answer.status}"
            raise self._record.end(
                failure("digest", says, "try again; if that stays, the registry is at fault")
            )
        if isinstance(target, Digest):
            if Digest.of(answer.body, target.algorithm) != target:
                says = f"{reference} comes with other bytes than those of its digest"
                raise self._record.end(
                    failure("digest", says, "look at what is between here and the registry")
                )
            says = f"{reference} comes, {len(answer.body):,} bytes, and is what its digest says"
            self._record.add(ok("digest", says))
        return answer.body

    async def _byte(self, blob: Digest) -> None:
        self._record.step = "layer"
        name, is_own = f"the layer {blob}", self._registry.auth is not None
        probe = b"HEAD" if self._registry.blob_probe == "head" else b"GET"
        response = await self._asked(probe, "blobs", blob, follow=False)
        response.discard()
        where = _redirected(response)
        self._record.add(layer(response.status, headers_of(response), name, where, is_own=is_own))
        self._record.step = "download"
        response = await self._asked(b"GET", "blobs", blob, (b"Range", b"bytes=0-0"))
        response.discard()
        self._record.add(download(response.status, headers_of(response), name))

    async def _asked(
        self, method: bytes, kind: str, target: Target, *headers: tuple[bytes, bytes], follow: bool = True
    ) -> Response:
        repository = self._reference.repository.name
        path = f"/v2/{repository}/{kind}/{target}".encode()
        accept = ACCEPT.encode() if kind == "manifests" else b"*/*"
        given = [(b"Accept", accept), (b"Accept-Encoding", b"identity"), *headers]
        return await self._session.request(method, path, given, scope=Scope(repository), follow=follow)


def headers_of(response: Response) -> Headers:
    """The first value of each header, by lower-case name."""
    found: dict[str, str] = {}
    for name, value in response.headers:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found


def _redirected(response: Response) -> str | None:
    """The host that an answer redirects to; never more, for the rest may be signed. Raises BadRedirect."""
    location = response.header(b"location")
    if response.status not in REDIRECTS or location is None:
        return None
    text = location.decode("latin-1")
    return parse_url(text)[0].authority if "://" in text[:10] else "another place there"
