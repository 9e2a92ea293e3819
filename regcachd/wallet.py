"""The wallet: tokens that a credential has brought, kept while they live, and fetched once for all who want one."""

from collections import OrderedDict
from typing import Any

from attrs import define, field
from twisted.logger import Logger
from twisted.python.failure import Failure

from .interfaces import AuthFailed, Fetched, IWeb
from .singleflight import SingleFlight
from .tokens import NO_POST, IdentityToken, Token, Wanted, read_token

log = Logger()

REFRESH = 0.8
"""The fraction of a token's life after which a new one is fetched, while the old one is still used."""
MARGIN = 2.0
"""Seconds before its end at which a token is not used any more: a request is on its way for some time."""
PAUSE = 10.0
"""Seconds between two tries to refresh a token."""
MOST = 10_000
"""Tokens kept, of some kilobytes each; those that were not wanted for the longest time go first."""


@define(eq=False)
class _Kept:
    token: Token = field(repr=False)
    refresh_at: float
    ends_at: float


@define(eq=False)
class Wallet:
    """Tokens for one registry. `clock` is a reactor."""

    _web: IWeb
    _clock: Any
    _kept: "OrderedDict[Wanted, _Kept]" = field(factory=OrderedDict, repr=False)
    _flights: "SingleFlight[Wanted, str]" = field(factory=SingleFlight, repr=False)

    async def token(self, wanted: Wanted) -> str:
        """A token that lives. Raises AuthFailed."""
        kept = self._kept.get(wanted)
        now = self._clock.seconds()
        if kept is None or kept.ends_at <= now:
            return await self._flights.run(wanted, lambda: self._fetch(wanted))
        self._kept.move_to_end(wanted)
        if kept.refresh_at <= now:
            kept.refresh_at = now + PAUSE
            self._flights.run(wanted, lambda: self._fetch(wanted)).addErrback(self._not_refreshed, wanted)
        return kept.token.text

    def drop(self, text: str) -> None:
        """Use this token no more."""
        for wanted in [w for w, kept in self._kept.items() if kept.token.text == text]:
            del self._kept[wanted]

    def _not_refreshed(self, failure: Failure, wanted: Wanted) -> None:
        failure.trap(AuthFailed)
        log.info("a token cannot be renewed: {why}", why=failure.getErrorMessage())
        if failure.value.refused:  # type: ignore[union-attr]
            self._kept.pop(wanted, None)

    async def _fetch(self, wanted: Wanted) -> str:
        fetched = await self._ask(wanted)
        token = read_token(fetched, wanted.realm.authority.host, wanted.held)
        now = self._clock.seconds()
        self._kept[wanted] = _Kept(token, now + token.life * REFRESH, now + token.life - MARGIN)
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return token.text

    async def _ask(self, wanted: Wanted) -> Fetched:
        local = wanted.realm.is_named
        if isinstance(wanted.held, IdentityToken):
            url, form = wanted.post(wanted.held)
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            fetched = await self._web.fetch("POST", url, headers, form, local)
            if fetched.status not in NO_POST:
                return fetched
        url, headers = wanted.get()
        return await self._web.fetch("GET", url, headers, b"", local)
