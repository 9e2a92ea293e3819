"""An edition of the daemon: everything that one configuration makes, and nothing that outlives it.

A reload makes the next edition and swaps one reference, the front door's. A connection is served to its end by the
edition that was current when it came, with the registries, credentials, limits and certificates of that; what holds
for all of them (the store, its index, fills under way, what is known of clients' rights) is `Shared`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from attrs import evolve, frozen

from .admission import ProxyUsers
from .authentication import Plugins, open_sessions
from .blobs import Openings
from .channel import WebFactory
from .config import Config
from .connect import Authority
from .endpoints import Endpoints
from .names import names_beside, own_names
from .pages import Pages
from .pki import CA
from .preparation import utc_now
from .reception import Reception
from .registry import CachedRegistry, Shared
from .tls import LeafContexts
from .token_endpoints import at_token_host
from .trust import Roots
from .upstream import Upstream


@frozen(eq=False)
class Common:
    """What all editions have in common. `tickets` is the secret of TLS tickets, `has_kernel_tls` whether its module is
    there."""

    reactor: Any
    shared: Shared
    plugins: Plugins
    openings: Openings
    tickets: bytes
    has_kernel_tls: bool


@frozen(eq=False)
class Served:
    """A registry, and all that is asked in its name."""

    endpoints: Endpoints
    upstream: Upstream
    token_hosts: Mapping[Authority, Upstream]

    def upstreams(self) -> tuple[Upstream, ...]:
        """The registry's, and those of its token hosts."""
        return (self.upstream, *self.token_hosts.values())


@frozen(eq=False)
class Edition:
    """What a connection needs to be served. `users` are those who may CONNECT, None is everybody."""

    config: Config
    ca: CA
    users: ProxyUsers | None
    contexts: LeafContexts
    web: WebFactory
    registries: Mapping[str, Served]

    @classmethod
    def make(cls, common: Common, config: Config, ca: CA, users: ProxyUsers | None) -> "Edition":
        """The edition of a configuration. Raises RegcachdError where something that it names cannot be used."""
        shared = evolve(common.shared, limits=config.limits)
        roots = Roots()
        registries = {name: _serve(common, shared, config, name, roots) for name in config.registries}

        def unreachable() -> list[str]:
            outages = (served.upstream.unreachable for served in registries.values())
            return [str(each) for each in outages if each]

        pages = Pages(ca, tuple(sorted(registries)), shared.trouble, shared.store, unreachable)
        endpoints = {name: served.endpoints for name, served in registries.items()}
        reception = Reception(config.registries, endpoints, pages, users, own_names(config))
        contexts = LeafContexts(
            ca,
            utc_now,
            partial(names_beside, config),
            ticket_secret=common.tickets,
            # where the module is not loaded, asking for it would only cost every handshake a little
            kernel=config.tls.kernel == "auto" and common.has_kernel_tls,
        )
        web = WebFactory(
            common.reactor, reception.respond, config.limits.head_size, reception.is_upload, reception.address
        )
        return cls(config, ca, users, contexts, web, registries)

    def upstreams(self) -> tuple[Upstream, ...]:
        """All of them."""
        return tuple(each for served in self.registries.values() for each in served.upstreams())


def _serve(common: Common, shared: Shared, config: Config, name: str, roots: Roots) -> Served:
    registry = config.registries[name]
    upstream = Upstream(common.reactor, registry, config.limits, roots)
    token_hosts = {
        host: Upstream(common.reactor, at_token_host(registry, host), config.limits, roots)
        for host in registry.token_hosts
        if config.authorities[host] == name
    }
    sessions = open_sessions(common.reactor, upstream, common.plugins)
    cached = CachedRegistry(shared, upstream, sessions)
    return Served(Endpoints(cached, common.openings, token_hosts), upstream, token_hosts)
