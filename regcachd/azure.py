"""Azure Container Registry: from a credential of Entra ID (Azure Active Directory) to a refresh token of the registry.

"Azure Container Registry integration with Azure Active Directory" (AAD-OAuth.md of Azure/acr): an access token of the
directory is exchanged at the registry's /oauth2/exchange for a refresh token of three hours, which
/oauth2/token takes as an identity token.
"""

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlencode

from regcachd.interfaces import Home, IWeb
from regcachd.leases import Lease
from regcachd.oauth import post_form, read_token

AUDIENCE = "https://containerregistry.azure.net"
"""Whom the directory's tokens are for, in all of Azure's clouds."""

_AUTHORITIES: Mapping[str, str] = MappingProxyType(
    {
        "azurecr.cn": "https://login.chinacloudapi.cn",
        "azurecr.us": "https://login.microsoftonline.us",
    }
)
_AUTHORITY = "https://login.microsoftonline.com"
_IDENTITY = "/metadata/identity/oauth2/token"
_REFRESH_LIFE = 3600.0
"""Seconds; refresh tokens live for three times that, but their answer does not say so."""


def authority(host: str) -> str:
    """The directory of the cloud that a registry's host is in."""
    return _AUTHORITIES.get(host.partition(".")[2], _AUTHORITY)


async def client_token(web: IWeb, directory: str, tenant: str, client: str, secret: str) -> Lease[str]:
    """An access token for a service principal (RFC 6749 section 4.4). Raises AuthFailed."""
    url = f"{directory}/{tenant}/oauth2/v2.0/token"
    form = {
        "grant_type": "client_credentials",
        "client_id": client,
        "client_secret": secret,
        "scope": f"{AUDIENCE}/.default",
    }
    answer = await post_form(web, url, form, local=True)  # the operator's word, or this module's
    return read_token(
        answer, url, "are tenant, client_id and client_secret right, and the secret not expired?"
    )


async def machine_token(web: IWeb, base: str, client: str | None) -> Lease[str]:
    """An access token for the machine's managed identity, for `client` where it has several. Raises AuthFailed.

    "Managed identities for Azure resources", "Get a token using HTTP".
    """
    query = {"api-version": "2018-02-01", "resource": AUDIENCE, **({"client_id": client} if client else {})}
    url = base + _IDENTITY
    answer = await web.fetch("GET", f"{url}?{urlencode(query)}", {"Metadata": "true"}, b"", True)
    return read_token(
        answer, url, "does this machine have a managed identity? Where it has several, name one in client_id"
    )


async def exchange(web: IWeb, home: Home, tenant: str | None, access_token: str) -> Lease[str]:
    """A refresh token of the registry for an access token of the directory. Raises AuthFailed."""
    host = f"[{home.host}]" if ":" in home.host else home.host
    port = "" if home.port == {"https": 443, "http": 80}.get(home.scheme) else f":{home.port}"
    url = f"{home.scheme}://{host}{port}/oauth2/exchange"
    form = {"grant_type": "access_token", "service": home.host, "access_token": access_token}
    answer = await post_form(web, url, form | ({"tenant": tenant} if tenant else {}), local=True)
    advice = "does the identity have the role AcrPull (or Container Registry Repository Reader) on it?"
    lease = read_token(answer, url, advice, name="refresh_token", life=_REFRESH_LIFE)
    return Lease(lease.value, min(lease.life, _REFRESH_LIFE))
