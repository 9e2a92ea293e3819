"""Names: what this machine is called, and what certificates may be for."""

from platform import node

from .config import Config


def own_names(config: Config) -> frozenset[str]:
    """What clients may call this machine in the address of a request, besides the addresses it has."""
    return frozenset({*config.mirror_names, "localhost", node().lower()})


def certified_names(config: Config) -> frozenset[str]:
    """The hosts that certificates may be for: the registries', and this machine's where mirrors are asked over TLS."""
    registries = config.registries.values()
    hosts = frozenset(authority.host for registry in registries for authority in registry.intercepted)
    return hosts | frozenset(config.mirror_names) if config.mirror_tls else hosts


def names_beside(config: Config, host: str) -> frozenset[str]:
    """The hosts that a client may mean, too, who has come to `host`: those of the same registry, or of this machine."""
    names: set[str] = set()
    for registry in config.registries.values():
        hosts = {authority.host for authority in registry.authorities}
        if host in hosts:
            names |= hosts
    return frozenset(names.union(config.mirror_names) if host in config.mirror_names else names)


def mirror_name(config: Config, address: str) -> str:
    """Whom the certificate is for when the client says nothing, and has come to this address."""
    plain = address.removeprefix("::ffff:")
    return plain if plain in config.mirror_names else config.mirror_names[0]
