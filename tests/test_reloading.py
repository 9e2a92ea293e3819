"""A changed configuration is taken up without a restart: in one process (test_reload_processes.py has real ones)."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.python.usage import UsageError

from regcachd.config import Config, Sources, parse_config
from regcachd.errors import RegcachdError
from regcachd.notify import ServiceManager
from regcachd.preparation import vet
from regcachd.reloading import Next, Reloading, ReloadRefused
from regcachd.testing import Throttle
from tests.through import Download, blob_path, running
from tests.wire import LogLines
from tests.world import NAME, Client, World, raw, reactor, until

DATA = os.urandom(3_000_000)
OTHER = "other.test"


def reload(world: World, **changes: str) -> None:
    """Have a daemon in memory take up its configuration with other settings."""
    for name, value in changes.items():
        setattr(world, name, value)
    config = world.config()
    world.service.take_up(config, vet(config))


def other(world: World) -> str:
    """One more registry: the same, under other names."""
    url = world.registry.url.replace("127.0.0.1", "localhost")
    return f'[registries."{OTHER}"]\nupstream = "{url}"\n'


# -- in one process


async def test_a_download_goes_on_while_new_connections_see_the_new_registries(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, Throttle(3_000_000))
        download = await Download(world, blob_path(digest)).begin()
        await download.read(1000)
        client = world.client()
        assert (await client.get("/v2/")).status == 200
        refused = f"CONNECT {OTHER}:443 HTTP/1.1\r\n\r\n".encode()
        before = await deferToThread(raw, world.port, refused)
        assert b" 502 " in before.splitlines()[0]  # a tunnel to nowhere

        with pytest.raises(RegcachdError):
            reload(world, tables=f'{other(world)}ca = "{tmp_path}/missing.pem"\n')
        reload(world, tables=other(world))
        added = Client(world.port, world.service.ca.root_pem.decode(), OTHER)
        world.clients.append(added)
        assert (await added.get("/v2/")).status == 200
        assert (await client.get("/v2/")).status == 200  # on the connection of before
        assert await download.rest() == DATA


async def test_a_connection_keeps_the_rules_it_came_under(tmp_path: Path) -> None:
    """A registry that is taken away is served to those who are in the middle of it."""
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        old = world.client()
        assert (await old.get("/v2/")).status == 200
        config = parse_config([("test.toml", '[registries."else.test"]\n[tunnel]\npolicy = "deny"\n')])
        running_one = world.service.config
        world.service.take_up(
            evolve(running_one, registries=config.registries, tunnel=config.tunnel), world.service.ca
        )
        assert (await old.get(blob_path(digest))).body == DATA
        answer = await deferToThread(raw, world.port, f"CONNECT {NAME}:443 HTTP/1.1\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 ")


async def test_clients_and_users_are_those_of_the_new_configuration(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("ada:" + bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode() + "\n")
    connect = f"CONNECT {NAME}:443 HTTP/1.0\r\n\r\n".encode()
    async with running(tmp_path) as world:
        reload(world, top=f'proxy_users = "file:{users}"')
        assert (await deferToThread(raw, world.port, connect)).startswith(b"HTTP/1.1 407 ")
        known = world.service.edition.users
        reload(world)
        assert world.service.edition.users is known  # with the passwords that it has checked
        reload(world, top='clients = ["192.0.2.0/24"]')
        assert b"are not admitted" in await deferToThread(raw, world.port, connect)


async def test_the_store_s_limits_count_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        for _ in range(3):
            digest = world.registry.add_blob("team/app", os.urandom(1_000_000))
            assert (await world.client().get(blob_path(digest))).status == 200
        await until(lambda: len(world.stored()) == 3)
        world.max_size = 2_000_000
        reload(world)
        await until(lambda: len(world.stored()) == 1)


async def test_old_editions_leave_nothing_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        for _ in range(5):
            reload(world)
            assert (await world.client().get("/v2/")).status == 200
        for client in world.clients:
            client.close()
        await until(lambda: world.service.door.connections == 0)
        gc.collect()
        assert len(world.service._upstreams) == len(world.service.edition.upstreams())


# -- one at a time, and what is said of it


@define
class Daemons:
    """A daemon that takes up what it is given, when it is let."""

    config: Config
    wanted: str = ""
    taken: list[Next] = field(factory=list)
    gate: Deferred[None] | None = None

    def reread(self) -> tuple[Sources, Config]:
        if self.wanted == "broken":
            raise UsageError("a.toml: limits.connections = -1: expected 1 to 1000000")
        return Sources((("a.toml", self.wanted),)), parse_config([("a.toml", f"{self.wanted}\n{self.kept}")])

    @property
    def kept(self) -> str:
        return f'state = "{self.config.state}"\n[registries.a]\n'

    async def take_up(self, following: Next) -> None:
        if self.gate is not None:
            await self.gate
        self.taken.append(following)
        self.config = following.config


@pytest.fixture
def log() -> Iterator[LogLines]:
    lines = LogLines()
    globalLogPublisher.addObserver(lines)
    yield lines
    globalLogPublisher.removeObserver(lines)


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(ear: socket.socket) -> list[list[str]]:
    """The names of the states in each message."""
    found = []
    while True:
        try:
            found.append([line.partition("=")[0] for line in ear.recv(1000).decode().splitlines()])
        except BlockingIOError:
            return found


Make = Callable[..., tuple[Daemons, Reloading]]


@pytest.fixture
def make(tmp_path: Path, ear: socket.socket) -> Iterator[Make]:
    manager = ServiceManager(str(tmp_path / "notify"), None)

    def make_one(**settings: Any) -> tuple[Daemons, Reloading]:
        config = parse_config([("a.toml", f'state = "{tmp_path}/state"\n[registries.a]\n')])
        daemon = Daemons(config, **settings)
        return daemon, Reloading(reactor, {}, daemon.reread, lambda: daemon.config, daemon.take_up, manager)

    yield make_one
    manager.close()


async def test_what_has_changed_and_what_waits_are_said(
    make: Make, ear: socket.socket, log: LogLines
) -> None:
    daemon, reloading = make(wanted='workers = 7\nclients = ["10.0.0.0/8"]')
    done = await reloading.reload()
    assert (done.changed, done.waiting) == (("clients",), ("workers",))
    assert daemon.config.workers is None
    assert heard(ear) == [["RELOADING", "MONOTONIC_USEC"], ["READY"]]
    assert log.has("the configuration is reloaded, changed: clients")
    assert log.has("what has changed, too, and waits for a restart: workers")


async def test_a_broken_configuration_is_refused_and_mended(
    make: Make, ear: socket.socket, log: LogLines
) -> None:
    daemon, reloading = make(wanted="broken")
    with pytest.raises(ReloadRefused, match=r"the old one stays in force: a\.toml: limits\.connections = -1"):
        await reloading.reload()
    assert not daemon.taken
    assert reloading.refusal == "a.toml: limits.connections = -1: expected 1 to 1000000"
    assert heard(ear) == [["RELOADING", "MONOTONIC_USEC"], ["READY"]]
    assert log.has("is not taken up")
    daemon.wanted = ""
    assert str(await reloading.reload()) == "nothing has changed"
    assert reloading.refusal is None


async def test_a_ca_that_cannot_be_made_refuses_the_configuration(make: Make, tmp_path: Path) -> None:
    daemon, reloading = make()
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(ReloadRefused, match="cannot keep the CA"):
        await reloading.reload()
    assert not daemon.taken


async def test_hangups_while_one_waits_are_one(make: Make) -> None:
    daemon, reloading = make(gate=Deferred())
    first = Deferred.fromCoroutine(reloading.reload())
    for _ in range(5):
        reloading._hung_up()
    assert not daemon.taken
    assert daemon.gate is not None
    gate, daemon.gate = daemon.gate, None
    gate.callback(None)
    await first
    await until(lambda: len(daemon.taken) == 2)
