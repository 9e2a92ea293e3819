"""TLS contexts for intercepted connections: one per host, each with a fresh leaf, made when first asked for.

The client names its registry twice: in the CONNECT, and again in the handshake (SNI, RFC 6066 section 3).
The CONNECT decides which registry it talks to. The second name may choose another certificate of the same
registry, and any other name ends the handshake: no certificate of ours is ever shown for a host that the
CONNECT was not for.

An OpenSSL context may not change once a connection has used it, so renewal makes a new one; connections
under way keep theirs. Sessions are resumed by tickets alone (RFC 5077, RFC 8446 section 4.6.1), which cost
the server no memory. Their keys are made from the host and a secret that all workers share, so one worker resumes
what another began, but no host what was begun with another. (Where cryptography brings an OpenSSL of its own,
as PyPI's wheels do, each context has its own keys, and at another worker there is a full handshake instead:
`_compat.set_ticket_keys`.) The secret lives as long as the daemon. A resumed session shows no certificate and has
authenticated the CONNECT's host already, so there OpenSSL lets the second name be.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta

from attrs import frozen
from OpenSSL import SSL
from twisted.logger import Logger

from regcachd import kernel_tls
from regcachd._compat import TICKET_KEYS, set_ticket_keys, set_tls13_ciphersuites, write_whole
from regcachd.pki import CA, Leaf, PkiError

LEAF_RENEWAL = timedelta(days=1)
"""A leaf with less than this left is replaced."""

_HTTP = b"http/1.1"

# AES-128 first: the cheapest per byte, and the data path spends most of its time there.
_TLS13 = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
# Our leaves are ECDSA. An operator's RSA CA changes nothing in that: it signs them, it does not shake hands.
_TLS12 = b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305"

_MODE_ACCEPT_MOVING_WRITE_BUFFER = 0x2  # openssl/ssl.h; pyOpenSSL has no name for it

MODE = SSL.MODE_RELEASE_BUFFERS | _MODE_ACCEPT_MOVING_WRITE_BUFFER
"""What the transport needs of every context: idle connections give their 2 x 16 KiB back, and what could not be
sent is sent again from another address."""


@frozen
class _Entry:
    context: SSL.Context
    not_after: datetime


class LeafContexts:
    """The server contexts in use, by host: bounded in number, the least recently used go first."""

    _log = Logger()

    def __init__(
        self,
        ca: CA,
        clock: Callable[[], datetime],
        names_beside: Callable[[str], frozenset[str]],
        capacity: int = 1024,
        ticket_secret: bytes | None = None,
        kernel: bool = True,
    ) -> None:
        """names_beside gives, for a host in lowercase, the lowercase names of the same registry.

        Two of these with one ticket_secret, 32 random bytes, resume each other's sessions. With `kernel`, the
        kernel takes over what it can (`kernel_tls`).
        """
        self.ca = ca
        """May be replaced by a renewed one at any time: later leaves come from it."""
        self._clock = clock
        self._names_beside = names_beside
        self._capacity = capacity
        self._ticket_secret = ticket_secret
        self._kernel = kernel
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        # Without a certificate OpenSSL itself ends the handshake with an alert. It has a callback of its own
        # because OpenSSL asks again after a HelloRetryRequest, and would then ask the context we came from.
        self._refusal = _server_context(None, lambda connection: None)

    def for_host(self, host: str) -> SSL.Context:
        """The context for a CONNECT to host, a name or an IP literal.

        Raises PkiError when no leaf can be minted.
        """
        host = _plain(host)
        entry = self._entries.get(host)
        if entry is None or self._is_due(entry):
            entry = self._entries[host] = self._make(host)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        self._entries.move_to_end(host)
        return entry.context

    def _is_due(self, entry: _Entry) -> bool:
        """Whether it is time for a new leaf, and a new one would last longer."""
        now = self._clock()
        return now >= entry.not_after or (
            now > entry.not_after - LEAF_RENEWAL and self.ca.expires > entry.not_after
        )

    def _make(self, host: str) -> _Entry:
        leaf = self.ca.mint(host, self._clock())
        context = _server_context(leaf, lambda connection: self._choose(host, connection))
        if self._ticket_secret is not None:
            set_ticket_keys(context, _ticket_keys(self._ticket_secret, host))
        if self._kernel:
            kernel_tls.allow(context)
        return _Entry(context, leaf.not_after)

    def _choose(self, host: str, connection: SSL.Connection) -> None:
        """Called by OpenSSL in the midst of the handshake, with a ClientHello that may name a server."""
        server_name = connection.get_servername()
        if server_name is None:
            return
        name = _plain(server_name.decode("ascii", "replace"))
        if name == host:
            return
        # First of all: before pyOpenSSL 26.0 an exception in here was swallowed and the handshake went on.
        connection.set_context(self._refusal)
        if name not in self._names_beside(host):
            self._log.info("TLS refused: CONNECT was for {host}, SNI is for {name!r}", host=host, name=name)
            return
        try:
            connection.set_context(self.for_host(name))
        except PkiError as e:
            self._log.error("TLS refused: no certificate for {name}: {error}", name=name, error=str(e))


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")


def _ticket_keys(secret: bytes, host: str) -> bytes:
    """The keys of one host's tickets."""
    return hashlib.shake_256(secret + host.encode()).digest(TICKET_KEYS)


def _server_context(leaf: Leaf | None, choose: Callable[[SSL.Connection], None]) -> SSL.Context:
    """A complete context; without a leaf, one in which every whole handshake fails."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(MODE)
    write_whole(context)
    context.set_cipher_list(_TLS12)
    set_tls13_ciphersuites(context, _TLS13)
    # ALPN (RFC 7301): HTTP/1.1 or none at all; an alert instead would lock out who offers only h2.
    context.set_alpn_select_callback(
        lambda _, offered: _HTTP if _HTTP in offered else SSL.NO_OVERLAPPING_PROTOCOLS
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # of session ids; tickets need none
    context.set_session_id(b"regcachd")
    context.set_tlsext_servername_callback(choose)
    if leaf is not None:
        _load(context, leaf)
    return context


def _load(context: SSL.Context, leaf: Leaf) -> None:
    """Give the context its key and chain by way of a file in memory.

    pyOpenSSL's loaders from objects changed their types between the supported versions; those from files
    did not, and this file has no name on any disk.
    """
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    with open(descriptor, "wb") as file:
        file.write(leaf.key_pem + leaf.chain_pem)
        file.flush()
        path = f"/proc/self/fd/{descriptor}"
        context.use_certificate_chain_file(path)
        context.use_privatekey_file(path)
    context.check_privatekey()
