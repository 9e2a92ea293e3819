"""Pushes: what changes a registry, passed on as it comes where the registry's `allow_push` says so.

The client's own credential goes with it and upstream judges; nothing is repeated, and what upstream answers goes back
as it came. So do the Locations of upload sessions, which lead to the registry again; only where that calls itself by an
address that the client does not know it by (`upstream`) does the client get its own name for it instead.
Only with `push_with_shared` does a client without a credential write with the one that regcachd shares.
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from attrs import define

from .interfaces import Scope
from .netloc import parse_url
from .passage import NotConnected
from .reference import Digest
from .referrers import key_prefix
from .registry import CachedRegistry
from .relay import BYPASS, VIA, stream, upward
from .response import RawHeaders, Response
from .routes import Blob, Manifest, Upload, in_api, route
from .upstream import Unreachable
from .web import Request

READING: Final = (b"GET", b"HEAD")
WRITING: Final = (b"POST", b"PUT", b"PATCH", b"DELETE")
_DOTS: Final = (b".", b"..")
_PROTO: Final = b"x-forwarded-proto"
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


def is_write(request: Request) -> bool:
    """Might this change something in a registry? All but reading, and asking for a token by POST."""
    return request.method not in READING and (in_api(request.path) or request.method != b"POST")


@define(eq=False)
class Pushes:
    """What one registry's clients write."""

    _registry: CachedRegistry

    async def answer(self, request: Request) -> None:
        """Pass a write on, or the question how far an upload is."""
        if is_write(request) and not self._may_pass(request):
            self._refuse(request)
            return
        try:
            response = await self._sent(request)
        except (NotConnected, Unreachable):
            raise  # nothing has been sent
        except BaseException:
            self._note(request)
            raise
        if response.status < 300:
            self._note(request)
        response.headers = [
            (name, self._way_back(request, value) if name.lower() == b"location" else value)
            for name, value in response.headers
        ]
        await stream(request, response, (BYPASS,))

    def _may_pass(self, request: Request) -> bool:
        settings = self._registry.settings
        at_registry = request.authority not in settings.token_hosts
        return settings.allow_push and at_registry and request.method in WRITING and _is_plain(request.path)

    async def _sent(self, request: Request) -> Response:
        """Upstream's answer."""
        registry, body = self._registry, request.upload or request.body()
        headers, where = self._headers(request), route(request.path)
        session = registry.session_for(request) if registry.settings.push_with_shared else None
        if session is None or not isinstance(where, Blob | Manifest | Upload):
            return await registry.upstream.request(request.method, request.uri, headers, body=body)
        actions = ("pull", "push", "delete") if request.method == b"DELETE" else ("pull", "push")
        scope = Scope(where.name, actions)
        return await session.request_once(request.method, request.uri, headers, body, scope=scope)

    def _refuse(self, request: Request) -> None:
        name = self._registry.settings.name
        message = f"regcachd is read-only for {name}: {request.method.decode('latin-1')} is not passed on"
        if not self._registry.settings.allow_push:
            message += " (the administrator can set allow_push for this registry)"
        request.answer_error(405, "UNSUPPORTED", message, [(b"Allow", b"GET, HEAD"), VIA])

    def _headers(self, request: Request) -> RawHeaders:
        """The client's. A registry without TLS is told whether the client has some: it makes absolute Locations."""
        headers, scheme = upward(request), _scheme(request).encode()
        if self._registry.settings.upstream.startswith("http://"):
            return [*(h for h in headers if h[0].lower() != _PROTO), (b"X-Forwarded-Proto", scheme)]
        return headers

    def _way_back(self, request: Request, location: bytes) -> bytes:
        """A Location as the client can follow it: by the name that it knows the registry by, if upstream's is another.

        containerd, for one, shows its credential to no other, and clients may be told to use no proxy for another.
        """
        known_as, found, scheme = request.authority, _ABSOLUTE.match(location), _scheme(request)
        home, _ = parse_url(self._registry.settings.upstream)
        if known_as is None or found is None or found[1].lower() != home.authority.encode():
            return location
        name = str(known_as).removesuffix(":443" if scheme == "https" else ":80")
        return f"{scheme}://{name}".encode() + location[found.end() :]

    def _note(self, request: Request) -> None:
        """Forget what a write has changed, or may have: without an answer nobody knows."""
        if request.method in READING:
            return
        registry, index = self._registry, self._registry.shared.index
        match route(request.path):
            case Manifest(name, target) if request.method in (b"PUT", b"DELETE"):
                index.tags.forget(registry.repository(name))
                registry.shared.commons.forget_all(key_prefix(registry.repository(name)))
                if request.method == b"DELETE" and isinstance(target, Digest):
                    index.unlink(registry.repository(name), target)
            case Blob(name, digest) if request.method == b"DELETE":
                index.unlink(registry.repository(name), digest)


def _scheme(request: Request) -> str:
    return "https" if request.destination is None else request.destination.scheme


def _is_plain(path: bytes) -> bool:
    """Do all servers read this path alike? Only then is it known what a write changes.

    Upload sessions may be anywhere, as those of Artifact Registry are; what is in the API must be so in plain words.
    """
    if not in_api(path):
        return True
    parts = unquote_to_bytes(path).split(b"/")
    is_straight = parts[-1] not in _DOTS and not {b"", *_DOTS} & set(parts[1:-1])
    return path.startswith(b"/v2/") and len(parts) == path.count(b"/") + 1 and is_straight
