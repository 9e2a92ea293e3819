"""`auth = "anonymous"`: no credential; challenges are answered as for anybody."""

from typing import Any

from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from regcachd.answers import Answers
from regcachd.interfaces import Home, IAuthenticator, IRegistryAuth, IWeb


@frozen
class Keys:
    """None."""


@implementer(IPlugin, IRegistryAuth)
@frozen
class Anonymous:
    """Tokens that a registry gives to everybody."""

    name = "anonymous"
    keys = Keys

    def authenticator(self, keys: object, home: Home, web: IWeb, clock: Any) -> IAuthenticator:
        """The authenticator for one registry."""

        async def nothing() -> None:
            return None

        return Answers(home, web, clock, nothing)


anonymous = Anonymous()
