"""Sessions: requests to a registry with a credential of the daemon's own, or as anybody.

A session answers the registry's challenges through an `IAuthenticator`, as clients do: a ping of /v2/ says what the
registry asks for, and that is remembered for five minutes; whatever 401 comes later is newer. Then

1. a request that gets 401 is made again with what the authenticator makes of that answer (a token had ended early);
2. where the realm refuses, or the registry again, the request is made once without Authorization, and if the
   challenge it gets is another one than before, once more for that. (NGC names one realm to those whose token has
   ended and another to those who have none, and the former takes no new ones.)

Not every 401 is worth all that: a token that was understood and does not suffice (insufficient_scope, RFC 6750
section 3.1) gets no better, and neither does an authenticator that gives the same answer again.
"""

from collections.abc import Iterable
from typing import Any

from attrs import define, field

from .challenge import Challenge, parse_challenges
from .http1 import RawHeaders, Response, UpstreamFailed
from .interfaces import AuthFailed, IAuthenticator, Scope
from .secret import SecretUnreadable
from .singleflight import SingleFlight
from .upload import Upload
from .upstream import Upstream

Asked = tuple[Challenge, ...]

MEMORY = 300.0
"""Seconds a challenge is reused."""

_PING = b"/v2/"
CLIENTS_OWN = frozenset((b"authorization", b"cookie"))
_DAEMONS_OWN = b"set-cookie"
"""What of an answer goes to no client: a cookie can stand for the credential (Harbor's does)."""


class CredentialRefused(UpstreamFailed):
    """Who hands out tokens for the registry has turned the credential down (or, without one, anybody).

    That is the registry's no, not a failure to ask it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, status=403)


@define(eq=False)
class Challenges:
    """What one registry asks of everybody; its sessions may share it."""

    _upstream: Upstream
    _clock: Any
    latest: Asked = field(default=(), repr=False)
    """The challenges of the latest 401; none while the registry has not asked for anything."""
    _learnt_at: float | None = None
    _pings: "SingleFlight[None, Asked]" = field(factory=SingleFlight)

    async def known(self) -> Asked:
        """What the registry asks for, from a ping when that is not known. Raises UpstreamFailed."""
        if self._learnt_at is not None and self._clock.seconds() - self._learnt_at < MEMORY:
            return self.latest
        return await self._pings.run(None, self._ping)

    async def _ping(self) -> Asked:
        response = await self._upstream.request(b"GET", _PING, [])
        response.discard()
        if 200 <= response.status < 300:
            self._keep(())
        return self.learn(response)

    def learn(self, response: Response) -> Asked:
        """What is asked for after this response; it is news if it is a 401 with challenges."""
        if response.status == 401 and (asked := challenges_of(response.headers)):
            self._keep(asked)
        return self.latest

    def _keep(self, asked: Asked) -> None:
        self.latest, self._learnt_at = asked, self._clock.seconds()


@define(eq=False)
class Session:
    """Requests to one registry on one credential. `clock` is a reactor."""

    upstream: Upstream
    _authenticator: IAuthenticator
    _challenges: Challenges

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
        """Ask the registry, as `Upstream.request` does; what `headers` hold of a client's credentials is left out.

        The answer may be a 401: then the registry grants the credential no more than that. Raises UpstreamFailed,
        and CredentialRefused when the credential, or its lack, was turned down where tokens are handed out.
        """

        async def send(authorization: str | None) -> Response:
            with_own = _with(headers, authorization)
            response = await self.upstream.request(method, target, with_own, follow=follow, patient=patient)
            return self._come(response, authorization)

        asked = await self._challenges.known()
        refusal: CredentialRefused | None = None
        try:
            authorization = await self._authorization(asked, scope)
            response = await send(authorization)
            if response.status != 401:
                return response
            asked = self._challenges.learn(response)
            again = await self._authorization(asked, scope, response)
            if again == authorization:
                return response
            response.discard()
            response = await send(again)
            if response.status != 401 or again is None or _understood(response):
                return response
            response.discard()
        except CredentialRefused as error:
            refusal = error

        response = await send(None)
        if response.status != 401:
            return response
        now_asked = self._challenges.learn(response)
        if _realms(now_asked) == _realms(asked):
            if refusal is None:
                return response
            response.discard()
            raise refusal
        authorization = await self._authorization(now_asked, scope, response)
        response.discard()
        return await send(authorization)

    async def authorization(self, scope: Scope) -> str | None:
        """The header for a request within `scope`, as far as is known without making it. Raises as `request` does."""
        return await self._authorization(await self._challenges.known(), scope)

    async def request_once(
        self, method: bytes, target: bytes, headers: RawHeaders, body: bytes | Upload, *, scope: Scope
    ) -> Response:
        """A request whose body cannot be sent again: a 401 is its answer, and news for the next one.

        Raises as `request` does.
        """
        authorization = await self.authorization(scope)
        response = await self.upstream.request(method, target, _with(headers, authorization), body=body)
        self._challenges.learn(response)
        return self._come(response, authorization)

    def _come(self, response: Response, authorization: str | None) -> Response:
        """A response to this header."""
        if response.status == 401 and authorization is not None:
            self._authenticator.refused(authorization)
        response.headers = [h for h in response.headers if h[0].lower() != _DAEMONS_OWN]
        return response

    async def _authorization(
        self, asked: Asked, scope: Scope, response: Response | None = None
    ) -> str | None:
        """The header for the next request; `response` is not needed any more if there is none."""
        try:
            return await self._authenticator.authorization(asked, scope)
        except (AuthFailed, SecretUnreadable) as error:
            if response is not None:
                response.discard()
            message = f"no access to {self.upstream.registry.name}: {error}"
            if isinstance(error, AuthFailed) and error.refused:
                raise CredentialRefused(message) from None
            if (outage := self.upstream.outage) is not None:
                raise outage from None  # that is the larger news, and says since when
            raise UpstreamFailed(message) from None


def _with(headers: RawHeaders, authorization: str | None) -> RawHeaders:
    """The daemon's own credential, or none, instead of a client's."""
    kept = [h for h in headers if h[0].lower() not in CLIENTS_OWN]
    return kept if authorization is None else [*kept, (b"Authorization", authorization.encode())]


def challenges_of(headers: RawHeaders) -> Asked:
    """All challenges of a response's head."""
    values: Iterable[str] = (v.decode("latin-1") for n, v in headers if n.lower() == b"www-authenticate")
    return tuple(parse_challenges(values))


def _understood(response: Response) -> bool:
    return any(c.parameters.get("error") == "insufficient_scope" for c in challenges_of(response.headers))


def _realms(asked: Asked) -> set[tuple[str, str | None, str | None]]:
    """What makes two challenges lead to different places."""
    return {(c.scheme, c.parameters.get("realm"), c.parameters.get("service")) for c in asked}
