"""Reception: every request is told whom it is for when its head has come, and is answered there.

The daemon's own pages are for all clients. What leads further is, where users must say who they are, for users only:
inside of a CONNECT they have said it, all others say it in Proxy-Authorization with each request.
"""

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from .addressing import Addressing
from .admission import CHALLENGE, ProxyUsers
from .connect import Authority
from .destination import Destination, Misaddressed, Welcome
from .endpoints import Endpoints
from .farewell import PLAIN
from .mirror import in_mirror
from .pages import Pages
from .push import READING, is_write
from .relay import VIA
from .routes import Elsewhere, Upload, route
from .schema import Registry
from .web import JSON, Request

_WELCOME = ((b"Content-Type", JSON), (b"Docker-Distribution-Api-Version", b"registry/2.0"), VIA)
_PASSED_ON = ("basic", "bearer")
_HOW = "; without CONNECT it is said in the header Proxy-Authorization of each request (docs/mirror.md)"


@define(eq=False)
class Reception:
    """What all connections share. `names` are those of this machine, besides its addresses."""

    _registries: Mapping[str, Registry]
    _endpoints: Mapping[str, Endpoints]
    _pages: Pages
    _users: ProxyUsers | None
    _names: frozenset[str]
    _addressing: Addressing = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._addressing = Addressing(self._registries)

    def address(self, request: Request) -> None:
        """Find out whom a request is for."""
        if request.channel.destination is not None:
            request.address(request.channel.destination, request.uri)
        elif request.method != b"CONNECT":
            here = request.channel.transport.getHost()
            found = self._addressing.find(request.uri, lambda authority: self._is_ours(authority, here))
            request.address(found.whom, found.target)
            self._check(request)

    def is_upload(self, request: Request) -> bool:
        """Is it answered while its body comes?"""
        return isinstance(request.whom, Misaddressed) or is_write(request)

    async def respond(self, request: Request) -> None:
        """Answer it."""
        if request.whom is None:
            await self._pages.respond(request)
            return
        if request.channel.destination is None and not await self._is_admitted(request):
            return
        match request.whom:
            case Misaddressed(status, code, reason):
                _refuse(request, status, code, reason)
            case Welcome():
                request.answer(200, _WELCOME, b"{}")
            case destination:
                await self._endpoints[destination.registry.name].respond(request)

    def _is_ours(self, authority: Authority, here: Any) -> bool:
        """Is it the address at which the connection was made? `here` is that, as Twisted has it."""
        host = str(getattr(here, "host", "")).removeprefix("::ffff:")
        return authority.port == getattr(here, "port", authority.port) and (
            authority.host == host or authority.host in self._names
        )

    def _check(self, request: Request) -> None:
        """Turn away what no mirror and no proxy answers."""
        if isinstance(request.whom, Destination | Welcome) and (wrong := _wrong_with(request)) is not None:
            request.address(wrong, request.uri)

    async def _is_admitted(self, request: Request) -> bool:
        """Is it a user's, where there are users? If not, it has been answered."""
        if self._users is None:
            return True
        header, address = request.header("proxy-authorization"), getattr(request.client, "host", "")
        refusal = await self._users.refusal(None if header is None else header.encode("latin-1"), address)
        if refusal is None:
            return True
        extra, reason = (
            ([CHALLENGE], refusal.reason + _HOW) if refusal.status == 407 else ([], refusal.reason)
        )
        _refuse(request, refusal.status, "DENIED", reason, extra)
        return False


def _wrong_with(request: Request) -> Misaddressed | None:
    """Why a request that says itself whom it is for is not passed on; None if it may be."""
    hosts = len(request.lines("host"))
    if hosts > 1 or (not hosts and request.clientproto == b"HTTP/1.1"):
        return Misaddressed(400, "UNSUPPORTED", "a request has one Host header (RFC 9112 section 3.2)")
    if isinstance(request.whom, Welcome):
        is_read = request.method in READING
    elif not request.is_mirrored:
        return None
    else:
        where = route(request.path)
        is_read = request.method in READING and not isinstance(where, Upload)
        if isinstance(where, Elsewhere):
            return Misaddressed(
                404, "NAME_INVALID", "this names nothing of the distribution API; see docs/mirror.md"
            )
    if not is_read:
        reason = (
            "a mirror is read-only, whatever allow_push says: push to the registry itself, through the proxy"
        )
        return Misaddressed(405, "UNSUPPORTED", reason)
    schemes = [value.partition(" ")[0].lower() for value in request.lines("authorization")]
    if len(schemes) > 1 or not set(schemes) <= set(_PASSED_ON):
        return Misaddressed(400, "UNSUPPORTED", "a mirror passes on one Authorization, Basic or Bearer")
    return None


def _refuse(
    request: Request, status: int, code: str, reason: str, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    """In the form that clients of the API read; to others in plain text."""
    headers = [*([(b"Allow", b"GET, HEAD")] if status == 405 else []), *(extra or [])]
    if in_mirror(request.uri):
        request.answer_error(status, code, reason, [*headers, VIA])
    else:
        request.answer(status, [(b"Content-Type", PLAIN), *headers], reason.encode() + b"\n")
