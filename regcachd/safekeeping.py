"""Safekeeping: whether the secrets that the configuration names can be read, and by whom, looked at once at start."""

from collections.abc import Iterator
from typing import Any

import attrs
from twisted.logger import Logger

from .config import Config
from .errors import RegcachdError
from .secret import Secret, SecretUnreadable

log = Logger()


class SecretsExposed(RegcachdError):
    """Others may read a secret, and the configuration says `exposed_secrets = "refuse"`."""


def secrets_of(config: Config) -> Iterator[tuple[str, Secret]]:
    """All there are, each with the key it belongs to. A secret that many registries have from [defaults] comes once."""
    if config.proxy_users is not None:
        yield "proxy_users", config.proxy_users
    default = config.defaults.upstream_proxy_password
    if default is not None:
        yield "defaults.upstream_proxy_password", default
    for name, registry in config.registries.items():
        password = None if registry.parent is None else registry.parent.password
        if isinstance(password, Secret) and password != default:
            yield f'registries."{name}".upstream_proxy_password', password
        if registry.auth is None:
            continue
        keys: Any = registry.auth.keys
        for key, value in attrs.asdict(keys, recurse=False).items():
            if isinstance(value, Secret):
                yield f'registries."{name}".{key}', value


def exposed(config: Config) -> list[str]:
    """What is wrong with the secrets that others may read, and what to do. Those that cannot be found are left out."""
    found = []
    for key, secret in secrets_of(config):
        try:
            whom = secret.exposed_to()
        except SecretUnreadable:
            continue
        if whom is not None:
            path = secret.path
            found.append(f"{key}: {whom} may read {path}; its owner alone should: chmod 600 {path}")
    return found


def refuse_exposed(config: Config) -> None:
    """Raises SecretsExposed, if the configuration wants that."""
    if config.exposed_secrets == "refuse" and (found := exposed(config)):
        raise SecretsExposed("; ".join(found))


def report(config: Config) -> None:
    """Say in the log what is wrong. A secret is read when it is needed, so what is wrong now may be right by then."""
    for problem in exposed(config):
        log.warn("{problem}", problem=problem)
    for key, secret in secrets_of(config):
        if secret is config.proxy_users:
            continue  # without them the daemon has not started
        try:
            secret.read()
        except SecretUnreadable as error:
            log.error(
                "{key}: {error}; until it can be read there is no access with it", key=key, error=str(error)
            )
