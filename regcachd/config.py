"""Reading the configuration: TOML text in, frozen values out.

Files are read by the caller and given as (name, text) pairs: tables merge, and of two values of one key the
later wins. Which keys there are is in regcachd.schema. What cannot be used is a `ConfigError`.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import evolve, field, frozen

from regcachd.config_error import ConfigError
from regcachd.connect import Authority
from regcachd.kinds import BadKey, Kinds, all_keys, read_auth
from regcachd.known import blob_probe, known_realm, realm_hosts
from regcachd.schema import (
    REGISTRY_TABLE,
    SCHEMA,
    Auth,
    CAFiles,
    Config,
    Limits,
    Registry,
    RegistryDefaults,
    RegistryKeys,
    StoreConfig,
    TLSConfig,
    Tunnel,
    known_token_hosts,
    make_registry,
    parent,
)
from regcachd.units import BadSecret, BadValue, Size, parse_duration, parse_size
from regcachd.values import Reader, keys_of, listener, registry_name, text, upstream, upstream_authority

__all__ = [
    "Auth",
    "CAFiles",
    "Config",
    "ConfigError",
    "Kinds",
    "Limits",
    "Registry",
    "Size",
    "Sources",
    "StoreConfig",
    "TLSConfig",
    "Tunnel",
    "parse_config",
    "parse_duration",
    "parse_size",
    "upstream_authority",
    "with_overrides",
]

T = TypeVar("T")

COMMAND_LINE = "command line"
"""What stands for the file in errors about an option."""

_TABLES = tuple(name for name in SCHEMA if name not in ("", REGISTRY_TABLE))


def parse_config(documents: Sequence[tuple[str, str]], kinds: Kinds | None = None) -> Config:
    """The configuration that these files, (name, TOML text) in order of reading, make together.

    Registries are the known ones, until a file has a table of registries: then they are those that are named.
    `kinds` are the kinds of authentication there are; without them, for those who need not know, what may belong to one
    is not looked at, and no registry has an `auth`. Raises ConfigError.
    """
    tables: dict[str, dict[str, Any]] = {name: {} for name in _TABLES}
    top: dict[str, Any] = {}
    registries: dict[str, dict[str, Any]] | None = None
    files: dict[str, str] = {}  # by table, or key before all tables: the last file that has it
    further: dict[str, _Further] = {}  # by registry: keys of plugins
    for file, toml in documents:
        document = _parse_toml(file, toml)
        for name in [name for name in _TABLES if name in document]:
            tables[name] |= _read_table(file, name, name, document.pop(name))
            files[name] = file
        if "registries" in document:
            registries = registries or {}
            named = _as_table(file, "registries", document.pop("registries"))
            for name, table in named.items():
                where = _path("registries", _read(file, "registries", registry_name, name))
                table, of_plugins = _split(_as_table(file, where, table), kinds)
                registries.setdefault(name, {}).update(_read_table(file, where, REGISTRY_TABLE, table, kinds))
                further.setdefault(name, {}).update((key, (file, value)) for key, value in of_plugins.items())
                files[where] = file
        found = _read_table(file, "", "", document)
        top |= found
        files |= dict.fromkeys(found, file)

    if len(tables["ca"]) == 1:
        missing = "key" if "certificate" in tables["ca"] else "certificate"
        raise ConfigError(
            files["ca"], f"ca.{missing}", "missing: certificate and key of [ca] are set together"
        )
    if top.get("mirror_tls") and not top.get("mirror_names"):
        raise ConfigError(files["mirror_tls"], "mirror_tls", "its certificates need names: set mirror_names")
    _check_parents(tables["defaults"], registries or {}, files)
    config = Config(
        **top,
        store=StoreConfig(**tables["store"]),
        ca=CAFiles(**tables["ca"]) if tables["ca"] else None,
        tls=TLSConfig(**tables["tls"]),
        tunnel=Tunnel(**tables["tunnel"]),
        limits=Limits(**tables["limits"]),
        defaults=RegistryDefaults(**tables["defaults"]),
    )
    if registries is not None:
        chosen = {
            name: make_registry(
                name,
                given,
                config.defaults,
                _auth(files[_path("registries", name)], name, given, further[name], kinds),
            )
            for name, given in registries.items()
        }
        _check_authorities(chosen, files)
        config = evolve(config, registries=chosen)
    return config


_Further = dict[str, tuple[str, object]]
"""Keys that a plugin is to read: file and value of each."""


def _split(table: dict[str, Any], kinds: Kinds | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """A registry's table without the keys that may be a plugin's, and these; there are none without kinds."""
    own = keys_of(RegistryKeys)
    if kinds is None:
        return {key: value for key, value in table.items() if key in own}, {}
    of_plugins = all_keys(kinds) - own.keys()
    return (
        {key: value for key, value in table.items() if key not in of_plugins},
        {key: value for key, value in table.items() if key in of_plugins},
    )


def _auth(
    file: str, name: str, given: Mapping[str, Any], further: _Further, kinds: Kinds | None
) -> Auth | None:
    """The registry's credential. Raises ConfigError, which shows no value."""
    if kinds is None:
        return None
    where = _path("registries", name)
    try:
        auth = read_auth(given.get("auth"), {key: value for key, (_, value) in further.items()}, kinds)
        if auth is None and given.get("share"):
            raise BadKey("share", "it shares regcachd's own credential, and this registry has none: set auth")
        if given.get("push_with_shared") and not (given.get("share") and given.get("allow_push")):
            raise BadKey("push_with_shared", "it needs share = true and allow_push = true beside it")
    except BadKey as error:
        raise ConfigError(further.get(error.key, (file,))[0], _path(where, error.key), str(error)) from None
    return auth


def with_overrides(
    config: Config,
    *,
    listen: Sequence[str] | None = None,
    store: str | None = None,
    max_size: str | None = None,
    state: str | None = None,
    admin: str | None = None,
    registries: Iterable[str] = (),
) -> Config:
    """`config` with what the command line says; each of `registries`, NAME or NAME=UPSTREAM, is added.

    Raises ConfigError.
    """
    if listen:
        config = evolve(
            config, listen=tuple(_read(COMMAND_LINE, "--listen", listener, item) for item in listen)
        )
    if store is not None:
        path = _read(COMMAND_LINE, "--store", text, store)
        config = evolve(config, store=evolve(config.store, path=path))
    if max_size is not None:
        size = _read(COMMAND_LINE, "--max-size", parse_size, max_size)
        config = evolve(config, store=evolve(config.store, max_size=size))
    if state is not None:
        config = evolve(config, state=_read(COMMAND_LINE, "--state", text, state))
    if admin is not None:
        config = evolve(config, admin=_read(COMMAND_LINE, "--admin", text, admin))
    chosen = dict(config.registries)
    for argument in registries:
        name, equals, url = argument.partition("=")
        try:
            registry_name(name)
        except BadValue as error:  # shows all of it: half an URL would not be known to hold a password
            raise ConfigError(COMMAND_LINE, "--registry", str(error), argument) from None
        chosen.setdefault(name, make_registry(name, {}, config.defaults))
        if equals:
            url = _read(COMMAND_LINE, f"--registry {name}", upstream, url)
            chosen[name] = _moved(chosen[name], url)
    _check_authorities(chosen, {})
    return evolve(config, registries=chosen)


@frozen
class Sources:
    """What a configuration is made of, as text: it can be handed to another process."""

    documents: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Files, (name, TOML text) in order of reading."""
    options: Mapping[str, Any] = field(factory=dict)
    """What the command line says, as `with_overrides` takes it."""

    def config(self, kinds: Kinds | None = None) -> Config:
        """The configuration, as `parse_config` makes it; raises ConfigError."""
        return with_overrides(parse_config(self.documents, kinds), **self.options)


def _moved(registry: Registry, url: str) -> Registry:
    """The registry at another upstream; clients keep the names they have for it."""
    authorities = registry.authorities | {upstream_authority(url)}
    known = realm_hosts(registry.upstream)
    listed = [host for host in registry.realm_hosts if host not in known]
    chosen = registry.token_hosts - known_token_hosts(registry.upstream)
    return evolve(
        registry,
        upstream=url,
        authorities=authorities,
        token_hosts=(chosen | known_token_hosts(url)) - authorities,
        realm=known_realm(url),
        blob_probe=blob_probe(url),
        realm_hosts=(*realm_hosts(url), *listed),
    )


def _check_authorities(registries: Mapping[str, Registry], files: Mapping[str, str]) -> None:
    claimed: dict[Authority, str] = {}
    for name, registry in registries.items():
        for one in sorted(registry.authorities, key=str):
            other = claimed.setdefault(one, name)
            if other != name:
                where = _path("registries", name)
                problem = f'this registry and "{other}" both claim {one}, which can belong to one only'
                raise ConfigError(files.get(where, COMMAND_LINE), where, problem)


def _check_parents(
    defaults: Mapping[str, Any], registries: Mapping[str, Mapping[str, Any]], files: Mapping[str, str]
) -> None:
    """Do the keys of a parent fit together? Said of the table whose keys they are."""
    chosen = RegistryDefaults(**defaults)
    for where, given in {
        "defaults": defaults,
        **{_path("registries", n): g for n, g in registries.items()},
    }.items():
        try:
            parent(given, chosen)
        except BadValue as error:
            raise ConfigError(files[where], _path(where, "upstream_proxy"), str(error)) from None


def _parse_toml(file: str, toml: str) -> dict[str, Any]:
    try:
        return tomllib.loads(toml)
    except (ValueError, RecursionError) as error:  # a number of 4,301 digits is a plain ValueError
        raise ConfigError(file, "not TOML", str(error)) from None


def _as_table(file: str, where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(file, where, f"expected a table: [{where}]", value)
    return value


def _read_table(
    file: str, where: str, kind: str, value: object, kinds: Kinds | None = None
) -> dict[str, Any]:
    """The values of the table `where`, as the daemon uses them; SCHEMA knows it as `kind`."""
    keys = keys_of(SCHEMA[kind])
    found = {}
    for name, item in _as_table(file, where, value).items():
        if name not in keys:
            raise ConfigError(file, _path(where, name), _unknown_key(name, kind, kinds))
        found[name] = _read(file, _path(where, name), keys[name]["read"], item)
    return found


def _read(file: str, where: str, read: Reader[T], value: object) -> T:
    try:
        return read(value)
    except BadSecret as error:
        raise ConfigError(file, where, str(error)) from None
    except BadValue as error:
        raise ConfigError(file, where, str(error), None if isinstance(error, BadSecret) else value) from None


def _unknown_key(name: str, kind: str, kinds: Kinds | None) -> str:
    known = [*keys_of(SCHEMA[kind])]
    if kind == REGISTRY_TABLE:
        known += sorted(all_keys(kinds or {}) - set(known))
    if not kind:
        known += [*_TABLES, "registries"]
    homes = [other for other, table in SCHEMA.items() if name in keys_of(table)]
    close = difflib.get_close_matches(name, known, n=1)
    if homes:
        places = " or ".join(f"[{home}]" if home else "the top, before the first table" for home in homes)
        advice = f"it belongs to {places}; "
    else:
        advice = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {advice}allowed here: {', '.join(known)}"


def _path(where: str, name: str) -> str:
    written = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
    return f"{where}.{written}" if where else written
