"""Referrers: what a registry lists for a manifest: its signatures and the like.

(OCI distribution spec, "Listing Referrers".) The list is kept for as long as its fallback would be, the tag
`sha256-...` (tag_rules.py), and up to `max_stale` for when upstream fails. It goes to clients that are known to read
the repository; the others ask upstream themselves. In need it goes to those who may have the manifest itself: that is
the access rule's own question, and not a client's, which may be one that upstream never answers.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from attrs import define, field
from twisted.logger import Logger
from twisted.python.failure import Failure

from .commons import Common, impersonal
from .freshness import accept_key
from .reference import Digest, Repository
from .registry import CachedRegistry, Question
from .relay import FORWARDED, HIT, IN_NEED, MISS, Answer, TooLarge, capture
from .requester import Requester
from .response import UpstreamFailed
from .singleflight import HURRY, SingleFlight
from .web import Request

log = Logger()

LONGEST_TARGET: Final = 1_000
"""Bytes of a path with its query for which anything is kept."""


def key_prefix(repository: Repository) -> str:
    """What the keys of a repository's lists in the commons begin with."""
    return f"referrers {repository}@"


_Flight = tuple[bytes, str, Requester]
_Ask = Callable[[], Coroutine[Any, Any, Answer]]


@define(eq=False)
class Referrers:
    """The referrers of one registry's manifests."""

    _registry: CachedRegistry
    _flights: "SingleFlight[_Flight, Answer]" = field(factory=SingleFlight)

    async def answer(self, request: Request, name: str, digest: Digest) -> None:
        """GET or HEAD of a list. Raises UpstreamFailed."""
        registry, now = self._registry, self._registry.shared.now()
        me, method = registry.requester(request), request.method
        repository, target = registry.repository(name), request.uri
        key = f"{key_prefix(repository)}{digest} {target.decode('latin-1')} {accept_key(request.lines('accept'))}"
        known = registry.shared.commons.known(key)
        if known is not None and now < known.fresh_until and registry.is_proved(me, repository):
            self._send(request, known, HIT)
            return
        flight = (method, key, me)
        if registry.upstream.outage is not None and await self._sent_in_need(
            request, me, repository, digest, known
        ):
            self._flights.run(
                flight, lambda: self._ask(method, key, me, repository, digest, target)
            ).addErrback(_still_away)
            return
        try:
            answer = await self._heard(
                known if registry.was_proved(me, repository) else None,
                flight,
                lambda: self._ask(method, key, me, repository, digest, target),
            )
        except UpstreamFailed as error:
            if not await self._sent_in_need(request, me, repository, digest, known, str(error)):
                raise
            return
        has_failed, why = answer.status == 429 or answer.status >= 500, f"it answered {answer.status}"
        if not (has_failed and await self._sent_in_need(request, me, repository, digest, known, why)):
            is_for_me = (
                method == b"GET" and answer.status in (200, 404) and registry.is_proved(me, repository)
            )
            is_kept = is_for_me and registry.shared.commons.known(key) is not None
            answer.send(request, MISS if is_kept else FORWARDED)

    async def _heard(self, known: Common | None, flight: _Flight, ask: _Ask) -> Answer:
        """What upstream says; where there is an old list it is not waited for long. Raises UpstreamFailed."""
        if known is None:
            return await self._flights.run(flight, ask)
        return await self._flights.run_within(HURRY, self._registry.shared.clock, flight, ask)

    def _send(self, request: Request, known: Common, status: tuple[bytes, bytes]) -> None:
        age = max(0.0, self._registry.shared.now() - known.came)
        known.answer.send(request, (b"Age", b"%d" % age), status)

    async def _sent_in_need(
        self,
        request: Request,
        me: Requester,
        repository: Repository,
        digest: Digest,
        known: Common | None,
        why: str = "",
    ) -> bool:
        """Send the old list, if there is one and the client may have it. Raises Lapsed."""
        registry = self._registry
        if known is None or not (
            registry.is_proved(me, repository) or await self._may_have(me, repository, digest)
        ):
            return False
        if why:
            log.warn("upstream failed ({why}): an old list of referrers is served", why=why)
        registry.served_stale += 1
        self._send(request, known, IN_NEED)
        return True

    async def _may_have(self, me: Requester, repository: Repository, digest: Digest) -> bool:
        """May the client have the manifest, if that is stored? Raises Lapsed."""
        store, index = self._registry.shared.store, self._registry.shared.index
        media_type = index.media_type(digest)
        if media_type is None:
            return False
        question = Question("manifests", repository, digest, lambda: store.size(digest), media_type)
        return await self._registry.right_of(me, question) is not None

    async def _ask(
        self, method: bytes, key: str, me: Requester, repository: Repository, digest: Digest, target: bytes
    ) -> Answer:
        registry, shared = self._registry, self._registry.shared
        asked = shared.now()
        response = await me.request(method, target, me.headers, repository, follow=True)
        registry.heard_status(me, repository, response, asked)
        try:
            answer = await capture(response, shared.limits.manifest_size)
        except TooLarge as error:
            raise UpstreamFailed(
                f"the referrers of {repository}@{digest} are too large: {error} (limits.manifest_size)"
            ) from error
        registry.restraint.heard_elsewhere(me.proof, answer, answer.body)
        terms = registry.settings.tag_terms
        life = terms.life(repository.name, f"{digest.algorithm}-{digest.hex}") or 0.0
        is_list = answer.status == 200 and b"json" in (answer.header(b"content-type") or b"")
        # of those who may read the repository: to others there is none, whatever it has
        is_none = answer.status == 404 and registry.is_proved(me, repository)
        if (
            method == b"GET"
            and (is_list or is_none)
            and len(target) <= LONGEST_TARGET
            and not answer.header(b"content-encoding")
        ):
            kept = Common(impersonal(answer), asked, asked + life, asked + max(life, terms.max_stale))
            shared.commons.keep(key, kept)
        return answer


def _still_away(failure: Failure) -> None:
    failure.trap(UpstreamFailed)
