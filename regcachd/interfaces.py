"""What a plugin for registry authentication implements, and what it is given.

A plugin is an object that provides `IRegistryAuth`, found by twisted.plugin in the package `regcachd.plugins` and
chosen by its name: `auth = "NAME"` in a registry's table. For each such registry it makes an `IAuthenticator`,
which turns a registry's challenges into Authorization headers. Everything it wants from the network it
asks of `IWeb`, everything it wants from files are `Secret` values of its keys.

Pure: interfaces, values and errors only.
"""

from collections.abc import Awaitable, Mapping, Sequence

from attrs import field, frozen
from zope.interface import Attribute, Interface

from regcachd.challenge import Challenge
from regcachd.errors import RegcachdError


class AuthFailed(RegcachdError):
    """No Authorization header can be had: what was asked of whom, what came back, and what to do. Never a secret.

    `refused` tells a credential that was turned down (ask the operator for another) from a fault (try again).
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@frozen
class Scope:
    """What a request wants to do: `actions` (pull, push, delete) on one repository, or nothing in particular."""

    repository: str | None = None
    actions: tuple[str, ...] = ("pull",)

    def __str__(self) -> str:
        """As token servers read it ("Token Scope Documentation" of Distribution); "" for nothing in particular."""
        return f"repository:{self.repository}:{','.join(self.actions)}" if self.repository else ""


@frozen
class Home:
    """The registry an authenticator is for: its name, and its upstream's scheme, host and port."""

    name: str
    scheme: str
    host: str
    port: int
    realm_hosts: tuple[str, ...] = ()
    """Hosts, HOST or HOST:PORT, that may be told the registry's credential, besides those on its own domain."""


@frozen
class Fetched:
    """A whole, small answer: header names in lower case. The body may hold a token, so it is not shown."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class IWeb(Interface):
    """Small requests to other servers: verified TLS, bounded answers, a time limit, no redirects."""

    def fetch(
        method: str,  # noqa: N805
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        local: bool,
    ) -> Awaitable[Fetched]:
        """
        One request, and its answer of at most 1 MiB.

        `local`: may the URL lead to this machine, its link or a metadata service? Only for addresses that come from
        the plugin or the operator, never for what a registry says. Raises AuthFailed, also for redirects.
        """


class IAuthenticator(Interface):
    """The credential of one registry."""

    def authorization(challenges: Sequence[Challenge], scope: Scope) -> Awaitable[str | None]:  # noqa: N805
        """
        The Authorization header for a request within `scope`, or None to send none.

        `challenges` are the registry's latest, perhaps minutes old, perhaps of another repository; none when it has not
        asked for anything yet. Several calls may be under way at once. Raises AuthFailed.
        """

    def refused(authorization: str) -> None:  # noqa: N805
        """The registry answered 401 to this header, given out before: what was kept to make it is not used again."""


class IRegistryAuth(Interface):
    """A kind of authentication."""

    name = Attribute("What `auth` says: lower-case letters, digits and dashes.")
    keys = Attribute(
        "An attrs class, its fields made by regcachd.values.key, optional or required: further keys."
    )

    def authenticator(keys: object, home: Home, web: IWeb, clock: object) -> IAuthenticator:  # noqa: N805
        """
        An authenticator for a registry. `keys` is an instance of `keys`, `clock` a reactor: its `seconds()` count time,
        its threads are for what blocks. Raises AuthFailed when the keys cannot be used together.
        """
