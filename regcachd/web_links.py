"""Link headers (RFC 8288) of a registry, for a mirror's clients: these ask the mirror for the next page, too.

(OCI distribution spec, "Listing Tags" and "Listing Referrers".) What leads to no path of the registry's API is left as
it is.
"""

import re
from urllib.parse import urljoin

from .connect import Authority, HeadError
from .destination import API, Destination

_TARGET = re.compile(rb"((?:^|,)\s*<)([^<>]*)(?=>)")
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)")
_PORTS = {"http": 80, "https": 443}


def relinked(value: bytes, asked: bytes, destination: Destination) -> bytes:
    """The header's value for the client of a mirror, who has asked for `asked`, as the registry was asked for it."""
    return _TARGET.sub(lambda found: found[1] + _led_here(found[2], asked, destination), value)


def _led_here(link: bytes, asked: bytes, destination: Destination) -> bytes:
    registry, alias = destination.registry, destination.alias
    try:
        url = urljoin(registry.upstream + asked.decode("latin-1"), link.decode("latin-1"))
        found = _URL.fullmatch(url)
        if alias is None or found is None:
            return link
        is_there = Authority.parse(found[2], _PORTS[found[1]]) in registry.authorities
    except (ValueError, HeadError):
        return link
    target = found[3].encode("latin-1")
    return alias.target(target) if is_there and target.startswith(API) else link
