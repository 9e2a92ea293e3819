"""The composition root: makes every part from the configuration, and starts and stops them in order."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from . import kernel_tls
from .access import PUBLIC_FOR
from .admission import CHECKERS, LOOK, ProxyUsers, read_users
from .anonymity import Anonymity
from .authentication import find_plugins, open_sessions
from .blobs import Openings
from .care import Care
from .channel import WebFactory
from .checkups import Checkups
from .commons import Commons
from .config import Config
from .disk import DiskThreads
from .endpoints import Endpoints
from .errors import RegcachdError
from .eviction import Eviction
from .evidence import ANONYMOUS, Proofs, kept_key
from .fills import Fills
from .frontdoor import FrontDoor
from .greeting import greet
from .growing import Growing
from .guard import Rule, never_ours
from .htpasswd import BadUsers
from .index import TICK, Index
from .inheritance import FIRST_SOCKET, Inheritance, Secrets
from .listening import adopt, bind
from .pages import Pages
from .pki import CA, PkiError, open_ca
from .push import is_write
from .recent import RecentManifests
from .registry import CachedRegistry, Shared
from .safekeeping import refuse_exposed
from .singleflight import SingleFlight
from .store import Store
from .tls import LeafContexts
from .token_endpoints import at_token_host
from .transport import use_direct_transport
from .trouble import Trouble
from .upstream import Upstream
from .web import Request

log = Logger()

CHECKPOINT = 30.0
"""Seconds between checkpoints of the index, and between looks for proofs that have ended."""
EVICTION = 60.0
"""Seconds between looks at the filesystem, which others fill too."""
RENEWAL = 24 * 3600.0
"""Seconds between looks at the CA."""
READERS = 8
"""Threads that read cold blobs: as many requests as a disk sorts well."""
KERNEL_TLS = Path("/proc/net/tls_stat")
"""Is there where the kernel's module is loaded."""
WRITERS = 4
"""Threads that hash and write fills: enough to keep two cores hashing while others wait for the disk."""


def utc_now() -> datetime:
    """The time for certificates."""
    return datetime.now(UTC)


def open_configured_ca(config: Config) -> CA:
    """The CA, made if this is the first start. Raises PkiError."""
    hosts = {authority.host for registry in config.registries.values() for authority in registry.intercepted}
    own = None if config.ca is None else (Path(config.ca.certificate), Path(config.ca.key))
    return open_ca(Path(config.state) / "ca", hosts, utc_now(), own)


def prepare(config: Config) -> CA:
    """Once in the life of a daemon, before it serves: make what is not there yet, so that no two workers do.

    Raises PkiError, StoreUnusable, SecretsExposed and BadUsers.
    """
    refuse_exposed(config)
    if config.proxy_users is not None:
        read_users(config.proxy_users)
    ca = open_configured_ca(config)
    Store(Path(config.store.path)).prepare()
    return ca


def make_secrets(config: Config) -> Secrets:
    """Once in the life of a daemon, after `prepare`. Raises KeyUnusable."""
    keep = any(registry.terms.offline_grace for registry in config.registries.values())
    return Secrets(proofs=kept_key(Path(config.state) / "proofs.key", keep))


class RegcacheService(Service):
    """What serves: a daemon of one process, or, with an `inheritance`, one worker of several.

    Everything is made in `__init__`, except what needs the reactor to run; nothing listens before
    `startService`. `tunnel_rule` is for tests, whose servers are all on this machine.
    """

    name = "regcache"

    def __init__(
        self,
        reactor: Any,
        config: Config,
        tunnel_rule: Rule = never_ours,
        now: Callable[[], float] = time.time,
        inheritance: Inheritance | None = None,
    ) -> None:
        self._reactor = reactor
        self.config = config
        self._inheritance = inheritance
        plugins = find_plugins()
        self._readers = DiskThreads(reactor, "regcachd-read", READERS)
        self._writers = DiskThreads(reactor, "regcachd-write", WRITERS)
        self._now = now
        self.ca = prepare(config) if inheritance is None else open_configured_ca(config)
        secrets = make_secrets(config) if inheritance is None else inheritance.secrets
        store = Store(Path(config.store.path))
        self._index = Index(store.index_path)
        self.fills = Fills(reactor, store, self._writers.run, self._blob_stored, self._fill_broke)
        self._trouble = Trouble(reactor.seconds)
        proofs = Proofs(self._index, secrets.proofs)
        self._commons = Commons(self._index.bulletin, reactor, now)
        self.anonymity = Anonymity(self._index.bulletin, proofs, now)
        shared = Shared(
            store=store,
            index=self._index,
            fills=self.fills,
            trouble=self._trouble,
            proofs=proofs,
            anonymity=self.anonymity,
            commons=self._commons,
            recent=RecentManifests(),
            limits=config.limits,
            in_thread=self._writers.run,
            now=now,
            clock=reactor,
        )
        self.eviction = Eviction(store, self._index, config.store, self._writers.run)
        self.care: Care | None = None
        """None in a worker: its parent has that."""
        if inheritance is None:
            checkups = Checkups(reactor, config, plugins, now).commands()
            self.care = Care(reactor, config, store, self._index, now, self.eviction.wake, checkups)
        openings: Openings = SingleFlight()
        self._upstreams = {
            name: Upstream(reactor, registry, config.limits) for name, registry in config.registries.items()
        }
        self._token_hosts = {
            name: {
                host: Upstream(reactor, at_token_host(registry, host), config.limits)
                for host in registry.token_hosts
                if config.authorities[host] == name
            }
            for name, registry in config.registries.items()
        }
        self._endpoints = {
            name: Endpoints(
                CachedRegistry(shared, upstream, open_sessions(reactor, upstream, plugins)),
                openings,
                self._token_hosts[name],
            )
            for name, upstream in self._upstreams.items()
        }
        self._checkers = DiskThreads(reactor, "regcachd-check", CHECKERS)
        self._users = self._proxy_users()
        self._pages = Pages(self.ca, tuple(sorted(config.registries)), self._trouble, store, self._users)
        self._contexts = LeafContexts(
            self.ca,
            utc_now,
            self._names_beside,
            ticket_secret=secrets.tickets,
            # where the module is not loaded, asking for it would only cost every handshake a little
            kernel=config.tls.kernel == "auto" and KERNEL_TLS.exists(),
        )
        web = WebFactory(reactor, self._respond, config.limits.head_size, is_write)
        self.door = FrontDoor(reactor, config, web, self._contexts.for_host, tunnel_rule, self._users)
        self._chores = {
            LoopingCall(lambda: self._writers.run(self._index.checkpoint)): CHECKPOINT,
            LoopingCall(self._forget_proofs): CHECKPOINT,
            LoopingCall(self._forget_tags): CHECKPOINT,
            LoopingCall(lambda: self._writers.run(self._index.bulletin.forget, self._now())): CHECKPOINT,
            LoopingCall(self._renew_ca): RENEWAL,
            LoopingCall(self.eviction.wake): EVICTION,
        }
        if self._users is not None:
            self._chores[LoopingCall(self._look_at_users, self._users)] = LOOK
        if self.care is None:
            self._chores[LoopingCall(self._index.tick)] = TICK
        self.ports: list[Any] = []

    # -- parts

    def _proxy_users(self) -> ProxyUsers | None:
        """Who may use the proxy; None for everybody. Raises BadUsers."""
        if self.config.proxy_users is None:
            return None
        users = ProxyUsers(self.config.proxy_users, self._checkers.run, self._reactor.seconds)
        try:
            users.load()
        except BadUsers as error:
            if self._inheritance is None:
                raise
            log.error("nobody is let through until this is mended: {why}", why=error)  # a worker born later
        return users

    @staticmethod
    def _look_at_users(users: ProxyUsers) -> "Deferred[None]":
        return Deferred.fromCoroutine(users.look())

    def _renew_ca(self) -> None:
        """The issuing certificate lives a year; a daemon may run longer."""
        try:
            self._contexts.ca = open_configured_ca(self.config)
        except PkiError as error:
            log.error("the CA could not be looked after, trying again tomorrow: {why}", why=error)

    def _forget_proofs(self) -> "Deferred[None]":
        """Those that count nowhere any more."""
        now, terms = self._now(), [registry.terms for registry in self.config.registries.values()]
        life = max((max(each.access_ttl, each.offline_grace) for each in terms), default=0.0)
        return self._writers.run(self._index.forget_proofs, now - life, ANONYMOUS, now - PUBLIC_FOR)

    def _forget_tags(self) -> "Deferred[None]":
        """Entries that are of use nowhere any more."""
        terms = [registry.tag_terms for registry in self.config.registries.values()]
        rules = [rule.ttl or 0.0 for each in terms for rule in each.rules]
        life = max(
            (*rules, *(max(each.ttl, each.max_stale, each.revalidate_interval) for each in terms)),
            default=0.0,
        )
        return self._writers.run(self._index.tags.expire, self._now() - life)

    def _names_beside(self, host: str) -> frozenset[str]:
        """The host names of the registries that answer to `host`."""
        names: set[str] = set()
        for registry in self.config.registries.values():
            hosts = {authority.host for authority in registry.authorities}
            if host in hosts:
                names |= hosts
        return frozenset(names)

    def _blob_stored(self, blob: Growing) -> None:
        self._trouble.over()
        self._index.add(blob.digest, blob.watermark, None, self._now())
        log.info("stored {digest}, {size} bytes", digest=str(blob.digest), size=blob.watermark)
        self.eviction.wake()

    def _fill_broke(self, blob: Growing) -> None:
        for repository in blob.links:  # they were made on the promise of these bytes
            self._index.unlink(repository, blob.digest)

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
            if self.care is None:
                self._index.open(or_later=True)
            else:
                self.care.begin()
            if self._inheritance is None:
                ports = bind(self._reactor, self.config.listen, self.door)
            else:
                sockets = range(FIRST_SOCKET, FIRST_SOCKET + self._inheritance.sockets)
                ports = adopt(self._reactor, sockets, self.door)
        except RegcachdError as error:
            raise SystemExit(f"regcachd does not start: {error}") from None
        self.attend(ports)

    def attend(self, ports: Sequence[Any]) -> None:
        """Serve whoever connects to these ports."""
        for port in ports:
            use_direct_transport(port, self._readers.run)
        self.ports.extend(ports)

    def startService(self) -> None:
        """Begin to serve."""
        if not self.ports:
            self.privilegedStartService()
        super().startService()
        for chore, interval in self._chores.items():
            chore.clock = self._reactor
            chore.start(interval, now=False)
        if self.care is not None:
            self.care.start()
            greet(self.config, self.ca, self.ports, workers=1)
        if self._inheritance is None or self._inheritance.number == 1:  # what one finds holds for all
            self._report_kernel_tls()

    def _report_kernel_tls(self) -> None:
        host = next((authority.host for authority in self.config.authorities), None)
        wanted = self.config.tls.kernel
        is_working = wanted != "off" and host is not None and kernel_tls.works(self._contexts.for_host(host))
        log.info("{report}", report=kernel_tls.report(wanted, KERNEL_TLS.exists(), is_working))

    # -- the end

    def stopService(self) -> "Deferred[None]":
        """Stop: no new connections, running responses get `limits.stop_timeout`, fills leave their partials."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for chore in self._chores:
            if chore.running:
                chore.stop()
        if self.care is not None:
            await self.care.stop()
        ports, self.ports = self.ports, []
        for port in ports:
            await _own(port.stopListening())
        deadline = self._reactor.seconds() + self.config.limits.stop_timeout
        self.door.drain()
        while self.door.busy() and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.05, lambda: None)
        self.door.close()
        self._commons.close()
        for upstream in self._upstreams.values():
            upstream.close()  # now no fill can begin
        for hosts in self._token_hosts.values():
            for upstream in hosts.values():
                upstream.close()
        await self.fills.stop()
        await self.eviction.stop()
        while self.door.connections:
            await deferLater(self._reactor, 0, lambda: None)
        self._readers.stop()
        self._writers.stop()
        self._checkers.stop()
        self._index.close()
        if self.care is not None:
            self.care.release()


async def _own(result: Any) -> None:
    if isinstance(result, Deferred):
        await result
