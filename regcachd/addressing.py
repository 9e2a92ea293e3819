"""Addressing: whom a request is for that came over a connection to this daemon itself. Rules only, no I/O.

    GET /v2/...                       a registry, in the words of a mirror (mirror.py)
    GET http://registry:5000/v2/...   the registry at this address, whatever Host says (RFC 9112 section 3.2.2)
    GET http://head:3128/...          as if this daemon's own address were left out
    GET /ca.crt                       this daemon's own pages

Nobody is helped to reach anything else: this is no open relay.
"""

import re
from collections.abc import Callable, Mapping

from attrs import field, frozen

from .connect import Authority, HeadError
from .destination import Destination, Misaddressed, Way, Whom
from .mirror import Mirrored, choose, in_mirror
from .schema import Registry

_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)")
_PORTS = {b"http": 80, b"https": 443}

IsOurs = Callable[[Authority], bool]
"""Is this the address of this daemon?"""


@frozen
class Addressed:
    """Whom a request is for, and `target`, a path with its query, there."""

    whom: Whom
    target: bytes


@frozen
class Addressing:
    """The rules for these registries, by name."""

    _registries: Mapping[str, Registry]
    _names: Mapping[Authority, str] = field(init=False)

    @_names.default
    def _by_authority(self) -> Mapping[Authority, str]:
        return {
            each: registry.name for registry in self._registries.values() for each in registry.authorities
        }

    def find(self, target: bytes, is_ours: IsOurs) -> Addressed:
        """Whom a request's target stands for."""
        if target.startswith(b"/"):
            return self._here(target)
        found = _ABSOLUTE.fullmatch(target)
        if found is None:
            return _refused(target, 400, "this is neither a path nor an address with http://")
        scheme, host, rest = found[1].lower(), found[2], found[3]
        rest = rest if rest.startswith(b"/") else b"/" + rest
        if scheme not in _PORTS:
            return _refused(rest, 403, "this proxy takes requests for http:// addresses, and by CONNECT")
        try:
            authority = Authority.parse(host, _PORTS[scheme])
        except HeadError as error:
            return _refused(rest, error.status, str(error))
        if is_ours(authority):
            return self._here(rest)
        if scheme == b"https":
            return _refused(rest, 403, "this proxy takes requests for https:// addresses by CONNECT only")
        name = self._names.get(authority)
        if name is None:
            reason = (
                f"{authority} is not one of this proxy's registries, and it takes plain-HTTP requests for no "
                "other hosts; its administrator can add a registry to the configuration: "
                f'[registries."{authority}"] with upstream = "http://{authority}"'
            )
            return _refused(rest, 403, reason)
        return Addressed(Destination(self._registries[name], Way.ABSOLUTE, authority), rest)

    def _here(self, target: bytes) -> Addressed:
        if not in_mirror(target):
            return Addressed(None, target)
        chosen = choose(target, self._names)
        if isinstance(chosen, Mirrored):
            registry = self._registries[chosen.registry]
            return Addressed(Destination(registry, Way.MIRROR, alias=chosen.alias), chosen.target)
        return Addressed(chosen, target)


def _refused(target: bytes, status: int, reason: str) -> Addressed:
    return Addressed(Misaddressed(status, "DENIED", reason), target)
