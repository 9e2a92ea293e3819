"""A registry: its upstream, and the one way in which everything asks whether a client may read what is stored."""

from collections.abc import Callable
from typing import Literal

from attrs import define, field, frozen
from twisted.logger import Logger

from .access import Access, decide_access
from .anonymity import Anonymity
from .authentication import Sessions
from .commons import Commons
from .config import Limits, Registry
from .disk import InThread
from .evidence import Credential, Proofs
from .fills import Fills, Settings
from .http1 import Response
from .index import Index
from .patience import Patience
from .recent import RecentManifests
from .reference import Digest, Repository
from .relay import Answer, asking
from .session import Session
from .singleflight import SingleFlight
from .store import Store
from .trouble import Trouble
from .upstream import REDIRECTS, Upstream
from .web import Request

log = Logger()

Kind = Literal["blobs", "manifests"]

_ERROR_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}
_UNKNOWN_CODES: dict[Kind, str] = {"blobs": "BLOB_UNKNOWN", "manifests": "MANIFEST_UNKNOWN"}
_DESCRIBES_BODY = (b"content-type", b"content-length", b"content-encoding", b"docker-content-digest", b"etag")


@frozen
class Shared:
    """What all registries of a daemon share. Clocks are in seconds: `now` since the epoch."""

    store: Store
    index: Index
    fills: Fills
    trouble: Trouble
    proofs: Proofs
    anonymity: Anonymity
    commons: Commons
    recent: RecentManifests
    limits: Limits
    in_thread: InThread
    now: Callable[[], float]


@define(eq=False)
class CachedRegistry:
    """One configured registry: its upstream, and what is known of its clients' rights."""

    shared: Shared
    upstream: Upstream
    _sessions: Sessions
    _probes: "SingleFlight[tuple[Kind, Repository, Digest, Credential], Answer | None]" = field(
        factory=SingleFlight
    )

    @property
    def settings(self) -> Registry:
        """Its configuration."""
        return self.upstream.registry

    @property
    def session(self) -> Session | None:
        """Requests on the configured credential, if there is one."""
        return self._sessions.own

    @property
    def anonymous(self) -> Session:
        """Requests as anybody."""
        return self._sessions.anonymous

    @property
    def fill_settings(self) -> Settings:
        """How fills from this registry are done."""
        settings = self.settings
        return Settings(
            Patience(settings.retries, longest_delay=settings.retry_delay),
            settings.connections,
            self.shared.limits.fill_abandon,
        )

    def repository(self, name: str) -> Repository:
        """A repository of this registry; `name` has been parsed by routes.py."""
        return Repository(self.settings.name, name)

    def credential(self, request: Request) -> Credential:
        """The client's credential, as the proofs know it."""
        return self.shared.anonymity.credential(request.header("authorization"))

    def heard(self, repository: Repository, credential: Credential, status: int) -> None:
        """Take what upstream's status says about a credential as evidence."""
        if 200 <= status < 300:
            self.shared.proofs.accept(repository, credential, self.shared.now(), self.settings.access_ttl)
        elif status in (401, 403):
            self.shared.proofs.refuse(repository, credential)

    async def may_read(
        self, request: Request, kind: Kind, repository: Repository, digest: Digest
    ) -> Answer | None:
        """The access rule for something stored: None means yes, otherwise this is upstream's no.

        Raises UpstreamFailed when upstream had to be asked and could not be.
        """
        credential = self.credential(request)
        access = decide_access(
            self.shared.index.linked(repository, digest),
            self.shared.proofs.proved_at(repository, credential),
            self.shared.now(),
            self.settings.access_ttl,
        )
        if access is Access.SERVE:
            return None
        headers = asking(request)
        return await self._probes.run(
            (kind, repository, digest, credential),
            lambda: self._probe(kind, repository, digest, credential, headers),
        )

    async def _probe(
        self,
        kind: Kind,
        repository: Repository,
        digest: Digest,
        credential: Credential,
        headers: list[tuple[bytes, bytes]],
    ) -> Answer | None:
        if kind == "blobs":
            response = await self.head_blob(repository, digest, headers)
        else:
            target = target_of(kind, repository, digest)
            response = await self.upstream.request(b"HEAD", target, headers, follow=True)
        self.heard(repository, credential, response.status)
        if 200 <= response.status < 300:
            self.shared.index.link(repository, digest)
            return None
        return refusal(kind, response)

    async def head_blob(
        self, repository: Repository, digest: Digest, headers: list[tuple[bytes, bytes]]
    ) -> Response:
        """Upstream's word on a blob: a response without its body. Raises UpstreamFailed.

        A redirect alone is no yes, for there are registries that redirect whatever they are asked for. It is
        followed with a GET that ends at its head, because storage that signs URLs signs them for GET.
        """
        target = target_of("blobs", repository, digest)
        if self.settings.blob_probe == "head":
            response = await self.upstream.request(b"HEAD", target, headers)
            if response.status not in REDIRECTS:
                return response
        response = await self.upstream.request(b"GET", target, headers, follow=True)
        response.discard()
        return response


def target_of(kind: Kind, repository: Repository, target: object) -> bytes:
    """The path of a blob or manifest (OCI distribution spec, "Endpoints")."""
    return f"/v2/{repository.name}/{kind}/{target}".encode()


def refusal(kind: Kind, response: Response) -> Answer:
    """The no that a HEAD brought, with the body that a GET would have had."""
    code = _UNKNOWN_CODES[kind] if response.status == 404 else _ERROR_CODES.get(response.status, "UNKNOWN")
    body = (
        f'{{"errors":[{{"code":"{code}","message":"upstream answered {response.status}","detail":null}}]}}\n'
    )
    headers = [h for h in response.headers if h[0].lower() not in _DESCRIBES_BODY]
    headers.append((b"Content-Type", b"application/json"))
    return Answer(response.status, response.reason, headers, body.encode())
