"""The composition root: makes every part from the configuration, and starts and stops them in order."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from errno import EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT
from os import fsdecode
from pathlib import Path
from platform import node
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.tcp import Port as TCPPort
from twisted.internet.unix import Port as UnixPort
from twisted.logger import Logger

from . import __version__
from .blobs import Openings
from .care import Care
from .config import Config
from .disk import DiskThreads
from .endpoints import Endpoints
from .errors import RegcachdError
from .eviction import Eviction
from .evidence import Proofs
from .fill import Fill, Fills
from .frontdoor import FrontDoor
from .guard import Rule, never_ours
from .index import Index
from .pages import Pages
from .pki import CA, PkiError, open_ca
from .recent import RecentManifests
from .registry import CachedRegistry, Shared
from .singleflight import SingleFlight
from .store import Store
from .tls import LeafContexts
from .transport import DualPort, use_direct_transport
from .upstream import Upstream
from .web import Request, WebFactory

log = Logger()

INDEX_TICK = 2.0
"""Seconds between writes of what the index has gathered."""
CHECKPOINT = 30.0
"""Seconds between checkpoints of the index."""
EVICTION = 60.0
"""Seconds between looks at the filesystem, which others fill too."""
RENEWAL = 24 * 3600.0
"""Seconds between looks at the CA."""
READERS = 8
"""Threads that read cold blobs: as many requests as a disk sorts well."""
WRITERS = 4
"""Threads that hash and write fills: enough to keep two cores hashing while others wait for the disk."""


_TRUST = "curl -o /usr/local/share/ca-certificates/regcachd.crt {url}/ca.crt && update-ca-certificates"
_DROP_IN = "Environment=HTTPS_PROXY={url} under [Service] with `systemctl edit docker`, then restart it"


class CannotListen(RegcachdError):
    """An address of `listen` cannot be served."""


def utc_now() -> datetime:
    """The time for certificates."""
    return datetime.now(UTC)


class RegcacheService(Service):
    """One daemon. Everything is made in `__init__`, except what needs the reactor to run; nothing listens before
    `startService`. `tunnel_rule` is for tests, whose servers are all on this machine."""

    name = "regcache"

    def __init__(
        self,
        reactor: Any,
        config: Config,
        tunnel_rule: Rule = never_ours,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self.config = config
        self._readers = DiskThreads(reactor, "regcachd-read", READERS)
        self._writers = DiskThreads(reactor, "regcachd-write", WRITERS)
        self._now = now
        self.ca = self._open_ca()
        store = Store(Path(config.store.path))
        store.prepare()
        self._index = Index(store.index_path)
        self.fills = Fills(store, self._writers.run, config.limits.fill_abandon, self._blob_stored)
        shared = Shared(
            store=store,
            index=self._index,
            fills=self.fills,
            proofs=Proofs(),
            recent=RecentManifests(),
            limits=config.limits,
            in_thread=self._writers.run,
            now=now,
        )
        self.eviction = Eviction(store, self._index, config.store, self._writers.run)
        self.care = Care(reactor, config, store, self._index, now, self.eviction.wake)
        openings: Openings = SingleFlight()
        self._upstreams = {
            name: Upstream(reactor, registry, config.limits) for name, registry in config.registries.items()
        }
        self._endpoints = {
            name: Endpoints(CachedRegistry(shared, upstream), openings)
            for name, upstream in self._upstreams.items()
        }
        self._pages = Pages(self.ca, tuple(sorted(config.registries)))
        self._contexts = LeafContexts(self.ca, utc_now, self._names_beside)
        web = WebFactory(reactor, self._respond, config.limits.head_size)
        self.door = FrontDoor(reactor, config, web, self._contexts.for_host, tunnel_rule)
        self._chores = {
            LoopingCall(self.care.tick): INDEX_TICK,
            LoopingCall(lambda: self._writers.run(self._index.checkpoint)): CHECKPOINT,
            LoopingCall(self._renew_ca): RENEWAL,
            LoopingCall(self.eviction.wake): EVICTION,
        }
        self.ports: list[Any] = []

    # -- parts

    def _open_ca(self) -> CA:
        config = self.config
        hosts = {
            authority.host for registry in config.registries.values() for authority in registry.authorities
        }
        own = None if config.ca is None else (Path(config.ca.certificate), Path(config.ca.key))
        return open_ca(Path(config.state) / "ca", hosts, utc_now(), own)

    def _renew_ca(self) -> None:
        """The issuing certificate lives a year; a daemon may run longer."""
        try:
            self._contexts.ca = self._open_ca()
        except PkiError as error:
            log.error("the CA could not be looked after, trying again tomorrow: {why}", why=error)

    def _names_beside(self, host: str) -> frozenset[str]:
        """The host names of the registries that answer to `host`."""
        names: set[str] = set()
        for registry in self.config.registries.values():
            hosts = {authority.host for authority in registry.authorities}
            if host in hosts:
                names |= hosts
        return frozenset(names)

    def _blob_stored(self, fill: Fill) -> None:
        self.eviction.wake()
        self._index.add(fill.digest, fill.watermark, None, self._now())
        log.info("stored {digest}, {size} bytes", digest=str(fill.digest), size=fill.watermark)

    async def _respond(self, request: Request) -> None:
        registry = request.channel.registry
        if registry is None:
            await self._pages.respond(request)
        else:
            await self._endpoints[registry.name].respond(request)

    # -- listening

    def privilegedStartService(self) -> None:
        """Bind, while there may still be privileges to bind low ports. Exits with a line that says why it cannot."""
        try:
            self.care.begin()
            for description in self.config.listen:
                port = self._listen(description)
                use_direct_transport(port, self._readers.run)
                self.ports.append(port)
        except RegcachdError as error:
            raise SystemExit(f"regcachd does not start: {error}") from None

    def _listen(self, description: str) -> Any:
        try:
            if description.startswith("dual:"):
                return _listen_dual(self._reactor, int(description.removeprefix("dual:")), self.door)
            listening: Deferred[Any] = serverFromString(self._reactor, description).listen(self.door)
        except CannotListenError as error:
            raise CannotListen(_cannot_listen(description, error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CannotListen(
                f"listen: {description!r} is not an endpoint that Twisted knows: {error}"
            ) from error
        ports: list[Any] = []
        failures: list[Any] = []
        listening.addCallbacks(ports.append, failures.append)
        if failures:
            raise CannotListen(_cannot_listen(description, failures[0].value))
        if not ports or not isinstance(ports[0], TCPPort | UnixPort):
            raise CannotListen(
                f"listen: {description!r} is not a TCP or Unix endpoint; use dual:, tcp:, systemd: or unix:"
            )
        return ports[0]

    def startService(self) -> None:
        """Begin to serve."""
        if not self.ports:
            self.privilegedStartService()
        super().startService()
        for chore, interval in self._chores.items():
            chore.clock = self._reactor
            chore.start(interval, now=False)
        self.care.start()
        self._greet()

    def _greet(self) -> None:
        """Say what to do next."""
        names = ", ".join(sorted(self.config.registries))
        log.info(
            "regcachd {version} listens on {where} and caches {names}",
            version=__version__,
            where=self._where(),
            names=names,
        )
        log.info("its certificate authority is {path}", path=str(self.ca.root_path))
        log.info("with the SHA-256 fingerprint {fingerprint}", fingerprint=self.ca.fingerprint)
        tcp = [port.getHost().port for port in self.ports if isinstance(port, TCPPort)]
        if tcp:
            url = f"http://{node()}:{tcp[0]}"
            log.info("on each node, trust it:  {line}", line=_TRUST.format(url=url))
            log.info("podman, skopeo, buildah: {line}", line=f"export HTTPS_PROXY={url}")
            log.info("docker, containerd:      {line}", line=_DROP_IN.format(url=url))

    def _where(self) -> str:
        return ", ".join(_address(port) for port in self.ports)

    # -- the end

    def stopService(self) -> "Deferred[None]":
        """Stop: no new connections, running responses get `limits.stop_timeout`, fills leave their partials."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for chore in self._chores:
            if chore.running:
                chore.stop()
        await self.care.stop()
        ports, self.ports = self.ports, []
        for port in ports:
            await _own(port.stopListening())
        deadline = self._reactor.seconds() + self.config.limits.stop_timeout
        self.door.drain()
        while self.door.busy() and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.05, lambda: None)
        self.door.close()
        for upstream in self._upstreams.values():
            upstream.close()  # now no fill can begin
        await self.fills.stop()
        await self.eviction.stop()
        while self.door.connections:
            await deferLater(self._reactor, 0, lambda: None)
        self._readers.stop()
        self._writers.stop()
        self._index.close()
        self.care.release()


async def _own(result: Any) -> None:
    if isinstance(result, Deferred):
        await result


def _listen_dual(reactor: Any, number: int, door: FrontDoor) -> Any:
    """A port for IPv6 and IPv4, or for IPv4 where the machine has no IPv6. Raises CannotListenError."""
    port: TCPPort = DualPort(number, door, 1024, "::", reactor)
    try:
        port.startListening()
    except CannotListenError as error:
        if getattr(error.socketError, "errno", None) not in _NO_IPV6:
            raise
    else:
        return port
    port = TCPPort(number, door, 1024, "", reactor)
    port.startListening()
    return port


_NO_IPV6 = (EAFNOSUPPORT, EADDRNOTAVAIL)


def _cannot_listen(description: str, error: Exception) -> str:
    why = getattr(error, "socketError", None) or error
    hint = "; another program is using this port" if getattr(why, "errno", None) == EADDRINUSE else ""
    return f"listen: cannot listen on {description!r}: {why}{hint}"


def _address(port: Any) -> str:
    host = port.getHost()
    if isinstance(port, UnixPort):
        return fsdecode(host.name)
    return f"port {host.port}" if isinstance(port, DualPort) else f"{host.host}:{host.port}"
