"""The values that keys of the configuration take.

A reader is a function that gets what TOML gave and returns what the daemon uses, or raises `BadValue`, whose
text says what would have been accepted. `key`, `optional` and `required` make an attrs field of a reader, so
that a frozen class with such fields is the schema of its table.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Any, TypeVar

import attrs
from attrs import field

from regcachd.connect import Authority, HeadError
from regcachd.units import BadSecret, BadValue

T = TypeVar("T")
N = TypeVar("N", int, float)
Reader = Callable[[object], T]
Network = IPv4Network | IPv6Network

HTTPS_PORT = 443
HTTP_PORT = 80

_URL = re.compile(r"(https?)://([^/?#@\s\\]+)/?", re.ASCII)
_DUAL = re.compile(r"dual:([0-9]{1,5})")


def key(default: object, read: Reader[T]) -> T:
    """A key with a default, which is given as one would write it in TOML."""
    made: T = field(default=read(default), metadata={"read": read, "default": default})
    return made


def optional(read: Reader[T]) -> T | None:
    """A key that is unset unless somebody sets it."""
    made: T | None = field(default=None, metadata={"read": read})
    return made


def required(read: Reader[T]) -> T:
    """A key that its table cannot do without."""
    made: T = field(metadata={"read": read})
    return made


def keys_of(table: type) -> dict[str, Any]:
    """The keys of a table by name, with their metadata: `read`, and `default` where there is one."""
    return {name: made.metadata for name, made in attrs.fields_dict(table).items() if "read" in made.metadata}


def text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise BadValue("expected a text in quotes, not empty")
    return value


def kind_name(value: object) -> str:
    """The name of a plugin; what docker calls `auth` is a secret."""
    if not isinstance(value, str) or not value:
        raise BadSecret("expected the name of a kind of authentication in quotes")
    return value


def user_name(value: object) -> str:
    """A user's name, which goes before the colon of RFC 7617."""
    if not isinstance(value, str) or not value or not value.isprintable() or ":" in value:
        raise BadValue("expected a user name in quotes, without a colon")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValue("expected true or false")
    return value


def count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadValue("expected a whole number")
    return value


def workers(value: object) -> int | None:
    """A number of processes; None is "auto"."""
    if value == "auto":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
        raise BadValue('expected "auto" or a number from 1 to 64')
    return value


def one_of(*words: str) -> Reader[str]:
    def read_word(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise BadValue(f"expected {', '.join(words[:-1])} or {words[-1]}, in quotes")
        return value

    return read_word


def within(read: Reader[N], low: object, high: object) -> Reader[N]:
    """`read`, with bounds that are given, and named in the error, as people write them."""
    smallest, largest = read(low), read(high)

    def read_within(value: object) -> N:
        number = read(value)
        if not smallest <= number <= largest:
            raise BadValue(f"expected a value from {low} to {high}")
        return number

    return read_within


def or_off(read: Reader[int]) -> Reader[int]:
    """What `read` reads, or "off", which is 0."""

    def read_or_off(value: object) -> int:
        try:
            return 0 if value == "off" else read(value)
        except BadValue as error:
            raise BadValue(f'{error}; or "off"') from None

    return read_or_off


def list_of(read: Reader[T], *, empty: bool = True) -> Reader[tuple[T, ...]]:
    """A list whose items `read` reads; what is said twice counts once."""

    def read_list(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise BadValue("expected a list in square brackets")
        if not value and not empty:
            raise BadValue("expected a list with at least one entry")
        items = []
        for number, item in enumerate(value, start=1):
            try:
                items.append(read(item))
            except BadValue as error:
                raise type(error)(f"entry {number}: {error}" if len(value) > 1 else str(error)) from None
        return tuple(dict.fromkeys(items))

    return read_list


def set_of(read: Reader[T]) -> Reader[frozenset[T]]:
    read_items = list_of(read)
    return lambda value: frozenset(read_items(value))


def listener(value: object) -> str:
    """`dual:PORT`, or the description of a Twisted endpoint, which only Twisted can judge."""
    description = text(value)
    if description.startswith("dual:"):
        port = _DUAL.fullmatch(description)
        if port is None or int(port[1]) > 65535:
            raise BadValue('expected "dual:PORT" with a port from 0 to 65535')
    return description


def network(value: object) -> Network:
    """An IP network without host bits; IPv4 as IPv4, since clients' addresses are unmapped to be compared."""
    written = text(value)
    try:
        found = ip_network(written, strict=False)
        host_bits = ip_interface(written).ip != found.network_address
    except ValueError:
        raise BadValue('expected a network such as "10.0.0.0/8" or "fc00::/7"') from None
    if "%" in written:
        raise BadValue("expected a network without a zone")
    mapped = found.network_address.ipv4_mapped if isinstance(found, IPv6Network) else None
    if mapped is not None and found.prefixlen >= 96:
        raise BadValue(f'expected IPv4 to be written as IPv4: "{mapped}/{found.prefixlen - 96}"')
    if host_bits:
        raise BadValue(f'expected a network, and this is an address in one: write "{found}"')
    return found


def authority(value: object) -> Authority:
    """A host, or host:port; the port is that of https unless given."""
    return _authority(text(value), HTTPS_PORT)


def realm_host(value: object) -> str:
    """A host that may hand out tokens, with a port if that is not its scheme's."""
    written = text(value)
    found = _authority(written, HTTPS_PORT)
    if written.removesuffix(".").endswith(f":{found.port}"):
        return str(found)
    return _write(found, HTTPS_PORT)


def _authority(written: str, default_port: int) -> Authority:
    try:
        return Authority.parse(written, default_port)
    except HeadError:
        raise BadValue(
            "expected HOST or HOST:PORT: a name in ASCII, an IPv4 address or an IPv6 address in brackets"
        ) from None


def registry_name(value: object) -> str:
    """`host` or `host:port` as in images, in the one form that keeps a registry from having two names."""
    found = authority(value)
    name = _write(found, HTTPS_PORT)
    if value != name:
        raise BadValue(f'expected this registry to be called "{name}"')
    return name


def upstream(value: object) -> str:
    """A registry's base URL in its one form, scheme://host[:port]."""
    parts = _URL.fullmatch(text(value))
    if parts is None:
        raise BadValue(
            'expected "https://HOST" or "https://HOST:PORT", or http:// where the network is trusted; '
            "no path, no query, no user or password"
        )
    scheme, rest = parts[1], parts[2]
    return f"{scheme}://{_write(_authority(rest, _port_of(scheme)), _port_of(scheme))}"


def upstream_authority(url: str) -> Authority:
    """Where an upstream, as `upstream` returns it, listens."""
    scheme, _, rest = url.partition("://")
    return Authority.parse(rest, _port_of(scheme))


def realm_authority(url: str) -> Authority:
    """Where the realm of a challenge listens. Raises HeadError for what is not an http(s) URL."""
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme.lower() not in ("http", "https"):
        raise HeadError("a realm is an http or https URL")
    return Authority.parse(rest.partition("/")[0].partition("?")[0], _port_of(scheme.lower()))


def _port_of(scheme: str) -> int:
    return HTTPS_PORT if scheme == "https" else HTTP_PORT


def _write(found: Authority, default_port: int) -> str:
    return str(found).removesuffix(f":{found.port}") if found.port == default_port else str(found)


def host_pattern(value: object) -> str:
    """A host without a port, or `*.` and the name that all hosts meant are below."""
    written = text(value)
    wildcard, name = ("*.", written[2:]) if written.startswith("*.") else ("", written)
    return wildcard + _host(name, 'expected a host name, or "*.example.com" for every host below example.com')


def own_name(value: object) -> str:
    """What a host is called, or one of its IP addresses."""
    written = text(value)
    if written.count(":") > 1 and not written.startswith("["):
        written = f"[{written}]"
    return _host(written, "expected a host name in ASCII, or an IP address")


def _host(written: str, expected: str) -> str:
    try:
        # Whatever port is assumed is the one that comes out, unless the text has a port of its own.
        first, second = Authority.parse(written, 1), Authority.parse(written, 2)
    except HeadError:
        raise BadValue(expected) from None
    if first.port == second.port:
        raise BadValue("expected a host without a port: ports have a key of their own")
    return first.host
