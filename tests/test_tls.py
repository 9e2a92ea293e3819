"""Handshakes with the contexts of intercepted connections: names, protocols, resumption, renewal."""

import gc
import os
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat import bindings
from OpenSSL import SSL

from regcachd._compat import validity
from regcachd.pki import CA, PkiError, open_ca
from regcachd.tls import LeafContexts

START = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
HOST, BESIDE, OTHER = "quay.io", "cdn.quay.io", "ghcr.io"
VERSIONS = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def names_beside(host: str) -> frozenset[str]:
    return {HOST: frozenset({BESIDE}), BESIDE: frozenset({HOST})}.get(host, frozenset())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ca(tmp_path: Path) -> CA:
    return open_ca(tmp_path, [HOST, OTHER], START)


@pytest.fixture
def contexts(ca: CA, clock: Clock) -> LeafContexts:
    return LeafContexts(ca, clock, names_beside)


def client_context(ca: CA, version: int | None = None) -> SSL.Context:
    """A client that trusts the root and checks what it is shown."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version is not None:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
    trusted = ca.root_path.with_name("trusted.pem")
    trusted.write_bytes(ca.root_pem)
    context.load_verify_locations(str(trusted))
    context.set_verify(SSL.VERIFY_PEER, lambda *args: bool(args[-1]))
    return context


def connect(context: SSL.Context, sni: str | None, session: SSL.Session | None = None) -> SSL.Connection:
    client = SSL.Connection(context, None)
    client.set_connect_state()
    if sni is not None:
        client.set_tlsext_host_name(sni.encode())
    if session is not None:
        client.set_session(session)
    return client


def accept(context: SSL.Context) -> SSL.Connection:
    server = SSL.Connection(context, None)
    server.set_accept_state()
    return server


def carry(source: SSL.Connection, target: SSL.Connection) -> bytes:
    """Move what one side has to send to the other; returns it."""
    try:
        data = source.bio_read(65536)
    except SSL.WantReadError:
        return b""
    target.bio_write(data)
    return data


def shake(client: SSL.Connection, server: SSL.Connection) -> None:
    """A handshake and one byte each way; raises the SSL.Error of the client, or else of the server."""
    failed: dict[SSL.Connection, SSL.Error] = {}
    for _ in range(4):
        for near, far in (client, server), (server, client):
            try:
                near.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error as e:
                failed.setdefault(near, e)
            carry(near, far)
    for side in (client, server):
        if side in failed:
            raise failed[side]
    for near, far in (client, server), (server, client):
        near.send(b"x")
        carry(near, far)
        assert far.recv(1) == b"x"


def names_shown(client: SSL.Connection) -> list[str]:
    """The names in the certificate the client got."""
    certificate = client.get_peer_certificate()
    assert certificate is not None
    san = certificate.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in san.value]


class TestNames:
    """Which certificate is shown for which pair of CONNECT host and SNI."""

    @VERSIONS
    @pytest.mark.parametrize(
        ("host", "sni", "shown"),
        [
            pytest.param(HOST, None, HOST, id="no SNI: the CONNECT host"),
            pytest.param(HOST, HOST, HOST, id="SNI repeats the CONNECT host"),
            pytest.param(HOST, "QUAY.io", HOST, id="in capitals"),
            pytest.param("Quay.IO.", HOST, HOST, id="CONNECT in capitals with a last dot"),
            pytest.param(HOST, BESIDE, BESIDE, id="another name of the registry"),
            pytest.param(HOST, "CDN.quay.IO", BESIDE, id="another name of the registry in capitals"),
            pytest.param(BESIDE, HOST, HOST, id="and the other way round"),
        ],
    )
    def test_shown(
        self, ca: CA, contexts: LeafContexts, version: int, host: str, sni: str | None, shown: str
    ) -> None:
        """The client gets a chain it can verify, for the name it asked for."""
        client = connect(client_context(ca, version), sni)
        shake(client, accept(contexts.for_host(host)))
        assert names_shown(client) == [shown]

    @VERSIONS
    @pytest.mark.parametrize("sni", [OTHER, "bank.example", "x" + HOST, "a." + HOST, "b\u00fccher.example"])
    def test_refused(self, ca: CA, contexts: LeafContexts, version: int, sni: str) -> None:
        """Any other name ends the handshake with an alert, and no certificate is shown."""
        contexts.for_host(OTHER)  # that another registry's context exists must not matter
        client = connect(client_context(ca, version), sni)
        with pytest.raises(SSL.Error, match="alert handshake failure"):
            shake(client, accept(contexts.for_host(HOST)))
        assert client.get_peer_certificate() is None

    def test_others_go_on(self, ca: CA, contexts: LeafContexts) -> None:
        """A refused handshake leaves the host's context as it was."""
        with pytest.raises(SSL.Error):
            shake(connect(client_context(ca), "bank.example"), accept(contexts.for_host(HOST)))
        shake(connect(client_context(ca), HOST), accept(contexts.for_host(HOST)))

    def test_address(self, tmp_path: Path, clock: Clock) -> None:
        """A CONNECT to an address, for which clients send no SNI, gets a certificate for the address."""
        ca = open_ca(tmp_path, ["10.0.0.7", "::1"], START)
        contexts = LeafContexts(ca, clock, names_beside)
        for host in ("10.0.0.7", "::1"):
            client = connect(client_context(ca), None)
            shake(client, accept(contexts.for_host(host)))
            assert names_shown(client) == [host]

    def test_no_name(self, contexts: LeafContexts) -> None:
        """A host that no certificate can name is an error of ours, before any handshake."""
        with pytest.raises(PkiError):
            contexts.for_host("no host")

    def test_no_leaf_in_callback(self, ca: CA, clock: Clock, contexts: LeafContexts) -> None:
        """Where no leaf can be made for the name in SNI, the handshake fails rather than show another."""
        context = contexts.for_host(HOST)
        clock.now = ca.expires
        client = connect(client_context(ca), BESIDE)
        with pytest.raises(SSL.Error):
            shake(client, accept(context))
        assert client.get_peer_certificate() is None


def hello(version: bytes) -> bytes:
    """A ClientHello as a client makes it whose newest version this is."""
    body = version + bytes(32) + b"\0"
    body += b"\0\x06" + b"\xc0\x09\xc0\x2b\0\x2f" + b"\x01\0"  # suites of TLS 1.0 and of 1.2; no compression
    body += b"\0\x0e" + b"\0\x0a\0\x04\0\x02\0\x17" + b"\0\x0b\0\x02\x01\0"  # P-256, uncompressed
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


class TestProtocols:
    """Versions, ciphers, ALPN."""

    @pytest.mark.parametrize("version", [b"\x03\x00", b"\x03\x01", b"\x03\x02"], ids=["SSL3", "1.0", "1.1"])
    def test_old_versions(self, contexts: LeafContexts, version: bytes) -> None:
        """What is older than TLS 1.2 gets the alert protocol_version (handshake_failure for SSL 3)."""
        server = accept(contexts.for_host(HOST))
        server.bio_write(hello(version))
        with pytest.raises(SSL.Error, match=r"unsupported protocol|version"):
            server.do_handshake()
        alert = server.bio_read(100)
        assert (alert[0], alert[3:6]) == (21, b"\0\x02\x02")
        assert alert[6] == 70 or (alert[6] == 40 and version == b"\x03\x00")

    @pytest.mark.parametrize(
        "junk",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0" * 100,
            b"\x16\x03\x01\xff\xff" + b"\xff" * 100,
            hello(b"\x03\x03")[:-9],
        ],
        ids=["HTTP", "zeros", "overlong record", "cut"],
    )
    def test_junk(self, contexts: LeafContexts, junk: bytes) -> None:
        """What is no ClientHello is an SSL.Error or a wait for more, and nothing else."""
        server = accept(contexts.for_host(HOST))
        server.bio_write(junk)
        with pytest.raises(SSL.Error):
            server.do_handshake()

    @VERSIONS
    def test_cipher(self, ca: CA, contexts: LeafContexts, version: int) -> None:
        """AES-128-GCM is taken though the client likes another better."""
        context = client_context(ca, version)
        if version == SSL.TLS1_2_VERSION:
            context.set_cipher_list(b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256")
        client = connect(context, HOST)
        shake(client, accept(contexts.for_host(HOST)))
        assert "AES128" in str(client.get_cipher_name()).replace("_", "")

    @pytest.mark.parametrize(
        "suite", ["ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"]
    )
    def test_weak_cipher(self, ca: CA, contexts: LeafContexts, suite: str) -> None:
        """CBC modes and key exchange without forward secrecy are refused."""
        context = client_context(ca, SSL.TLS1_2_VERSION)
        context.set_cipher_list(suite.encode())
        with pytest.raises(SSL.Error):
            shake(connect(context, HOST), accept(contexts.for_host(HOST)))

    @VERSIONS
    @pytest.mark.parametrize(
        ("offered", "chosen"),
        [([b"http/1.1"], b"http/1.1"), ([b"h2", b"http/1.1"], b"http/1.1"), ([b"h2"], b""), ([], b"")],
    )
    def test_alpn(
        self, ca: CA, contexts: LeafContexts, version: int, offered: list[bytes], chosen: bytes
    ) -> None:
        """HTTP/1.1 where it is offered; a client that offers only h2 goes on without ALPN."""
        for sni in (HOST, BESIDE):
            context = client_context(ca, version)
            if offered:
                context.set_alpn_protos(offered)
            client = connect(context, sni)
            server = accept(contexts.for_host(HOST))
            shake(client, server)
            assert (client.get_alpn_proto_negotiated(), server.get_alpn_proto_negotiated()) == (
                chosen,
                chosen,
            )

    def test_renegotiation(self, ca: CA, contexts: LeafContexts) -> None:
        """A client that asks to renegotiate gets no second handshake."""
        client = connect(client_context(ca, SSL.TLS1_2_VERSION), HOST)
        server = accept(contexts.for_host(HOST))
        shake(client, server)
        client.renegotiate()
        with pytest.raises(SSL.Error):
            shake(client, server)

    def test_moving_buffer(self, ca: CA, contexts: LeafContexts) -> None:
        """A send that a full socket refused may be repeated from a buffer at another address."""
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.setblocking(False)
            server = SSL.Connection(contexts.for_host(HOST), near)
            server.set_accept_state()
            client = SSL.Connection(client_context(ca), far)
            client.set_connect_state()
            client.set_tlsext_host_name(HOST.encode())
            for side in (client, server, client, server):
                with suppress(SSL.WantReadError):
                    side.do_handshake()
            sent = received = 0
            chunks = [bytearray(16384), bytearray(16384)]
            with suppress(SSL.WantWriteError):
                while sent < 1 << 27:
                    sent += server.send(memoryview(chunks[0]))
            assert sent < 1 << 27
            while received < sent:
                received += len(client.recv(65536))
            assert server.send(memoryview(chunks[1])) == 16384


class Resuming:
    """A client of Python's own ssl module, which can say whether a session was resumed."""

    def __init__(self, ca: CA, version: int) -> None:
        self.context = ssl.create_default_context(cadata=ca.root_pem.decode())
        self.context.check_hostname = False
        self.context.minimum_version = self.context.maximum_version = ssl.TLSVersion(version)

    def visit(
        self, contexts: LeafContexts, host: str, sni: str, session: ssl.SSLSession | None = None
    ) -> ssl.SSLObject:
        """A connection with a byte from the server, so that its session ticket has come."""
        server = accept(contexts.for_host(host))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.context.wrap_bio(incoming, outgoing, server_hostname=sni, session=session)
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
            if outgoing.pending:
                server.bio_write(outgoing.read())
            with suppress(SSL.WantReadError):
                server.do_handshake()
            with suppress(SSL.WantReadError):
                incoming.write(server.bio_read(65536))
        server.send(b"x")
        incoming.write(server.bio_read(65536))
        assert client.read(1) == b"x"
        return client


class TestResumption:
    """Clients that make a new connection for every request need no new key exchange for it."""

    @VERSIONS
    @pytest.mark.parametrize("sni", [HOST, BESIDE])
    def test_resumed(self, ca: CA, contexts: LeafContexts, version: int, sni: str) -> None:
        """A session goes on in the next connection to the same host, and the next."""
        client = Resuming(ca, version)
        session = None
        for visit in range(3):
            connection = client.visit(contexts, HOST, sni, session)
            assert connection.session_reused == bool(visit)
            session = connection.session

    @VERSIONS
    def test_other_host(self, ca: CA, contexts: LeafContexts, version: int) -> None:
        """A session of one registry is worth nothing at another: there is a whole handshake."""
        client = Resuming(ca, version)
        first = client.visit(contexts, HOST, HOST)
        assert not client.visit(contexts, OTHER, OTHER, first.session).session_reused

    @VERSIONS
    def test_other_name(self, ca: CA, contexts: LeafContexts, version: int) -> None:
        """A client that takes its session along under a name we refuse is shown no certificate for that name.

        RFC 8446 section 4.6.1 forbids it to. OpenSSL settles resumption before it looks at the SNI, so the
        handshake goes through, and what it has authenticated is the CONNECT host, as before.
        """
        client = Resuming(ca, version)
        first = client.visit(contexts, HOST, HOST)
        second = client.visit(contexts, HOST, OTHER, first.session)
        assert second.session_reused
        assert (second.getpeercert() or {})["subjectAltName"] == (("DNS", HOST),)

    @VERSIONS
    def test_after_renewal(self, ca: CA, clock: Clock, contexts: LeafContexts, version: int) -> None:
        """A session from before a renewal costs a whole handshake and no failure."""
        clock.now = START - timedelta(days=6.5)
        client = Resuming(ca, version)
        first = client.visit(contexts, HOST, HOST)
        clock.now = START
        assert not client.visit(contexts, HOST, HOST, first.session).session_reused


def shared_openssl() -> bool:
    """Is cryptography linked against the system's OpenSSL? Its extension module then names that library."""
    directory = Path(bindings.__file__).parent
    return any(b"libssl.so" in module.read_bytes() for module in directory.glob("*.so"))


class TestWorkers:
    """Two workers: each has contexts of its own, with one secret."""

    @pytest.fixture
    def workers(self, ca: CA, clock: Clock) -> tuple[LeafContexts, LeafContexts]:
        secret = os.urandom(32)
        first, second = (LeafContexts(ca, clock, names_beside, ticket_secret=secret) for _ in range(2))
        return first, second

    @VERSIONS
    def test_resumed_at_the_other(
        self, ca: CA, workers: tuple[LeafContexts, LeafContexts], version: int
    ) -> None:
        """A session from one worker goes on at the other; with an OpenSSL out of reach it begins anew."""
        client = Resuming(ca, version)
        begun = client.visit(workers[0], HOST, HOST)
        assert client.visit(workers[1], HOST, HOST, begun.session).session_reused == shared_openssl()
        assert client.visit(workers[0], HOST, HOST, begun.session).session_reused

    @VERSIONS
    def test_other_host(self, ca: CA, workers: tuple[LeafContexts, LeafContexts], version: int) -> None:
        """A session of one registry is worth nothing at another, at the same worker or the other."""
        client = Resuming(ca, version)
        begun = client.visit(workers[0], HOST, HOST)
        for contexts in workers:
            assert not client.visit(contexts, OTHER, OTHER, begun.session).session_reused

    @VERSIONS
    def test_other_secret(
        self, ca: CA, clock: Clock, workers: tuple[LeafContexts, LeafContexts], version: int
    ) -> None:
        """A daemon that was started anew has a new secret: a session from before costs a whole handshake."""
        client = Resuming(ca, version)
        begun = client.visit(workers[0], HOST, HOST)
        restarted = LeafContexts(ca, clock, names_beside, ticket_secret=os.urandom(32))
        assert not client.visit(restarted, HOST, HOST, begun.session).session_reused


class TestLife:
    """When contexts are made, kept, and made anew."""

    def test_kept(self, clock: Clock, contexts: LeafContexts) -> None:
        """One context serves a host while its leaf has a day left."""
        context = contexts.for_host(HOST)
        clock.now += 6 * DAY
        assert contexts.for_host("QUAY.io.") is context

    def test_renewed(self, ca: CA, clock: Clock, contexts: LeafContexts) -> None:
        """With less than a day left there is a new leaf; connections under way keep the old one."""
        context = contexts.for_host(HOST)
        under_way = accept(context)
        clock.now += 6 * DAY + timedelta(seconds=1)
        renewed = contexts.for_host(HOST)
        assert renewed is not context
        assert contexts.for_host(HOST) is renewed
        shake(connect(client_context(ca), HOST), under_way)

    def test_renewed_beside(self, ca: CA, clock: Clock, contexts: LeafContexts) -> None:
        """A context chosen by SNI is renewed as well, though no CONNECT asks for it."""
        clock.now = START - timedelta(days=6.5)
        shake(connect(client_context(ca), BESIDE), accept(contexts.for_host(HOST)))
        clock.now = START
        client = connect(client_context(ca), BESIDE)
        shake(client, accept(contexts.for_host(HOST)))
        assert expiry(client) == START + 7 * DAY

    def test_near_the_end_of_the_ca(self, ca: CA, clock: Clock, contexts: LeafContexts) -> None:
        """When no leaf can last longer, the one there is serves to its end, and then there is an error."""
        clock.now = ca.expires - timedelta(hours=2)
        context = contexts.for_host(HOST)
        assert contexts.for_host(HOST) is context
        clock.now = ca.expires
        with pytest.raises(PkiError):
            contexts.for_host(HOST)

    def test_ca_renewed(self, tmp_path: Path, ca: CA, clock: Clock, contexts: LeafContexts) -> None:
        """A renewed CA, put in place, signs the leaves from then on, under the same root."""
        clock.now = ca.expires - timedelta(hours=2)
        context = contexts.for_host(HOST)
        contexts.ca = open_ca(tmp_path, [HOST, OTHER], clock.now)
        assert contexts.ca.root_pem == ca.root_pem
        assert contexts.for_host(HOST) is not context
        clock.now = ca.expires
        assert contexts.for_host(HOST)

    def test_bounded(self, ca: CA, clock: Clock) -> None:
        """The least recently used context is the first to go."""
        contexts = LeafContexts(ca, clock, names_beside, capacity=2)
        a, b = contexts.for_host("a.quay.io"), contexts.for_host("b.quay.io")
        assert contexts.for_host("a.quay.io") is a
        contexts.for_host("c.quay.io")
        assert contexts.for_host("a.quay.io") is a
        assert contexts.for_host("b.quay.io") is not b

    def test_evicted_in_use(self, ca: CA, clock: Clock) -> None:
        """A context that goes while a connection uses it lasts as long as the connection."""
        contexts = LeafContexts(ca, clock, names_beside, capacity=1)
        server = accept(contexts.for_host(HOST))
        contexts.for_host(OTHER)
        gc.collect()
        shake(connect(client_context(ca), BESIDE), server)


def expiry(client: SSL.Connection) -> datetime:
    certificate = client.get_peer_certificate()
    assert certificate is not None
    return validity(certificate.to_cryptography())[1]
