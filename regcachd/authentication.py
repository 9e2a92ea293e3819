"""Authentication: the plugins that are installed, and the sessions they make possible.

A plugin is what provides IRegistryAuth in a module of the package `regcachd.plugins`, which other distributions
extend as twisted.plugin has it. Modules are imported here, and not by `getPlugins`: that keeps a cache beside them,
complains in the log where it may not write one, and leaves out a plugin that cannot be imported.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import attrs
from attrs import frozen
from zope.interface import implementer
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from . import plugins
from .errors import RegcachdError
from .fetch import Web
from .interfaces import AuthFailed, Fetched, Home, IAuthenticator, IRegistryAuth, IWeb
from .kinds import Kinds
from .schema import Auth, Registry, RegistryKeys
from .session import Challenges, Session
from .upstream import Netloc, Upstream, parse_url
from .values import keys_of

Plugins = Mapping[str, IRegistryAuth]
"""By name."""

ANONYMOUS = "anonymous"

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class PluginUnusable(RegcachdError):
    """A plugin cannot be used; the message says which, and why."""


@frozen
class Sessions:
    """A registry's sessions. `own` has the configured credential; None if there is none."""

    anonymous: Session
    own: Session | None


def find_plugins(package: ModuleType = plugins) -> Plugins:
    """All that are installed. Raises PluginUnusable."""
    found: dict[str, IRegistryAuth] = {}
    homes: dict[str, str] = {}
    for info in sorted(iter_modules(package.__path__), key=lambda info: info.name):
        where = f"{package.__name__}.{info.name}"
        try:
            module = import_module(where)
        except Exception as error:
            raise PluginUnusable(f"the plugin {where} cannot be imported: {error!r}") from error
        for plugin in vars(module).values():
            if not IRegistryAuth.providedBy(plugin):
                continue
            name = _checked(plugin, where)
            if found.setdefault(name, plugin) is not plugin:
                raise PluginUnusable(
                    f'two plugins are called "{name}", those of {homes[name]} and {where}: remove one of them'
                )
            homes.setdefault(name, where)
    return found


def kinds_of(found: Plugins) -> Kinds:
    """What the configuration has to know of them."""
    return {name: plugin.keys for name, plugin in found.items()}


def open_sessions(clock: Any, upstream: Upstream, found: Plugins) -> Sessions:
    """The sessions with one registry. Raises PluginUnusable when its keys make no credential."""
    registry, web = upstream.registry, Web(upstream, clock)
    challenges = Challenges(upstream, clock)
    anybody = found[ANONYMOUS]
    nobody = anybody.authenticator(anybody.keys(), home_of(registry), web, clock)
    anonymous = Session(upstream, nobody, challenges)
    if registry.auth is None:
        return Sessions(anonymous, None)
    authenticator = _authenticator(registry, registry.auth, web, clock, found)
    return Sessions(anonymous, Session(upstream, authenticator, challenges))


def check_credentials(clock: Any, registries: Iterable[Registry], found: Plugins) -> None:
    """Have every credential made once, by a process that has no use for it. Raises PluginUnusable."""
    for registry in registries:
        if registry.auth is not None:
            _authenticator(registry, registry.auth, _Unconnected(), clock, found)


def _authenticator(registry: Registry, auth: Auth, web: IWeb, clock: Any, found: Plugins) -> IAuthenticator:
    try:
        made: IAuthenticator = found[auth.kind].authenticator(auth.keys, home_of(registry), web, clock)
    except AuthFailed as error:
        raise PluginUnusable(f'registries."{registry.name}": auth = "{auth.kind}": {error}') from None
    return made


@implementer(IWeb)
class _Unconnected:
    """No web."""

    async def fetch(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, local: bool
    ) -> Fetched:
        raise AuthFailed("this process asks nobody")


def home_of(registry: Registry) -> Home:
    """A registry, as plugins see it."""
    netloc: Netloc = parse_url(registry.upstream)[0]
    return Home(registry.name, netloc.scheme, netloc.host, netloc.port, registry.realm_hosts)


def _checked(plugin: Any, where: str) -> str:
    """Its name. Raises PluginUnusable."""
    try:
        verifyObject(IRegistryAuth, plugin)
    except Invalid as error:
        raise PluginUnusable(f"{where} does not provide IRegistryAuth as it says: {error}") from None
    name, keys = plugin.name, plugin.keys
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginUnusable(
            f"{where} is called {name!r}: plugins' names have lower-case letters, digits and dashes"
        )
    if not isinstance(keys, type) or not attrs.has(keys):
        raise PluginUnusable(f'{where}: the keys of "{name}" are no attrs class')
    if taken := keys_of(keys).keys() & keys_of(RegistryKeys).keys():
        raise PluginUnusable(f'{where}: keys of "{name}" are every registry\'s: {", ".join(sorted(taken))}')
    return name
