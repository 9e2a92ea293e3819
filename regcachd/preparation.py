"""Preparation: what a daemon looks at, or makes, before it serves by a configuration, at its start and at reloads."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from .admission import read_users
from .authentication import Plugins, check_credentials
from .config import Config
from .evidence import kept_key
from .inheritance import Secrets
from .names import certified_names
from .pki import CA, DIRECTORY, open_ca
from .safekeeping import refuse_exposed
from .store import Store
from .trust import load

PRIVATE = "private"
"""Where the daemon keeps its own small state, in the state directory: the rest of that may be root's (rootkey.py)."""


def utc_now() -> datetime:
    """The time for certificates."""
    return datetime.now(UTC)


def open_configured_ca(config: Config) -> CA:
    """The CA, made if this is the first start. Raises PkiError."""
    own = None if config.ca is None else (Path(config.ca.certificate), Path(config.ca.key))
    return open_ca(Path(config.state) / DIRECTORY, certified_names(config), utc_now(), own)


def vet(config: Config) -> CA:
    """See that the daemon can serve by this configuration, all of its workers included.

    Raises PkiError, SecretsExposed, BadUsers and TrustUnusable.
    """
    refuse_exposed(config)
    for ca in {registry.ca for registry in config.registries.values() if registry.ca is not None}:
        load(SSL.Context(SSL.TLS_METHOD), ca)
    if config.proxy_users is not None:
        read_users(config.proxy_users)
    return open_configured_ca(config)


def vet_again(clock: Any, config: Config, plugins: Plugins) -> CA:
    """The same for a daemon that serves by another one already. Raises PluginUnusable, too."""
    check_credentials(clock, config.registries.values(), plugins)
    return vet(config)


def prepare(config: Config) -> CA:
    """Once in the life of a daemon, before it serves: make what is not there yet, so that no two workers do.

    Raises what `vet` does, and StoreUnusable.
    """
    ca = vet(config)
    Store(Path(config.store.path)).prepare()
    return ca


def make_secrets(config: Config) -> Secrets:
    """Once in the life of a daemon, after `prepare`. Raises KeyUnusable."""
    keep = any(registry.terms.offline_grace for registry in config.registries.values())
    return Secrets(proofs=kept_key(Path(config.state) / PRIVATE / "proofs.key", keep))
