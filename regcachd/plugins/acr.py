"""`auth = "acr"`: Azure Container Registry (*.azurecr.io).

A service principal's id and secret, or a token's of the registry, are all that it takes, as name and password. With
`tenant` the secret is shown to Entra ID only, with `managed_identity` there is none: the directory's token is exchanged
for the registry's.
"""

import re
from typing import Any, cast

from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from regcachd import azure
from regcachd.answers import Answers
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, IRegistryAuth, IWeb
from regcachd.leases import Lease, Leased
from regcachd.renewing import Renewing
from regcachd.secret import Secret, secret
from regcachd.tokens import IdentityToken, Login
from regcachd.units import BadValue
from regcachd.values import flag, key, optional, text, upstream

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_USER = "00000000-0000-0000-0000-000000000000"
"""Azure's user name for its refresh tokens."""


def tenant(value: object) -> str:
    """A directory, by its id or one of its domains: a part of an URL's path."""
    written = text(value)
    if not _TENANT.fullmatch(written):
        raise BadValue('expected a directory\'s id, or its domain such as "contoso.onmicrosoft.com"')
    return written


@frozen
class Keys:
    """`authority` is the directory's URL where it is not that of the registry's cloud, `metadata` the machine's."""

    client_id: str | None = optional(text)
    client_secret: Secret | None = optional(secret)  # noqa: RUF009 - a field
    tenant: str | None = optional(tenant)
    managed_identity: bool = key(False, flag)
    authority: str | None = optional(upstream)
    metadata: str = key("http://169.254.169.254", upstream)


@implementer(IPlugin, IRegistryAuth)
@frozen
class Acr:
    """Identities of Azure."""

    name = "acr"
    keys = Keys

    def authenticator(self, keys: object, home: Home, web: IWeb, clock: Any) -> IAuthenticator:
        """The authenticator for one registry. Raises AuthFailed for keys that do not go together."""
        given = cast(Keys, keys)
        client, client_secret = given.client_id, given.client_secret
        if given.managed_identity:
            if client_secret is not None:
                raise AuthFailed("managed_identity has no client_secret: set one of the two")

            async def directory_token() -> Lease[str]:
                return await azure.machine_token(web, given.metadata, client)

        elif client is None or client_secret is None:
            raise AuthFailed("set client_id and client_secret, or managed_identity = true")
        elif given.tenant is None:

            async def login() -> Login:
                return Login(client, client_secret.read())

            return Answers(home, web, clock, login)
        else:
            name, directory = given.tenant, given.authority or azure.authority(home.host)

            async def directory_token() -> Lease[str]:
                return await azure.client_token(web, directory, name, client, client_secret.read())

        async def obtain() -> Lease[IdentityToken]:
            access = await directory_token()
            refresh = await azure.exchange(web, home, given.tenant, access.value)
            return Lease(IdentityToken(refresh.value, _USER), refresh.life)

        return Renewing.of(home, web, clock, Leased(clock, f"the refresh token of {home.host}", obtain))


acr = Acr()
