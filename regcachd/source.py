"""Where the bytes of a blob come from, and where in the blob belongs what comes from there."""

from typing import Protocol as Shape

from .http1 import Response
from .ranges import parse_content_range


class Source(Shape):
    """Where a blob comes from: upstream, asked with somebody's credential."""

    async def open(self, start: int, stop: int | None) -> Response:
        """Ask for the bytes from `start`, to the end or before `stop`; 0 and None ask for the whole blob."""


class HasHeaders(Shape):
    """A response, whether its body has come or not."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""


def is_page(response: HasHeaders) -> bool:
    """Is it something for people, such as the log-in page that a registry redirects to? That is no yes to anything."""
    kind = response.header(b"content-type") or b""
    return kind.lower().startswith(b"text/html") and response.header(b"docker-content-digest") is None


def begins_at(response: Response) -> int | None:
    """The offset of a response's first byte; None when that cannot be told, or its bytes are not the blob's."""
    if response.header(b"content-encoding") not in (None, b"identity") or is_page(response):
        return None
    if response.status == 200:
        return 0
    header = response.header(b"content-range")
    found = None if header is None else parse_content_range(header.decode("latin-1"))
    return None if found is None else found[0]


def total_of(response: Response) -> int | None:
    """How large the whole blob is, by what a 200 or 206 says."""
    if response.status == 200:
        return response.length
    header = response.header(b"content-range")
    found = None if header is None else parse_content_range(header.decode("latin-1"))
    return None if found is None else found[2]
