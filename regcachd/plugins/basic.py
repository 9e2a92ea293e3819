"""`auth = "basic"`: a name and a password that nobody but the registry itself is told, whatever it says.

For registries with a htpasswd file, as `bearer` is too; but this one asks no realm for tokens, so that a registry which
is taken over, or whose challenge is forged, cannot have the password sent elsewhere.
"""

from collections.abc import Sequence
from typing import Any, cast

from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from regcachd.challenge import Challenge
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, IRegistryAuth, IWeb, Scope
from regcachd.plugins.bearer import Keys


@implementer(IAuthenticator)
@frozen
class _Basic:
    keys: Keys
    registry: str

    async def authorization(self, challenges: Sequence[Challenge], scope: Scope) -> str | None:
        schemes = {challenge.scheme for challenge in challenges}
        if "basic" in schemes:
            return (await self.keys.login()).basic()
        if schemes:
            raise AuthFailed(
                f'{self.registry} asks for {", ".join(sorted(schemes))}, not Basic: set auth = "bearer" for it',
                refused=True,
            )
        return None

    def refused(self, authorization: str) -> None:
        """Nothing is kept."""


@implementer(IPlugin, IRegistryAuth)
@frozen
class Basic:
    """A name and a password for the registry itself."""

    name = "basic"
    keys = Keys

    def authenticator(self, keys: object, home: Home, web: IWeb, clock: Any) -> IAuthenticator:
        """The authenticator for one registry."""
        return _Basic(cast(Keys, keys), home.name)


basic = Basic()
