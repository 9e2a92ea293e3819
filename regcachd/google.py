"""Google's access tokens: with the key of a service account, or from the metadata service of a machine in its cloud.

The former is the JWT bearer grant (RFC 7523 section 2.1, "Using OAuth 2.0 for server to server applications" of Google
Identity); the latter is "Access tokens" of Compute Engine's metadata server.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Collection
from urllib.parse import urlsplit

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from regcachd.interfaces import AuthFailed, IWeb
from regcachd.leases import Lease
from regcachd.oauth import post_form, read_token

USER = "oauth2accesstoken"
"""The user name that goes with an access token as a password."""
KEY_USER = "_json_key"
"""The user name that goes with a service account's key, the whole file, as a password."""

_HOSTS = frozenset({"oauth2.googleapis.com", "accounts.google.com", "www.googleapis.com"})
"""Of the token_uri that Google has written into keys over the years."""
_SCOPE = (
    "https://www.googleapis.com/auth/cloud-platform"  # what may be done with it is up to the account's roles
)
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_HOUR = 3600
_TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
_FLAVOR = "Metadata-Flavor"


@frozen
class ServiceAccount:
    """What a key file says. The key is PEM."""

    email: str
    key: str = field(repr=False)
    key_id: str
    token_uri: str

    @classmethod
    def read(cls, text: str, hosts: Collection[str] = ()) -> "ServiceAccount":
        """
        The account of a key file. Raises AuthFailed, which repeats nothing of it but its token_uri.

        That URI is told who the account is, so it has to be Google's, or to be at one of `hosts`.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("type") != "service_account":
            raise AuthFailed(
                "service_account is not the key file of a Google service account: expected the JSON that "
                "`gcloud iam service-accounts keys create` writes"
            )
        names = ("client_email", "private_key", "private_key_id", "token_uri")
        lacking = [name for name in names if not isinstance(found.get(name), str)]
        if lacking:
            raise AuthFailed(f"the key file of service_account lacks {', '.join(lacking)}")
        account = cls(*(found[name] for name in names))
        if not _is_trusted(account.token_uri, hosts):
            raise AuthFailed(
                f"the key file of service_account names {account.token_uri[:200]!r} as its token_uri, which is not "
                "Google's: take a fresh key, or add the host to realm_hosts of this registry"
            )
        return account

    def assertion(self, now: float) -> str:
        """The JWT, RS256, that asks for an access token at `now`, seconds since 1970. Raises AuthFailed."""
        header = {"alg": "RS256", "typ": "JWT", "kid": self.key_id}
        claims = {
            "iss": self.email,
            "scope": _SCOPE,
            "aud": self.token_uri,
            "iat": int(now),
            "exp": int(now) + _HOUR,
        }
        unsigned = b".".join(_encode(json.dumps(part).encode()) for part in (header, claims))
        try:
            key = load_pem_private_key(self.key.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise AuthFailed("private_key in the key file of service_account is no RSA key in PEM")
        return (unsigned + b"." + _encode(key.sign(unsigned, PKCS1v15(), SHA256()))).decode()


def _encode(data: bytes) -> bytes:
    """Base64url without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=")


def _is_trusted(uri: str, hosts: Collection[str]) -> bool:
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return False
    plain = parts.scheme == "https" and "@" not in parts.netloc and uri.isascii() and uri.isprintable()
    if not plain or parts.hostname is None:
        return False
    default = port in (None, 443)
    return (default and parts.hostname in {*_HOSTS, *hosts}) or f"{parts.hostname}:{port}" in hosts


async def exchange(web: IWeb, account: ServiceAccount, now: float) -> Lease[str]:
    """An access token for the account's key. Raises AuthFailed."""
    form = {"grant_type": _GRANT, "assertion": account.assertion(now)}
    answer = await post_form(web, account.token_uri, form)
    return read_token(
        answer,
        f"{account.token_uri}, asked for an access token for {account.email},",
        "is the key of service_account still active, and this machine's clock right?",
    )


async def ask_metadata(web: IWeb, base: str) -> Lease[str]:
    """An access token of the machine's own service account. Raises AuthFailed."""
    url = base + _TOKEN_PATH
    answer = await web.fetch("GET", url, {_FLAVOR: "Google"}, b"", True)
    if answer.headers.get(_FLAVOR.lower()) != "Google":
        raise AuthFailed(
            f"{url} answers {answer.status}, but is not Google's metadata service: this machine is not in its "
            "cloud, so set service_account"
        )
    return read_token(
        answer, url, "does the machine have a service account, with access scope cloud-platform?"
    )
