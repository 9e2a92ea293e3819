"""Where connections may go: rules over addresses, and names judged by what they resolve to."""

import socket
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IHostResolution
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from regcachd.guard import GuardedReactor, anywhere, never_ours, own_address
from regcachd.transport import DirectClient
from tests.wire import Place
from tests.world import until

reactor: Any = _reactor


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
        ("127.8.9.1", "127.8.9.1 is a loopback address"),
        ("::1", "::1 is a loopback address"),
        ("::ffff:127.0.0.1", "::ffff:7f00:1 stands for 127.0.0.1, a loopback address"),
        ("0.0.0.0", "0.0.0.0 is an unspecified address"),
        ("::", ":: is an unspecified address"),
        ("169.254.169.254", "169.254.169.254 is a link-local address"),
        ("fe80::1", "fe80::1 is a link-local address"),
        ("100.100.100.200", "100.100.100.200 is a cloud's metadata service"),
        ("192.0.2.1", None),
        ("2001:db8::1", None),
        ("10.255.255.254", None),
    ],
)
def test_never_ours(address: str, reason: str | None) -> None:
    """Loopback, link-local and metadata addresses are refused with a reason, others are not."""
    assert never_ours(address) == reason


def own_addresses() -> list[str]:
    """Addresses of this machine that are not loopback ones, as far as its name or its routes tell."""
    found = []
    for family, target in (socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                found.append(probe.getsockname()[0])
        except OSError:
            pass  # no route of this kind
    return found


def test_own_addresses() -> None:
    """The machine's own addresses on its networks are refused too, as such."""
    assert own_address("127.0.0.1")
    for address in own_addresses():
        assert own_address(address)
        assert "own machine" in (never_ours(address) or "") or "link-local" in (never_ours(address) or "")


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "255.255.255.255"])
def test_other_addresses(address: str) -> None:
    """Addresses that belong to others, or lead nowhere, are not the machine's own."""
    assert not own_address(address)


def test_anywhere() -> None:
    """What the configuration names may be anywhere."""
    assert anywhere("127.0.0.1") is None  # type: ignore[func-returns-value]


@implementer(IHostResolution)
class _Resolution:
    name = "several.example"

    def cancel(self) -> None:
        raise NotImplementedError


class _Names:
    """A reactor whose resolver gives the addresses it is told; connections and time are the real one's."""

    def __init__(self, *addresses: Any) -> None:
        self._addresses = addresses
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def resolveHostName(self, receiver: Any, *args: Any, **kwargs: Any) -> Any:
        resolution = _Resolution()
        receiver.resolutionBegan(resolution)
        for address in self._addresses:
            receiver.addressResolved(address)
        receiver.resolutionComplete()
        return resolution


def only_127_0_0_1(address: str) -> str | None:
    return None if address == "127.0.0.1" else f"{address} is forbidden here"


async def test_forbidden_addresses_are_left_out() -> None:
    """Of several addresses the allowed one is connected to, by a direct connection."""
    place = Place()
    names = _Names(
        IPv6Address("TCP", "::1", place.number),
        IPv4Address("TCP", "127.0.0.2", place.number),
        IPv4Address("TCP", "127.0.0.1", place.number),
    )
    guarded = GuardedReactor(names, only_127_0_0_1)
    endpoint = HostnameEndpoint(guarded, "several.example", place.number)
    protocol: Any = await endpoint.connect(Factory.forProtocol(Protocol))
    assert isinstance(protocol.transport, DirectClient)
    assert protocol.transport.getPeer().host == "127.0.0.1"
    assert guarded.reasons == ["::1 is forbidden here", "127.0.0.2 is forbidden here"]
    protocol.transport.abortConnection()
    await until(lambda: not protocol.transport.connected)
    await place.stop()


async def test_no_address_left() -> None:
    """When all are forbidden nothing is connected, and the reasons are kept."""
    guarded = GuardedReactor(_Names(IPv4Address("TCP", "127.0.0.2", 1)), only_127_0_0_1)
    with pytest.raises(DNSLookupError):
        await HostnameEndpoint(guarded, "several.example", 1).connect(Factory.forProtocol(Protocol))
    assert guarded.reasons == ["127.0.0.2 is forbidden here"]
