"""Upstream: requests to the real registries, over a pool of persistent, verified connections.

One `Upstream` serves one configured registry. It knows where the registry is, whom to trust for it and how
to follow its redirects to the storage that really has the bytes. What it never does is decide: callers
see every status, and nothing is repeated except on a kept-alive connection that had already died.

Hosts that cannot be reached are not waited for, again and again: each has a circuit breaker (breaker.py), and whoever
tries whether a host is back does not wait for that longer than a few seconds.
"""

import random
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .breaker import Admission, Breaker
from .config import Limits, Registry
from .dial import Dialer, authorization
from .guard import Forbidden, Rule, anywhere, never_ours
from .http1 import Http1Connection
from .netloc import BadRedirect, Netloc, parse_url, resolve
from .parent import Parent
from .passage import NotConnected, unauthorized
from .pool import Pool
from .response import RawHeaders, Response, UpstreamFailed
from .trust import Roots, Trust
from .units import roughly
from .upload import Upload

__all__ = ["REDIRECTS", "BadRedirect", "Netloc", "Unreachable", "Upstream", "parse_url"]

log = Logger()

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 5
WAIT = 10.0
"""Seconds after a failure for which a registry is taken to be out of reach by those who can do without it."""
PROBING = 3.0
"""Seconds that somebody whose request has become a probe waits for what it finds."""
MOST_BREAKERS = 256
"""Hosts of which it is known how reachable they are; redirects can name any number."""

_CREDENTIALS = frozenset({b"authorization", b"cookie"})
_CHALLENGE = b"www-authenticate"
"""What storage asks for is no word of the registry's: clients would tell theirs to whomever it names."""
_HAS_BODY = frozenset({b"POST", b"PUT", b"PATCH"})
_SLOW = frozenset({b"PUT", b"PATCH", b"DELETE"})
"""What a registry may think about for long, or close on, while it serves all others: that tells nothing of how
reachable it is."""


class Unreachable(UpstreamFailed):
    """The host has not been reachable for a while, and was not tried again. `since` is by the reactor's clock."""

    def __init__(self, message: str, status: int, since: float) -> None:
        super().__init__(message, status)
        self.since = since


class Upstream:
    """Requests to one registry and to the storage it redirects to."""

    def __init__(self, reactor: Any, registry: Registry, limits: Limits, roots: Roots | None = None) -> None:
        self._reactor = reactor
        self.registry = registry
        self._home, _ = parse_url(registry.upstream)
        self._dialer = Dialer(reactor, registry.parent, limits.connect_timeout)
        self._trust = Trust(reactor, registry.ca, limits.connect_timeout, roots)
        self._pool = Pool(reactor)
        self._breakers: dict[Netloc, Breaker] = {}

    # -- requests

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: RawHeaders,
        *,
        body: bytes | Upload = b"",
        follow: bool = False,
        patient: bool = False,
    ) -> Response:
        """Ask the registry; `target` is the path with query, `headers` without Host and what frames a body.

        With `follow`, redirects of GET and HEAD are followed; Authorization stays behind when scheme, host or port
        changes (RFC 9110 section 15.4, RFC 6454 section 4): another port may be another's, and plain HTTP everybody's.
        `patient` is for those who try again by themselves and wait in between: a host that is unreachable is tried.
        The answer's body must be delivered or abandoned. Raises UpstreamFailed, and Unreachable at once.
        """
        url = self.registry.upstream + target.decode("latin-1")
        netloc, path = self._home, target
        for _ in range(MOST_REDIRECTS + 1):
            response = await self._reach(netloc, method, path, headers, body, patient=patient)
            location = response.header(b"location") if follow and response.status in REDIRECTS else None
            if location is None:
                if netloc != self._home:
                    response.headers = [h for h in response.headers if h[0].lower() != _CHALLENGE]
                return response
            response.discard()
            url = resolve(url, location.decode("latin-1"))
            netloc, path = parse_url(url)
            if netloc != self._home:  # and should it lead back: the way was not the registry's any more
                headers = [h for h in headers if h[0].lower() not in _CREDENTIALS]
        raise BadRedirect(f"{self.registry.name} redirects more than {MOST_REDIRECTS} times")

    @property
    def unreachable_since(self) -> float | None:
        """Since when, by the reactor's clock, the registry is known not to be reachable; None if it may be."""
        unreachable = self.unreachable
        return None if unreachable is None else unreachable.since

    @property
    def unreachable(self) -> Unreachable | None:
        """What those are told who ask while the registry is known not to be reachable."""
        breaker = self._breakers.get(self._home)
        if breaker is None or not breaker.is_open:
            return None
        return self._unreachable(self._home, breaker, self._reactor.seconds())

    @property
    def outage(self) -> Unreachable | None:
        """Why no connection to the registry comes about, so far as is known without trying: one failure is enough, for
        a while. Of requests without an answer it knows nothing: there are clients who can bring that about."""
        breaker, now = self._breakers.get(self._home), self._reactor.seconds()
        if breaker is None or breaker.failed_at is None or not breaker.is_lost:
            return None
        if not breaker.is_open and now - breaker.failed_at >= WAIT:
            return None
        return self._unreachable(self._home, breaker, now)

    async def ask(self, method: bytes, url: str, headers: RawHeaders, body: bytes, rule: Rule) -> Response:
        """Ask another server something on the registry's behalf; redirects are answers.

        It is trusted as the registry is, and asked over a connection of its own, which goes where `rule` allows, and
        through the parent. The answer's body must be delivered or abandoned. Raises UpstreamFailed.
        """
        netloc, target = parse_url(url)
        closing = [*headers, (b"Connection", b"close")]
        return await self._reach(netloc, method, target, closing, body, rule=rule)

    # -- how reachable a host is

    async def _reach(
        self,
        netloc: Netloc,
        method: bytes,
        target: bytes,
        headers: RawHeaders,
        body: bytes | Upload,
        *,
        patient: bool = False,
        rule: Rule | None = None,
    ) -> Response:
        """One exchange, if the host's breaker admits it. `rule` is for strangers, who have no pool."""
        breaker = self._breaker(netloc)
        now = self._reactor.seconds()
        admission = Admission.PASS if patient else breaker.admit(now)
        if admission is Admission.REFUSED:
            raise self._unreachable(netloc, breaker, now)
        tells = rule is not None or not (isinstance(body, Upload) or method in _SLOW)
        probe = admission is Admission.PROBE
        if probe and not tells:
            breaker.gave_up()  # it may take its time, and all others would wait for it
            probe = False
        exchange = self._exchange(netloc, method, target, headers, body, rule)
        if not probe:
            return await self._heard(netloc, breaker, exchange, tells=tells)
        trying = Deferred.fromCoroutine(self._heard(netloc, breaker, exchange, tells=tells, probe=True))
        found = await self._within(PROBING, trying)
        if found is None:
            raise self._unreachable(netloc, breaker, self._reactor.seconds())
        return found

    async def _heard(
        self,
        netloc: Netloc,
        breaker: Breaker,
        exchange: Coroutine[Any, Any, Response],
        *,
        tells: bool,
        probe: bool = False,
    ) -> Response:
        """What an exchange brings, of which the breaker is told; `tells`: also if upstream does not answer."""
        began = self._reactor.seconds()
        try:
            response = await exchange
        except UpstreamFailed as error:
            lost = isinstance(error, NotConnected)
            if lost or (tells and (error.unused or error.status == 504)):
                now, why, chance = self._reactor.seconds(), str(error), random.random()
                if breaker.failed(began, now, why, error.status, chance, probe=probe, lost=lost):
                    log.warn("{host} is unreachable: {why}", host=self._name(netloc), why=str(error))
                    self._pool.expire_all(netloc)
                if probe:
                    raise self._unreachable(netloc, breaker, now) from error
            elif probe:
                breaker.gave_up()
            raise
        except BaseException:
            if probe:
                breaker.gave_up()
            raise
        past = breaker.succeeded(self._reactor.seconds())
        if past is not None:
            log.info("{host} can be reached again, after {past}", host=self._name(netloc), past=roughly(past))
        return response

    async def _within(self, seconds: float, trying: "Deferred[Response]") -> Response | None:
        """What is being tried, or None if that takes longer: then it goes on, and nobody gets it."""
        found: Deferred[Response | None] = Deferred()
        watch = self._reactor.callLater(seconds, found.callback, None)

        def tried(result: Response | Failure) -> None:
            if watch.active():
                watch.cancel()
                found.callback(result)
            elif isinstance(result, Response):
                result.discard()

        trying.addBoth(tried)
        return await found

    def _unreachable(self, netloc: Netloc, breaker: Breaker, now: float) -> Unreachable:
        since = now if breaker.since is None else breaker.since
        past = f"{self._name(netloc)} has been unreachable for {roughly(now - since)}"
        again = f" and is tried again in {max(1, round(breaker.until - now))} s" if breaker.is_open else ""
        return Unreachable(f"{past}{again}; the last time: {breaker.why}", breaker.status, since)

    def _breaker(self, netloc: Netloc) -> Breaker:
        breaker = self._breakers.pop(netloc, None) or Breaker()
        if len(self._breakers) >= MOST_BREAKERS:
            del self._breakers[next(iter(self._breakers))]  # the one that was not asked for the longest time
        self._breakers[netloc] = breaker
        return breaker

    # -- one exchange

    async def _exchange(
        self,
        netloc: Netloc,
        method: bytes,
        target: bytes,
        headers: RawHeaders,
        body: bytes | Upload,
        rule: Rule | None,
    ) -> Response:
        parent = self._asked_for(netloc)
        headers = [(b"Host", netloc.authority.encode()), *headers]
        headers += _framing(method, body)
        if parent is not None:  # absolute-form: RFC 9112 section 3.2.2
            target = f"http://{netloc.authority}".encode() + target
            if (value := authorization(parent)) is not None:
                headers.append((b"Proxy-Authorization", value))
        repeatable = method in (b"GET", b"HEAD")
        take = self._pool.take if repeatable else self._pool.take_open
        while True:
            kept = None if rule else take(netloc)
            connection = kept or await self._connect(netloc, rule)
            try:
                response = await connection.request(method, target, headers, body, self.registry.timeout)
            except UpstreamFailed as error:
                if not (kept and error.unused and repeatable):
                    raise
            else:
                if parent is not None and response.status == 407:
                    response.abandon()
                    raise UpstreamFailed(unauthorized(parent, list(response.headers)))
                return response

    def _asked_for(self, netloc: Netloc) -> Parent | None:
        """The parent, if it is asked for what is there, as it is for plain HTTP, and not for a passage."""
        return self._dialer.parent_of(netloc.host, netloc.port) if netloc.scheme == "http" else None

    def _name(self, netloc: Netloc, why: str = "where {} redirects to") -> str:
        """The host in errors; of another than the registry, `why` it is asked."""
        name = self.registry.name
        if netloc != self._home:
            name = f"{netloc} ({why.format(name)})"
        parent = self._dialer.parent_of(netloc.host, netloc.port)
        return name if parent is None else f"{name} (through the parent {parent})"

    # -- connections

    async def _connect(self, netloc: Netloc, rule: Rule | None) -> Http1Connection:
        """With a `rule`, for one request only, with a stranger; else one that the pool may have."""
        is_home = netloc.host == self._home.host
        idle: Callable[[Http1Connection], None] = Http1Connection.abandon
        name = self._name(netloc, "for {}")
        if rule is None:
            idle, rule = (lambda c: self._pool.put(netloc, c)), (anywhere if is_home else never_ours)
            name = self._name(netloc)
        connection = Http1Connection(self._reactor, name, idle, lambda c: self._pool.remove(netloc, c))
        bare = netloc.scheme == "http"
        try:
            await self._dialer.dial(netloc.host, netloc.port, name, rule, connection, bare=bare)
        except Forbidden as error:
            raise UpstreamFailed(f"{name} is refused: {error}") from error
        self._pool.add(connection)
        if netloc.scheme == "https":
            insecure = self.registry.insecure and is_home
            await self._trust.handshake(connection.transport, netloc.host, name, insecure=insecure)
        return connection

    def rest(self) -> None:
        """Close the connections that nobody uses: others are asked from now on, but for what is under way."""
        self._pool.expire_idle()

    def close(self) -> None:
        """Close every connection; requests under way, and all that are made later, fail with UpstreamFailed."""
        self._dialer.close()
        self._pool.close()


def _framing(method: bytes, body: bytes | Upload) -> list[tuple[bytes, bytes]]:
    """The headers that say how long a request's body is (RFC 9110 section 8.6), and whether it waits to be wanted."""
    length = body.length if isinstance(body, Upload) else len(body)
    if length is None:
        headers = [(b"Transfer-Encoding", b"chunked")]
    elif length or method in _HAS_BODY:
        headers = [(b"Content-Length", b"%d" % length)]
    else:
        headers = []
    if isinstance(body, Upload) and body.asks:
        headers.append((b"Expect", b"100-continue"))
    return headers
