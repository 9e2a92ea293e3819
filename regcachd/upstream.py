"""Upstream: requests to the real registries, over a pool of persistent, verified connections.

One `Upstream` serves one configured registry. It knows where the registry is, whom to trust for it and how
to follow its redirects to the storage that really has the bytes. What it never does is decide: callers
see every status, and nothing is repeated except on a kept-alive connection that had already died.
"""

import re
from typing import Any
from urllib.parse import urljoin, urlsplit

from attrs import frozen
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout

from .config import Limits, Registry
from .guard import GuardedReactor, anywhere, never_ours
from .http1 import Http1Connection, RawHeaders, Response, UpstreamFailed
from .tls import MODE
from .transport import HandshakeFailed, QuietFactory
from .units import roughly

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 5
KEEP_IDLE = 55.0
"""Seconds an unused connection is kept: under the 60 s at which most servers close theirs."""
MOST_IDLE = 32
"""Unused connections kept for one host."""

WAIT = 10.0
"""Seconds after a failed try for which a registry is taken to be out of reach, where one can do without it."""


class Unreachable(UpstreamFailed):
    """No connection to the registry itself can be had."""


class BadRedirect(UpstreamFailed):
    """The registry redirects to where nothing can come from."""


_VERIFY_ERRORS = {  # of x509_vfy.h, in words an operator can act on
    7: "its signature is wrong: is the `ca` of this registry an older one of the same name?",
    9: "it is not valid yet (is this machine's clock right?)",
    10: "it has expired",
    18: "it is self-signed; name it as `ca` of this registry if it is to be trusted",
    19: "its root is not trusted; name the root's file as `ca` of this registry",
    20: "its issuer is not trusted; name the issuer's file as `ca` of this registry",
    21: "its issuer is not trusted; name the issuer's file as `ca` of this registry",
}


_PORTS = {"http": 80, "https": 443}
_UNFIT = re.compile(r"[^!-~]")  # of a Location, decoded as Latin-1


@frozen
class Netloc:
    """Where a connection leads: equal ones may share connections."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_url(url: str) -> tuple[Netloc, bytes]:
    """An http(s) URL as netloc and request target; the target is verbatim, because signed URLs are, but bytes that
    no URL may have are escaped, as browsers do it.

    Raises UpstreamFailed for anything else: the URLs come from registries' Location headers.
    """
    url = _UNFIT.sub(lambda unfit: f"%{ord(unfit[0]):02X}", url)
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except (ValueError, KeyError):
        host = None
    if host is None or parts.scheme not in _PORTS:
        raise BadRedirect(f"upstream redirects to an address that is not http or https: {url[:200]!r}")
    if not host:
        raise BadRedirect(f"upstream redirects to an address without a host: {url[:200]!r}")
    start = url.index("//") + 2 + len(parts.netloc)
    target = url[start:].split("#", 1)[0]
    if not target.startswith("/"):
        target = "/" + target
    return Netloc(parts.scheme, host, port), target.encode("ascii")


class Upstream:
    """Requests to one registry and to the storage it redirects to."""

    def __init__(self, reactor: Any, registry: Registry, limits: Limits) -> None:
        self._reactor = reactor
        self.registry = registry
        self._limits = limits
        self._home, _ = parse_url(registry.upstream)
        self._idle: dict[Netloc, list[Http1Connection]] = {}
        self._connections: set[Http1Connection] = set()
        self._expiry: dict[Http1Connection, Any] = {}
        self._verified = self._trust(SSL.VERIFY_PEER)
        self._unverified = self._trust(SSL.VERIFY_NONE) if registry.insecure else None
        self._verify_error = 0
        self._connecting: set[Deferred[Any]] = set()
        self._closed = False
        self._away_since: float | None = None
        self._tried: float | None = None
        self._unreachable: Unreachable | None = None

    def _trust(self, mode: int) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_default_verify_paths()
        if self.registry.ca is not None:
            context.load_verify_locations(self.registry.ca)
        context.set_mode(MODE)
        context.set_verify(mode, self._judge)
        context.set_alpn_protos([b"http/1.1"])
        return context

    def _judge(self, connection: SSL.Connection, certificate: Any, error: int, depth: int, ok: int) -> bool:
        if not ok:
            self._verify_error = error  # read by _handshake, in the same turn of the reactor
        return bool(ok)

    # -- requests

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: RawHeaders,
        *,
        body: bytes = b"",
        follow: bool = False,
    ) -> Response:
        """Ask the registry; `target` is the path with query, `headers` without Host.

        With `follow`, redirects of GET and HEAD are followed; Authorization stays behind when scheme, host or port
        changes (RFC 9110 section 15.4, RFC 6454 section 4): another port may be another's, and plain HTTP everybody's.
        The answer's body must be delivered or abandoned. Raises UpstreamFailed.
        """
        url = self.registry.upstream + target.decode("latin-1")
        netloc, path = self._home, target
        for _ in range(MOST_REDIRECTS + 1):
            response = await self._exchange(netloc, method, path, headers, body)
            location = response.header(b"location") if follow and response.status in REDIRECTS else None
            if location is None:
                return response
            response.discard()
            url = _resolve(url, location.decode("latin-1"))
            netloc, path = parse_url(url)
            if netloc != self._home:  # and should it lead back: the way was not the registry's any more
                headers = [h for h in headers if h[0].lower() not in _CREDENTIALS]
        raise BadRedirect(f"{self.registry.name} redirects more than {MOST_REDIRECTS} times")

    async def _exchange(
        self, netloc: Netloc, method: bytes, target: bytes, headers: RawHeaders, body: bytes
    ) -> Response:
        host = f"[{netloc.host}]" if ":" in netloc.host else netloc.host
        authority = host if netloc.port == _PORTS[netloc.scheme] else f"{host}:{netloc.port}"
        headers = [(b"Host", authority.encode()), *headers]
        if body or method == b"POST":  # RFC 9110 section 8.6
            headers.append((b"Content-Length", b"%d" % len(body)))
        while True:
            kept = self._take(netloc)
            connection = kept or await (self._reach() if netloc == self._home else self._connect(netloc))
            try:
                return await connection.request(method, target, headers, body, self.registry.timeout)
            except UpstreamFailed as error:
                if not (kept and error.unused and method in (b"GET", b"HEAD")):
                    raise

    # -- connections

    @property
    def outage(self) -> Unreachable | None:
        """Why the registry could not be reached, if it could not less than WAIT ago."""
        recent = self._tried is not None and 0 <= self._reactor.seconds() - self._tried < WAIT
        return self._unreachable if recent else None

    async def _reach(self) -> Http1Connection:
        """A connection to the registry itself. Raises Unreachable."""
        try:
            connection = await self._connect(self._home)
        except UpstreamFailed as error:
            now = self._reactor.seconds()
            self._away_since = now if self._away_since is None else self._away_since
            ago = now - self._away_since
            since = f", for {roughly(ago)} now" if ago >= 1 else ""
            self._tried, self._unreachable = now, Unreachable(f"{error}{since}", error.status)
            raise self._unreachable from error
        self._away_since = self._tried = self._unreachable = None
        return connection

    def _take(self, netloc: Netloc) -> Http1Connection | None:
        idle = self._idle.get(netloc)
        if not idle:
            return None
        connection = idle.pop()
        self._expiry.pop(connection).cancel()
        return connection

    def _put(self, netloc: Netloc, connection: Http1Connection) -> None:
        idle = self._idle.setdefault(netloc, [])
        if len(idle) >= MOST_IDLE:
            connection.abandon()
            return
        idle.append(connection)
        self._expiry[connection] = self._reactor.callLater(KEEP_IDLE, self._expire, netloc, connection)

    def _expire(self, netloc: Netloc, connection: Http1Connection) -> None:
        self._gone(netloc, connection)  # at once, for it takes a turn of the reactor until it is lost
        connection.abandon()

    def _gone(self, netloc: Netloc, connection: Http1Connection) -> None:
        self._connections.discard(connection)
        if connection in self._expiry:
            expiry = self._expiry.pop(connection)
            if expiry.active():
                expiry.cancel()
            self._idle[netloc].remove(connection)
            if not self._idle[netloc]:
                del self._idle[netloc]

    async def _connect(self, netloc: Netloc) -> Http1Connection:
        name = (
            self.registry.name
            if netloc == self._home
            else f"{netloc} (where {self.registry.name} redirects to)"
        )
        rule = anywhere if netloc.host == self._home.host else never_ours
        guarded = GuardedReactor(self._reactor, rule)
        connection = Http1Connection(
            self._reactor, name, lambda c: self._put(netloc, c), lambda c: self._gone(netloc, c)
        )
        endpoint = HostnameEndpoint(guarded, netloc.host, netloc.port, timeout=self._limits.connect_timeout)
        if self._closed:
            raise UpstreamFailed(_STOPPING, status=503)
        connecting = endpoint.connect(QuietFactory.forProtocol(lambda: connection))
        self._connecting.add(connecting)
        try:
            await connecting
        except (ConnectError, DNSLookupError) as error:
            if guarded.reasons:
                raise UpstreamFailed(f"{name} is refused: {guarded.reasons[0]}") from error
            status = 504 if isinstance(error, ConnectTimeout) else 502
            raise UpstreamFailed(f"{name} cannot be reached: {error}", status) from error
        except (CancelledError, ConnectingCancelledError) as error:
            raise UpstreamFailed(_STOPPING, status=503) from error
        finally:
            self._connecting.discard(connecting)
        self._connections.add(connection)
        if netloc.scheme == "https":
            await self._handshake(netloc, name, connection)
        return connection

    async def _handshake(self, netloc: Netloc, name: str, connection: Http1Connection) -> None:
        insecure = self._unverified is not None and netloc.host == self._home.host
        context = self._unverified if insecure else self._verified
        transport: Any = connection.transport
        self._verify_error = 0
        watch = self._reactor.callLater(self._limits.connect_timeout, transport.abortConnection)
        try:
            await transport.start_tls(context, netloc.host)
            if not insecure:
                verify = verify_ip_address if _is_address(netloc.host) else verify_hostname
                verify(transport.tls, netloc.host)
        except HandshakeFailed as error:
            if code := self._verify_error:
                why = _VERIFY_ERRORS.get(code, f"OpenSSL says so (X509 error {code})")
                raise UpstreamFailed(f"the certificate of {name} is refused: {why}") from error
            raise UpstreamFailed(f"no TLS with {name}: {error}") from error
        except (VerificationError, CertificateError) as error:
            transport.abortConnection()
            raise UpstreamFailed(
                f"the certificate of {name} is refused: it is not for {netloc.host}"
            ) from error
        except ConnectionClosed as error:
            if not watch.active():
                patience = f"within {self._limits.connect_timeout:g} s"
                raise UpstreamFailed(f"no TLS with {name} {patience}", status=504) from error
            raise UpstreamFailed(f"no TLS with {name}: {error}") from error
        finally:
            if watch.active():
                watch.cancel()

    def close(self) -> None:
        """Close every connection; requests under way, and all that are made later, fail with UpstreamFailed."""
        self._closed = True
        for connecting in list(self._connecting):
            connecting.cancel()
        for connection in list(self._connections):
            connection.abandon()


_STOPPING = "regcachd is stopping"
_CREDENTIALS = frozenset({b"authorization", b"cookie"})


def _is_address(host: str) -> bool:
    return bool(isIPAddress(host) or isIPv6Address(host))


def _resolve(base: str, location: str) -> str:
    """A Location against the URL it answered; absolute ones verbatim, because signatures cover every byte."""
    return location if location.startswith(("https://", "http://")) else urljoin(base, location)
