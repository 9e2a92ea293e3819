"""Where connections on a client's or a registry's word may go: never to this machine, never to metadata services.

Names are judged by the addresses they resolve to, and the connection is made to the addresses that were
judged, so that a name which changes its answer in between (DNS rebinding) gains nothing.
"""

import socket
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IResolutionReceiver,
)
from zope.interface import implementer

from .errors import RegcachdError
from .intercept import forbidden_address
from .transport import DirectConnector

Rule = Callable[[str], str | None]
"""Takes an address; returns a reason to refuse it, or None."""


class Forbidden(RegcachdError):
    """Every address of the name is one that must not be connected to."""


def own_address(address: str) -> bool:
    """Is `address` one of this machine's own?

    Asks the kernel which source address it would use towards it: for its own addresses that is the address
    itself. Connecting a datagram socket sends nothing.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
            return bool(probe.getsockname()[0] == address)
        except OSError:
            return False  # no route: the connection itself will say so


def anywhere(address: str) -> None:
    """The rule for hosts that the configuration names: no refusal."""


def never_ours(address: str) -> str | None:
    """The rule for tunnels and redirects: a reason to refuse `address`, or None."""
    reason = forbidden_address(address)
    if reason is None and own_address(address):
        return f"{address} is an address of the proxy's own machine"
    return reason


def refuse_literal(host: str, refuse: Rule) -> str | None:
    """A reason to refuse a host that another will resolve; of a name nothing can be said but that it is this machine's.

    Addresses are read as generously as the C library reads them: 2130706433 and 0x7f.1 are 127.0.0.1.
    """
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 section 6.3
        return refuse("127.0.0.1")
    try:
        return refuse(host if ":" in host else socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        return None


@implementer(IResolutionReceiver)
@define
class _Sieve:
    """Passes on the addresses the rule allows and remembers why it held back others."""

    receiver: Any
    refuse: Rule
    reasons: list[str]

    def resolutionBegan(self, resolution: IHostResolution) -> None:
        self.receiver.resolutionBegan(resolution)

    def addressResolved(self, address: IAddress) -> None:
        reason = self.refuse(address.host)  # type: ignore[attr-defined]
        if reason is None:
            self.receiver.addressResolved(address)
        else:
            self.reasons.append(reason)

    def resolutionComplete(self) -> None:
        self.receiver.resolutionComplete()


@implementer(IReactorPluggableNameResolver, IReactorTCP, IReactorTime)
@define
class GuardedReactor:
    """A reactor for `HostnameEndpoint`: names resolve to allowed addresses only, connections are direct ones.

    One is made for each connection; afterwards `reasons` says what was held back.
    """

    reactor: Any
    refuse: Rule
    reasons: list[str] = field(factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reactor, name)

    @property
    def nameResolver(self) -> "GuardedReactor":
        return self

    def installNameResolver(self, resolver: Any) -> Any:
        return self.reactor.installNameResolver(resolver)

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> DirectConnector:
        connector = DirectConnector(host, port, factory, timeout, bindAddress, self.reactor)
        connector.connect()
        return connector

    def resolveHostName(self, resolutionReceiver: Any, *args: Any, **kwargs: Any) -> Any:
        sieve = _Sieve(resolutionReceiver, self.refuse, self.reasons)
        return self.reactor.nameResolver.resolveHostName(sieve, *args, **kwargs)
