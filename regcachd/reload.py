"""What a changed configuration means for a daemon that runs: what it can take up, and what has to wait for a restart.

Pure: two configurations go in, names of keys come out.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import attrs
from attrs import frozen

from .config import Config
from .schema import REGISTRY_TABLE, SCHEMA
from .values import keys_of

FIXED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "": ("listen", "mirror_tls", "workers", "state", "admin"),
        "store": ("path", "partial_ttl", "scrub_rate", "scrub_interval"),
    }
)
"""By table: the keys of which a daemon has made what it cannot make anew while others use it: sockets, processes, the
open store with its keeper."""


@frozen
class Reload:
    """What a reload comes to."""

    config: Config
    """What holds from now on: the new configuration, but for what waits for a restart."""
    changed: tuple[str, ...]
    """The keys that hold from now on with other values than before."""
    waiting: tuple[str, ...]
    """The keys whose new values wait for a restart."""

    def __str__(self) -> str:
        return f"changed: {', '.join(self.changed)}" if self.changed else "nothing has changed"


def decide(running: Config, wanted: Config) -> Reload:
    """What becomes of a daemon that runs with one configuration, when it is to have another."""
    waiting = tuple(name for name in _differences(running, wanted) if name in _FIXED)
    kept = {name: getattr(running, name) for name in FIXED[""]}
    store = attrs.evolve(wanted.store, **{name: getattr(running.store, name) for name in FIXED["store"]})
    config = attrs.evolve(wanted, **kept, store=store)
    return Reload(config, tuple(_differences(running, config)), waiting)


def _path(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


_FIXED = frozenset(_path(table, key) for table, keys in FIXED.items() for key in keys)


def _differences(one: Config, other: Config) -> Iterator[str]:
    """The names of the keys that differ; of a registry, its table."""
    for table, kind in SCHEMA.items():
        if table == REGISTRY_TABLE:
            continue
        mine: Any = getattr(one, table) if table else one
        its: Any = getattr(other, table) if table else other
        for key in keys_of(kind):
            if getattr(mine, key, None) != getattr(its, key, None):  # no [ca] is None
                yield _path(table, key)
    for name in sorted(one.registries.keys() | other.registries.keys()):
        if one.registries.get(name) != other.registries.get(name):
            yield f'registries."{name}"'
