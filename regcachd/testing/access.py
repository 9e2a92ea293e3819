"""Who may pull: Basic authentication, or bearer tokens from the registry's own token endpoint.

Bearer tokens follow the Distribution project's "Token Authentication Specification".
"""

from __future__ import annotations

import base64
import binascii
import functools
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeAlias
from urllib.parse import parse_qs

from attrs import frozen

from regcachd.testing.message import Reply, Request

Auth: TypeAlias = Literal["none", "basic", "token"]

SERVICE = "fake-registry"


@frozen
class _Token:
    repositories: frozenset[str]
    expires: float


class Access:
    """The users of a registry, who may read which repository, and the tokens that were handed out."""

    def __init__(self, auth: Auth, users: Mapping[str, str], token_life: float) -> None:
        self.auth = auth
        self.users = dict(users)
        self.token_life = token_life
        self.identity_tokens: dict[str, str] = {}
        """OAuth2 refresh tokens with the user of each; they are taken by POST."""
        self.realm: str | None = None
        """The realm that challenges name, if that is not the registry's own token endpoint."""
        self.realm_of_expired: str | None = None
        """The realm for those who have shown a token that is not good any more, as nvcr.io has another for them."""
        self.write: Callable[[dict[str, object]], Reply] = functools.partial(Reply.json, 200)
        """Makes the answer of the token endpoint from its fields."""
        self._readers: dict[str, frozenset[str]] = {}
        self._tokens: dict[str, _Token] = {}

    def restrict(self, repository: str, readers: Iterable[str]) -> None:
        """Let only these users read a repository, from now on; tokens already granted keep working."""
        self._readers[repository] = frozenset(readers)

    def expire_tokens(self) -> None:
        """Refuse every token handed out so far."""
        self._tokens.clear()

    def refusal(self, request: Request, repository: str | None, realm: str) -> Reply | None:
        """The 401 or 403 that a request gets; None if it may pass.

        ``realm`` is the URL of the token endpoint.
        """
        if self.auth == "basic":
            return self._basic_refusal(request, repository)
        if self.auth == "token":
            return self._token_refusal(request, repository, realm)
        return None

    def grant(self, request: Request) -> Reply:
        """Answer a request to the token endpoint: a token for what the user (or anybody) may read."""
        parameters = parse_qs(request.body if request.method == "POST" else request.query)
        if request.method == "POST":
            if not self.identity_tokens or parameters.get("grant_type") != ["refresh_token"]:
                return Reply.error(405, "UNSUPPORTED", "There is no POST here.")
            user = self.identity_tokens.get("".join(parameters.get("refresh_token", [])))
        else:
            user = self._user(request.authorization)
        if user is None and (request.method == "POST" or request.authorization is not None):
            return _unauthorized('Basic realm="token"', "wrong user name or password")
        asked = {
            scope.split(":")[1]
            for line in parameters.get("scope", [])
            for scope in line.split()
            if scope.startswith("repository:") and "pull" in scope.rpartition(":")[2].split(",")
        }
        allowed = frozenset(each for each in asked if self._may_read(user, each))
        token = secrets.token_urlsafe(24)
        self._tokens[token] = _Token(allowed, request.time + self.token_life)
        return self.write({"token": token, "access_token": token, "expires_in": int(self.token_life)})

    def _basic_refusal(self, request: Request, repository: str | None) -> Reply | None:
        user = self._user(request.authorization)
        if user is None:
            return _unauthorized('Basic realm="fake registry"', "authentication required")
        if repository is not None and not self._may_read(user, repository):
            return Reply.error(403, "DENIED", f"{user} may not read {repository}")
        return None

    def _token_refusal(self, request: Request, repository: str | None, realm: str) -> Reply | None:

        def challenge(realm: str) -> str:
            scope = "" if repository is None else f',scope="repository:{repository}:pull"'
            return f'Bearer realm="{realm}",service="{SERVICE}"{scope}'

        realm = self.realm or realm
        scheme, _, text = (request.authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return _unauthorized(challenge(realm), "authentication required")
        token = self._tokens.get(text)
        if token is None or token.expires <= request.time:
            again = challenge(self.realm_of_expired or realm)
            return _unauthorized(f'{again},error="invalid_token"', "unknown or expired token")
        if repository is not None and repository not in token.repositories:
            return _unauthorized(
                f'{challenge(realm)},error="insufficient_scope"', "the token does not cover this"
            )
        return None

    def _may_read(self, user: str | None, repository: str) -> bool:
        readers = self._readers.get(repository)
        return readers is None or user in readers

    def _user(self, authorization: str | None) -> str | None:
        """The user whose right password a Basic Authorization header carries."""
        scheme, _, encoded = (authorization or "").partition(" ")
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return user if scheme.lower() == "basic" and self.users.get(user) == password else None


def _unauthorized(challenge: str, message: str) -> Reply:
    return Reply.error(401, "UNAUTHORIZED", message, {"WWW-Authenticate": challenge})
