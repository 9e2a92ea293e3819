"""`auth = "bearer"`: a name and a password, for whatever the registry asks for.

A Bearer challenge is answered with a token from its realm, which is told name and password, a Basic challenge with name
and password themselves. That serves Docker Hub, GHCR, quay.io, nvcr.io, GitLab, Harbor, Red Hat and registries with
a htpasswd file.
"""

from typing import Any, cast

from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from regcachd.answers import Answers
from regcachd.interfaces import Home, IAuthenticator, IRegistryAuth, IWeb
from regcachd.secret import Secret, secret
from regcachd.tokens import Login
from regcachd.values import required, user_name


@frozen
class Keys:
    """`password` may also be what a registry calls an access token, an API key or a deploy token."""

    username: str = required(user_name)
    password: Secret = required(secret)  # noqa: RUF009 - a field, not a shared default

    async def login(self) -> Login:
        """As they are now. Raises SecretUnreadable."""
        return Login(self.username, self.password.read())


@implementer(IPlugin, IRegistryAuth)
@frozen
class Bearer:
    """Tokens for a name and a password."""

    name = "bearer"
    keys = Keys

    def authenticator(self, keys: object, home: Home, web: IWeb, clock: Any) -> IAuthenticator:
        """The authenticator for one registry."""
        return Answers(home, web, clock, cast(Keys, keys).login)


bearer = Bearer()
