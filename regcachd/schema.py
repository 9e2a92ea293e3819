"""What can be configured: one frozen class for each table of the configuration file.

A field made by `key`, `optional` or `required` is a key of the table: its default as it is written in TOML,
and the reader of its value. So `Limits()` is the limits nobody has changed, and `Config()` is what regcachd
does with no file at all.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs
from attrs import field, frozen

from regcachd.access import Terms
from regcachd.connect import Authority
from regcachd.known import KNOWN, BlobProbe, blob_probe, known_realm, realm_hosts
from regcachd.parent import Direct, Parent, direct, parent_of, proxy
from regcachd.secret import Secret, secret
from regcachd.tag_rules import TagPolicy, TagRule, TagTerms, tag_policy, tag_rule
from regcachd.units import Size, parse_bytes, parse_duration, parse_fraction, parse_reserve, parse_size
from regcachd.values import (
    Network,
    authority,
    count,
    flag,
    host_pattern,
    key,
    kind_name,
    list_of,
    listener,
    network,
    one_of,
    optional,
    or_off,
    own_name,
    realm_authority,
    realm_host,
    required,
    set_of,
    text,
    upstream,
    upstream_authority,
    within,
    workers,
)

_NETWORKS = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"]


@frozen
class StoreConfig:
    """Where blobs are kept, how large the store may grow, and how it is looked after.

    `scrub_rate` is in bytes per second, 0 for never; `scrub_interval` is from one pass's beginning to the next's.
    """

    path: str = key("/var/cache/regcachd", text)
    max_size: Size = key("80%", parse_size)  # noqa: RUF009 - a field, not a shared default
    min_free: Size = key("5%", parse_reserve)  # noqa: RUF009
    partial_ttl: float = key("7d", within(parse_duration, "0s", "3650d"))
    scrub_rate: int = key("20MiB", or_off(parse_bytes))
    scrub_interval: float = key("7d", within(parse_duration, "1m", "3650d"))


@frozen
class CAFiles:
    """The operator's own CA, both files in PEM."""

    certificate: str = required(text)
    key: str = required(text)


@frozen
class TLSConfig:
    """How TLS with clients is done. `kernel`: may the kernel encrypt, where it can?"""

    kernel: str = key("auto", one_of("auto", "off"))


@frozen
class Tunnel:
    """Where a CONNECT that is not for a registry may go.

    `hosts` are names, or `*.` and the name that all hosts meant are below.
    """

    policy: str = key("allow", one_of("allow", "deny", "list"))
    hosts: tuple[str, ...] = key([], list_of(host_pattern))
    ports: frozenset[int] = key([443], set_of(within(count, 1, 65535)))


@frozen
class Limits:
    """Bounds on what clients and upstreams can make the daemon hold; sizes in bytes, times in seconds.

    `fill_abandon` is the fraction (0 to 1) of a layer below which a fill without readers is given up.
    """

    head_size: int = key("16KiB", within(parse_bytes, "1KiB", "1MiB"))
    head_timeout: float = key("30s", within(parse_duration, "100ms", "1h"))
    idle_timeout: float = key("5m", within(parse_duration, "100ms", "1d"))
    send_timeout: float = key("10m", within(parse_duration, "100ms", "1d"))
    connect_timeout: float = key("30s", within(parse_duration, "100ms", "10m"))
    tunnel_idle: float = key("1h", within(parse_duration, "100ms", "7d"))
    manifest_size: int = key("4MiB", within(parse_bytes, "1KiB", "64MiB"))
    connections: int = key(10000, within(count, 1, 1000000))
    stop_timeout: float = key("10s", within(parse_duration, "0s", "1h"))
    fill_abandon: float = key("0%", parse_fraction)


@frozen
class RegistryDefaults:
    """The keys of [defaults]: what holds for every registry that does not say otherwise."""

    ca: str | None = optional(text)
    timeout: float = key("60s", within(parse_duration, "100ms", "1h"))
    access_ttl: float = key("5m", within(parse_duration, "0s", "1d"))
    public_ttl: float = key("1h", within(parse_duration, "0s", "7d"))
    offline_grace: float = key("1d", within(parse_duration, "0s", "30d"))
    tags: TagPolicy = key("revalidate", tag_policy)  # noqa: RUF009
    revalidate_interval: float = key("5s", within(parse_duration, "0s", "1d"))
    tag_ttl: float = key("1h", within(parse_duration, "0s", "3650d"))
    tag_rules: tuple[TagRule, ...] = key([], list_of(tag_rule))
    max_stale: float = key("30d", within(parse_duration, "0s", "3650d"))
    connections: int = key(4, within(count, 1, 16))
    retries: int = key(8, within(count, 0, 1000))
    retry_delay: float = key("15s", within(parse_duration, "10ms", "1h"))
    upstream_proxy: Parent | None = optional(proxy)  # noqa: RUF009
    upstream_proxy_password: Secret | None = optional(secret)  # noqa: RUF009
    no_proxy: tuple[Direct, ...] = key([], list_of(direct))


@frozen
class RegistryKeys(RegistryDefaults):
    """The keys of a registry. Those that are not also in [defaults] mean something for one registry only."""

    upstream: str | None = optional(upstream)
    hosts: tuple[Authority, ...] = key([], list_of(authority))
    token_hosts: tuple[Authority, ...] | None = optional(list_of(authority))
    insecure: bool = key(False, flag)
    allow_push: bool = key(False, flag)
    push_with_shared: bool = key(False, flag)
    auth: str | None = optional(kind_name)
    share: bool = key(False, flag)
    realm_hosts: tuple[str, ...] = key([], list_of(realm_host))


@frozen
class Auth:
    """A credential for a registry: the name of a plugin, and its keys as an instance of its class for them."""

    kind: str
    keys: object = field(repr=False)


@frozen
class Registry:
    """A registry that clients can have through the cache.

    `upstream` is scheme://host[:port]; `authorities` is everything a client may CONNECT to for it; `token_hosts`
    are hosts beside it that hand out its tokens, and `realm` is the address where, if that is known; `ca` is a
    file with further trusted certificates; `insecure` turns the check of upstream's certificate off; `allow_push`
    lets clients write; with `push_with_shared` those without a credential do so with regcachd's. Times are in
    seconds; `blob_probe` and `realm_hosts` are explained in regcachd.known, `terms` in regcachd.access;
    `tag_terms` in regcachd.tag_rules; `parent` is the proxy that it is reached through. With `share`, every client
    may read what `auth` can.
    """

    name: str
    upstream: str
    authorities: frozenset[Authority]
    token_hosts: frozenset[Authority]
    realm: str | None
    ca: str | None
    insecure: bool
    allow_push: bool
    push_with_shared: bool
    timeout: float
    terms: Terms
    tag_terms: TagTerms
    share: bool
    connections: int
    retries: int
    retry_delay: float
    blob_probe: BlobProbe
    auth: Auth | None
    realm_hosts: tuple[str, ...]
    parent: Parent | None

    @property
    def intercepted(self) -> frozenset[Authority]:
        """Whatever a client may CONNECT to that is answered here."""
        return self.authorities | self.token_hosts


def parent(given: Mapping[str, Any], defaults: RegistryDefaults) -> Parent | None:
    """The parent of a registry with the keys given for it. Raises BadValue when they do not fit together."""
    password = (
        None if "upstream_proxy" in given else defaults.upstream_proxy_password
    )  # another's is not for it
    return parent_of(
        given.get("upstream_proxy", defaults.upstream_proxy),
        given.get("upstream_proxy_password", password),
        given.get("no_proxy", defaults.no_proxy),
    )


def make_registry(
    name: str, given: Mapping[str, Any], defaults: RegistryDefaults, auth: Auth | None = None
) -> Registry:
    """The registry of this name with the keys given for it, the defaults, and what is known of it."""
    known = KNOWN.get(name)
    keys = RegistryKeys(**{**attrs.asdict(defaults, recurse=False), **given})
    url = keys.upstream or (known.upstream if known else upstream(f"https://{name}"))
    hosts = (name, *known.hosts) if known else (name,)
    authorities = frozenset((*map(authority, hosts), upstream_authority(url), *keys.hosts))
    token_hosts = known_token_hosts(url) if keys.token_hosts is None else frozenset(keys.token_hosts)
    return Registry(
        name=name,
        upstream=url,
        authorities=authorities,
        token_hosts=token_hosts - authorities,
        realm=known_realm(url),
        ca=keys.ca,
        insecure=keys.insecure,
        allow_push=keys.allow_push,
        push_with_shared=keys.push_with_shared,
        timeout=keys.timeout,
        terms=Terms(keys.access_ttl, keys.public_ttl, keys.offline_grace, keys.max_stale),
        tag_terms=TagTerms(keys.tags, keys.revalidate_interval, keys.tag_ttl, keys.tag_rules, keys.max_stale),
        share=keys.share,
        connections=keys.connections,
        retries=keys.retries,
        retry_delay=keys.retry_delay,
        blob_probe=blob_probe(url),
        auth=auth,
        realm_hosts=tuple(dict.fromkeys((*realm_hosts(url), *keys.realm_hosts))),
        parent=parent(given, defaults),
    )


def known_token_hosts(upstream: str) -> frozenset[Authority]:
    """The host of the realm that the registry at this upstream is known to have."""
    realm = known_realm(upstream)
    return frozenset() if realm is None else frozenset({realm_authority(realm)})


def _read_only(registries: Mapping[str, Registry]) -> Mapping[str, Registry]:
    return MappingProxyType(dict(registries))


@frozen
class Config:
    """All of it. `authorities` says which registry a CONNECT is for, by name: of several registries with one token
    host the first, unless the host is itself a registry.

    `workers` is None for as many as the machine has processors; `proxy_users` is where those are named who may use the
    proxy, None for everybody. `mirror_tls` is where mirrors are asked over TLS, under one of `mirror_names`: hosts in
    lower case, and addresses without brackets.
    """

    listen: tuple[str, ...] = key(["dual:3128"], list_of(listener, empty=False))
    workers: int | None = key("auto", workers)
    state: str = key("/var/lib/regcachd", text)
    mirror_tls: tuple[str, ...] = key([], list_of(listener))
    mirror_names: tuple[str, ...] = key([], list_of(own_name))
    clients: tuple[Network, ...] = key(_NETWORKS, list_of(network, empty=False))
    admin: str = key("/run/regcachd/admin.sock", text)
    exposed_secrets: str = key("warn", one_of("warn", "refuse"))
    proxy_users: Secret | None = optional(secret)  # noqa: RUF009 - a field, not a shared default
    store: StoreConfig = StoreConfig()
    ca: CAFiles | None = None
    tls: TLSConfig = TLSConfig()
    tunnel: Tunnel = Tunnel()
    limits: Limits = Limits()
    defaults: RegistryDefaults = RegistryDefaults()
    registries: Mapping[str, Registry] = field(converter=_read_only)
    authorities: Mapping[Authority, str] = field(init=False)

    @property
    def parent(self) -> Parent | None:
        """The parent of whatever is not a registry: where tunnels lead through."""
        return parent({}, self.defaults)

    @registries.default
    def _known_registries(self) -> Mapping[str, Registry]:
        return {name: make_registry(name, {}, self.defaults) for name in KNOWN}

    @authorities.default
    def _authorities(self) -> Mapping[Authority, str]:
        registries = self.registries.values()
        token_hosts = {a: r.name for r in reversed([*registries]) for a in r.token_hosts}
        return MappingProxyType({**token_hosts, **{a: r.name for r in registries for a in r.authorities}})


REGISTRY_TABLE = 'registries."NAME"'

SCHEMA: Mapping[str, type] = MappingProxyType(
    {
        "": Config,
        "store": StoreConfig,
        "ca": CAFiles,
        "tls": TLSConfig,
        "tunnel": Tunnel,
        "limits": Limits,
        "defaults": RegistryDefaults,
        REGISTRY_TABLE: RegistryKeys,
    }
)
"""Every table with the class that holds its keys; "" is what comes before the first table."""
