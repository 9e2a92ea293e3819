"""Cases: HEAD of a cached manifest by digest, each on a connection of its own, as skopeo, podman and dockerd ask."""

import multiprocessing
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from bench.processes import BenchError, cpu_seconds
from bench.rounds import Case
from bench.servers import REGISTRY, Target

CLIENTS = 4
"""Client processes: enough to keep the server busy."""

EACH = 500
"""Connections each of them makes in a load, one after the other."""


@contextmanager
def clients() -> Iterator[ProcessPoolExecutor]:
    """The processes that the connections come from. They are started afresh, and only once."""
    with ProcessPoolExecutor(CLIENTS, multiprocessing.get_context("spawn")) as pool:
        yield pool


def cases(pool: ProcessPoolExecutor) -> list[Case]:
    """The cases of this module; their clients run in `pool`."""
    return [
        Case(
            ((f"new connection, {handshake}, HEAD of a cached manifest", "requests/CPU s"),),
            lambda target, resume=resume: _load(pool, target, resume),  # type: ignore[misc]
        )
        for handshake, resume in (("full handshake", False), ("resumed session", True))
    ]


def _load(pool: ProcessPoolExecutor, target: Target, resume: bool) -> tuple[float, ...]:
    """Requests per CPU second."""
    cpu = cpu_seconds(target.pids)
    list(pool.map(ask_often, [target] * CLIENTS, [EACH] * CLIENTS, [resume] * CLIENTS))
    return (CLIENTS * EACH / (cpu_seconds(target.pids) - cpu),)


def ask_often(target: Target, times: int, resume: bool) -> None:
    """In a process of its own: so many connections, one after the other, each with one request."""
    context = ssl.create_default_context(cafile=str(target.authority))
    session = _ask(target, context, None)[1] if resume else None
    for _ in range(times):
        resumed, _session = _ask(target, context, session)
        if resumed != resume:
            raise BenchError(f"{target.name}: the session was{'' if resumed else ' not'} resumed")


def cipher(target: Target) -> str:
    """What the clients of these cases and the server agree on: the version of TLS, and the cipher."""
    context = ssl.create_default_context(cafile=str(target.authority))
    with context.wrap_socket(_connection(target), server_hostname=REGISTRY) as tls:
        agreed = tls.cipher()
    assert agreed is not None
    return f"{agreed[1]} {agreed[0]}"


def fill(target: Target) -> None:
    """Get the manifest into the cache."""
    context = ssl.create_default_context(cafile=str(target.authority))
    with context.wrap_socket(_connection(target), server_hostname=REGISTRY) as tls:
        _exchange(tls, "GET", target)
    _ask(target, context, None)


def _ask(target: Target, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
    """One HEAD, which must be a hit: was the session resumed, and the session for next time."""
    with context.wrap_socket(_connection(target), server_hostname=REGISTRY, session=session) as tls:
        head = _exchange(tls, "HEAD", target)
        if not head.startswith("http/1.1 200 ") or f"\r\n{target.hit[0]}: {target.hit[1].lower()}" not in head:
            raise BenchError(f"{target.name} answered HEAD of a cached manifest with\n{head}")
        # The session comes with the ticket, and in TLS 1.3 that comes with the response.
        return bool(tls.session_reused), tls.session


def _connection(target: Target) -> socket.socket:
    """A connection on which a TLS handshake with the server may begin."""
    connection = socket.create_connection(("127.0.0.1", target.port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if target.by_connect:
        connection.sendall(f"CONNECT {REGISTRY}:443 HTTP/1.1\r\nHost: {REGISTRY}:443\r\n\r\n".encode())
        answer = _head(connection)
        if not answer.startswith("http/1.1 200 "):
            raise BenchError(f"{target.name} answered CONNECT with\n{answer}")
    return connection


def _exchange(connection: socket.socket, method: str, target: Target) -> str:
    """One request for the manifest, and the head of its response."""
    request = f"{method} {target.upstream.manifest} HTTP/1.1\r\nHost: {REGISTRY}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    connection.sendall(request.encode())
    return _head(connection)


def _head(connection: socket.socket) -> str:
    """The head of a response, in lowercase. Nothing follows it here that anybody wants."""
    head = b""
    while b"\r\n\r\n" not in head:
        received = connection.recv(65536)
        if not received:
            raise BenchError(f"the connection ended within a response: {head!r}")
        head += received
    return head.decode("latin-1").lower()
