"""A private certificate authority and a server's certificate, as a site's own registry would have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

NAMES = ("localhost", "registry.upstream.test", "tokens.upstream.test")
"""Whom the certificate is for. The latter exist only for a daemon that is started with a hosts file of its own."""


@frozen
class ServerCertificate:
    """
    Files of a TLS server.

    `directory` holds nothing but `ca.crt`, the form that skopeo, podman and buildah take as --cert-dir.
    """

    directory: Path
    certificate: Path
    key: Path

    @property
    def authority(self) -> Path:
        return self.directory / "ca.crt"


def make_server_certificate(directory: Path) -> ServerCertificate:
    """Make an authority and, signed by it, a certificate for NAMES; both are valid for a month."""
    files = ServerCertificate(directory / "trust", directory / "server.crt", directory / "server.key")
    files.directory.mkdir(parents=True)
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "End-to-end test authority")])
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = (
        certificate_builder(authority_name, authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        certificate_builder(name, authority_name, key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in NAMES]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    files.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


def certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
) -> x509.CertificateBuilder:
    """A certificate that is valid for a month, to be signed."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
    )
