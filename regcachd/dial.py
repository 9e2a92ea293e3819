"""Dialling: a TCP connection to a host, straight or through the parent.

Straight, the guard's rule judges every address that the host's name resolves to. Through the parent, it is the parent
that resolves the name and has rules of its own; the parent itself may be anywhere, for the configuration names it.
Hosts that are addresses are judged here in either case.
"""

from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout

from .connect import Authority
from .guard import Forbidden, GuardedReactor, Rule, anywhere, refuse_literal
from .http1 import UpstreamFailed
from .parent import Parent
from .passage import Broken, NotConnected, Passage, refusal
from .secret import SecretUnreadable
from .transport import QuietFactory

GRACE = 5.0
"""Seconds a parent has beyond our own patience: its may be as long, and its answer says more than our timeout."""

LATE = 2.0
"""Seconds beyond our patience for which the addresses of a host, should it have several, may go on to be tried; and
those whom we ask for its addresses have no other measure than this."""

STOPPING = "regcachd is stopping"


@define(eq=False)
class Dialer:
    """Makes connections for one registry, or for all tunnels. `timeout` is in seconds."""

    _reactor: Any
    _parent: Parent | None
    _timeout: float
    _under_way: "set[Deferred[Any]]" = field(factory=set, init=False)
    _closed: bool = field(default=False, init=False)

    def parent_of(self, host: str, port: int) -> Parent | None:
        """The parent, if this host is reached through it."""
        return self._parent if self._parent is not None and self._parent.leads_to(host, port) else None

    async def dial(
        self, host: str, port: int, name: str, rule: Rule, protocol: Any, *, bare: bool = False
    ) -> None:
        """Connect `protocol` to a host, which errors call `name`.

        `bare`: a parent is to be asked for each request, not for a passage: this is the connection to the parent.
        Raises Forbidden, NotConnected when nobody answers, and UpstreamFailed for what more tries would not change.
        """
        parent = self.parent_of(host, port)
        if parent is None:
            await self._connect(host, port, name, rule, protocol)
            return
        if (reason := refuse_literal(host, rule)) is not None:
            raise Forbidden(reason)
        if bare:
            await self._connect(parent.host, parent.port, f"the parent {parent}", anywhere, protocol)
            return
        authority = str(Authority(host, port))
        passage = Passage(authority, authorization(parent))
        await self._connect(parent.host, parent.port, f"the parent {parent}", anywhere, passage)
        await self._pass(passage, parent, authority)
        passage.become(protocol)

    async def _connect(self, host: str, port: int, name: str, rule: Rule, protocol: Any) -> None:
        if self._closed:
            raise UpstreamFailed(STOPPING, status=503)
        guarded = GuardedReactor(self._reactor, rule)
        endpoint = HostnameEndpoint(guarded, host, port, timeout=self._timeout)
        connecting = endpoint.connect(QuietFactory.forProtocol(lambda: protocol))
        late = self._reactor.callLater(self._timeout + LATE, connecting.cancel)
        try:
            await self._wait(connecting)
        except (ConnectError, DNSLookupError, ValueError) as error:  # ValueError: no name that IDNA allows
            if self._closed:
                raise UpstreamFailed(STOPPING, status=503) from error
            if not late.active():
                why = f"no name server says what its address is ({host})"
                raise NotConnected(f"{name} cannot be reached: {why}", 504) from error
            if guarded.reasons and isinstance(error, DNSLookupError):  # no address was left
                raise Forbidden(guarded.reasons[0]) from error
            status = 504 if isinstance(error, ConnectTimeout) else 502
            why = str(error).removesuffix(".")
            raise NotConnected(f"{name} cannot be reached: {why}", status) from error
        finally:
            if late.active():
                late.cancel()

    async def _pass(self, passage: Passage, parent: Parent, authority: str) -> None:
        late = self._reactor.callLater(self._timeout + GRACE, passage.late)
        try:
            response = await self._wait(passage.answer)
        except Broken as error:
            status = 502 if late.active() else 504
            raise NotConnected(f"the parent {parent}, asked for {authority}, {error}", status) from error
        finally:
            if late.active():
                late.cancel()
        if not 200 <= response.status_code < 300:
            passage.transport.abortConnection()
            raise refusal(parent, authority, response)

    async def _wait(self, connecting: "Deferred[Any]") -> Any:
        """For something that `close` cancels. Raises UpstreamFailed then."""
        self._under_way.add(connecting)
        try:
            return await connecting
        except (CancelledError, ConnectingCancelledError) as error:
            raise UpstreamFailed(STOPPING, status=503) from error
        finally:
            self._under_way.discard(connecting)

    def close(self) -> None:
        """End what is under way, and all that is to come."""
        self._closed = True
        for connecting in list(self._under_way):
            connecting.cancel()


def authorization(parent: Parent) -> bytes | None:
    """What the parent is told of us. Raises UpstreamFailed when the password cannot be read."""
    try:
        return parent.authorization()
    except SecretUnreadable as error:
        raise UpstreamFailed(f"the password for the parent {parent} is missing: {error}") from None
