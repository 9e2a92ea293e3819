"""`auth = "google"`: gcr.io and Artifact Registry (*-docker.pkg.dev).

With a service account's key, or with the service account of the machine, an access token of an hour, which Google's
registries take as the password of a user of that name where they hand out tokens.
"""

from typing import Any, cast

from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from regcachd.answers import Answers
from regcachd.google import KEY_USER, USER, ServiceAccount, ask_metadata, exchange
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, IRegistryAuth, IWeb
from regcachd.leases import Lease, Leased
from regcachd.renewing import Renewing
from regcachd.secret import Secret, secret
from regcachd.tokens import Login
from regcachd.values import flag, key, optional, upstream


@frozen
class Keys:
    """
    `service_account` is a key file, without which the machine's own account is used.

    With `send_key` the registry is told the key itself (as `_json_key`), for sites that cannot reach Google's token
    service.
    """

    service_account: Secret | None = optional(secret)  # noqa: RUF009 - a field
    send_key: bool = key(False, flag)
    metadata: str = key("http://metadata.google.internal", upstream)


@implementer(IPlugin, IRegistryAuth)
@frozen
class Google:
    """Access tokens of Google's cloud."""

    name = "google"
    keys = Keys

    def authenticator(self, keys: object, home: Home, web: IWeb, clock: Any) -> IAuthenticator:
        """The authenticator for one registry. Raises AuthFailed for a key to be sent that is not there."""
        given = cast(Keys, keys)
        account = given.service_account
        if given.send_key:
            if account is None:
                raise AuthFailed("send_key is for the key in service_account, which is not set")
            return Answers(home, web, clock, lambda: _whole(account, home))

        async def obtain() -> Lease[Login]:
            if account is None:
                lease = await ask_metadata(web, given.metadata)
            else:
                parsed = ServiceAccount.read(account.read(), home.realm_hosts)
                lease = await exchange(web, parsed, clock.seconds())
            return Lease(Login(USER, lease.value), lease.life)

        return Renewing.of(home, web, clock, Leased(clock, f"the access token for {home.host}", obtain))


async def _whole(account: Secret, home: Home) -> Login:
    text = account.read()
    ServiceAccount.read(text, home.realm_hosts)  # so that no other file is sent by mistake
    return Login(KEY_USER, text)


google = Google()
