"""Kernel TLS: after the handshake the kernel makes the records, and a file goes from the page cache to a TLS client
without passing through this process.

OpenSSL gives the keys for sending to the kernel during the handshake, if the context allows it, OpenSSL was
built for it, the module `tls` is there and the kernel knows the cipher. Whether it has done so is asked of each
connection (`has_taken`), and nothing depends on the answer but speed.

What is written to such a socket leaves as application data, so everything is written to it directly and OpenSSL
sends only alerts. (SSL_write would do the same with one danger more: after EAGAIN, OpenSSL 3.0 goes on from the
address of the bytes it was given first, whatever SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER promises.)

New keys are what cannot be had. A client may ask for them (KeyUpdate, RFC 8446 section 4.6.3), but kernels before 6.14
refuse them, and OpenSSL 3.0 does not even try: it would announce new keys while the kernel goes on with the old
ones, and the client would find every later record forged. So a connection whose client sends a KeyUpdate ends
instead, with close_notify under the keys that are good. Registry clients do not send any.
"""

import socket
from contextlib import suppress

from OpenSSL import SSL

_OP_ENABLE_KTLS = 1 << 3  # openssl/ssl.h; pyOpenSSL has no name for it
_SOL_TLS, _TLS_TX = 282, 1  # linux/socket.h, linux/tls.h
_CRYPTO_INFO = 4
"""Bytes of struct tls_crypto_info: the version and the cipher."""

_KEY_UPDATE = b"TLSv1.3 read client key update"  # SSL_state_string_long(3)
_SEEN = "key update seen"


def allow(context: SSL.Context) -> None:
    """Let the kernel take over the sending of this server context's connections."""
    context.set_options(_OP_ENABLE_KTLS)
    context.set_info_callback(_watch)


def _watch(connection: SSL.Connection, where: int, returned: int) -> None:
    """Called by OpenSSL at every step of a handshake, and when it has read a KeyUpdate and not answered it yet."""
    if connection.get_state_string() == _KEY_UPDATE:
        connection.set_app_data(_SEEN)


def has_taken(raw: socket.socket) -> bool:
    """Does the kernel encrypt what is sent on this socket?"""
    try:
        raw.getsockopt(_SOL_TLS, _TLS_TX, _CRYPTO_INFO)
    except OSError:
        return False
    return True


def key_update_seen(connection: SSL.Connection) -> bool:
    """Has the client sent a KeyUpdate?"""
    return connection.get_app_data() is _SEEN


def works(context: SSL.Context) -> bool:
    """Try it: shake hands with ourselves over the loopback interface, which takes some milliseconds."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as listening,
            socket.create_connection(listening.getsockname(), timeout=1) as near,
        ):
            listening.settimeout(1)
            far, _ = listening.accept()
            with far:
                return _shaken(context, near, far)
    except (OSError, SSL.Error):
        return False


def _shaken(context: SSL.Context, near: socket.socket, far: socket.socket) -> bool:
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), near)
    client.set_connect_state()
    server = SSL.Connection(context, far)
    server.set_accept_state()
    for raw in (near, far):
        raw.setblocking(False)
    for _ in range(10):  # flights; TLS 1.3 has three
        for side in (client, server):
            with suppress(SSL.WantReadError):
                side.do_handshake()
    return has_taken(far)


def report(wanted: str, is_loaded: bool, is_working: bool) -> str:
    """What the log says at start, of the configuration's `tls.kernel`, the kernel's module and the trial."""
    if wanted == "off":
        return "kernel TLS is off, as configured"
    if is_working:
        return "kernel TLS is on: layers go from the page cache to the client without a copy"
    if not is_loaded:
        return (
            "kernel TLS is not in use, and nothing needs it: the kernel's module is not loaded (modprobe tls)"
        )
    return "kernel TLS is not in use, and nothing needs it: this OpenSSL cannot, or the kernel lacks AES-GCM"
