"""A daemon and its surroundings in one process, for tests: FakeRegistry upstream, real sockets, clients in threads."""

import http.client
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from regcachd.authentication import find_plugins, kinds_of
from regcachd.care import Care
from regcachd.config import Config, Sources, parse_config
from regcachd.evidence import kept_key
from regcachd.guard import Rule, anywhere
from regcachd.inheritance import Inheritance, Secrets
from regcachd.listening import bind
from regcachd.service import RegcacheService
from regcachd.testing import FakeRegistry

reactor: Any = _reactor

NAME = "registry.test"
"""What clients call the registry."""


@frozen
class Reply:
    """A response as a client got it. `broken` says that the body ended early."""

    status: int
    headers: dict[str, str]
    body: bytes
    broken: bool = False


@define(eq=False)
class Client:
    """A client that speaks HTTP/1.1 through CONNECT and TLS, one blocking connection at a time, in a thread."""

    port: int
    ca: str
    host: str = NAME
    tunnel_port: int = 443
    tunnel_headers: dict[str, str] = field(factory=dict)
    _connection: http.client.HTTPSConnection | None = field(default=None, init=False)

    def connection(self) -> http.client.HTTPSConnection:
        """Connect, or go on with the kept connection."""
        if self._connection is None:
            context = ssl.create_default_context(cadata=self.ca)
            self._connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, context=context, timeout=60
            )
            self._connection.set_tunnel(self.host, self.tunnel_port, self.tunnel_headers)
        return self._connection

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        """One exchange, blocking."""
        connection = self.connection()
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        try:
            return Reply(response.status, found, response.read())
        except http.client.IncompleteRead as error:
            return Reply(response.status, found, error.partial, broken=True)
        except (ConnectionError, ssl.SSLError):
            return Reply(response.status, found, b"", broken=True)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def get(self, path: str, **headers: str) -> Reply:
        """GET in a thread; header names with _ for -."""
        return await self.do("GET", path, **headers)

    async def do(self, method: str, path: str, **headers: str) -> Reply:
        """Any request without a body, in a thread."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reply: Reply = await deferToThread(self.ask, method, path, named)
        return reply


@define(eq=False)
class World:
    """One daemon in front of one FakeRegistry."""

    directory: Path
    registry: FakeRegistry
    settings: str = ""
    """More lines of the registry's table."""
    tables: str = ""
    """More tables of the configuration."""
    top: str = ""
    """More keys before all tables."""
    listen: str = "tcp:0:interface=127.0.0.1"
    tunnel_rule: Rule = anywhere
    """Where tunnels may lead; the daemon's own rule would refuse everything on this machine."""
    max_size: int = 2**40
    """Bytes the store may have."""
    retries: int = 0
    """Tries of a broken download that bring nothing, before it is given up."""
    clients: list[Client] = field(factory=list)
    is_second: bool = False
    service: RegcacheService = field(init=False)

    async def start(self) -> "World":
        """Start both."""
        await self.registry.start()
        self.start_daemon()
        await until(lambda: self.care.recovery.running is None)
        await self.service.eviction.idle()  # which looks once after that
        return self

    def config(self) -> Config:
        """The daemon's configuration, as it would be read now."""
        ca = ""
        if self.registry.url.startswith("https"):
            ca = f'ca = "{self.registry.ca_file(self.directory / "upstream-ca.pem")}"'
        return parse_config(
            [
                (
                    "test.toml",
                    f"""
                    listen = ["{self.listen}"]
                    {self.top}
                    state = "{self.directory}/state"
                    admin = "{self.directory}/admin.sock"
                    [store]
                    path = "{self.directory}/store"
                    max_size = {self.max_size}
                    min_free = 0
                    [registries."{NAME}"]
                    upstream = "{self.registry.url}"
                    retries = {self.retries}
                    {ca}
                    {self.settings}
                    {self.tables}
                    """,
                )
            ],
            kinds_of(find_plugins()),
        )

    def start_daemon(self) -> None:
        """Start a daemon on the directory, as a restart would."""
        config = self.config()
        inheritance = None
        if self.is_second:
            key = kept_key(self.directory / "state/proofs.key")
            inheritance = Inheritance(
                2, of=2, sockets=0, reactor="", sources=Sources(), secrets=Secrets(proofs=key)
            )
        self.service = RegcacheService(reactor, config, self.tunnel_rule, inheritance=inheritance)
        if inheritance is not None:
            self.service.privilegedStartService()
            self.service.attend(bind(reactor, config.listen, self.service.door))
        self.service.startService()

    @property
    def care(self) -> Care:
        """What looks after the daemon's store."""
        assert self.service.care is not None
        return self.service.care

    @property
    def port(self) -> int:
        """Where the daemon listens."""
        return int(self.service.ports[0].getHost().port)

    def client(self) -> Client:
        """A new client."""
        client = Client(self.port, self.service.ca.root_pem.decode())
        self.clients.append(client)
        return client

    async def restart_daemon(self) -> None:
        """Stop the daemon only, and start it again on the same directory."""
        await self.service.stopService()
        self.start_daemon()

    def second(self) -> "World":
        """Another one of the daemon's workers, which leaves the care of the store to this one. It has a port and
        TLS tickets of its own."""
        other = World(
            self.directory,
            self.registry,
            self.settings,
            self.tables,
            max_size=self.max_size,
            retries=self.retries,
            is_second=True,
        )
        other.start_daemon()
        return other

    async def stop(self) -> None:
        """Stop everything, as gently as a service manager does."""
        for client in self.clients:
            client.close()
        await self.service.stopService()
        if not self.is_second:
            await self.registry.stop()

    def stored(self) -> list[str]:
        """The blobs in the store, by the hex of their digests."""
        return sorted(path.name for path in (self.directory / "store/blobs").rglob("*") if path.is_file())

    def partials(self) -> list[str]:
        """What lies among the partials."""
        return sorted(path.name for path in (self.directory / "store/partial").rglob("*") if path.is_file())


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait, a turn of the reactor at a time, for something that other threads or sockets bring about."""
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline, "it did not happen"
        await deferLater(reactor, 0.005, lambda: None)


def raw(port: int, data: bytes, *, end: bool = False) -> bytes:
    """Send bytes to the daemon's port and return everything it answers until it closes. Blocking."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return answer
