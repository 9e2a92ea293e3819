"""Tokens: the request for one and what its answer says, without I/O.

Distribution's "Token Authentication Specification" for GET, its "OAuth2 Token Authentication" for POST. What
registries make of them differs: the content type may be anything, `token` may be `access_token`, a lifetime may be
missing. A token for less than was asked is a token; the registry will say that it does not suffice.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from attrs import field, frozen

from regcachd.challenge import Challenge
from regcachd.interfaces import AuthFailed, Fetched, Scope
from regcachd.realm import Realm

CLIENT = "regcachd"
"""What token servers show to their users as the client that has logged in."""
DEFAULT_LIFE = 60.0
"""Seconds a token lives whose answer does not say (Token Authentication Specification, "expires_in")."""
LONGEST_LIFE = 24 * 3600.0
LONGEST = 64 * 1024
"""Characters of a token; a header that is much larger no server takes."""

NO_POST = frozenset({400, 401, 404, 405})
"""What servers that have no POST answer to one."""
_DATE = "%a, %d %b %Y %H:%M:%S GMT"
"""RFC 9110 section 5.6.7."""
_PASSING = frozenset({408, 425, 429})
"""Of the 4xx statuses, those that say nothing about the credential."""


@frozen
class Login:
    """A name and a password, or what stands for one."""

    username: str
    password: str = field(repr=False)

    def basic(self) -> str:
        """As an Authorization header (RFC 7617)."""
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()


@frozen
class IdentityToken:
    """What `docker login` gets from servers that give out OAuth2 refresh tokens."""

    token: str = field(repr=False)
    username: str = "<token>"
    """What stands for the user where the server only knows names and passwords."""

    def basic(self) -> str:
        """As an Authorization header."""
        return Login(self.username, self.token).basic()


Held = Login | IdentityToken | None
"""A credential; None is none."""


@frozen
class Wanted:
    """A token for these scopes from this realm. Equal ones may share it."""

    realm: Realm
    service: str | None
    scopes: tuple[str, ...]
    held: Held

    def get(self) -> tuple[str, dict[str, str]]:
        """The URL and the headers of a GET for it."""
        parameters = [] if self.service is None else [("service", self.service)]
        parameters += [("scope", scope) for scope in self.scopes]
        return self.realm.url(parameters), {} if self.held is None else {"Authorization": self.held.basic()}

    def post(self, held: IdentityToken) -> tuple[str, bytes]:
        """The URL and the form of a POST for it."""
        form = {"grant_type": "refresh_token", "client_id": CLIENT, "refresh_token": held.token}
        if self.service is not None:
            form["service"] = self.service
        if self.scopes:
            form["scope"] = " ".join(self.scopes)
        return self.realm.url([]), urlencode(form).encode()


@frozen
class Token:
    """A token, and the seconds that it has left."""

    text: str = field(repr=False)
    life: float


def scopes_of(challenge: Challenge, scope: Scope) -> tuple[str, ...]:
    """What to ask for when a request within `scope` meets this challenge.

    A challenge's own repository is another request's, or made up (ghcr.io on /v2/); what is not a repository
    is the registry's business (`aws` of public.ecr.aws), unless it is another resource of the registry.
    """
    told = challenge.parameters.get("scope", "").split()
    others = [each for each in told if not each.startswith(("repository:", "repository("))]
    if scope.repository is None:
        return tuple(others)
    return (str(scope), *(each for each in others if not each.startswith("registry:")))


def read_token(fetched: Fetched, host: str, held: Held) -> Token:
    """The token in an answer of `host`. Raises AuthFailed."""
    if fetched.status != 200:
        raise _not_given(fetched.status, host, held)
    try:
        answer = json.loads(fetched.body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise AuthFailed(
            f"{host} was asked for a token and answered with something that is not a JSON object"
        )
    text = next(
        (t for name in ("token", "access_token") if isinstance(t := answer.get(name), str) and t), None
    )
    if text is None:
        raise AuthFailed(f"{host} was asked for a token and answered without one")
    if len(text) > LONGEST or not (text.isascii() and text.isprintable()) or " " in text:
        raise AuthFailed(f"{host} was asked for a token and answered with one that fits in no header")
    life = _number(answer.get("expires_in"))
    return Token(text, min(life, LONGEST_LIFE) - min(_age(answer.get("issued_at"), fetched), life))


def _not_given(status: int, host: str, held: Held) -> AuthFailed:
    if 400 <= status < 500 and status not in _PASSING:
        whom = "to clients without a credential" if held is None else "for this credential"
        return AuthFailed(f"{host} gives no token {whom} (status {status})", refused=True)
    return AuthFailed(f"{host} was asked for a token and answered {status}; try again later")


def _number(expires_in: Any) -> float:
    """Seconds; some servers write the number as text."""
    try:
        life = float(expires_in)
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_LIFE
    return life if 0 < life < float("inf") else DEFAULT_LIFE


def _age(issued_at: Any, fetched: Fetched) -> float:
    """Seconds a token has lived already, for servers that give out one twice. Both times are by the server's clock."""
    try:
        issued = datetime.fromisoformat(issued_at)
        answered = datetime.strptime(fetched.headers["date"], _DATE).replace(tzinfo=UTC)
        age = (answered - issued).total_seconds()
    except (TypeError, ValueError, KeyError, OverflowError):
        return 0.0
    return max(0.0, age)


def bearer_challenges(challenges: Sequence[Challenge]) -> list[Challenge]:
    """Those that a token answers."""
    return [c for c in challenges if c.scheme == "bearer" and c.parameters.get("realm")]
