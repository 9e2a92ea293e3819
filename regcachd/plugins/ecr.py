"""auth = "ecr": Amazon's private registries, ACCOUNT.dkr.ecr.REGION.amazonaws.com, and public.ecr.aws.

A private registry takes AWS's password as Basic with each request; public.ecr.aws takes it where it hands out tokens.
"""

from collections.abc import Sequence
from typing import Any

from attrs import frozen
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from regcachd.aws import AccessKey, Place, get_password, missing, place
from regcachd.challenge import Challenge
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, IRegistryAuth, IWeb, Scope
from regcachd.leases import Lease, Leased
from regcachd.secret import Secret, secret
from regcachd.values import optional, text, upstream


@frozen
class EcrKeys:
    """Without an access key, the machine's or the user's own credential is used; `endpoint` is the API's URL."""

    access_key_id: Secret | None = optional(secret)
    secret_access_key: Secret | None = optional(secret)
    region: str | None = optional(text)
    endpoint: str | None = optional(upstream)


@implementer(IAuthenticator)
class PrivateEcr:
    """The same Basic header for every repository."""

    def __init__(self, password: Leased[str]) -> None:
        self._password = password

    async def authorization(self, challenges: Sequence[Challenge], scope: Scope) -> str | None:
        return f"Basic {await self._password.get()}"

    def refused(self, authorization: str) -> None:
        self._password.drop()
