"""Which bytes of a stored representation a request wants: RFC 9110 section 14.

A server may always answer a Range request with the whole (section 14.2). That is done for several
ranges at once, which no registry client sends, and for whatever is malformed.
"""

from __future__ import annotations

import re

from attrs import frozen

# Nineteen digits number more bytes than a disk can hold; the bound keeps int() cheap.
_SINGLE = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE | re.ASCII)


_CONTENT_RANGE = re.compile(r"bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII | re.IGNORECASE)


@frozen
class Whole:
    """Send everything, with 200."""


@frozen
class Part:
    """Send bytes from ``start`` up to but not including ``stop``, with 206; at least one byte."""

    start: int
    stop: int


@frozen
class Unsatisfiable:
    """The range begins behind the end: 416."""


def decide_range(
    header: str | None, size: int, if_range: str | None = None, etag: str | None = None
) -> Whole | Part | Unsatisfiable:
    """What to send for a Range header on a representation of ``size`` bytes.

    ``if_range`` is the If-Range header; the range counts only if it is strongly equal to ``etag``
    (section 13.1.5), so a weak tag or a date asks for the whole. Of an empty representation there
    is no part to send and a 416 would help nobody who asks for "at most n bytes": it is sent whole.
    """
    if header is None or size == 0 or not _same(if_range, etag):
        return Whole()
    single = _SINGLE.fullmatch(header.strip(" \t"))
    if single is None:
        return Whole()
    first, last = single.groups()
    if first:
        start, stop = int(first), int(last) + 1 if last else size
        if stop <= start and last:
            return Whole()
    elif last:
        start, stop = max(0, size - int(last)), size
    else:
        return Whole()
    return Part(start, min(stop, size)) if start < size else Unsatisfiable()


def _same(if_range: str | None, etag: str | None) -> bool:
    if if_range is None:
        return True
    if_range = if_range.strip(" \t")
    return if_range.startswith('"') and if_range == etag


def content_range(part: Part, size: int) -> str:
    """The Content-Range of a 206; ``size`` is that of the whole, in bytes."""
    return f"bytes {part.start}-{part.stop - 1}/{size}"


def unsatisfied_range(size: int) -> str:
    """The Content-Range of a 416."""
    return f"bytes */{size}"


def parse_content_range(header: str) -> tuple[int, int, int | None] | None:
    """A 206's Content-Range (RFC 9110 section 14.4) as start, stop (exclusive) and size of the whole, None for "*".

    None altogether for what is not well-formed or contradicts itself.
    """
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if found is None:
        return None
    start, last = int(found[1]), int(found[2])
    whole = None if found[3] == "*" else int(found[3])
    if last < start or (whole is not None and last >= whole):
        return None
    return start, last + 1, whole
