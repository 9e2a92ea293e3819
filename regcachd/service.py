"""The composition root: makes every part from the configuration, and starts and stops them in order."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from . import kernel_tls
from .admission import CHECKERS, LOOK, ProxyUsers
from .anonymity import Anonymity
from .authentication import find_plugins
from .care import Care
from .checkups import Checkups
from .commons import Commons
from .config import Config
from .disk import DiskThreads
from .edition import Common, Edition
from .errors import RegcachdError
from .eviction import Eviction
from .evidence import ANONYMOUS, Proofs
from .fills import Fills
from .frontdoor import FrontDoor
from .greeting import greet, serving
from .growing import Growing
from .guard import Rule, never_ours
from .htpasswd import BadUsers
from .index import TICK, Index
from .inheritance import FIRST_SOCKET, Inheritance
from .mirror_door import MirrorDoor, adopt_doors, bind_doors
from .notify import ServiceManager
from .pki import CA
from .preparation import make_secrets, open_configured_ca, prepare
from .recent import RecentManifests
from .registry import Shared
from .reloading import Next, Reloading, Reread
from .singleflight import SingleFlight
from .store import Store
from .transport import use_direct_transport
from .trouble import Trouble
from .upstream import Upstream

log = Logger()

CHECKPOINT = 30.0
"""Seconds between checkpoints of the index, and between looks for proofs that have ended."""
EVICTION = 60.0
"""Seconds between looks at the filesystem, which others fill too."""
RENEWAL = 24 * 3600.0
"""Seconds between looks at the CA."""
READERS = 8
"""Threads that read cold blobs: as many requests as a disk sorts well."""
KERNEL_TLS = Path("/proc/self/net/tls_stat")
"""Is there where the kernel's module is loaded; /proc/net is hidden from hardened services."""
WRITERS = 4
"""Threads that hash and write fills: enough to keep two cores hashing while others wait for the disk."""


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
        reread: Reread | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        self._reactor = reactor
        self._inheritance = inheritance
        plugins = find_plugins()
        self._readers = DiskThreads(reactor, "regcachd-read", READERS)
        self._writers = DiskThreads(reactor, "regcachd-write", WRITERS)
        self._checkers = DiskThreads(reactor, "regcachd-check", CHECKERS)
        self._now = now
        ca = prepare(config) if inheritance is None else inheritance.ca or open_configured_ca(config)
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
        self._common = Common(reactor, shared, plugins, SingleFlight(), secrets.tickets, KERNEL_TLS.exists())
        self._upstreams: WeakSet[Upstream] = WeakSet()
        self.door = FrontDoor(reactor, self._edition(config, ca, None), tunnel_rule)
        self.eviction = Eviction(store, self._index, lambda: self.config.store, self._writers.run)
        self.reloading: Reloading | None = None
        """None where it does not read its configuration by itself, as a worker does not."""
        if reread is not None:
            self.reloading = Reloading(reactor, plugins, reread, lambda: self.config, self._reload, manager)
        self.care: Care | None = None
        """None in a worker: its parent has that."""
        if inheritance is None:
            commands = [*Checkups(reactor, lambda: self.config, plugins, now).commands()]
            commands += self.reloading.commands() if self.reloading is not None else ()
            self.care = Care(
                reactor, lambda: self.config, store, self._index, now, self.eviction.wake, commands
            )
        self._chores = {
            LoopingCall(lambda: self._writers.run(self._index.checkpoint)): CHECKPOINT,
            LoopingCall(self._forget_proofs): CHECKPOINT,
            LoopingCall(self._forget_tags): CHECKPOINT,
            LoopingCall(lambda: self._writers.run(self._index.bulletin.forget, self._now())): CHECKPOINT,
            LoopingCall(self.eviction.wake): EVICTION,
            LoopingCall(self._look_at_users): LOOK,
        }
        if self.care is None:
            self._chores[LoopingCall(self._index.tick)] = TICK
        else:
            self._chores[LoopingCall(self._renew_ca)] = RENEWAL  # a worker gets its parent's
        self.ports: list[Any] = []

    # -- the configuration, and what it makes

    @property
    def edition(self) -> Edition:
        """What new connections are served by."""
        return self.door.edition

    @property
    def config(self) -> Config:
        """The configuration that holds for them."""
        return self.edition.config

    @property
    def ca(self) -> CA:
        """Whom their clients have to trust."""
        return self.edition.ca

    def take_up(self, config: Config, ca: CA) -> None:
        """Serve new connections by this configuration, and those there are as before. Raises RegcachdError."""
        before, self.door.edition = self.edition, self._edition(config, ca, self.edition)
        for upstream in before.upstreams():
            upstream.rest()
        self.eviction.wake()

    async def _reload(self, following: Next) -> None:
        self.take_up(following.config, following.ca)

    def _edition(self, config: Config, ca: CA, before: Edition | None) -> Edition:
        edition = Edition.make(self._common, config, ca, self._users_of(config, before))
        self._upstreams.update(edition.upstreams())
        return edition

    def _users_of(self, config: Config, before: Edition | None) -> ProxyUsers | None:
        """Who may use the proxy; None for everybody. Raises BadUsers."""
        if config.proxy_users is None:
            return None
        if before is not None and before.config.proxy_users == config.proxy_users:
            return before.users  # whose right passwords are known, and whose file is looked at anyway
        users = ProxyUsers(config.proxy_users, self._checkers.run, self._reactor.seconds)
        try:
            users.load()
        except BadUsers as error:
            if self._inheritance is None:
                raise
            log.error("nobody is let through until this is mended: {why}", why=error)  # a worker born later
        return users

    async def _look_at_users_of(self, users: ProxyUsers | None) -> None:
        if users is not None:
            await users.look()

    def _look_at_users(self) -> "Deferred[None]":
        return Deferred.fromCoroutine(self._look_at_users_of(self.edition.users))

    def _renew_ca(self) -> None:
        """The issuing certificate lives a year; a daemon may run longer."""
        try:
            ca = open_configured_ca(self.config)
            if ca.handed_over() != self.ca.handed_over():
                self.take_up(self.config, ca)
        except RegcachdError as error:
            log.error("the CA could not be looked after, trying again tomorrow: {why}", why=error)

    # -- parts

    def _forget_proofs(self) -> "Deferred[None]":
        """Those that count nowhere any more."""
        now, terms = self._now(), [registry.terms for registry in self.config.registries.values()]
        life = max((max(each.access_ttl, each.offline_grace) for each in terms), default=0.0)
        public = max((max(each.public_ttl, each.max_stale) for each in terms), default=0.0)
        return self._writers.run(self._index.forget_proofs, now - life, ANONYMOUS, now - public)

    def _forget_tags(self) -> "Deferred[None]":
        """Entries that are of use nowhere any more."""
        terms = [registry.tag_terms for registry in self.config.registries.values()]
        rules = [rule.ttl or 0.0 for each in terms for rule in each.rules]
        life = max(
            (*rules, *(max(each.ttl, each.max_stale, each.revalidate_interval) for each in terms)),
            default=0.0,
        )
        return self._writers.run(self._index.tags.expire, self._now() - life)

    def _blob_stored(self, blob: Growing) -> None:
        self._trouble.over()
        self._index.add(blob.digest, blob.watermark, None, self._now())
        log.info("stored {digest}, {size} bytes", digest=str(blob.digest), size=blob.watermark)
        self.eviction.wake()

    def _fill_broke(self, blob: Growing) -> None:
        for repository in blob.links:  # they were made on the promise of these bytes
            self._index.unlink(repository, blob.digest)

    # -- listening

    def privilegedStartService(self) -> None:
        """Bind, while there may still be privileges to bind low ports. Exits with a line that says why it cannot."""
        try:
            if self.care is None:
                self._index.open(or_later=True)
            else:
                self.care.begin()
            doors = self.door, MirrorDoor(self.door)
            if self._inheritance is None:
                ports = bind_doors(self._reactor, self.config, *doors)
            else:
                sockets = range(FIRST_SOCKET, FIRST_SOCKET + self._inheritance.sockets)
                ports = adopt_doors(self._reactor, self.config, sockets, *doors)
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
            if self.reloading is not None:
                self.reloading.listen()
            greet(self.config, self.ca, self.ports, workers=1)
        if self._inheritance is None or self._inheritance.number == 1:  # what one finds holds for all
            self._report_kernel_tls()

    def _report_kernel_tls(self) -> None:
        host = next((authority.host for authority in self.config.authorities), None)
        wanted = self.config.tls.kernel
        is_working = (
            wanted != "off" and host is not None and kernel_tls.works(self.edition.contexts.for_host(host))
        )
        log.info("{report}", report=kernel_tls.report(wanted, KERNEL_TLS.exists(), is_working))

    # -- for a service manager (heartbeat.py)

    def is_serving(self) -> bool:
        """Does it accept connections?"""
        return bool(self.ports)

    def condition(self) -> str:
        """Its trouble, or what it does."""
        trouble = self._trouble.what or (self.care and self.care.trouble)
        if trouble:
            return f"trouble: {trouble}"
        refusal = self.reloading and self.reloading.refusal
        return serving(self.config, self.ports) + (f"; not reloaded: {refusal}" if refusal else "")

    def patience(self) -> float:
        """How long responses may take to end."""
        return self.config.limits.stop_timeout

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
        for upstream in list(self._upstreams):
            upstream.close()  # now no fill can begin
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
