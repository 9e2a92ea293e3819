"""What is decided about kernel TLS, on any kernel; tests/ktls has what only a kernel with TLS can show."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from OpenSSL import SSL

from regcachd import kernel_tls
from tests.wire import Identity
from tests.world import NAME

KERNEL_TLS = 1 << 3
"""SSL_OP_ENABLE_KTLS."""


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        return near, listening.accept()[0]


@pytest.mark.parametrize("kernel", [True, False])
def test_contexts_allow_it_when_they_are_told_to(tmp_path: Path, kernel: bool) -> None:
    """`tls.kernel` reaches OpenSSL as an option of every server context."""
    options = Identity.make(tmp_path, kernel).server.set_options(0)
    assert bool(options & KERNEL_TLS) == kernel


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_socket_nobody_gave_keys_for_is_not_encrypted_by_the_kernel(family: socket.AddressFamily) -> None:
    """Whether or not the kernel knows of TLS, and whatever kind of socket it is."""
    pair = tcp_pair() if family == socket.AF_INET else socket.socketpair(family)
    for each in pair:
        assert not kernel_tls.has_taken(each)
        each.close()


def test_the_trial_says_what_happens_to_a_connection(tmp_path: Path) -> None:
    """Without leave it never works; with it, what the trial says is a plain yes or no."""
    assert not kernel_tls.works(Identity.make(tmp_path, kernel=False).server)
    assert kernel_tls.works(Identity.make(tmp_path).server) in (True, False)


def test_a_trial_that_cannot_be_made_has_not_worked() -> None:
    """A context without a certificate cannot shake hands: that is no error here."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    kernel_tls.allow(context)
    assert not kernel_tls.works(context)


@pytest.mark.parametrize(
    ("wanted", "is_loaded", "is_working", "says"),
    [
        ("off", True, True, "off, as configured"),
        ("off", False, False, "off, as configured"),
        ("auto", True, True, "kernel TLS is on"),
        ("auto", False, True, "kernel TLS is on"),
        ("auto", False, False, "modprobe tls"),
        ("auto", True, False, "this OpenSSL cannot"),
    ],
)
def test_report(wanted: str, is_loaded: bool, is_working: bool, says: str) -> None:
    """The log says whether it is on, and if not, what is missing."""
    assert says in kernel_tls.report(wanted, is_loaded, is_working)


def test_a_key_update_is_noticed_before_it_is_answered(tmp_path: Path) -> None:
    """The flag is up when the read that took in the KeyUpdate returns, and not before."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl(1) is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        client = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME, "-tls1_3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        raw, _ = listening.accept()
    assert client.stdin is not None
    assert client.stdout is not None
    server = SSL.Connection(Identity.make(tmp_path).server, raw)
    server.set_accept_state()
    server.do_handshake()
    client.stdin.write(b"before\n")
    client.stdin.flush()
    assert server.recv(100) == b"before\n"
    assert not kernel_tls.key_update_seen(server)
    client.stdin.write(b"K\n")
    client.stdin.flush()
    assert b"KEYUPDATE\n" in iter(client.stdout.readline, b"")  # what it reads together it takes for one line
    client.stdin.write(b"after\n")
    client.stdin.flush()
    assert server.recv(100) == b"after\n"
    assert kernel_tls.key_update_seen(server)
    client.kill()
    client.communicate()
    raw.close()
