"""The endpoints of a registry as clients see it: every request for it comes here and leaves as a response.

Blobs, manifests, pushes, the ping and tokens have modules of their own; the rest of the API, and of what token
endpoints are asked for, passes through untouched.
"""

from collections.abc import Mapping

from attrs import define, field

from .blobs import Blobs, Openings
from .connect import Authority, HeadError
from .destination import Way
from .interfaces import Scope
from .manifests import Manifests
from .pings import Pings
from .push import Pushes, is_write
from .referrers import Referrers
from .registry import CachedRegistry
from .relay import BYPASS, VIA, stream, upward
from .routes import Blob, Catalog, Elsewhere, Manifest, Ping, TagList, Upload, route
from .routes import Referrers as ReferrersOf
from .token_endpoints import TokenEndpoints
from .upstream import Upstream
from .web import MOST_BODY, Request


@define(eq=False)
class Endpoints:
    """All endpoints of one registry, and of its token hosts."""

    _registry: CachedRegistry
    _openings: Openings
    _token_hosts: Mapping[Authority, Upstream] = field(factory=dict)
    _blobs: Blobs = field(init=False)
    _manifests: Manifests = field(init=False)
    _referrers: Referrers = field(init=False)
    _pings: Pings = field(init=False)
    _tokens: TokenEndpoints = field(init=False)
    _pushes: Pushes = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._blobs = Blobs(self._registry, self._openings)
        self._manifests = Manifests(self._registry)
        self._referrers = Referrers(self._registry)
        self._pings = Pings(self._registry)
        self._tokens = TokenEndpoints(self._registry, self._pings, self._token_hosts)
        self._pushes = Pushes(self._registry)

    async def respond(self, request: Request) -> None:
        """Answer one request for the registry."""
        await self._respond(request)
        if request.code == 401:
            self._tokens.refused(request)

    async def _respond(self, request: Request) -> None:
        name = self._registry.settings.name
        if not self._is_ours(request):
            request.answer_error(
                421, "UNSUPPORTED", f"this connection is for {name}; the Host header says otherwise"
            )
        elif is_write(request):
            await self._pushes.answer(request)
        elif request.too_large:
            request.answer_error(
                413, "SIZE_INVALID", f"a request body may have {MOST_BODY} bytes here", [VIA]
            )
        elif request.method == b"POST":
            await self._pass_through(request)  # a token endpoint
        elif host := self._tokens.host(request.authority):
            if not await self._tokens.answer(request, host):
                await self._pass_through(request)
        else:
            match route(request.path):
                case Blob(repository, digest):
                    await self._blobs.answer(request, repository, digest)
                case Manifest(repository, target):
                    await self._manifests.answer(request, repository, target)
                case Ping() if await self._pings.answer(request):
                    pass
                case Elsewhere() if await self._tokens.answer(request, self._registry.upstream):
                    pass
                case Upload():
                    await self._pushes.answer(request)
                case ReferrersOf(name, digest):
                    await self._referrers.answer(request, name, digest)
                case (TagList() | Catalog()) as listing:
                    await self._list(request, None if isinstance(listing, Catalog) else listing.name)
                case _:
                    await self._pass_through(request)

    def _is_ours(self, request: Request) -> bool:
        """Is the request for whom the connection was made to (RFC 9110 section 7.4)?"""
        if request.destination is not None and request.destination.way is not Way.CONNECT:
            return True  # it says itself whom it is for
        if not request.uri.startswith(b"/"):
            return False
        host = request.header("host")
        if host is None:
            return True  # HTTP/1.0
        try:
            named = Authority.parse(host, 443)
        except HeadError:
            return False
        authority = request.authority
        if authority is not None and self._tokens.host(authority):
            return named.host == authority.host
        return named.host in {authority.host for authority in self._registry.settings.authorities}

    async def _list(self, request: Request, repository: str | None) -> None:
        """What there is, of a repository or of all: upstream says, to the client or to whose credential it shares."""
        way = self._registry.session_for(request) or self._registry.stranger(request)
        if way is None:
            await self._pass_through(request)
            return
        scope = Scope(repository)
        response = await way.request(
            request.method, request.uri, upward(request), scope=scope, follow=request.is_mirrored
        )
        await stream(request, response, (BYPASS,))

    async def _pass_through(self, request: Request) -> None:
        upstream = self._tokens.host(request.authority) or self._registry.upstream
        response = await upstream.request(
            request.method, request.uri, upward(request), body=request.body(), follow=request.is_mirrored
        )
        await stream(request, response, (BYPASS,))
