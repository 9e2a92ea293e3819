"""Answers to challenges, for credentials that are a name and a password, an identity token, or nothing.

Which of a registry's challenges is answered: Bearer, with a token from its realm; else Basic, with the credential
itself. That is all that most kinds of authentication are, so most plugins return an `Answers`.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import define, field
from zope.interface import implementer

from .challenge import Challenge
from .domains import registrable
from .interfaces import AuthFailed, Home, IAuthenticator, IWeb, Scope
from .realm import Realm, distrusted, judge_realm
from .tokens import Held, Wanted, bearer_challenges, scopes_of
from .wallet import Wallet


@implementer(IAuthenticator)
@define(eq=False)
class Answers:
    """An authenticator. `credential` gives what is held at the moment, and may raise AuthFailed."""

    _home: Home
    _web: IWeb
    _clock: Any
    _credential: Callable[[], Awaitable[Held]] = field(repr=False)
    _wallet: Wallet = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._wallet = Wallet(self._web, self._clock)

    async def authorization(self, challenges: Sequence[Challenge], scope: Scope) -> str | None:
        """The header for the first challenge that can be answered; None when there is none."""
        held = await self._credential()
        bearers = bearer_challenges(challenges)
        if bearers:
            challenge, realm = self._realm(bearers, is_for_credential=held is not None)
            wanted = Wanted(realm, challenge.parameters.get("service"), scopes_of(challenge, scope), held)
            return f"Bearer {await self._wallet.token(wanted)}"
        if held is not None and any(c.scheme == "basic" for c in challenges):
            return held.basic()
        return None

    def refused(self, authorization: str) -> None:
        """The registry has refused this header: its token is not used again."""
        scheme, _, token = authorization.partition(" ")
        if scheme == "Bearer":
            self._wallet.drop(token)

    def _realm(self, bearers: Sequence[Challenge], *, is_for_credential: bool) -> tuple[Challenge, Realm]:
        """The first realm that may be asked, and told the credential if there is one. Raises AuthFailed."""
        failure: AuthFailed | None = None
        for challenge in bearers:
            try:
                realm = judge_realm(challenge.parameters["realm"], self._home, registrable)
            except AuthFailed as error:
                failure = failure or error
                continue
            if realm.is_trusted or not is_for_credential:
                return challenge, realm
            failure = failure or distrusted(realm, self._home)
        assert failure is not None
        raise failure
