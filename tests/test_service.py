"""The daemon as a whole: its start, its end, and what it says."""

import random
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel

from regcachd.config import parse_config
from regcachd.errors import RegcachdError
from regcachd.service import RegcacheService
from regcachd.store import StoreUnusable
from regcachd.testing import FakeRegistry, StallAfter, StallBeforeHeaders, Throttle
from tests.through import Download, blob_path, limits, logged, running, start
from tests.world import World, until

reactor: Any = _reactor

DATA = random.Random(10).randbytes(400_000)


def service(directory: Path, *listen: str, tables: str = "") -> RegcacheService:
    """A daemon that is not started yet."""
    text = f"""
        listen = {list(listen or ["tcp:0:interface=127.0.0.1"])}
        state = "{directory}/state"
        [store]
        path = "{directory}/store"
        {tables}
    """.replace("'", '"')
    return RegcacheService(reactor, parse_config([("test.toml", text)]))


def wait(stopping: Any) -> "Deferred[None]":
    assert isinstance(stopping, Deferred)
    return stopping


# -- start


async def test_nothing_listens_before_the_start_and_nothing_after_the_end(tmp_path: Path) -> None:
    daemon = service(tmp_path)
    assert daemon.ports == []
    daemon.privilegedStartService()
    (port,) = daemon.ports
    daemon.startService()
    assert daemon.ports == [port]
    assert daemon.running
    number = port.getHost().port
    socket.create_connection(("127.0.0.1", number)).close()
    await wait(daemon.stopService())
    assert not daemon.running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number))


async def test_a_daemon_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    await wait(service(tmp_path).stopService())


async def test_it_says_where_it_listens_and_what_to_do_next(tmp_path: Path) -> None:
    daemon = service(tmp_path)
    with logged(LogLevel.info) as lines:
        daemon.startService()
    number = daemon.ports[0].getHost().port
    text = "\n".join(lines)
    assert f"listens on 127.0.0.1:{number}" in text
    assert "docker.io" in text
    assert str(tmp_path / "state/ca/root.crt") in text
    assert f"sha256:{daemon.ca.fingerprint.removeprefix('sha256:')}" in text
    assert f":{number} --fingerprint {daemon.ca.fingerprint}" in text
    assert f":{number}/setup/all | sh" in text
    assert "export HTTPS_PROXY=http://" in text
    assert all("\n" not in line for line in lines)
    await wait(daemon.stopService())


async def test_several_places_to_listen(tmp_path: Path) -> None:
    daemon = service(tmp_path, "tcp:0:interface=127.0.0.1", f"unix:{tmp_path}/socket", "dual:0")
    daemon.startService()
    assert len(daemon.ports) == 3
    for number in (daemon.ports[0].getHost().port, daemon.ports[2].getHost().port):
        socket.create_connection(("127.0.0.1", number)).close()
    local = socket.socket(socket.AF_UNIX)
    local.connect(str(tmp_path / "socket"))
    local.close()
    await wait(daemon.stopService())


async def test_dual_takes_both_families(tmp_path: Path) -> None:
    daemon = service(tmp_path, "dual:0")
    daemon.startService()
    number = daemon.ports[0].getHost().port
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, number)).close()
    await wait(daemon.stopService())


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Twisted 22.4 leaves the socket to gc
@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("tcp:{taken}:interface=127.0.0.1", "Address already in use"),
        ("tcp:0:interface=192.0.2.1", "Cannot assign requested address"),
        ("unix:/nowhere/at/all", "No such file"),
        ("dual:{taken}", "Address already in use"),
    ],
)
async def test_an_address_that_cannot_be_had_is_one_line_and_the_end(
    tmp_path: Path, listen: str, reason: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1" if "dual" not in listen else "0.0.0.0", 0))
        taken.listen()
        daemon = service(tmp_path, listen.format(taken=taken.getsockname()[1]))
        with logged() as lines, pytest.raises(SystemExit) as told:
            daemon.privilegedStartService()
    message = str(told.value)
    assert message.startswith("regcachd does not start: listen: ")
    assert reason in message
    assert "\n" not in message
    assert len(lines) <= 1
    await wait(daemon.stopService())


async def test_ports_that_were_had_before_one_could_not_are_given_back(tmp_path: Path) -> None:
    daemon = service(tmp_path, "tcp:0:interface=127.0.0.1", "unix:/nowhere/at/all")
    with logged(), pytest.raises(SystemExit):
        daemon.privilegedStartService()
    await wait(daemon.stopService())


def test_a_store_or_state_that_cannot_be_used_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreUnusable) as told:
        service(tmp_path)
    assert "\n" not in str(told.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/state").write_text("a file")
    with pytest.raises(RegcachdError) as told_too:
        service(tmp_path / "other")
    assert "\n" not in str(told_too.value)


# -- restart


async def test_a_restart_keeps_the_cache_and_the_ca(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = world.registry.add_image("team/app", "1", [DATA])
        client = world.client()
        await client.get("/v2/team/app/manifests/1")
        await client.get(blob_path(image.layers[0]))
        await until(lambda: len(world.stored()) == 2)
        root = world.service.ca.root_pem
        await wait(world.service.stopService())
        world.start_daemon()
        assert world.service.ca.root_pem == root
        world.registry.requests.clear()
        reply = await world.client().get(blob_path(image.layers[0]))
        assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit")
        assert world.registry.requests.count("GET") == 0


async def test_starting_and_stopping_leaves_no_threads(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        for _ in range(3):
            assert (await world.client().get(blob_path(digest))).status == 200
            await wait(world.service.stopService())
            left = set(threading.enumerate()) - before
            assert not [each.name for each in left if "regcachd" in each.name]
            world.start_daemon()


# -- the end


async def begun(world: World, *faults: Any) -> tuple[Any, Download]:
    """A response in the middle."""
    digest = world.registry.add_blob("team/app", DATA)
    world.registry.fault(digest, *faults)
    download = await Download(world, blob_path(digest)).begin()
    await download.read(1000)
    return digest, download


async def test_a_running_response_is_finished_and_then_it_is_over(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest, download = await begun(world, Throttle(1_000_000))
        idle = world.client()
        await idle.get("/v2/")
        port = world.port
        stopping = wait(world.service.stopService())
        assert await download.rest() == DATA
        await stopping
        assert digest.hex in world.stored()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        world.start_daemon()


async def test_a_stopping_daemon_takes_no_new_connections_and_closes_idle_ones(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        _, download = await begun(world, StallAfter(200_000))
        idle = world.client()
        await idle.get("/v2/")
        port = world.port
        assert world.service.door.connections == 2
        stopping = wait(world.service.stopService())
        await until(lambda: world.service.door.connections == 1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert not stopping.called
        world.registry.release()
        assert await download.rest() == DATA
        await stopping
        world.start_daemon()


async def test_after_stop_timeout_what_still_runs_is_cut(tmp_path: Path) -> None:
    async with running(tmp_path, tables=limits(stop_timeout="300ms")) as world:
        _, download = await begun(world, StallAfter(200_000))
        before = reactor.seconds()
        await wait(world.service.stopService())
        assert 0.25 < reactor.seconds() - before < 10
        await download.rest()
        assert not download.whole
        world.start_daemon()


async def test_a_client_that_does_not_read_holds_the_stop_up_no_longer_than_that(tmp_path: Path) -> None:
    async with running(tmp_path, tables=limits(stop_timeout="300ms")) as world:
        data = random.Random(11).randbytes(30_000_000)
        digest = world.registry.add_blob("team/app", data)
        await world.client().get(blob_path(digest))
        await until(lambda: digest.hex in world.stored())
        download = await Download(world, blob_path(digest), buffer=65536).begin()
        before = reactor.seconds()
        await wait(world.service.stopService())
        assert reactor.seconds() - before < 10
        await download.rest()
        assert not download.whole
        world.start_daemon()


async def test_requests_that_wait_for_upstream_end_with_the_daemon(tmp_path: Path) -> None:
    async with running(tmp_path, tables=limits(stop_timeout="100ms")) as world:
        world.registry.fault("", StallBeforeHeaders())
        asked = [
            start(world.client(), path)
            for path in ("/v2/", "/v2/team/app/manifests/1", "/v2/team/app/blobs/sha256:" + "0" * 64)
        ]
        for each in asked:
            each.addErrback(lambda _: None)
        await until(lambda: len(world.registry.stalls) == 3)
        await wait(world.service.stopService())
        for each in asked:
            await each
        assert world.service.door.connections == 0
        await until(lambda: world.registry.connections == 0)
        world.start_daemon()


async def test_a_pipelined_request_is_not_begun_while_stopping(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallAfter(200_000))
        download = Download(world, blob_path(digest))
        once = download._request.replace(b"Connection: close\r\n", b"")
        download._request = once + once
        await download.begin()
        stopping = wait(world.service.stopService())
        world.registry.release()
        assert await download.rest() == DATA
        await stopping
        world.start_daemon()


async def test_tunnels_do_not_hold_the_stop_up(tmp_path: Path) -> None:
    far = FakeRegistry(reactor)
    await far.start()
    async with running(tmp_path, tables=f"[tunnel]\nports = [{far.port}]\n") as world:
        tunnel = socket.create_connection(("127.0.0.1", world.port))
        tunnel.sendall(f"CONNECT 127.0.0.1:{far.port} HTTP/1.1\r\n\r\n".encode())
        await until(lambda: far.connections == 1)
        before = reactor.seconds()
        await wait(world.service.stopService())
        assert reactor.seconds() - before < 10
        tunnel.close()
        await until(lambda: far.connections == 0)
        world.start_daemon()
    await far.stop()
