"""Docker's config.json: which credential it names for a registry (`docker login`, podman's auth.json).

A credential program for the host (credHelpers) comes before one for all hosts (credsStore), and either before
what the file holds itself (auths): the order of docker/cli. Hosts are written in several ways, all of which are read.

Without I/O. Nothing here shows, or says in an error, what the file holds.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from regcachd.interfaces import AuthFailed, Home
from regcachd.tokens import IdentityToken, Login

HUB = "https://index.docker.io/v1/"
"""What Docker Hub is called there, since it had an API of that version."""

_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_ADDRESS = re.compile(r"(?:https?://)?([^/]+)(?:/|/v[12]/?)?")
_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)

IDENTITY = "<token>"
"""The user name that marks a program's secret as an identity token."""
NOT_FOUND = "credentials not found in native keychain"
"""What a program that has nothing for a host prints (docker-credential-helpers, credentials/error.go)."""


@frozen
class RegistryToken:
    """A Bearer token for the registry itself."""

    token: str = field(repr=False)


Credential = Login | IdentityToken | RegistryToken


@frozen
class Program:
    """docker-credential-`name`, to be asked for `server`."""

    name: str
    server: str


@frozen
class Entry:
    """What the file says of a registry: programs to ask, in this order, and what it holds itself."""

    programs: tuple[Program, ...]
    held: Credential | None = field(repr=False)


def names_of(home: Home) -> tuple[str, ...]:
    """
    The hosts, in lower case, under which a registry's credential may be kept; the first is the usual one.

    They are those of its upstream, whatever name it has here: no host is told what was meant for another.
    """
    host = (f"[{home.host}]" if ":" in home.host else home.host).lower()
    if home.port != {"https": 443, "http": 80}.get(home.scheme):
        return (f"{host}:{home.port}",)
    return ("index.docker.io", *sorted(_HUB_HOSTS)) if host in _HUB_HOSTS else (host, f"{host}:{home.port}")


def find_entry(text: str, home: Home) -> Entry:
    """What the file's text says of a registry. Raises AuthFailed for a file that is no config.json."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AuthFailed(f"config is not a config.json of Docker: {type(error).__name__}") from None
    if not isinstance(config, dict):
        raise AuthFailed("config is not a config.json of Docker: its JSON is no object")
    names = names_of(home)
    key, entry = _find(_table(config, "auths"), names)
    _, helper = _find(_table(config, "credHelpers"), names)
    # the key is what was given to `docker login`, and so what the program keeps it under
    server = key or (HUB if "index.docker.io" in names else names[0])
    programs = [Program(_program(name), server) for name in (helper, config.get("credsStore")) if name]
    return Entry(tuple(dict.fromkeys(programs)), _credential(entry, server))


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = config.get(name) or {}
    if not isinstance(table, dict):
        raise AuthFailed(f"config is not a config.json of Docker: {name} in it is no object")
    return table


def _find(table: Mapping[str, Any], names: Iterable[str]) -> tuple[str | None, Any]:
    """The first key and value for one of the names, which are tried in their order."""
    hosts: dict[str, str] = {}
    for key in table:
        # An address with any other path is that of a part of a registry (containers-auth.json(5)).
        if (address := _ADDRESS.fullmatch(key)) is not None:
            hosts.setdefault(address[1].lower(), key)
    key_found = next((hosts[name] for name in names if name in hosts), None)
    return key_found, None if key_found is None else table[key_found]


def _program(name: object) -> str:
    if not isinstance(name, str) or not _PROGRAM.fullmatch(name):
        raise AuthFailed(
            "config names a credential program that cannot be one: expected what follows docker-credential-"
        )
    return name


def _credential(entry: object, server: str) -> Credential | None:
    if not isinstance(entry, dict):
        return None
    if isinstance(token := entry.get("registrytoken"), str) and token:
        return RegistryToken(token)
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return IdentityToken(token)
    if entry.get("auth"):
        return _decode(entry["auth"], server)
    user, password = entry.get("username"), entry.get("password")
    if isinstance(user, str) and isinstance(password, str) and user and password:
        return Login(user, password)
    return None


def _decode(auth: object, server: str) -> Login:
    try:
        user, colon, password = base64.b64decode(str(auth), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise AuthFailed(f'config: "auth" of {server} is not USER:PASSWORD in base64: docker login writes it')
    return Login(user, password.rstrip("\0"))  # old versions of docker padded it


def read_program(output: bytes) -> Credential | None:
    """What a program printed for `get`; None if it has nothing for the server. Raises AuthFailed."""
    try:
        found = json.loads(output)
        user, secret = found["Username"], found["Secret"]
    except (ValueError, RecursionError, TypeError, KeyError):
        user = secret = None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise AuthFailed("it printed something else than JSON with Username and Secret")
    if not secret:
        return None
    return IdentityToken(secret) if user == IDENTITY else Login(user, secret)
