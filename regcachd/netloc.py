"""Netlocs: scheme, host and port of an URL, which are where a connection leads."""

import re
from urllib.parse import urljoin, urlsplit

from attrs import frozen

from .http1 import UpstreamFailed

PORTS = {"http": 80, "https": 443}
_UNFIT = re.compile(r"[^!-~]")  # of a Location, decoded as Latin-1


class BadRedirect(UpstreamFailed):
    """The registry redirects to where nothing can come from."""


@frozen
class Netloc:
    """Where a connection leads: equal ones may share connections."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host, an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def authority(self) -> str:
        """As Host has it: without the scheme's own port (RFC 9110 section 4.2.3)."""
        return self.bracketed if self.port == PORTS[self.scheme] else str(self)


def parse_url(url: str) -> tuple[Netloc, bytes]:
    """An http(s) URL as netloc and request target; the target is verbatim, because signed URLs are, but bytes that
    no URL may have are escaped, as browsers do it.

    Raises BadRedirect for anything else: the URLs come from registries' Location headers.
    """
    url = _UNFIT.sub(lambda unfit: f"%{ord(unfit[0]):02X}", url)
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme]
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except (ValueError, KeyError):
        host = None
    if host is None or parts.scheme not in PORTS:
        raise BadRedirect(f"upstream redirects to an address that is not http or https: {url[:200]!r}")
    if not host:
        raise BadRedirect(f"upstream redirects to an address without a host: {url[:200]!r}")
    start = url.index("//") + 2 + len(parts.netloc)
    target = url[start:].split("#", 1)[0]
    if not target.startswith("/"):
        target = "/" + target
    return Netloc(parts.scheme, host, port), target.encode("ascii")


def resolve(base: str, location: str) -> str:
    """A Location against the URL it answered; absolute ones verbatim, because signatures cover every byte.

    Raises BadRedirect.
    """
    if location.startswith(("https://", "http://")):
        return location
    try:
        return urljoin(base, location)
    except ValueError:
        raise BadRedirect(
            f"upstream redirects to an address that is not http or https: {location[:200]!r}"
        ) from None
