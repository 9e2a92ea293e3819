"""Reachability: whether a registry can be connected to from this machine, looked at step by step.

Each step has connections of its own, made in the way in which `upstream` makes its: by the same dialer, with the same
trust, straight or through the parent.
"""

from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IResolutionReceiver
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ._compat import validity
from .config import Registry
from .dial import Dialer
from .finding import Finding, failure, ok, warning
from .guard import Forbidden, anywhere
from .http1 import UpstreamFailed
from .netloc import Netloc
from .passage import NotConnected
from .trust import Trust, is_address
from .verdicts import certificate, shown_certificate

_MOST_ADDRESSES = 6
"""That are tried, of those that a name resolves to."""


@implementer(IResolutionReceiver)
class _Addresses:
    """Collects what a name resolves to."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.complete: Deferred[list[str]] = Deferred()

    def resolutionBegan(self, resolution: Any) -> None:
        """Nothing to do yet."""

    def addressResolved(self, address: Any) -> None:
        """One more."""
        if address.host not in self.found:
            self.found.append(address.host)

    def resolutionComplete(self) -> None:
        """That was all."""
        if not self.complete.called:
            self.complete.callback(self.found)


async def resolve(reactor: Any, host: str, timeout: float) -> list[str]:
    """The addresses of a host; none when the name is not known, or nobody has said so in `timeout` seconds."""
    if is_address(host):
        return [host]
    receiver = _Addresses()
    late = reactor.callLater(timeout, receiver.resolutionComplete)
    try:
        reactor.nameResolver.resolveHostName(receiver, host)
        return await receiver.complete
    finally:
        if late.active():
            late.cancel()


def dns(host: str, addresses: list[str], whose: str) -> Finding:
    """What a look for a host's addresses came to; `whose` says what is there."""
    if not addresses:
        return failure(
            "dns",
            f"{host}, {whose}, has no address: its name cannot be resolved",
            "look whether the name is right, and at this machine's resolver (/etc/resolv.conf); where only a proxy can "
            "resolve names, set `upstream_proxy`",
        )
    if is_address(host):
        return ok("dns", f"{host}, {whose}, is an address: there is no name to resolve")
    more = "" if len(addresses) <= _MOST_ADDRESSES else f" and {len(addresses) - _MOST_ADDRESSES} more"
    return ok("dns", f"{host}, {whose}, is {', '.join(addresses[:_MOST_ADDRESSES])}{more}")


async def connect_each(reactor: Any, addresses: list[str], port: int, timeout: float) -> Finding:
    """Whether connections to the addresses come about."""
    tried = addresses[:_MOST_ADDRESSES]
    connecting = [_connect(reactor, address, port, timeout) for address in tried]
    outcomes: list[tuple[bool, Any]] = await DeferredList(connecting, consumeErrors=True)
    broken = [
        f"{address}: {value.getErrorMessage()}"
        for address, (_, value) in zip(tried, outcomes, strict=True)
        if isinstance(value, Failure)
    ]
    if not broken:
        return ok("tcp", f"port {port} takes connections, at {_counted(len(tried))}")
    said = "; ".join(broken)
    if len(broken) == len(tried):
        return failure(
            "tcp",
            f"port {port} takes no connection: {said}",
            "look at firewalls between here and there; where the way out is a proxy, set `upstream_proxy`",
        )
    return warning(
        "tcp",
        f"port {port} takes connections at {len(tried) - len(broken)} of {_counted(len(tried))}: {said}",
        "the others are used; if it is all of IPv6 that does not work, turn that off, or have it repaired",
    )


def _counted(addresses: int) -> str:
    return "its address" if addresses == 1 else f"{addresses} addresses"


def _connect(reactor: Any, address: str, port: int, timeout: float) -> "Deferred[None]":
    endpoint = HostnameEndpoint(reactor, address, port, timeout=timeout)
    connecting: Deferred[Any] = endpoint.connect(_Quiet.forProtocol(Protocol))
    return connecting.addCallback(lambda protocol: protocol.transport.abortConnection())


class _Quiet(Factory):
    noisy = False


async def reach(
    reactor: Any, registry: Registry, home: Netloc, timeout: float, now: datetime
) -> list[Finding]:
    """Connect as for a request, through the parent if there is one, and see whom TLS is with."""
    dialer = Dialer(reactor, registry.parent, timeout)
    parent = dialer.parent_of(home.host, home.port)
    findings = []
    shown: x509.Certificate | None = None
    try:
        connection = await _dial(dialer, home, registry.name)
        if parent is not None:
            findings.append(
                ok("parent", f"the parent {parent} takes requests for {home}")
                if home.scheme == "http"
                else ok("parent", f"the parent {parent} connects to {home}")
            )
        if home.scheme == "http":
            connection.transport.abortConnection()
            return [*findings, _unencrypted(registry)]
        try:
            shown = await _handshake(reactor, registry, home, connection, timeout, insecure=registry.insecure)
        except NotConnected as error:
            advice = "look whether this port speaks TLS, and whether a proxy on the way breaks it"
            return [*findings, failure("tls", str(error), advice)]
        except UpstreamFailed as error:
            stranger = await _stranger(reactor, dialer, registry, home, timeout)
            return [*findings, failure("tls", str(error), stranger)]
    except (UpstreamFailed, Forbidden) as error:
        return [*findings, failure("tcp" if parent is None else "parent", str(error))]
    finally:
        dialer.close()
    if registry.insecure:
        says = f"{_described(shown)}, not checked"
        return [*findings, warning("tls", says, "name its CA as `ca` instead of `insecure = true`")]
    by = "by the file `ca` or by this system" if registry.ca else "by this system"
    names, issuer, end = _read(shown)
    return [*findings, certificate(names, issuer, end, now, by)]


async def _dial(dialer: Dialer, home: Netloc, name: str) -> Any:
    connection = Protocol()
    await dialer.dial(home.host, home.port, name, anywhere, connection, bare=home.scheme == "http")
    return connection


async def _handshake(
    reactor: Any, registry: Registry, home: Netloc, connection: Any, timeout: float, *, insecure: bool
) -> x509.Certificate:
    trust = Trust(reactor, registry.ca, timeout)
    try:
        await trust.handshake(connection.transport, home.host, registry.name, insecure=insecure)
        found: x509.Certificate = connection.transport.tls.get_peer_certificate().to_cryptography()
        return found
    finally:
        connection.transport.abortConnection()


async def _stranger(reactor: Any, dialer: Dialer, registry: Registry, home: Netloc, timeout: float) -> str:
    """Whose certificate it is that was refused."""
    try:
        connection = await _dial(dialer, home, registry.name)
        shown = await _handshake(reactor, registry, home, connection, timeout, insecure=True)
    except (UpstreamFailed, Forbidden):
        return ""
    return (
        f"shown is a {_described(shown)}; if that is a proxy that looks into TLS, `ca` needs that one's root"
    )


def _described(shown: x509.Certificate) -> str:
    return shown_certificate(*_read(shown))


def _read(shown: x509.Certificate) -> tuple[list[str], str, datetime]:
    """The names it is for, who says so, and its end."""
    try:
        extension: Any = shown.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        names = [str(name.value) for name in extension]
    except (x509.ExtensionNotFound, ValueError):
        names = _attributes(shown.subject)
    return names, ", ".join(_attributes(shown.issuer)), validity(shown)[1]


def _attributes(name: x509.Name) -> list[str]:
    """Organisation and common name."""
    found = [*name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return [str(each.value) for each in [*found, *name.get_attributes_for_oid(NameOID.COMMON_NAME)]]


def _unencrypted(registry: Registry) -> Finding:
    says = "`upstream` is http: nothing is encrypted on the way"
    if registry.auth is None:
        return ok("tls", says)
    return warning("tls", f"{says}, passwords neither", "set `upstream` to https:// if the registry has that")
