"""What stored things may be used for.

Content named by its digest never changes, so the questions are only whether the client has it already
(``matches``), whether it can read it (``accepts``), and whether a tag still points to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from attrs import frozen

from regcachd.reference import Digest

_ENTITY_TAG = re.compile(r'[ \t,]*(?:W/)?("[^"]*")[ \t]*(?=,|\Z)')
_ZERO_WEIGHT = re.compile(r"q=0(?:\.0*)?")


@frozen
class TagEntry:
    """What a tag was when upstream last said so.

    ``checked`` is that time, in seconds of the caller's clock.
    """

    digest: Digest
    media_type: str
    checked: float


class TagUse(Enum):
    """What to do for a request of a tag."""

    FETCH = "fetch"
    """Nothing is known: GET it from upstream."""
    REVALIDATE = "revalidate"
    """HEAD it first, and serve the entry if upstream still names the same digest."""


def use_of(entry: TagEntry | None) -> TagUse:
    """What to do for a request of the tag that ``entry`` is about; None if there is no entry."""
    return TagUse.FETCH if entry is None else TagUse.REVALIDATE


def still_names(entry: TagEntry, upstream_digest: str | None) -> bool:
    """Whether upstream's Docker-Content-Digest header, if it sent one, is the entry's digest."""
    return upstream_digest is not None and upstream_digest.strip() == str(entry.digest)


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
    for member in ",".join(accept).split(","):
        media_range, *parameters = (part.strip().lower() for part in member.split(";"))
        if media_range:
            zero = any(_ZERO_WEIGHT.fullmatch(parameter) for parameter in parameters)
            admitted[media_range] = admitted.get(media_range, False) or not zero
    for media_range in (wanted, kind, "*/*"):
        if media_range in admitted:
            return admitted[media_range]
    return not admitted


def essence(media_type: str) -> str:
    """A media type without its parameters."""
    return media_type.partition(";")[0].strip().lower()
