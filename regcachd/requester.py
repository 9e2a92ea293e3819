"""Requesters: who asks a registry for something, and with what.

A client asks with its own headers, which go on as they came; one without an Authorization asks with regcachd's own
credential where that is shared. Whether a repository is public regcachd asks in nobody's name, with no
credential but the tokens that anybody gets. In that way it asks for those, too, who take it for the registry (a
mirror's clients) and show no credential.
"""

from typing import Literal, Protocol

from attrs import evolve, field, frozen

from . import __version__
from .access import Who
from .evidence import ANONYMOUS, Credential
from .http1 import RawHeaders, Response
from .interfaces import Scope
from .reference import Digest, Repository
from .relay import VIA
from .session import CLIENTS_OWN, CredentialRefused, Session
from .upstream import REDIRECTS, Upstream

Kind = Literal["blobs", "manifests"]

_OF_CONTENT = frozenset((b"accept", b"user-agent"))
_OWN_NAME = (b"User-Agent", f"regcachd/{__version__}".encode())


class Asks(Protocol):
    """What a registry can be asked through: a Session, or what asks as the client does."""

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: RawHeaders,
        *,
        scope: Scope,
        follow: bool = False,
        patient: bool = False,
    ) -> Response:
        """As `Upstream.request`."""


@frozen
class Bare:
    """Asks with no other credential than what the headers have."""

    upstream: Upstream

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: RawHeaders,
        *,
        scope: Scope,
        follow: bool = False,
        patient: bool = False,
    ) -> Response:
        """As `Upstream.request`."""
        return await self.upstream.request(method, target, headers, follow=follow, patient=patient)


@frozen
class Stranger:
    """Asks as anybody does, for a client that cannot ask for a token itself as long as nothing is asked of it."""

    _anonymous: Session
    _bare: Bare

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: RawHeaders,
        *,
        scope: Scope,
        follow: bool = False,
        patient: bool = False,
    ) -> Response:
        """As `Upstream.request`. Where nobody gets a token without a credential, the answer is what says so to clients:
        the registry's challenge, to which those that have one will answer."""
        try:
            return await self._anonymous.request(
                method, target, headers, scope=scope, follow=follow, patient=patient
            )
        except CredentialRefused:
            kept = [header for header in headers if header[0].lower() not in CLIENTS_OWN]
            return await self._bare.request(method, target, kept, scope=scope, follow=follow, patient=patient)


def _fixed(headers: RawHeaders) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(headers)


@frozen
class Requester:
    """One who asks. Equal ones get equal answers, but for what they accept."""

    who: Who
    credential: Credential
    """What tells those apart who may get different answers."""
    headers: RawHeaders = field(converter=_fixed, eq=False, repr=False)
    is_judged: bool
    """Is a refusal upstream's word on `who`? Not where the challenge that comes with it would have to be met first."""
    _way: Asks = field(eq=False, repr=False)

    @property
    def proof(self) -> Credential:
        """Whose right it is that a yes proves."""
        return ANONYMOUS if self.who is Who.ANONYMOUS else self.credential

    def probing(self, media_type: str | None) -> "Requester":
        """The same for a question of regcachd's own. Nothing but the credential is the client's any more, so no header
        of its can make upstream fail at the question. `media_type` is that of a manifest."""
        kept = [header for header in self.headers if header[0].lower() not in _OF_CONTENT]
        accept = [] if media_type is None else [(b"Accept", media_type.encode("latin-1"))]
        return evolve(self, headers=(*kept, *accept, _OWN_NAME))

    def accepting(self, line: str) -> "Requester":
        """The same with this Accept, or with none, in place of the client's. What many get must not depend on how one
        of them has written it."""
        kept = [header for header in self.headers if header[0].lower() != b"accept"]
        accept = [(b"Accept", line.encode("latin-1"))] if line else []
        return evolve(self, headers=(*kept, *accept))

    async def ask(
        self,
        method: bytes,
        kind: Kind,
        repository: Repository,
        target: object,
        extra: RawHeaders = (),
        follow: bool = True,
        patient: bool = False,
    ) -> Response:
        """Upstream's answer about a blob or manifest. Raises UpstreamFailed."""
        unwanted = b"accept" if kind == "blobs" else b""
        headers = [header for header in self.headers if header[0].lower() != unwanted]
        path = f"/v2/{repository.name}/{kind}/{target}".encode()  # OCI distribution spec, "Endpoints"
        return await self.request(method, path, [*headers, *extra], repository, follow, patient)

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: RawHeaders,
        repository: Repository,
        follow: bool = False,
        patient: bool = False,
    ) -> Response:
        """Any request to do with a repository, as `Upstream.request`. Raises UpstreamFailed."""
        scope = Scope(repository.name)
        return await self._way.request(method, target, headers, scope=scope, follow=follow, patient=patient)

    async def head_blob(
        self, repository: Repository, digest: Digest, by_get: bool, patient: bool = False
    ) -> Response:
        """Upstream's word on a blob: a response without its body. Raises UpstreamFailed.

        A redirect alone is no yes, for there are registries that redirect whatever they are asked for. It is
        followed with a GET that ends at its head, because storage that signs URLs signs them for GET. `by_get`: the
        registry answers HEAD wrongly.
        """
        if not by_get:
            response = await self.ask(b"HEAD", "blobs", repository, digest, follow=False, patient=patient)
            if response.status not in REDIRECTS:
                return response
        response = await self.ask(b"GET", "blobs", repository, digest, patient=patient)
        response.discard()
        return response


def anybody(way: Asks, headers: RawHeaders = ((b"Accept-Encoding", b"identity"), VIA)) -> Requester:
    """Who asks whether something is public, or for a client that shows no credential, with what `headers` it has."""
    return Requester(Who.ANONYMOUS, Credential(b"anybody"), headers, True, way)
