"""What stored things may be used for.

Content named by its digest never changes, so the questions are only whether the client has it already
(``matches``), whether it can read it (``accepts``), and whether a tag still points to it (``use_of``). How long
upstream's word on a tag counts, tag_rules.py says. Times are passed in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from hashlib import sha256

from attrs import frozen

from regcachd.reference import Digest

_ENTITY_TAG = re.compile(r'[ \t,]*(?:W/)?("[^"]*")[ \t]*(?=,|\Z)')
_ZERO_WEIGHT = re.compile(r"q=0(?:\.0*)?")


INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
"""The media types of what names an image for each platform."""

LONGEST_KEY = 400
"""Characters of an `accept_key`; what is longer is hashed."""


@frozen
class TagEntry:
    """What a tag was when upstream last said so.

    ``checked`` is that time, in seconds of the caller's clock; ``size`` is the manifest's, in bytes.
    """

    digest: Digest
    media_type: str
    checked: float
    size: int | None = None


class TagUse(Enum):
    """What to do for a request of a tag."""

    FETCH = "fetch"
    """GET it from upstream: nothing is known, or nothing may be used."""
    REVALIDATE = "revalidate"
    """HEAD it first, and serve the entry if upstream still names the same digest."""
    SERVE = "serve"
    """The entry is fresh."""


def use_of(entry: TagEntry | None, life: float | None, now: float) -> TagUse:
    """What to do for a request of the tag that ``entry`` is about; None if there is no entry.

    ``life`` is for how many seconds upstream's word counts, None if it never does.
    """
    if entry is None or life is None:
        return TagUse.FETCH
    return TagUse.SERVE if is_fresh(entry.checked, life, now) else TagUse.REVALIDATE


def is_fresh(checked: float, life: float, now: float) -> bool:
    """Does what upstream said then still count? What it said in the future does not: the clock was set back."""
    return 0 <= now - checked < life


def is_of_use(entry: TagEntry, max_stale: float, now: float) -> bool:
    """Is the entry better than nothing, when upstream fails (RFC 5861 section 4)?"""
    return now - entry.checked < max_stale


def accept_key(accept: Sequence[str]) -> str:
    """What of these Accept header lines may decide which manifest a tag stands for, in one form.

    Order, case, weights and parameters do not: see ``accepts``.
    """
    members = sorted(name + (";q=0" if zero else "") for name, zero in _members(accept))
    key = ",".join(dict.fromkeys(members))
    return key if len(key) <= LONGEST_KEY else f"sha256:{sha256(key.encode()).hexdigest()}"


def stands_in(key: str, media_type: str, accept: Sequence[str]) -> bool:
    """Whether a client with these Accept header lines is served, in need, with what clients with the ``accept_key``
    got, a manifest of ``media_type``.

    It has to accept that. And an image that was given to who accepts no index may be one of several, chosen by upstream
    for a platform that need not be this client's.
    """
    if not accepts(accept, media_type):
        return False
    has_choice = bool(key) and all(accepts([key], index) for index in INDEXES)
    return has_choice or essence(media_type) in INDEXES


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether If-None-Match names ``etag`` (given with its quotes), so that the answer is a 304.

    The comparison is the weak one (RFC 9110 sections 8.8.3.2 and 13.1.2). What follows a syntax
    error is not read: at worst a body is sent that the client had.
    """
    if if_none_match is None:
        return False
    if if_none_match.strip(" \t") == "*":
        return True
    opaque = etag.removeprefix("W/")
    at = 0
    while found := _ENTITY_TAG.match(if_none_match, at):
        if found[1] == opaque:
            return True
        at = found.end()
    return False


def accepts(accept: Sequence[str], media_type: str) -> bool:
    """Whether a client with these Accept header lines reads manifests of ``media_type``.

    As in RFC 9110 section 12.5.1 the most specific range that applies decides, no Accept admits all, and a
    weight of 0 excludes. Other weights and parameters do not matter: registries do not order by them.
    """
    wanted = essence(media_type)
    kind = wanted.partition("/")[0] + "/*"
    admitted: dict[str, bool] = {}
    for media_range, zero in _members(accept):
        admitted[media_range] = admitted.get(media_range, False) or not zero
    for media_range in (wanted, kind, "*/*"):
        if media_range in admitted:
            return admitted[media_range]
    return not admitted


def _members(accept: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """The media ranges of Accept header lines, each with whether its weight is 0."""
    for member in ",".join(accept).split(","):
        media_range, *parameters = (part.strip().lower() for part in member.split(";"))
        if media_range:
            yield media_range, any(_ZERO_WEIGHT.fullmatch(parameter) for parameter in parameters)


def essence(media_type: str) -> str:
    """A media type without its parameters."""
    return media_type.partition(";")[0].strip().lower()
