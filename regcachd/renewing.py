"""Answers to challenges on a credential that is leased: when it is turned down, another is asked for, once."""

from collections.abc import Sequence
from typing import Any

from attrs import define
from zope.interface import implementer

from regcachd.answers import Answers
from regcachd.challenge import Challenge
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, IWeb, Scope
from regcachd.leases import Leased
from regcachd.tokens import IdentityToken, Login


@implementer(IAuthenticator)
@define(eq=False)
class Renewing:
    """An authenticator like the one it asks, that knows how to get rid of a credential."""

    _answers: IAuthenticator
    _leased: Leased[Any]

    @classmethod
    def of(
        cls, home: Home, web: IWeb, clock: Any, leased: Leased[Login] | Leased[IdentityToken]
    ) -> "Renewing":
        """For a credential that goes to the registry's realm, or to itself where it asks for Basic."""
        return cls(Answers(home, web, clock, leased.get), leased)

    async def authorization(self, challenges: Sequence[Challenge], scope: Scope) -> str | None:
        """The header; a credential that its realm refuses has perhaps been revoked, and another may do."""
        try:
            return await self._answers.authorization(challenges, scope)
        except AuthFailed as error:
            if not error.refused or not self._leased.drop():
                raise
        return await self._answers.authorization(challenges, scope)

    def refused(self, authorization: str) -> None:
        """A token is the realm's, and says nothing of the credential that it was made for; Basic is the credential."""
        self._answers.refused(authorization)
        if not authorization.startswith("Bearer "):
            self._leased.drop()
