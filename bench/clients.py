"""A small HTTPS client: every request on a connection of its own, and nothing remembered but a TLS session."""

import socket
import ssl

from bench.processes import BenchError
from bench.servers import REGISTRY, Target


def trusting(target: Target) -> ssl.SSLContext:
    """What the connections of one client have in common."""
    return ssl.create_default_context(cafile=str(target.authority))


def agreed_cipher(target: Target) -> str:
    """The cipher that this client and the server agree on, as OpenSSL calls it."""
    with trusting(target).wrap_socket(connection(target), server_hostname=REGISTRY) as tls:
        cipher = tls.cipher()
    assert cipher is not None
    return cipher[0]


def get_manifest(target: Target) -> None:
    """GET the manifest, from wherever it comes."""
    with trusting(target).wrap_socket(connection(target), server_hostname=REGISTRY) as tls:
        head = _exchange(tls, "GET", target)
    if not head.startswith("http/1.1 200 "):
        raise BenchError(f"{target.name} answered GET of a manifest with\n{head}")


def ask_for_manifest(
    target: Target, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bool, ssl.SSLSession | None]:
    """HEAD of the manifest, which must be a hit: was `session` resumed, and the session for the next time."""
    with context.wrap_socket(connection(target), server_hostname=REGISTRY, session=session) as tls:
        head = _exchange(tls, "HEAD", target)
        header, value = target.hit
        if not head.startswith("http/1.1 200 ") or f"\r\n{header}: {value.lower()}" not in head:
            raise BenchError(f"{target.name} answered HEAD of a cached manifest with\n{head}")
        # Read after the response: in TLS 1.3 the ticket comes after the handshake (RFC 8446 section 4.6.1).
        return bool(tls.session_reused), tls.session


def connection(target: Target, receive_buffer: int | None = None) -> socket.socket:
    """A connection on which a TLS handshake with the server may begin."""
    plain = socket.socket()
    plain.settimeout(60)
    if receive_buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.connect(("127.0.0.1", target.port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if target.by_connect:
        plain.sendall(f"CONNECT {REGISTRY}:443 HTTP/1.1\r\nHost: {REGISTRY}:443\r\n\r\n".encode())
        answer = _head(plain)
        if not answer.startswith("http/1.1 200 "):
            raise BenchError(f"{target.name} answered CONNECT with\n{answer}")
    return plain


def _exchange(connection: socket.socket, method: str, target: Target) -> str:
    """One request for the manifest, and the head of its response."""
    lines = (
        f"{method} {target.origin.manifest} HTTP/1.1",
        f"Host: {REGISTRY}",
        "Accept: */*",
        "Connection: close",
    )
    connection.sendall("\r\n".join((*lines, "", "")).encode())
    return _head(connection)


def _head(connection: socket.socket) -> str:
    """The head of a response, in lowercase; what follows it is not wanted here."""
    head = b""
    while b"\r\n\r\n" not in head:
        received = connection.recv(65536)
        if not received:
            raise BenchError(f"the connection ended within a response: {head!r}")
        head += received
    return head.decode("latin-1").lower()
