"""The ping, `/v2/`: is this a registry, and what does it want to be asked with?

Every client begins with it, and without a credential every client gets the same answer. So upstream is asked once in
five minutes, and its challenges go to all clients as it wrote them: some read them with less than a parser. When it
cannot be asked, its last answer is good for as long as an old tag is, `max_stale`.

Where regcachd's own credential is shared, clients without one are not challenged, and upstream is not asked.
"""

from attrs import define

from .commons import STORED, Common, impersonal, is_anybodys, once
from .evidence import ANONYMOUS
from .http1 import UpstreamFailed
from .registry import CachedRegistry
from .relay import VIA, TooLarge, asking, capture
from .web import JSON, MOST_BODY, Request

FRESH = 300.0
"""Seconds for which an answer is everybody's."""

_WELCOME = ((b"Content-Type", JSON), (b"Docker-Distribution-Api-Version", b"registry/2.0"), VIA)


@define(eq=False)
class Pings:
    """The ping of one registry."""

    _registry: CachedRegistry

    @property
    def _key(self) -> str:
        settings = self._registry.settings
        return f"ping {settings.name} {settings.upstream}/v2/"

    async def answer(self, request: Request) -> bool:
        """Answer a ping as upstream answers everybody; False for one that is upstream's own to answer."""
        if self._registry.session_for(request) is not None:
            request.answer(200, _WELCOME, b"{}")
            return True
        if not is_anybodys(request) or request.uri != b"/v2/":
            return False
        headers = asking(request)
        common = await self._registry.shared.commons.get(self._key, lambda: self._fetch(headers))
        common.answer.send(request, common.status)
        return True

    def known(self) -> Common | None:
        """Upstream's last answer, perhaps to another worker."""
        return self._registry.shared.commons.known(self._key)

    async def _fetch(self, headers: list[tuple[bytes, bytes]]) -> Common:
        now = self._registry.shared.now()
        response = await self._registry.upstream.request(b"GET", b"/v2/", headers)
        try:
            answer = await capture(response, MOST_BODY)
        except TooLarge as error:
            raise UpstreamFailed(f"{self._registry.settings.name} answers a ping with {error}") from error
        self._registry.restraint.heard_elsewhere(ANONYMOUS, answer, answer.body)
        if answer.status not in (200, 401):
            return once(answer, now)
        stale = self._registry.settings.tag_terms.max_stale
        return Common(impersonal(answer), now, now + FRESH, now + max(FRESH, stale), STORED)
