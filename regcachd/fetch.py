"""What plugins have of the web: small requests to other servers, on the connections of their registry's upstream."""

from collections.abc import Mapping
from typing import Any

from attrs import define
from zope.interface import implementer

from . import __version__
from .guard import anywhere, never_ours
from .http1 import UpstreamFailed
from .interfaces import AuthFailed, Fetched, IWeb
from .relay import TooLarge, capture
from .upstream import REDIRECTS, Upstream, parse_url

MOST = 1024 * 1024
"""Bytes of an answer."""
LONGEST = 30.0
"""Seconds from an answer's head to its end."""

_OURS = (
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", f"regcachd/{__version__}".encode()),
)


@implementer(IWeb)
@define(eq=False)
class Web:
    """IWeb for the plugins of one registry, whose `ca` is trusted besides the system's."""

    _upstream: Upstream
    _clock: Any

    async def fetch(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"", local: bool = False
    ) -> Fetched:
        """One request and its answer. Raises AuthFailed; the messages name the host, for an URL may hold secrets."""
        try:
            host = str(parse_url(url)[0])
        except UpstreamFailed:
            raise AuthFailed(
                f"{self._upstream.registry.name}: no http or https address to ask for a token"
            ) from None
        given = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        named = {name.lower() for name, _ in given}
        given += [header for header in _OURS if header[0].lower() not in named]
        try:
            response = await self._upstream.ask(
                method.encode("ascii"), url, given, body, anywhere if local else never_ours
            )
            late = self._clock.callLater(LONGEST, response.abandon)
            try:
                answer = await capture(response, MOST)
            finally:
                if late.active():
                    late.cancel()
        except TooLarge as error:
            raise AuthFailed(f"the answer of {host} is too large: {error}") from None
        except UpstreamFailed as error:
            raise AuthFailed(f"{host} could not be asked: {error}") from None
        if answer.status in REDIRECTS:
            raise AuthFailed(
                f"{host} redirects (status {answer.status}), which is not followed with a credential"
            )
        found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
        return Fetched(answer.status, found, answer.body)
