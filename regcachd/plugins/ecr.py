"""`auth = "ecr"`: Amazon's private registries, ACCOUNT.dkr.ecr.REGION.amazonaws.com, and public.ecr.aws.

A private registry takes AWS's password as Basic with each request; public.ecr.aws takes it where it hands out tokens.
"""

from collections.abc import Sequence
from typing import Any, cast

from attrs import frozen
from twisted.internet.threads import deferToThreadPool
from twisted.plugin import IPlugin
from zope.interface import implementer

from regcachd.aws import AccessKey, Place, find_place, get_password, missing
from regcachd.challenge import Challenge
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, IRegistryAuth, IWeb, Scope
from regcachd.leases import Lease, Leased
from regcachd.renewing import Renewing
from regcachd.secret import Secret, secret
from regcachd.tokens import Login
from regcachd.values import optional, text, upstream


@frozen
class Keys:
    """Without an access key, the machine's or the user's own credential is used; `endpoint` is the API's URL."""

    access_key_id: Secret | None = optional(secret)  # noqa: RUF009 - a field
    secret_access_key: Secret | None = optional(secret)  # noqa: RUF009
    region: str | None = optional(text)
    endpoint: str | None = optional(upstream)

    def access_key(self) -> AccessKey | None:
        """The explicit key, if there is one. Raises AuthFailed for half of one."""
        if self.access_key_id is None and self.secret_access_key is None:
            return None
        if self.access_key_id is None or self.secret_access_key is None:
            raise AuthFailed("access_key_id and secret_access_key are set together, or neither is")
        return AccessKey(self.access_key_id, self.secret_access_key)


@implementer(IAuthenticator)
@frozen
class _Private:
    """One Basic header for every repository, from the first request on."""

    password: Leased[Login]

    async def authorization(self, challenges: Sequence[Challenge], scope: Scope) -> str | None:
        return (await self.password.get()).basic()

    def refused(self, authorization: str) -> None:
        """`Renewing` takes care of it."""


@implementer(IPlugin, IRegistryAuth)
@frozen
class Ecr:
    """AWS's passwords of twelve hours."""

    name = "ecr"
    keys = Keys

    def authenticator(self, keys: object, home: Home, web: IWeb, clock: Any) -> IAuthenticator:
        """The authenticator for one registry. Raises AuthFailed where botocore or the region is missing."""
        given = cast(Keys, keys)
        place, access_key = self._place(given, home), given.access_key()

        async def obtain() -> Lease[Login]:
            pool = clock.getThreadPool()
            lease: Lease[Login] = await deferToThreadPool(
                clock, pool, get_password, place, given.endpoint, access_key
            )
            return lease

        password = Leased(clock, f"the password for {home.host}", obtain)
        if place.is_public:
            return Renewing.of(home, web, clock, password)
        return Renewing(_Private(password), password)

    def _place(self, keys: Keys, home: Home) -> Place:
        if (lacking := missing()) is not None:
            raise AuthFailed(f'auth = "ecr" for {home.name}: {lacking}')
        place = find_place(home.host, keys.region)
        if place is None:
            raise AuthFailed(
                f"{home.host} is not the name of a registry in ECR, ACCOUNT.dkr.ecr.REGION.amazonaws.com or "
                "public.ecr.aws: set region for this registry if it is one all the same"
            )
        return place


ecr = Ecr()
