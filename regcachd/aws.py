"""AWS's container registries: which one a host is, and the password that AWS makes for it.

GetAuthorizationToken of the ECR API (2015-09-21) returns `AWS:PASSWORD` in base64, good for twelve hours, for every
private registry that the caller may read; that of the ECR Public API (2020-10-30) the same for public.ecr.aws. Requests
are signed, and credentials for that found, by botocore, which blocks: `get_password` is for a thread.
"""

import base64
import binascii
import re
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any

from attrs import field, frozen

from regcachd.interfaces import AuthFailed
from regcachd.leases import Lease
from regcachd.secret import Secret
from regcachd.tokens import Login

TWELVE_HOURS = 43200.0
"""Seconds; used where AWS's answer does not say when a password ends."""

PUBLIC = frozenset({"public.ecr.aws", "ecr-public.aws.com"})
_PUBLIC_REGION = "us-east-1"  # the only one with the ECR Public API
_PRIVATE = re.compile(r"([0-9]{12})\.dkr[.-]ecr(-fips)?\.([a-z0-9-]+)\.[a-z0-9.-]+")
_CODE = re.compile(r"[A-Za-z0-9.]{1,60}", re.ASCII)

_TURNED_DOWN = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Error codes that say that the credential, not the service, is at fault."""


@frozen
class Place:
    """A registry of AWS: the API that knows its password, and the region to ask."""

    api: str
    region: str
    fips: bool = False
    account: str | None = None

    @property
    def is_public(self) -> bool:
        return self.api == "ecr-public"

    def __str__(self) -> str:
        account = f" of account {self.account}" if self.account else ""
        return f"{self.api} in {self.region}{account}"


def find_place(host: str, region: str | None = None) -> Place | None:
    """The registry at this host; `region` decides where the host's name does not tell. None if nothing does."""
    if host in PUBLIC:
        return Place("ecr-public", region or _PUBLIC_REGION)
    found = _PRIVATE.fullmatch(host)
    if found is not None:
        return Place("ecr", region or found[3], found[2] is not None, found[1])
    return Place("ecr", region) if region else None


@frozen
class AccessKey:
    """An access key of AWS, as it is read."""

    key_id: Secret
    secret: Secret = field(repr=False)


def missing() -> str | None:
    """What to install before passwords can be asked for; None when all is there."""
    if find_spec("botocore") is not None:
        return None
    return "it needs botocore, which is not installed: apt install python3-botocore, or pip install botocore"


def get_password(where: Place, endpoint: str | None, key: AccessKey | None) -> Lease[Login]:
    """
    Ask AWS for a password; blocks, for half a minute when nothing answers.

    `endpoint` is the API's URL where it is not the region's public one. Without `key`, botocore looks for a
    credential as all of AWS's tools do: environment, shared files, ECS, the instance's role (IMDSv2). Raises
    AuthFailed and SecretUnreadable.
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from botocore.session import Session

    patience = Config(
        connect_timeout=3,
        read_timeout=10,
        retries={"total_max_attempts": 2, "mode": "standard"},
        use_fips_endpoint=where.fips,
    )
    session = Session()
    if key is not None:
        session.set_credentials(key.key_id.read(), key.secret.read())
    try:
        client = session.create_client(
            where.api, region_name=where.region, endpoint_url=endpoint, config=patience
        )
        try:
            answer = client.get_authorization_token()
        finally:
            client.close()
    except NoCredentialsError:
        raise AuthFailed(
            f"{where}: no AWS credential found: set access_key_id and secret_access_key, or give this machine a role, "
            "or the daemon's user a credential in ~/.aws",
            refused=True,
        ) from None
    except ClientError as error:
        # Its message is left out: for a wrong signature AWS repeats the request there, session token and all.
        code = str(error.response.get("Error", {}).get("Code", ""))
        code = code if _CODE.fullmatch(code) else "an error"
        raise AuthFailed(
            f"{where}: AWS answers {error.operation_name} with {code}: is the access key right and "
            f"active, and may it do {where.api}:GetAuthorizationToken?",
            refused=code in _TURNED_DOWN
            or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (401, 403),
        ) from None
    except (BotoCoreError, ValueError, TypeError, AttributeError, LookupError) as error:
        # The latter are what botocore's parsers raise for answers that are not AWS's.
        raise AuthFailed(f"{where}: AWS cannot be asked: {type(error).__name__}{_about(error)}") from None
    return read_answer(where, answer)


def _about(error: Exception) -> str:
    """What botocore says of where it wanted to go; of other errors only the type is known to be harmless."""
    url = getattr(error, "kwargs", {}).get("endpoint_url")
    return f" at {url}" if url else ""


def read_answer(where: Place, answer: Any) -> Lease[Login]:
    """The password in what botocore returns. How long it is good for is told by AWS's own clock. Raises AuthFailed."""
    data = answer.get("authorizationData") or {}
    if isinstance(data, list):  # the private API's, which once took several registries
        data = data[0]
    try:
        user, _, password = (
            base64.b64decode(data.get("authorizationToken", ""), validate=True).decode().partition(":")
        )
    except (binascii.Error, ValueError):
        user = password = ""
    if not user or not password:
        raise AuthFailed(f"{where}: AWS's answer to GetAuthorizationToken holds no password")
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    return Lease(Login(user, password), life(data.get("expiresAt"), date))


def life(end: object, date: str) -> float:
    """Seconds from `date`, of an HTTP header, to `end`; twelve hours if that makes no sense."""
    try:
        seconds = (end - parsedate_to_datetime(date)).total_seconds() if isinstance(end, datetime) else 0.0
    except (TypeError, ValueError, IndexError):
        seconds = 0.0
    return seconds if 0 < seconds <= TWELVE_HOURS else TWELVE_HOURS
