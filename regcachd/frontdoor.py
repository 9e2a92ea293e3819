"""The front door: the first request of every connection, and the watch over all of them.

    CONNECT registry  -> 200, TLS under the registry's name, HTTP inside        intercept
    CONNECT other     -> 200, bytes as they are                                 tunnel
    CONNECT forbidden -> an answer that says why                                refuse
    CONNECT of nobody -> 407, where users are to say who they are, and the next head
    anything else     -> HTTP, for whom each request says (reception)

The first head is taken from the kernel byte-exactly, so that what follows it (a ClientHello, tunnelled bytes) can be
read by whom it is for.
"""

from collections.abc import Coroutine, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from .admission import CHALLENGE, NotAdmitted, ProxyUsers
from .channel import Channel
from .config import Registry
from .connect import Authority, Head, HeadError, HeadParser
from .destination import Destination, Way
from .edition import Edition
from .farewell import PLAIN, plain_answer, take_leave
from .guard import Forbidden, Rule, never_ours
from .handshake import shaken
from .intercept import Intercept, Refuse, admitted, decide
from .pki import PkiError
from .transport import name_of
from .tunnel import Splice, TunnelFailed, open_tunnel

log = Logger()

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SWEEP = 5.0
"""Seconds between looks at idle and stalled connections: how late a limit may be noticed."""
MOST_CHALLENGES = 5
"""Times that a client is asked for its password on one connection. One is what those need that say it when asked."""


class FirstHead(Protocol):
    """A connection whose first request head is not complete yet."""

    transport: Any
    factory: "FrontDoor"
    reading = False
    """Has the client begun a head that it has not ended?"""
    connecting = False
    """Is it we who keep the client waiting?"""

    def __init__(self, door: "FrontDoor") -> None:
        self._door = door
        self._edition = door.edition
        self._parser = HeadParser(self._edition.config.limits.head_size)
        self._error: HeadError | None = None
        self._challenges = 0

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self._door.arrived(self.transport)
        host = getattr(
            self.transport.getPeer(), "host", None
        )  # None: a Unix socket, whose file's mode admits
        if host is not None and not admitted(host, self._edition.config.clients):
            self.refuse(
                403, f"clients at {host} are not admitted; the administrator can add them to `clients`"
            )
        else:
            self.begin()

    def begin(self) -> None:
        """Listen to what an admitted client has to say."""
        self.transport.read_head(self)

    def take_head(self, data: bytes) -> int:
        self.reading = True
        try:
            return self._parser.feed(data)
        except HeadError as error:
            self._error = error
            return len(data)

    def head_taken(self) -> None:
        if self._error is not None:
            self.refuse(self._error.status, str(self._error))
        elif self._parser.head is not None:
            self.reading = False
            self.transport.stop_reading_head()
            self._dispatch(self._parser.head)

    # -- what becomes of it

    def _dispatch(self, head: Head) -> None:
        if self._door.full:
            self.refuse(503, "this proxy has as many connections as it may (limits.connections)")
        elif head.method != b"CONNECT":
            self.become(self._edition.web.buildProtocol(self.transport.getPeer()), head.raw)
        else:
            try:
                authority = Authority.parse(head.target)
            except HeadError as error:
                self.refuse(error.status, str(error))
                return
            users = self._edition.users
            if users is None or users.knows(head.header(b"proxy-authorization")):
                self._connect(authority)
            else:
                self._run(self._ask(users, head, authority))

    async def _ask(self, users: ProxyUsers, head: Head, authority: Authority) -> None:
        """Connect, if the client is one of the users; what it sends meanwhile stays in the kernel."""
        self.transport.pauseProducing()
        self.connecting = True
        address = getattr(self.transport.getPeer(), "host", "")
        refusal = await users.refusal(head.header(b"proxy-authorization"), address)
        self.connecting = False
        if not self.transport.connected:
            return
        if refusal is None:
            self._connect(authority)
        elif refusal.status == 407 and head.version == b"HTTP/1.1" and self._challenges < MOST_CHALLENGES:
            self._challenge(refusal)
        else:
            self.refuse(refusal.status, refusal.reason, [CHALLENGE] if refusal.status == 407 else [])

    def _challenge(self, refusal: NotAdmitted) -> None:
        """Say what is missing, and take the next head: there are clients that say their password when asked for it."""
        self._challenges += 1
        body = refusal.reason.encode() + b"\n"
        self.transport.write(plain_answer(407, body, PLAIN, [CHALLENGE]))
        self._parser = HeadParser(self._edition.config.limits.head_size)
        self.transport.read_head(self)
        self.transport.resumeProducing()

    def _connect(self, authority: Authority) -> None:
        config = self._edition.config
        decision = decide(authority, config.authorities, config.tunnel)
        if isinstance(decision, Intercept):
            self._run(self._intercept(authority, config.registries[decision.registry]))
        elif isinstance(decision, Refuse):
            self.refuse(decision.status, decision.reason)
        else:
            self._run(self._tunnel(authority))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(work).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        log.failure("a connection failed", failure)
        self.transport.abortConnection()

    async def _intercept(self, authority: Authority, registry: Registry) -> None:
        try:
            context = self._edition.contexts.for_host(authority.host)
        except PkiError as error:
            self.refuse(500, f"this proxy has no certificate for {authority.host}: {error}")
            return
        self.transport.write(ESTABLISHED)
        if await shaken(self.transport, context, authority.host):
            channel = self._edition.web.buildProtocol(self.transport.getPeer())
            channel.destination = Destination(registry, Way.CONNECT, authority)
            self.become(channel)

    async def _tunnel(self, authority: Authority) -> None:
        config, door = self._edition.config, self._door
        self.transport.pauseProducing()
        self.connecting = True
        try:
            far = await open_tunnel(
                door.reactor,
                authority,
                config.limits.connect_timeout,
                door.tunnel_rule,
                config.parent,
            )
        except Forbidden as error:
            self.refuse(403, f"{authority} is refused: {error}")
            return
        except TunnelFailed as error:
            self.refuse(502, str(error))
            return
        if not self.transport.connected:
            far.transport.abortConnection()
            return
        self.transport.write(ESTABLISHED)
        near = Splice()
        self.become(near)
        near.join(far)

    def become(self, protocol: Any, early: bytes = b"") -> None:
        """Hand the connection over; `early` is what has been read for the new protocol."""
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        if early:
            protocol.dataReceived(early)

    def refuse(self, status: int, reason: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Answer and close."""
        if not self.transport.connected:
            return
        self.transport.stop_reading_head()
        log.info(
            "refused {peer}: {status} {why}",
            peer=name_of(self.transport.getPeer()),
            status=status,
            why=reason,
        )
        body = reason.encode() + b"\n"
        take_leave(self.transport, self._door.reactor, status, body, headers=headers)


class FrontDoor(Factory):
    """Takes every connection."""

    noisy = False

    def __init__(
        self,
        reactor: Any,
        edition: Edition,
        tunnel_rule: Rule = never_ours,
    ) -> None:
        self.reactor = reactor
        self.edition = edition
        """What a connection is served by from now on, to its end: a reload puts another here."""
        self.tunnel_rule = tunnel_rule
        self._seen: dict[Any, tuple[int, float]] = {}  # transport: bytes moved when last looked, since when
        self._sweep = LoopingCall(self.sweep)
        self._sweep.clock = reactor

    def buildProtocol(self, addr: Any) -> Any:
        return FirstHead(self)

    def startFactory(self) -> None:
        self._sweep.start(SWEEP, now=False)

    def stopFactory(self) -> None:
        if self._sweep.running:
            self._sweep.stop()

    # -- connections

    @property
    def full(self) -> bool:
        """Are there more connections than allowed?"""
        return len(self._seen) > self.edition.config.limits.connections

    def arrived(self, transport: Any) -> None:
        """A client has connected."""
        self._seen[transport] = (0, self.reactor.seconds())
        transport.when_lost = self._left

    def _left(self, transport: Any) -> None:
        self._seen.pop(transport, None)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._seen)

    def drain(self) -> None:
        """Close what is not in the middle of a response; the others close after it."""
        for transport in list(self._seen):
            if isinstance(transport.protocol, Channel) and transport.protocol.busy:
                transport.protocol.persistent = False
            else:
                transport.loseConnection()

    def close(self) -> None:
        """Close everything."""
        for transport in list(self._seen):
            transport.abortConnection()

    def busy(self) -> list[Any]:
        """The connections that are in the middle of a response."""
        return [t for t in self._seen if isinstance(t.protocol, Channel) and t.protocol.busy]

    def sweep(self) -> None:
        """Close the connections that have used up their patience."""
        now = self.reactor.seconds()
        limits = self.edition.config.limits
        for transport, (moved, since) in list(self._seen.items()):
            protocol = transport.protocol
            total = transport.bytes_moved
            if isinstance(protocol, Splice) and protocol.other is not None:
                total += protocol.other.transport.bytes_moved
            if total != moved:
                self._seen[transport] = (total, now)
                since = now
            half_read = False
            if isinstance(protocol, FirstHead):
                overdue = not protocol.connecting and now - since > limits.head_timeout
                half_read = protocol.reading
            elif isinstance(protocol, Splice):
                overdue = now - since > limits.tunnel_idle
            elif transport.blocked:
                overdue = now - since > limits.send_timeout
            elif isinstance(protocol, Channel) and protocol.head_since is not None:
                overdue = half_read = now - protocol.head_since > limits.head_timeout
            elif isinstance(protocol, Channel) and protocol.body_since is not None:
                overdue = now - protocol.body_since > limits.send_timeout
            elif isinstance(protocol, Channel) and not protocol.busy:
                overdue = now - protocol.quiet_since > limits.idle_timeout
            else:
                overdue = False
            if overdue and half_read:
                protocol.refuse(408, f"the request was not complete after {limits.head_timeout:g} s")
            elif overdue:
                log.info("closing a connection of {peer} that stood still", peer=name_of(transport.getPeer()))
                transport.abortConnection()
