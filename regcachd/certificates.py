"""Making and reading X.509 certificates (RFC 5280): no files, no clock.

pki.py says which certificates there are; this module knows what has to be in them.

The issuing CA carries critical name constraints (section 4.2.1.10). Two of their properties decide the form
used here. They bind only the types of name they list, so both types that a TLS server can have, DNS names and
IP addresses, are always listed. And a permitted DNS name permits the names below it as well.
"""

import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from regcachd._compat import validity
from regcachd.errors import RegcachdError

ROOT_LIFE = timedelta(days=3652)
ISSUING_LIFE = timedelta(days=365)
LEAF_LIFE = timedelta(days=7)
BACKDATE = timedelta(hours=1)
"""How far a client's clock may be behind ours."""

PrivateKey = (
    ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)

_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class PkiError(RegcachdError):
    """A certificate or a key is missing, broken or unfit; the message names it and the way out."""


@frozen
class Pair:
    """A CA certificate and its key."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)


def make_root(now: datetime) -> Pair:
    """A new self-signed root."""
    key = ec.generate_private_key(ec.SECP256R1())
    extensions = [(x509.BasicConstraints(ca=True, path_length=1), True), (_key_usage(ca=True), True)]
    return Pair(_sign(_ca_name("root"), key, None, now, ROOT_LIFE, extensions), key)


def make_issuing(root: Pair, constraints: x509.NameConstraints, now: datetime) -> Pair:
    """A new issuing CA that can sign for nothing but servers within the constraints."""
    key = ec.generate_private_key(ec.SECP256R1())
    extensions = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(ca=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (constraints, True),
    ]
    return Pair(_sign(_ca_name("issuing"), key, root, now, ISSUING_LIFE, extensions), key)


def make_leaf(issuing: Pair, name: str, now: datetime) -> Pair:
    """A server certificate for one DNS name or IP address.

    The name is not held against the issuing CA's constraints: clients do that.
    """
    san = general_name(name)
    # An address is no common name: OpenSSL would hold it against the DNS constraints.
    fits = isinstance(san, x509.DNSName) and len(san.value) <= 64  # ub-common-name, RFC 5280 appendix A.1
    key = ec.generate_private_key(ec.SECP256R1())
    extensions = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(ca=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        # Section 4.2.1.6: critical where the subject is empty.
        (x509.SubjectAlternativeName([san]), not fits),
    ]
    subject = x509.Name([_common_name(str(san.value))] if fits else [])
    return Pair(_sign(subject, key, issuing, now, LEAF_LIFE, extensions), key)


def name_constraints(hosts: Iterable[str]) -> x509.NameConstraints:
    """Exactly these names and addresses; a type of name with no host of its own is excluded whole."""
    names = [general_name(host) for host in hosts]
    dns = sorted({name.value for name in names if isinstance(name, x509.DNSName)})
    addresses = sorted({str(name.value) for name in names if isinstance(name, x509.IPAddress)})
    permitted: list[x509.GeneralName] = [x509.DNSName(each) for each in dns]
    permitted += [x509.IPAddress(ip_network(each)) for each in addresses]
    excluded: list[x509.GeneralName] = []
    if not dns:
        # Every name ends in the empty one, so to exclude that is to exclude all.
        excluded.append(x509.DNSName(""))
    if not addresses:
        excluded += [x509.IPAddress(ip_network(each)) for each in ("0.0.0.0/0", "::/0")]
    return x509.NameConstraints(permitted or None, excluded or None)


def permits(found: x509.NameConstraints, wanted: x509.NameConstraints) -> bool:
    """Do constraints, made by `name_constraints`, permit every host for which others are made?"""
    return set(found.permitted_subtrees or ()) >= set(wanted.permitted_subtrees or ())


def general_name(host: str) -> x509.DNSName | x509.IPAddress:
    """A host name or an IP literal as certificates write it; raises PkiError for what is neither."""
    try:
        # ip_address would take an IPv6 zone, which no certificate can express.
        return x509.IPAddress(ip_address(host.replace("%", " ")))
    except ValueError:
        name = host.lower().removesuffix(".")
    if not _DNS_NAME.fullmatch(name):
        raise PkiError(f"no certificate can name {host!r}: use a host name or an IP address, without a port")
    return x509.DNSName(name)


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Every certificate in a PEM text, in its order; raises PkiError when one is broken or there is none."""
    try:
        certificates = [x509.load_pem_x509_certificate(each) for each in _PEM.findall(pem)]
        for certificate in certificates:
            certificate.extensions  # noqa: B018  # parsed only now
    except (ValueError, x509.DuplicateExtension) as e:
        raise PkiError(f"holds a broken certificate ({e})") from e
    if not certificates:
        raise PkiError("holds no PEM certificate")
    return certificates


def load_key(pem: bytes) -> PrivateKey:
    """An unencrypted private key of a kind that can sign certificates; raises PkiError for all else."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as e:
        raise PkiError("is encrypted, and nobody is there to type its password: store it decrypted") from e
    except (ValueError, UnsupportedAlgorithm) as e:
        raise PkiError("holds no PEM private key that can be read") from e
    if not isinstance(key, PrivateKey):
        raise PkiError("is neither an EC, an RSA nor an Ed25519 key")
    return key


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    """The key as PEM, PKCS #8, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def belong_together(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether the certificate is one for this key."""
    public = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_key().public_bytes(*public) == key.public_key().public_bytes(*public)


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: Pair | None,
    now: datetime,
    life: timedelta,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    """A certificate for key, valid as far as its issuer is; self-signed without an issuer."""
    start, end = now - BACKDATE, now + life
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    signing_key: PrivateKey = key
    if issuer is None:
        builder = builder.issuer_name(subject)
    else:
        signing_key = issuer.key
        valid_from, valid_to = validity(issuer.certificate)
        start, end = max(start, valid_from), min(end, valid_to)
        if end <= max(start, now):
            raise PkiError(
                f"the CA certificate {issuer.certificate.subject.rfc4514_string()} is valid from"
                f" {valid_from:%Y-%m-%d %H:%M} to {valid_to:%Y-%m-%d %H:%M} UTC, which is not now:"
                " renew it, or set the clock"
            )
        builder = builder.issuer_name(issuer.certificate.subject)
        builder = builder.add_extension(_authority_key_identifier(issuer), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    builder = builder.not_valid_before(start.replace(microsecond=0))
    builder = builder.not_valid_after(end.replace(microsecond=0))
    hashes_itself = isinstance(signing_key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(signing_key, None if hashes_itself else hashes.SHA256())


def _authority_key_identifier(issuer: Pair) -> x509.AuthorityKeyIdentifier:
    """The issuer's own key identifier, however it was computed (section 4.2.1.1)."""
    try:
        identifier = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def _ca_name(generation: str) -> x509.Name:
    """With a random end, so that the roots of two clusters can be told apart in one list."""
    return x509.Name([_common_name(f"regcachd {generation} CA {secrets.token_hex(4)}")])


def _common_name(value: str) -> "x509.NameAttribute[str]":
    return x509.NameAttribute(NameOID.COMMON_NAME, value)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
