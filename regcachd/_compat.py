"""What differs between the library versions supported, and nothing else.

Every test of a version is here, with the version in a comment; the rest of the package is written
as if only one version existed. A function goes when the oldest supported version has what it stands for.
"""

from __future__ import annotations

import ctypes
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
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


_SSL_CTRL_SET_TLSEXT_TICKET_KEYS = 59  # openssl/ssl.h

TICKET_KEYS = 80
"""Bytes of ticket keys: a name of 16, then 32 for HMAC and 32 for AES."""


def set_ticket_keys(context: SSL.Context, keys: bytes) -> bool:
    """Make a server context encrypt session tickets with these TICKET_KEYS bytes; False where that cannot be done.

    No version of pyOpenSSL can. OpenSSL can, and its function is within reach where cryptography is linked
    against a shared OpenSSL, as Debian's is; the wheels on PyPI have one inside that shows nothing. It is looked
    up by way of cryptography's own extension module, so that it is never that of another OpenSSL, such as
    the one behind the module ssl.
    """
    name = "_openssl" if find_spec("cryptography.hazmat.bindings._openssl") else "_rust"  # cryptography 40
    try:
        ctrl = ctypes.CDLL(import_module(f"cryptography.hazmat.bindings.{name}").__file__).SSL_CTX_ctrl
    except (AttributeError, OSError):
        return False
    from OpenSSL._util import ffi

    ctrl.restype = ctypes.c_long
    ctrl.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
    pointer = int(ffi.cast("uintptr_t", context._context))
    return bool(ctrl(pointer, _SSL_CTRL_SET_TLSEXT_TICKET_KEYS, len(keys), keys) == 1)
