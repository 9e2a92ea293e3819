"""Realms: where a registry sends its clients for tokens, which of these are asked, and which are told a credential.

A challenge is only a registry's word, and with it a registry could have anybody's server asked in this machine's name,
or have its credential told to a stranger. So, for the registry at HOST:

    the realm is                        asked       told the credential
    https, on HOST, any port            yes         yes
    http, on HOST and its own port,     yes         yes
      where HOST is configured as http
    one of its `realm_hosts`, https     yes         yes     and http where HOST is configured as http
    https, port 443, on HOST's          yes         yes
      registrable domain
    https, port 443, any other name     yes         no
    all else                            no          no

Addresses instead of names, and names without a dot, are asked only if they are HOST or among `realm_hosts`. Whether
a name leads to this machine is seen when it is resolved (guard.py); it may for HOST and `realm_hosts`, which the
operator has named. An https registry that says http (Harbor behind a proxy that does TLS for it) means https.
"""

from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote_plus, urlencode

from attrs import frozen

from regcachd.connect import Authority, HeadError
from regcachd.interfaces import AuthFailed, Home

Registrable = Callable[[str], str | None]
"""From a host name to the domain that its owner has registered: "site.example" of "auth.site.example"."""

_PORTS = {"http": 80, "https": 443}
_LONGEST = 8192
"""Characters; longer realms are refused."""


@frozen
class Realm:
    """A realm that may be asked."""

    scheme: str
    authority: Authority
    path: str
    """With a slash in front."""
    query: tuple[tuple[str, str], ...]
    """Without `service` and `scope`, which each request adds."""
    is_trusted: bool
    """May it be told the registry's credential?"""
    is_named: bool
    """Has the operator named its host, so that it may be on this machine?"""

    def url(self, parameters: list[tuple[str, str]]) -> str:
        """Its URL with these parameters after its own."""
        query = urlencode([*self.query, *parameters], quote_via=quote_plus, safe="/:,")
        host = str(self.authority).removesuffix(f":{_PORTS[self.scheme]}")
        return f"{self.scheme}://{host}{self.path}" + (f"?{query}" if query else "")


def judge_realm(url: str, home: Home, registrable: Registrable) -> Realm:
    """The realm at this URL, from a challenge of the registry `home`. Raises AuthFailed if it may not be asked."""
    scheme, authority, path, query = _parse(url, home)
    is_home = authority.host == home.host
    is_listed = any(authority == _listed(each, scheme) for each in home.realm_hosts)
    if scheme == "http":
        if home.scheme != "http" or not (is_listed or (is_home and authority.port == home.port)):
            raise _refused(url, home, "it would go unencrypted", authority)
    elif not (is_home or is_listed):
        if not _is_public_name(authority.host):
            raise _refused(url, home, "it is on a private network", authority)
        if authority.port != _PORTS["https"]:
            raise _refused(url, home, f"port {authority.port} is not that of https", authority)
    return Realm(
        scheme=scheme,
        authority=authority,
        path=path,
        query=tuple(pair for pair in query if pair[0] not in ("service", "scope")),
        is_trusted=is_home or is_listed or _same_owner(authority.host, home.host, registrable),
        is_named=is_home or is_listed,
    )


def distrusted(realm: Realm, home: Home) -> AuthFailed:
    """Why a realm is not told the credential, and how it could be."""
    return AuthFailed(
        f"{home.name} wants its credential told to {realm.authority.host}, which is not on its own domain; "
        f"if that is right, add {_advice(realm.authority)} of this registry"
    )


def _parse(url: str, home: Home) -> tuple[str, Authority, str, list[tuple[str, str]]]:
    """Raises AuthFailed."""
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS or len(url) > _LONGEST:
        raise _refused(url, home, "it is no https:// address")
    if not (url.isascii() and url.isprintable()) or any(bad in url for bad in ' \\#"<>'):
        raise _refused(url, home, "it has characters that no address has")
    end = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    written, rest = rest[:end], rest[end:]
    if "@" in written:
        raise _refused(url, home, "it has a user or a password in it")
    try:
        authority = Authority.parse(written, _PORTS[scheme])
    except HeadError:
        raise _refused(url, home, "it names no host") from None
    if scheme == "http" and home.scheme == "https" and authority == Authority(home.host, _PORTS["http"]):
        scheme, authority = "https", Authority(home.host, home.port)
    path, _, query = rest.partition("?")
    try:
        return scheme, authority, path or "/", parse_qsl(query, keep_blank_values=True, max_num_fields=32)
    except ValueError:
        raise _refused(url, home, "its query is too long") from None


def _listed(written: str, scheme: str) -> Authority | None:
    """One of `realm_hosts`, which the configuration has read before; None for nonsense."""
    try:
        return Authority.parse(written, _PORTS[scheme])
    except HeadError:
        return None


def _is_public_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return "." in host
    return False


def _same_owner(host: str, home: str, registrable: Registrable) -> bool:
    """Without a registrable domain, which addresses and unlisted names have not, only hosts below HOST are its own."""
    if not _is_public_name(home) or not _is_public_name(host):
        return False
    domain = registrable(home)
    if domain is None:
        return host.endswith(f".{home}")
    return registrable(host) == domain


def _refused(url: str, home: Home, why: str, authority: Authority | None = None) -> AuthFailed:
    shown = url.partition("?")[0]
    shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
    shown = shown.rpartition("@")[2]
    advice = "" if authority is None else f"; if that is right, add {_advice(authority)} of this registry"
    return AuthFailed(f"{home.name} sends its clients for tokens to {shown!r}, and {why}{advice}")


def _advice(authority: Authority) -> str:
    return f'"{str(authority).removesuffix(":443")}" to realm_hosts'
