"""A small certificate authority for one registry, and certificates that clients must refuse."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLContextFactory
from zope.interface import implementer


class Certificate(Enum):
    """What a registry shows to its TLS clients."""

    GOOD = "for its names, from its own CA"
    WRONG_NAME = "for another name, from its own CA"
    UNTRUSTED = "for its names, from a CA of the same name that is not its own"
    EXPIRED = "for its names, from its own CA, expired yesterday"


@frozen
class Identity:
    """PEM texts: the CA that clients are told to trust, and the server's certificate and key in one."""

    ca_pem: bytes
    server_pem: bytes


def make_identity(names: Sequence[str], kind: Certificate, now: datetime.datetime) -> Identity:
    """Make a CA and a server certificate for these host names and IP addresses."""
    ca_key, ca = _make_ca(now)
    signing_key = _make_ca(now)[0] if kind is Certificate.UNTRUSTED else ca_key
    if kind is Certificate.WRONG_NAME:
        names = ["wrong.example"]
    key = ec.generate_private_key(ec.SECP256R1())
    end = now + datetime.timedelta(days=-1 if kind is Certificate.EXPIRED else 30)
    certificate = (
        _builder(names[0], "fake registry CA", key, end)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(signing_key, hashes.SHA256())
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(ca.public_bytes(Encoding.PEM), certificate.public_bytes(Encoding.PEM) + key_pem)


@implementer(IOpenSSLContextFactory)
class ServerContext:
    """What a TLS server needs for each connection: an OpenSSL context, HTTP/1.1 only."""

    def __init__(self, identity: Identity) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        self._context.set_alpn_select_callback(_choose_http1)
        with tempfile.TemporaryDirectory() as directory:
            # pyOpenSSL's versions disagree about the type of a certificate, but all can read files.
            path = Path(directory, "server.pem")
            path.touch(0o600)
            path.write_bytes(identity.server_pem)
            self._context.use_certificate_file(str(path))
            self._context.use_privatekey_file(str(path))

    def getContext(self) -> SSL.Context:
        """The context: Twisted asks for it on every connection."""
        return self._context


def _choose_http1(_connection: SSL.Connection, offered: list[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _make_ca(now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("fake registry CA", "fake registry CA", key, now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, end: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=60))
        .not_valid_after(end)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
