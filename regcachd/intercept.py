"""What a CONNECT gets: intercept, tunnel or refuse; and who may ask, and where no tunnel leads.

Pure decisions over addresses and names. A name says nothing about where it leads, so a tunnel asks
`forbidden_address` again for every address that its host resolves to.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from attrs import frozen

from regcachd import config
from regcachd.connect import Authority
from regcachd.values import Network

Address = IPv4Address | IPv6Address


@frozen
class Intercept:
    """Become the TLS server for this registry, named as in the configuration."""

    registry: str


@frozen
class Tunnel:
    """Pass bytes to and fro, if the address allows it."""


@frozen
class Refuse:
    """Answer with this HTTP status; the reason is for the person behind the client."""

    status: int
    reason: str


Decision = Intercept | Tunnel | Refuse


def decide(authority: Authority, registries: Mapping[Authority, str], tunnel: config.Tunnel) -> Decision:
    """What a CONNECT to `authority` gets; `registries` says which registry each authority is, by name."""
    if authority in registries:
        return Intercept(registries[authority])
    if tunnel.policy == "deny":
        return _refuse(authority, "tunnels are off", 'set policy of [tunnel] to "list" or "allow"')
    if authority.port not in tunnel.ports:
        ports = ", ".join(map(str, sorted(tunnel.ports))) or "no port"
        return _refuse(
            authority, f"tunnels lead to {ports} only", f"add {authority.port} to ports of [tunnel]"
        )
    if tunnel.policy == "list" and not any(_matches(authority.host, pattern) for pattern in tunnel.hosts):
        return _refuse(
            authority, "tunnels lead to listed hosts only", f"add {authority.host} to hosts of [tunnel]"
        )
    return Tunnel()


def _refuse(authority: Authority, rule: str, remedy: str) -> Refuse:
    return Refuse(
        403,
        f"{authority} is not one of this proxy's registries, and {rule}. "
        f"In the proxy's configuration, add it to [registries] or {remedy}.",
    )


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def admitted(address: str, networks: Iterable[Network]) -> bool:
    """Whether a client at this address is in one of the networks; ::ffff:1.2.3.4 counts as 1.2.3.4."""
    try:
        client = ip_address(address)
    except ValueError:
        return False
    if isinstance(client, IPv6Address) and client.ipv4_mapped:
        client = client.ipv4_mapped
    return any(client in network for network in networks)


_THIS_NETWORK = IPv4Network("0.0.0.0/8")  # RFC 1122 section 3.2.1.3; Linux connects 0.0.0.0 to itself
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1

_METADATA = {
    ip_address("100.100.100.200"),  # Alibaba Cloud
    ip_address("168.63.129.16"),  # Azure
    ip_address("192.0.0.192"),  # Oracle Cloud
    ip_address("fd00:c1::a9fe:a9fe"),  # Oracle Cloud
    ip_address("fd00:ec2::254"),  # AWS
    ip_address("fd20:ce::254"),  # Google Cloud
}
"""Where clouds tell a machine its secrets, outside the link-local ranges that are forbidden as a whole."""


def forbidden_address(address: str) -> str | None:
    """Why no tunnel may lead to this address; None if one may.

    Private networks are fine, the daemon's own machine and its link are not. IPv6 forms that carry an IPv4
    address are judged by what they carry.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return f"{address!r} is not an IP address"
    target = found
    while (carried := _carried(target)) is not None:
        target = carried
    kind = _kind(target)
    if kind is None:
        return None
    return f"{found} is {kind}" if found == target else f"{found} stands for {target}, {kind}"


def _carried(address: Address) -> IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address end at, where that can be told from it."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def _kind(address: Address) -> str | None:
    if address in _METADATA:
        return "a cloud's metadata service"
    if address.is_unspecified or address in _THIS_NETWORK:
        return "an unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address == IPv4Address("255.255.255.255"):
        return "the broadcast address"
    return "a reserved address" if address.is_reserved else None
