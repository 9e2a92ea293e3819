"""Several workers, as real processes: they share port, store and log; the death of one harms its own clients alone."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.request import urlopen

import pytest
from attrs import evolve, frozen
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from regcachd.child import Worker
from regcachd.cli.client import Client
from regcachd.config import Config, Sources, StoreConfig
from regcachd.worker import share
from regcachd.workers import SETTLED, Workers, how_many
from tests.e2e.programs import Server, environment, free_port, run, wait_until
from tests.e2e.regcache import REGISTRY, ROOT, Daemon, twistd
from tests.test_tls import shared_openssl

LAYER = 48 * 1024 * 1024
"""Bytes: more than the kernel buffers for a client that does not read."""


@frozen
class Upstream:
    """A registry in a process of its own, with an image of one layer."""

    url: str
    authority: Path
    blob: str
    digest: str

    def requests(self) -> int:
        """How many requests for the repository's content it has had."""
        context = ssl.create_default_context(cafile=str(self.authority))
        with urlopen(f"{self.url}/_log", context=context) as answer:
            return sum("/v2/team/" in line for line in answer.read().decode().splitlines())


@contextmanager
def upstream_in(directory: Path) -> Iterator[Upstream]:
    """The registry, while it runs."""
    log = directory / "upstream.log"
    server = Server.start(
        "the registry",
        [sys.executable, "-m", "regcachd.testing", "--tls", directory, "--blob-size", str(LAYER)],
        environment(directory / "home", PYTHONPATH=str(ROOT), PYTHONNOUSERSITE="1"),
        log,
    )
    server.wait_until_ready(lambda: log.read_text().endswith("}\n"))
    about = json.loads(log.read_text().splitlines()[-1])
    digest = about["layers"][0]
    yield Upstream(about["url"], Path(about["ca"]), f"/v2/{about['repository']}/blobs/{digest}", digest)
    server.stop()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with upstream_in(tmp_path_factory.mktemp("upstream")) as running:
        yield running


Start = Callable[[int], Daemon]


@pytest.fixture
def start(tmp_path: Path, upstream: Upstream) -> Iterator[Start]:
    """Starts a daemon of so many workers, and waits for them all. After the test it has to end cleanly."""
    started: list[Daemon] = []

    def start_daemon(workers: int) -> Daemon:
        earlier = started[-1].server.output() if started else ""  # they share one log
        daemon = Daemon.start(tmp_path, upstream.url, upstream.authority, f"workers = {workers}")
        started.append(daemon)
        ready = earlier.count("serves as process") + workers
        wait_until(lambda: count(daemon, "serves as process") == ready, "all workers to serve")
        return daemon

    yield start_daemon
    for daemon in started:
        if daemon.server.process.returncode is None:
            daemon.stop()


def count(daemon: Daemon, words: str) -> int:
    """How many lines of the log have these words."""
    return sum(words in line for line in daemon.server.output().splitlines())


def workers_of(daemon: Daemon) -> list[int]:
    """The processes of the workers."""
    pid = daemon.server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Has this process ended? A zombie that waits for its new parent has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def owner(daemon: Daemon, client: socket.socket) -> int:
    """The worker at the other end of a connection: the one that has the server's end among its descriptors."""
    here = client.getsockname()[1]
    ends = (f":{daemon.port:04X}", f":{here:04X}")
    (inode,) = [
        fields[9]
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if (fields[1][-5:], fields[2][-5:]) == ends
    ]
    for pid in workers_of(daemon):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    return pid
            except FileNotFoundError:
                continue
    raise AssertionError("no worker has this connection")


def connect(daemon: Daemon) -> tuple[int, socket.socket]:
    """A connection that has been accepted, and by whom."""
    client = socket.create_connection(("127.0.0.1", daemon.port), timeout=60)
    client.sendall(f"CONNECT {REGISTRY} HTTP/1.1\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 200 ")
    return owner(daemon, client), client


def connect_to_each(daemon: Daemon) -> dict[int, socket.socket]:
    """A connection to each worker."""
    found: dict[int, socket.socket] = {}
    spare = []
    wanted = set(workers_of(daemon))
    deadline = time.monotonic() + 60
    while set(found) != wanted:
        assert time.monotonic() < deadline, "one worker accepts nothing"
        pid, client = connect(daemon)
        if pid in found:
            spare.append(client)
        else:
            found[pid] = client
    for client in spare:
        client.close()
    return found


def tls(daemon: Daemon) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(daemon.authority))


def secure(
    context: ssl.SSLContext, client: socket.socket, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    return context.wrap_socket(client, server_hostname=REGISTRY.partition(":")[0], session=session)


def get(client: ssl.SSLSocket, path: str) -> http.client.HTTPResponse:
    """Ask, and read the head of the response."""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: {REGISTRY}\r\n\r\n".encode())
    response = http.client.HTTPResponse(client)
    response.begin()
    assert response.status == 200
    return response


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_each_worker_serves_what_one_has_fetched_and_proved(start: Start, upstream: Upstream) -> None:
    """A pull through one worker is a hit at all others, with no further request upstream: they share the store, and
    what upstream has said of the client; and a TLS session goes on at another worker where OpenSSL is shared."""
    daemon = start(3)
    context = tls(daemon)
    session, before = None, 0
    for number, client in enumerate(connect_to_each(daemon).values()):
        with secure(context, client, session) as connection:
            if number:
                assert connection.session_reused == shared_openssl()
            assert digest_of(get(connection, upstream.blob).read()) == upstream.digest
            session = connection.session
        if number:
            assert upstream.requests() == before
        else:
            wait_until(lambda: count(daemon, "stored sha256:") == 1, "the blob to be stored")
            before = upstream.requests()
    daemon.stop()
    assert count(daemon, "Traceback") == 0
    assert (
        sum("[worker " in line and "stored sha256:" in line for line in daemon.server.output().split("\n"))
        == 1
    )


def test_the_parent_alone_cares_for_the_store(start: Start, upstream: Upstream, tmp_path: Path) -> None:
    """It holds the lock and answers on the admin socket; a lost index is built again, and the workers change over."""
    daemon = start(2)
    lock = tmp_path / "store/lock"
    assert int(lock.read_text()) == daemon.server.process.pid
    _, client = connect(daemon)
    with secure(tls(daemon), client) as connection:
        get(connection, upstream.blob).read()
    admin = Client(tmp_path / "admin.sock")
    wait_until(lambda: admin.ask("GET", "/store")["blobs"] == 1, "the blob to be stored")
    (tmp_path / "store/index.sqlite3").unlink()
    wait_until(lambda: count(daemon, "rebuilt from the files") == 1, "the loss to be noticed")
    wait_until(lambda: admin.ask("GET", "/store")["blobs"] == 1, "the blob to be known again")
    daemon.stop()
    assert lock.read_text() == ""
    assert not admin.path.exists()
    assert count(daemon, "Traceback") == 0


def test_a_killed_worker_is_replaced_and_others_do_not_notice(start: Start) -> None:
    daemon = start(2)
    clients = connect_to_each(daemon)
    (victim, lost), (survivor, kept) = clients.items()
    os.kill(victim, signal.SIGKILL)
    assert lost.recv(1) == b""
    assert daemon.page("/healthz")[0].status == 200
    wait_until(lambda: count(daemon, "serves as process") == 3, "the new worker")
    assert set(workers_of(daemon)) > {survivor}
    for client in connect_to_each(daemon).values():
        client.close()
    with secure(tls(daemon), kept) as connection:
        get(connection, "/v2/").read()
    lost.close()
    assert count(daemon, f"(process {victim}) ended by SIGKILL; another takes its place in 0.25 s") == 1
    daemon.stop()


def test_a_worker_told_to_stop_ends_gracefully_and_is_replaced(start: Start, upstream: Upstream) -> None:
    """SIGTERM to one worker: it finishes its response; the other serves on."""
    daemon = start(2)
    pid, client = connect(daemon)
    with secure(tls(daemon), client) as connection:
        response = get(connection, upstream.blob)
        data = response.read(1000)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: pid not in owners_of_port(daemon), "the worker to stop listening")
        assert daemon.page("/healthz")[0].status == 200
        assert not gone(pid)
        data += response.read()
    assert digest_of(data) == upstream.digest
    wait_until(lambda: count(daemon, f"(process {pid}) ended with status 0; another") == 1, "its end")
    wait_until(lambda: count(daemon, "serves as process") == 3, "the new worker")
    daemon.stop()


def owners_of_port(daemon: Daemon) -> set[int]:
    """The processes of a daemon that hold its listening socket."""
    listening = [
        fields[9]
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[1].endswith(f":{daemon.port:04X}") and fields[3] == "0A"
    ]
    found = set()
    for pid in (daemon.server.process.pid, *workers_of(daemon)):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(descriptor) in {f"socket:[{inode}]" for inode in listening}:
                    found.add(pid)
            except FileNotFoundError:
                continue
    return found


def test_workers_do_not_outlive_a_killed_parent(start: Start) -> None:
    """kill -9 of the parent: the workers end by themselves, and the port is free for the next daemon."""
    daemon = start(3)
    pids = workers_of(daemon)
    clients = connect_to_each(daemon)
    daemon.server.process.kill()
    daemon.server.process.wait()
    wait_until(lambda: all(map(gone, pids)), "the workers to end")
    for client in clients.values():
        client.close()
    with socket.socket() as next_one:
        next_one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        next_one.bind(("127.0.0.1", daemon.port))
        next_one.listen()
    again = start(2)
    assert again.page("/healthz")[0].status == 200


def test_stop_lets_responses_finish(start: Start, upstream: Upstream) -> None:
    """SIGTERM in the middle of responses of all workers: every byte arrives, and no process stays."""
    daemon = start(2)
    pids = workers_of(daemon)
    context = tls(daemon)
    open_responses = []
    for client in connect_to_each(daemon).values():
        connection = secure(context, client)
        response = get(connection, upstream.blob)
        open_responses.append((connection, response, response.read(1000)))
        wait_until(lambda: count(daemon, "stored sha256:") == 1, "the blob to be stored")
    daemon.server.tell_to_stop()
    wait_until(lambda: not accepts(daemon.port), "the port to be closed")
    assert not any(map(gone, pids))
    for connection, response, data in open_responses:
        assert digest_of(data + response.read()) == upstream.digest
        connection.close()
    daemon.stop()
    assert all(map(gone, pids))
    assert count(daemon, "does not stop") == count(daemon, "another takes its place") == 0


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionError:
        return False
    return True


def test_arguments_and_environment_say_nothing(start: Start, upstream: Upstream) -> None:
    """A worker's configuration and keys are in neither its arguments nor its environment."""
    daemon = start(2)
    for pid in workers_of(daemon):
        assert Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1:-1] == ["-P", "-m", "regcachd.worker"]
        assert upstream.url not in Path(f"/proc/{pid}/environ").read_text()


def test_one_process_in_the_background_holds_its_index(tmp_path: Path) -> None:
    """twistd forks after it has made the service; the locks by which SQLite knows its users must be the daemon's."""
    port, pidfile = free_port(), tmp_path / "pid"
    (tmp_path / "regcachd.toml").write_text(
        f'listen = ["tcp:{port}:interface=127.0.0.1"]\nworkers = 1\nstate = "{tmp_path}/state"\n'
        f'[store]\npath = "{tmp_path}/store"\n'
    )
    run(
        environment(tmp_path / "home", PYTHONPATH=str(ROOT), PYTHONNOUSERSITE="1"),
        *(*twistd(), f"--pidfile={pidfile}", f"--logfile={tmp_path}/log", f"--rundir={tmp_path}"),
        *("regcache", "--config", tmp_path / "regcachd.toml"),
    )
    wait_until(lambda: accepts(port), "the daemon to listen")
    pid = int(pidfile.read_text())
    inode = (tmp_path / "store/index.sqlite3-shm").stat().st_ino
    locks = Path("/proc/locks").read_text().splitlines()
    held = [line.split()[4:6] for line in locks if "->" not in line]  # those are waited for
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gone(pid), "the daemon to end")
    assert any(int(owner) == pid and file.endswith(f":{inode}") for owner, file in held)
    assert "Traceback" not in (tmp_path / "log").read_text()


# -- decisions, without processes


class NoProcesses(Clock):
    """A reactor on a machine that starts no more processes, until `spawns`."""

    spawns = False

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[float] = []

    def spawnProcess(self, worker: Worker, *args: Any, **kwargs: Any) -> None:
        self.tried.append(self.seconds())
        if not self.spawns:
            raise OSError(11, "Resource temporarily unavailable")


def lonely(tmp_path: Path, reactor: Clock) -> Workers:
    config = evolve(Config(), state=str(tmp_path), store=evolve(StoreConfig(), path=str(tmp_path / "store")))
    workers = Workers(reactor, Sources(), config, 1)
    workers.care.release()
    workers.care = cast(Any, _NoCare())
    workers.ports = [_Port()]
    return workers


class _NoCare:
    """Of a store that needs none: there is no disk thread on this reactor."""

    def start(self) -> None:
        """Begin nothing."""

    async def stop(self) -> None:
        """There is nothing to stop."""

    def release(self) -> None:
        """The lock is not held."""


class _Port:
    def fileno(self) -> int:
        return 0

    def getHost(self) -> Any:
        return UNIXAddress(b"/nowhere")

    def stopListening(self) -> None:
        """There is nothing to stop."""


def test_back_off(tmp_path: Path) -> None:
    """Each early death doubles the pause, up to half a minute; a long life makes it short again."""
    reactor = NoProcesses()
    workers = lonely(tmp_path, reactor)
    workers.startService()
    reactor.pump([0.25] * 4 * 200)
    pauses = [late - early for early, late in zip(reactor.tried, reactor.tried[1:], strict=False)]
    assert pauses[:9] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]

    reactor.spawns = True
    reactor.advance(30)
    (place,) = workers.places
    assert place.worker is not None
    reactor.advance(SETTLED)
    reactor.spawns = False
    workers.ended(place.worker, Failure(ProcessTerminated(1)))
    reactor.tried.clear()
    now = reactor.seconds()
    reactor.pump([0.25] * 4)
    assert reactor.tried == [now + 0.25, now + 0.75]
    workers.stopService()
    assert reactor.getDelayedCalls() == []


def test_how_many() -> None:
    """ "auto" is one per processor, at most 8; a number is a number."""
    assert how_many(None) == min(8, len(os.sched_getaffinity(0)))
    assert how_many(12) == 12


@pytest.mark.parametrize(("workers", "each"), [(1, 10000), (3, 3334), (64, 157)])
def test_connections_are_shared_out(workers: int, each: int) -> None:
    assert share(Config(), workers).limits.connections == each
