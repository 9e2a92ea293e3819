"""What differs between the library versions supported, and nothing else.

Every test of a version is here, with the version in a comment; the rest of the package is written
as if only one version existed. A function goes when the oldest supported version has what it stands for.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

if TYPE_CHECKING:  # this module is also for those who want no OpenSSL
    from OpenSSL import SSL


def validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """The first and the last moment a certificate is valid, timezone-aware."""
    if hasattr(certificate, "not_valid_before_utc"):  # cryptography 42
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (
        certificate.not_valid_before.replace(tzinfo=UTC),
        certificate.not_valid_after.replace(tzinfo=UTC),
    )


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether issuer's name and key made this certificate; says nothing of dates or constraints.

    Before cryptography 40 an RSA-PSS signature cannot be checked and counts as a wrong one.
    """
    try:
        if hasattr(certificate, "verify_directly_issued_by"):  # cryptography 40
            certificate.verify_directly_issued_by(issuer)
            return True
        if certificate.issuer != issuer.subject:
            return False
        key, algorithm = issuer.public_key(), certificate.signature_hash_algorithm
        signature, signed = certificate.signature, certificate.tbs_certificate_bytes
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, signed, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def set_tls13_ciphersuites(context: SSL.Context, suites: bytes) -> None:
    """Set the order of TLS 1.3 cipher suites."""
    if hasattr(context, "set_tls13_ciphersuites"):  # pyOpenSSL 25.2
        context.set_tls13_ciphersuites(suites)
    else:
        _openssl().SSL_CTX_set_ciphersuites(context._context, suites)


_MODE_ENABLE_PARTIAL_WRITE = 0x1  # openssl/ssl.h


def write_whole(context: SSL.Context) -> None:
    """Let one send write all it is given: pyOpenSSL sets every context to return after each record of 16 KiB."""
    if hasattr(context, "clear_mode"):  # in pyOpenSSL 26, not in 23
        context.clear_mode(_MODE_ENABLE_PARTIAL_WRITE)
    else:
        _openssl().SSL_CTX_clear_mode(context._context, _MODE_ENABLE_PARTIAL_WRITE)


def _openssl() -> Any:
    """The bindings below pyOpenSSL, for what old versions of it have no method for."""
    from OpenSSL._util import lib

    return lib
