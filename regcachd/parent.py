"""The parent: a proxy that upstreams are reached through, a company's or another regcachd; and whom to reach without.

Pure: what `upstream_proxy`, `upstream_proxy_password` and `no_proxy` say, as values.
"""

import base64
import re
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

from attrs import evolve, field, frozen

from regcachd.connect import Authority, HeadError
from regcachd.secret import Secret
from regcachd.units import BadSecret, BadValue
from regcachd.values import Network, network, text

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:(.*)@)?([^/?#@\s\\]+)/?", re.DOTALL)
_FORMS = (
    'expected "http://HOST:PORT" or "http://USER@HOST:PORT" with the password in upstream_proxy_password, '
    'or "direct"; what is special in an URL is written as %XX in USER'
)
_SCHEMES = {
    "https": "regcachd speaks to its parent in plain HTTP, through which TLS to the registries passes untouched: "
    "write http:// and the port on which the proxy takes that",
    "socks": "SOCKS is not spoken here: name an HTTP proxy",
}


@frozen
class Written:
    """A password that stands in the configuration itself."""

    _password: str = field(repr=False)

    def read(self) -> str:
        """The password."""
        return self._password


@frozen
class Direct:
    """Whom to reach without the parent: a host, all below a name, a network, or everybody; on one port or on all."""

    host: str = ""
    below: str = ""
    network: Network | None = None
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        """Is this one of them? A name is compared as a name: whoever resolves it, that is the parent."""
        if self.port not in (None, port):
            return False
        if self.network is not None:
            try:
                address = ip_address(host)
            except ValueError:
                return False
            if isinstance(address, IPv6Address) and address.ipv4_mapped:
                address = address.ipv4_mapped
            return address in self.network
        if self.below:
            return host.endswith(self.below)
        return self.host in (host, "*")


@frozen
class Parent:
    """A proxy; shown by its host and port only."""

    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: Secret | Written | None = None
    direct: tuple[Direct, ...] = ()

    def __str__(self) -> str:
        return str(Authority(self.host, self.port))

    def leads_to(self, host: str, port: int) -> bool:
        """Is this host reached through the parent?"""
        return not any(direct.covers(host, port) for direct in self.direct)

    def authorization(self) -> bytes | None:
        """The Proxy-Authorization (RFC 7617), or None. Raises SecretUnreadable."""
        if self.user is None:
            return None
        password = "" if self.password is None else self.password.read()
        return b"Basic " + base64.b64encode(f"{self.user}:{password}".encode())


def proxy(value: object) -> Parent | None:
    """Read `upstream_proxy`; None is "direct". Raises BadSecret, for a password may be in it."""
    if value == "direct":
        return None
    found = _URL.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise BadSecret(_FORMS)
    scheme, userinfo, where = found[1].lower(), found[2], found[3]
    if scheme != "http":
        raise BadSecret(next((why for kind, why in _SCHEMES.items() if scheme.startswith(kind)), _FORMS))
    try:
        authority = Authority.parse(where, 80)
    except HeadError:
        raise BadSecret(_FORMS) from None
    parent = Parent(authority.host, authority.port)
    if userinfo is None:
        return parent
    written_user, colon, written_password = userinfo.partition(":")
    try:
        user, password = (unquote(part, errors="strict") for part in (written_user, written_password))
    except UnicodeDecodeError:
        raise BadSecret("expected UTF-8 behind the %XX of user and password") from None
    if not user or ":" in user or not (user + password).isprintable():
        raise BadSecret(_FORMS)
    return evolve(parent, user=user, password=Written(password) if colon else None)


def direct(value: object) -> Direct:
    """Read an entry of `no_proxy`. Raises BadValue."""
    written = text(value)
    if written == "*":
        return Direct(host="*")
    if "/" in written:
        return Direct(network=network(written))
    if written.count(":") > 1 and not written.startswith("["):
        written = f"[{written}]"
    below = written.startswith((".", "*."))
    name = written.removeprefix("*").removeprefix(".") if below else written
    try:
        # Whatever port is assumed is the one that comes out, unless the text has a port of its own.
        first, second = Authority.parse(name, 1), Authority.parse(name, 2)
    except HeadError:
        raise BadValue(
            'expected a host, ".example.com" for all below example.com, a network such as "10.0.0.0/8", or "*"; '
            "with :PORT behind a host if only that port is meant"
        ) from None
    port = first.port if first.port == second.port else None
    return Direct(below="." + first.host, port=port) if below else Direct(host=first.host, port=port)


def parent_of(proxy: Parent | None, password: Secret | None, no_proxy: tuple[Direct, ...]) -> Parent | None:
    """The parent that three keys make together. Raises BadValue when they do not fit."""
    if proxy is None:
        return None
    if password is not None:
        if proxy.user is None:
            raise BadValue(
                "upstream_proxy_password is set, and upstream_proxy names no user: http://USER@HOST:PORT"
            )
        if proxy.password is not None:
            raise BadValue(
                "the password is in upstream_proxy and in upstream_proxy_password: keep the latter"
            )
        proxy = evolve(proxy, password=password)
    return evolve(proxy, direct=no_proxy)
