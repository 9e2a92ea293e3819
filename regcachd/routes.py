"""Which endpoint of the OCI distribution specification a request path names.

A repository name has slashes of its own and may contain the words that mark an endpoint
(``/v2/a/manifests/b/manifests/latest``), so a path is read from its end: its last two or three
components decide, and what is left of them is the name. Whatever is not plainly one of the
endpoints is ``Elsewhere``: it goes to upstream as it came and is never cached.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from attrs import frozen

from regcachd.reference import Digest, InvalidReference, Repository, Target, parse_target

_PLAIN = re.compile(rb"[!-.0-~]*")
"""Visible ASCII without the slash: what a component may hold after decoding."""


@frozen
class Ping:
    """``/v2/``: is this a registry, and does it want credentials?"""


@frozen
class Blob:
    """``/v2/<name>/blobs/<digest>``"""

    name: str
    digest: Digest


@frozen
class Manifest:
    """``/v2/<name>/manifests/<tag or digest>``"""

    name: str
    target: Target


@frozen
class TagList:
    """``/v2/<name>/tags/list``"""

    name: str


@frozen
class Referrers:
    """``/v2/<name>/referrers/<digest>``"""

    name: str
    digest: Digest


@frozen
class Upload:
    """``/v2/<name>/blobs/uploads/`` and the upload sessions under it."""

    name: str


@frozen
class Catalog:
    """``/v2/_catalog``: Docker's list of repositories, outside the OCI specification."""


@frozen
class Elsewhere:
    """Any other path, on any host: token endpoints, extensions, malformed names and digests."""


Route: TypeAlias = Ping | Blob | Manifest | TagList | Referrers | Upload | Catalog | Elsewhere


def route(path: bytes) -> Route:
    """The endpoint that ``path`` names; ``path`` begins with a slash and has no query.

    The path is split before its components are decoded, once (RFC 3986 section 2.4): ``sha256%3A...``
    is a digest, but ``%2F`` is no separator, since upstream may not think that it is one.
    """
    if path == b"/v2":
        return Ping()
    if not path.startswith(b"/v2/"):
        return Elsewhere()
    components = []
    for raw in path[len(b"/v2/") :].split(b"/"):
        component = unquote_to_bytes(raw) if b"%" in raw else raw
        if _PLAIN.fullmatch(component) is None or component in (b".", b".."):
            return Elsewhere()
        components.append(component.decode("ascii"))
    try:
        return _endpoint(components)
    except InvalidReference:
        return Elsewhere()


def _endpoint(components: list[str]) -> Route:
    match components:
        case [""]:
            return Ping()
        case ["_catalog"]:
            return Catalog()
        case [*name, "blobs", "uploads"] | [*name, "blobs", "uploads", _]:
            return Upload(_name(name))
        case [*name, "blobs", digest]:
            return Blob(_name(name), Digest.parse(digest))
        case [*name, "manifests", target]:
            return Manifest(_name(name), parse_target(target))
        case [*name, "tags", "list"]:
            return TagList(_name(name))
        case [*name, "referrers", digest]:
            return Referrers(_name(name), Digest.parse(digest))
        case _:
            return Elsewhere()


def _name(components: Sequence[str]) -> str:
    return Repository.parse("", "/".join(components)).name


def in_api(path: bytes) -> bool:
    """Whether ``path`` is ``/v2/``, below it, or ``/v2``.

    A path that a server might clean up into one of these (``//v2/``, ``/x/../v2/``, ``/%762/``) counts:
    the refusal of writes must not depend on how upstream reads such a path.
    """
    if path == b"/v2" or path.startswith(b"/v2/"):
        return True
    clean: list[bytes] = []
    for component in unquote_to_bytes(path).split(b"/"):
        if component == b"..":
            del clean[-1:]
        elif component not in (b"", b"."):
            clean.append(component)
    return clean[:1] == [b"v2"]
