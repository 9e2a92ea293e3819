"""A changed configuration reaches every process of a daemon, and a worker that hangs is replaced: by real ones."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.programs import wait_until
from tests.e2e.regcache import REGISTRY, Daemon
from tests.test_workers import (
    Upstream,
    connect_to_each,
    count,
    digest_of,
    get,
    gone,
    secure,
    tls,
    upstream_in,
    workers_of,
)
from tests.world import Client

OTHER = "other.test"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with upstream_in(tmp_path_factory.mktemp("upstream")) as running:
        yield running


Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, upstream: Upstream) -> Iterator[Start]:
    """Starts a daemon of so many workers, and waits for them all."""
    started: list[Daemon] = []

    def start_daemon(workers: int, **environ: str) -> Daemon:
        daemon = Daemon.start(
            tmp_path, upstream.url, upstream.authority, f"workers = {workers}", environ=environ
        )
        started.append(daemon)
        if workers > 1:
            wait_until(lambda: count(daemon, "serves as process") == workers, "all workers to serve")
        return daemon

    yield start_daemon
    for daemon in started:
        daemon.stop()


def rewrite(daemon: Daemon, old: str, new: str) -> None:
    """Change the configuration."""
    file = daemon.directory / "regcachd.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def add(daemon: Daemon, upstream: Upstream) -> None:
    """One more registry: the same, under other names."""
    url = upstream.url.replace("localhost", "127.0.0.1")  # which its certificate is not for
    with open(daemon.directory / "regcachd.toml", "a") as file:
        file.write(f'[registries."{OTHER}"]\nupstream = "{url}"\ninsecure = true\n')


def connections(daemon: Daemon) -> list[socket.socket]:
    """One to each process that serves."""
    if workers_of(daemon):
        return list(connect_to_each(daemon).values())
    client = socket.create_connection(("127.0.0.1", daemon.port), timeout=20)
    client.sendall(f"CONNECT {REGISTRY} HTTP/1.1\r\n\r\n".encode())
    while client.recv(1, socket.MSG_PEEK) and not client.recv(4096).endswith(b"\r\n\r\n"):
        pass
    return [client]


def status(daemon: Daemon, host: str, path: str) -> int:
    """Of an answer, on a connection of its own."""
    client = Client(daemon.port, daemon.authority.read_text(), host)
    try:
        return client.ask("HEAD", path).status
    finally:
        client.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_registry_is_served_by_all_while_downloads_go_on(
    start: Start, upstream: Upstream, workers: int
) -> None:
    """Asked for by regcachctl, then by SIGHUP. Who trusted the daemon trusts it with the new name."""
    daemon = start(workers)
    open_responses = []
    for client in connections(daemon):
        connection = secure(tls(daemon), client)
        response = get(connection, upstream.blob)
        open_responses.append((connection, response, response.read(1000)))
    add(daemon, upstream)
    assert daemon.ctl("reload") == (0, f'changed: registries."{OTHER}"\n')
    for _ in range(4 * workers):
        assert status(daemon, OTHER, upstream.blob) == 200
    rewrite(daemon, f'"{OTHER}"]', f'"{OTHER}"]\nhosts = ["third.test"]')
    os.kill(daemon.server.process.pid, signal.SIGHUP)
    wait_until(lambda: count(daemon, 'is reloaded, changed: registries."') == 2, "the reload")
    assert status(daemon, "third.test", upstream.blob) == 200
    for connection, response, data in open_responses:
        assert digest_of(data + response.read()) == upstream.digest
        assert get(connection, "/v2/").read() is not None  # and these connections are still there
        connection.close()


def test_a_broken_configuration_is_refused_and_workers_to_come_have_the_old_one(
    start: Start, upstream: Upstream, tmp_path: Path
) -> None:
    daemon = start(2)
    rewrite(daemon, "workers = 2", "workers = -2")
    code, said = daemon.ctl("reload")
    assert code == 3
    assert "the old one stays in force" in said
    assert f"{tmp_path}/regcachd.toml: workers = -2: " in said
    assert count(daemon, "regcachd.toml: workers = -2: ") == 1
    os.kill(workers_of(daemon)[0], signal.SIGKILL)
    wait_until(lambda: count(daemon, "serves as process") == 3, "the new worker")
    for client in connect_to_each(daemon).values():
        client.close()
    rewrite(daemon, "workers = -2", "workers = 2")
    rewrite(daemon, f'ca = "{upstream.authority}"', f'ca = "{tmp_path}/missing.pem"')
    code, said = daemon.ctl("reload")
    assert (code, "missing.pem: no certificates can be read from it" in said) == (3, True), said
    rewrite(daemon, f'ca = "{tmp_path}/missing.pem"', f'ca = "{upstream.authority}"')
    assert daemon.ctl("reload") == (0, "changed: nothing\n")


def test_what_waits_for_a_restart_is_as_it_was_for_workers_to_come(
    start: Start, upstream: Upstream, tmp_path: Path
) -> None:
    daemon = start(2)
    rewrite(daemon, f'path = "{tmp_path}/store"', f'path = "{tmp_path}/elsewhere"\nmax_size = "9GiB"')
    assert daemon.ctl("reload") == (0, "changed: store.max_size\nwaiting for a restart: store.path\n")
    assert count(daemon, "waits for a restart: store.path") == 1
    os.kill(workers_of(daemon)[0], signal.SIGKILL)
    wait_until(lambda: count(daemon, "serves as process") == 3, "the new worker")
    assert not (tmp_path / "elsewhere").exists()
    assert '"max_size": 9663676416' in daemon.ctl("store", "--json")[1]


def test_a_worker_that_hangs_is_replaced(start: Start, tmp_path: Path) -> None:
    """One that is stopped, so that it does not even say where it hangs; the service manager's patience is short."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        daemon = start(2, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="4000000")
        victim = workers_of(daemon)[0]
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: gone(victim), "the end of what hangs")
        wait_until(lambda: count(daemon, "serves as process") == 3, "the new worker")
    assert count(daemon, f"(process {victim}) has not been heard of for 4 s, it is ended") == 1
    assert count(daemon, f"(process {victim}) ended by SIGKILL; another takes its place") == 1
