"""Destinations: whom a request is for, and by what words its client knows that.

Every request says it anew, for connections are kept and carry requests for many: all of a connection that was made by
CONNECT are for the registry that was named there, others say it in the request itself (`addressing`).
"""

from enum import Enum

from attrs import frozen

from .connect import Authority
from .schema import Registry

API = b"/v2/"


class Way(Enum):
    """How a client has said whom it wants."""

    CONNECT = "by a connection that was made to it"
    ABSOLUTE = "by an address in the request (RFC 9112 section 3.2.2)"
    MIRROR = "in the words of a mirror"


@frozen
class Alias:
    """What a mirror's client says to name a registry, byte for byte: the next thing it asks has to say it, too.

    `prefix` is the first component of the path, `ns` a value in the query; empty if the client does not use it.
    """

    prefix: bytes = b""
    ns: bytes = b""

    def target(self, target: bytes) -> bytes:
        """What to ask the mirror for what is at `target`, a path of the API and a query, of the registry."""
        path, _, query = target.partition(b"?")
        if self.prefix:
            path = API + self.prefix + b"/" + path.removeprefix(API)
        pairs = [query] if query else []
        if self.ns:
            pairs.append(b"ns=" + self.ns)
        return path + (b"?" + b"&".join(pairs) if pairs else b"")


@frozen
class Destination:
    """A registry of the configuration. `authority` is what the client calls its host, where it does; a mirror's client
    has an `alias` for it."""

    registry: Registry
    way: Way
    authority: Authority | None = None
    alias: Alias | None = None

    @property
    def is_mirrored(self) -> bool:
        """Does the client take this daemon for the registry?"""
        return self.alias is not None

    @property
    def scheme(self) -> str:
        """That of the addresses by which the client asks."""
        return "https" if self.way is Way.CONNECT else "http"


@frozen
class Welcome:
    """A mirror is asked whether it is one. That is no registry's to answer."""


@frozen
class Misaddressed:
    """The request is for nobody here: an HTTP status, a code of the OCI distribution spec, and why."""

    status: int
    code: str
    reason: str


Whom = Destination | Welcome | Misaddressed | None
"""None is this daemon itself: its own pages."""
