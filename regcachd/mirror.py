"""Mirror mode: which registry a client means that takes this daemon for it. Rules only, no I/O.

    /v2/org/img/tags/list?ns=quay.io    containerd and what is built on it: the query says which
    /v2/quay.io/org/img/tags/list       podman, skopeo, CRI-O with `location = "head:3128/quay.io"`: the path does
    /v2/library/img/tags/list           dockerd with `registry-mirrors`, which knows Docker Hub only

A first component names a registry as it does in images (docker's reference grammar): if it has a dot, a colon or a
capital letter, or is `localhost`. So nothing of Docker Hub's can be taken for a registry, for organisations there have
none of these. With `ns` the first component is of the repository, unless it names the same registry once more
(buildkit says both). What comes out always has a path of the API, and a registry of the configuration.
"""

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from attrs import frozen

from .connect import Authority, HeadError
from .destination import API, Alias, Misaddressed, Welcome
from .values import HTTPS_PORT

HUB = "docker.io"
"""Whose images need no registry in their names."""

_NAMES_REGISTRY = re.compile(r".*[.:A-Z].*|localhost", re.DOTALL)
_SHOWN = 100


@frozen
class Mirrored:
    """What the client means: a registry of the configuration, `target` there, and its words for that."""

    registry: str
    target: bytes
    alias: Alias


def in_mirror(target: bytes) -> bool:
    """Is this a path of the distribution API, as a mirror serves it?"""
    path = target.partition(b"?")[0]
    return path == b"/v2" or path.startswith(API)


def choose(target: bytes, registries: Mapping[Authority, str]) -> Mirrored | Welcome | Misaddressed:
    """The registry that a request's target, which is `in_mirror`, is for. `registries` are the names of those
    configured, by each authority that clients may use for them."""
    path, _, query = target.partition(b"?")
    rest = path[len(API) :]
    pairs = query.split(b"&") if query else []
    keys = [_decoded(pair.partition(b"=")[0]) for pair in pairs]
    named = [pair.partition(b"=")[2] for key, pair in zip(keys, pairs, strict=True) if key == "ns"]
    others = [pair for key, pair in zip(keys, pairs, strict=True) if key != "ns"]
    first, _, after = rest.partition(b"/")
    word = _decoded(first, plus=False)
    prefix = first if _NAMES_REGISTRY.fullmatch(word) else b""
    if len(named) > 1:
        return Misaddressed(400, "NAME_INVALID", "the query names a registry (ns) more than once")
    if not (named or rest):
        return Welcome()
    chosen = _configured(_decoded(named[0]) if named else word if prefix else HUB, registries)
    if isinstance(chosen, Misaddressed):
        return chosen
    if named and prefix and _configured(word, registries) != chosen:
        if chosen == HUB or ":" in word:  # this cannot be of a repository's name
            return _two(_decoded(named[0]), word)
        prefix = b""
    if prefix:
        rest = after
    if not rest:
        return Welcome()
    there = API + rest + (b"?" + b"&".join(others) if others else b"")
    return Mirrored(chosen, there, Alias(prefix, named[0] if named else b""))


def _decoded(text: bytes, plus: bool = True) -> str:
    """As it was before it was put into an URL; once, as routes.py does it."""
    return unquote_to_bytes(text.replace(b"+", b" ") if plus else text).decode("latin-1")


def _configured(word: str, registries: Mapping[Authority, str]) -> str | Misaddressed:
    try:
        authority = Authority.parse(word, HTTPS_PORT)
    except HeadError:
        reason = f"{word[:_SHOWN]!r} is not the name of a registry: HOST or HOST:PORT"
        return Misaddressed(404, "NAME_INVALID", reason)
    return registries.get(authority) or unconfigured(authority)


def unconfigured(authority: Authority) -> Misaddressed:
    """There is no such registry; also what to do about it."""
    name = str(authority).removesuffix(f":{HTTPS_PORT}")
    return Misaddressed(
        403,
        "DENIED",
        f"{name} is not one of this proxy's registries; its administrator can add it to the configuration: "
        f'[registries."{name}"]',
    )


def _two(ns: str, word: str) -> Misaddressed:
    reason = f"the request names two registries, {ns[:_SHOWN]!r} in its query (ns) and {word[:_SHOWN]!r} in its path"
    return Misaddressed(400, "NAME_INVALID", reason)
