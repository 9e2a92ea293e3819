"""The listening sockets: bound by the one process or by the parent, adopted by workers.

Workers accept from the same sockets, so whoever has time takes the next connection, and those that wait when a worker
dies are taken by another.
"""

import os
import socket
from collections.abc import Iterable
from errno import EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Port as TCPPort
from twisted.internet.unix import Port as UnixPort
from twisted.python.failure import Failure

from .errors import RegcachdError

_NO_IPV6 = (EAFNOSUPPORT, EADDRNOTAVAIL)
_BACKLOG = 1024
"""Connections that wait to be accepted. Twisted's 50 are few for a cluster that begins a job: those for whom there is
no room try again after a second."""


class CannotListen(RegcachdError):
    """An address of `listen` or `mirror_tls` cannot be served."""


class DualPort(TCPPort):
    """A port on `::` that takes IPv4 clients too, whatever net.ipv6.bindv6only says."""

    def createInternetSocket(self) -> socket.socket:
        skt: socket.socket = super().createInternetSocket()
        skt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        return skt


def bind(reactor: Any, descriptions: Iterable[str], factory: Factory, key: str = "listen") -> list[Any]:
    """Listen where the descriptions, values of this key, say. Raises CannotListen; then nothing listens."""
    ports: list[Any] = []
    try:
        for description in descriptions:
            ports.append(_bind(reactor, description, factory))
    except CannotListen as error:
        for port in ports:
            port.stopListening()
        raise CannotListen(f"{key}: {error}") from error.__cause__
    return ports


def _bind(reactor: Any, description: str, factory: Factory) -> Any:
    try:
        if description.startswith("dual:"):
            return _bind_dual(reactor, int(description.removeprefix("dual:")), factory)
        listening: Deferred[Any] = serverFromString(reactor, description).listen(factory)
    except CannotListenError as error:
        raise CannotListen(_cannot_listen(description, error)) from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CannotListen(f"{description!r} is not an endpoint that Twisted knows: {error}") from error
    ports: list[Any] = []
    failures: list[Any] = []
    listening.addCallbacks(ports.append, failures.append)
    if failures:
        raise CannotListen(_cannot_listen(description, failures[0].value))
    if not ports or not isinstance(ports[0], TCPPort | UnixPort):
        raise CannotListen(
            f"{description!r} is not a TCP or Unix endpoint; use dual:, tcp:, systemd: or unix:"
        )
    if description.startswith(("tcp:", "tcp6:", "unix:")) and ":backlog=" not in description:
        ports[0].socket.listen(_BACKLOG)
    return ports[0]


def _bind_dual(reactor: Any, number: int, factory: Factory) -> Any:
    """A port for IPv6 and IPv4, or for IPv4 where the machine has no IPv6. Raises CannotListenError."""
    port: TCPPort = DualPort(number, factory, _BACKLOG, "::", reactor)
    try:
        port.startListening()
    except CannotListenError as error:
        if getattr(error.socketError, "errno", None) not in _NO_IPV6:
            raise
    else:
        return port
    port = TCPPort(number, factory, _BACKLOG, "", reactor)
    port.startListening()
    return port


def _cannot_listen(description: str, error: Exception) -> str:
    why = getattr(error, "socketError", None) or error
    hint = "; another program is using this port" if getattr(why, "errno", None) == EADDRINUSE else ""
    return f"cannot listen on {description!r}: {why}{hint}"


def where(ports: Iterable[Any]) -> str:
    """The addresses, for people."""
    return ", ".join(_address(port) for port in ports)


def _address(port: Any) -> str:
    host = port.getHost()
    if isinstance(port, DualPort):
        return f"port {host.port}"
    return (
        os.fsdecode(host.name or b"unnamed") if isinstance(host, UNIXAddress) else f"{host.host}:{host.port}"
    )


# -- sockets that several processes hold


ACCEPTS = 8
"""Connections that a worker takes in one turn of the reactor. With many clients to send to a turn is long, and who is
not taken waits for the next; of a burst no worker should take all."""


class _AFewAtATime:
    """Over a port: accepts some connections, then lets the reactor and the other workers have their turn.

    Twisted's own would take up to 100 from the queue, and a burst would end up in one worker.
    """

    numberAccepts = property(lambda self: ACCEPTS, lambda self, number: None)
    _shouldShutdown = False  # shutdown(2) would end the listening of all processes; closing ends ours


class AdoptedPort(_AFewAtATime, TCPPort):
    """A worker's TCP port."""


class AdoptedUnixPort(_AFewAtATime, UnixPort):
    """A worker's Unix port. Its file, with owner and mode, is the parent's."""

    def startListening(self: Any) -> None:
        skt, self._preexistingSocket = self._preexistingSocket, None
        self.factory.doStart()
        self.connected = True
        self.socket = skt
        self.fileno = skt.fileno
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        TCPPort.connectionLost(self, reason)


def adopt(reactor: Any, descriptors: Iterable[int], factory: Factory) -> list[Any]:
    """Accept on inherited listening sockets."""
    ports: list[Any] = []
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as probe:
            family = probe.family
        if family == socket.AF_UNIX:
            port = AdoptedUnixPort._fromListeningDescriptor(reactor, descriptor, factory)
        else:
            port = AdoptedPort._fromListeningDescriptor(reactor, descriptor, family, factory)
        os.close(descriptor)  # the port has a duplicate
        port.startListening()
        ports.append(port)
    return ports


def withdraw(ports: Iterable[Any]) -> None:
    """In the parent: hold the sockets for workers, accept nothing here, and let closing close."""
    for port in ports:
        port.stopReading()
        port._shouldShutdown = False
