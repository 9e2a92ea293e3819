"""The endpoints of a registry as clients see it: every request for it comes here and leaves as a response.

Blobs, manifests and pushes have modules of their own; the rest of the API, and token endpoints on the registry's host,
pass through untouched.
"""

from attrs import define, field

from .blobs import Blobs, Openings
from .connect import Authority, HeadError
from .manifests import Manifests
from .push import Pushes, is_write
from .registry import CachedRegistry
from .relay import BYPASS, VIA, stream, upward
from .routes import Blob, Manifest, Upload, route
from .web import MOST_BODY, Request


@define(eq=False)
class Endpoints:
    """All endpoints of one registry."""

    _registry: CachedRegistry
    _openings: Openings
    _blobs: Blobs = field(init=False)
    _manifests: Manifests = field(init=False)
    _pushes: Pushes = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._blobs = Blobs(self._registry, self._openings)
        self._manifests = Manifests(self._registry)
        self._pushes = Pushes(self._registry)

    async def respond(self, request: Request) -> None:
        """Answer one request of an intercepted connection."""
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
            await self._pass_through(request)  # a token endpoint on the registry's host
        else:
            match route(request.path):
                case Blob(repository, digest):
                    await self._blobs.answer(request, repository, digest)
                case Manifest(repository, target):
                    await self._manifests.answer(request, repository, target)
                case Upload():
                    await self._pushes.answer(request)
                case _:
                    await self._pass_through(request)

    def _is_ours(self, request: Request) -> bool:
        """Is the request for the registry the connection was made to (RFC 9110 section 7.4)?"""
        if not request.uri.startswith(b"/"):
            return False
        host = request.header("host")
        if host is None:
            return True  # HTTP/1.0
        try:
            named = Authority.parse(host, 443)
        except HeadError:
            return False
        return named.host in {authority.host for authority in self._registry.settings.authorities}

    async def _pass_through(self, request: Request) -> None:
        response = await self._registry.upstream.request(
            request.method, request.uri, upward(request), body=request.body()
        )
        await stream(request, response, (BYPASS,))
