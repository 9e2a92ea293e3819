"""Which names certificates can carry, what constraints follow from them, which PEM is refused and how."""

from datetime import UTC, datetime
from ipaddress import ip_network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from hypothesis import given
from hypothesis import strategies as st

from regcachd.certificates import (
    PkiError,
    certificate_pem,
    general_name,
    load_certificates,
    load_key,
    make_root,
    name_constraints,
    permits,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ALL_ADDRESSES = [x509.IPAddress(ip_network("0.0.0.0/0")), x509.IPAddress(ip_network("::/0"))]


@pytest.mark.parametrize(
    ("host", "value"),
    [
        ("docker.io", "docker.io"),
        ("Docker.IO", "docker.io"),
        ("docker.io.", "docker.io"),
        ("localhost", "localhost"),
        ("registry_1.internal", "registry_1.internal"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_host_name(host: str, value: str) -> None:
    """A host name becomes a DNS name in lowercase without its last dot."""
    assert general_name(host) == x509.DNSName(value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "2001:db8::7"])
def test_address(host: str) -> None:
    """An IP literal becomes an IP address."""
    assert str(general_name(host).value) == host


@pytest.mark.parametrize(
    "host",
    ["", ".", "a..b", ".a", "-a.b", "a-", "a b", "*.a", "a:443", "[::1]", "bücher.example", "a\n", "a\0b",
     "a/b", "fe80::1%eth0", "a" * 64, ".".join(["a" * 60] * 5)],
)  # fmt: skip
def test_no_host(host: str) -> None:
    """What is neither is refused, and named in the message."""
    with pytest.raises(PkiError) as e:
        general_name(host)
    assert repr(host) in str(e.value)


@given(st.text())
def test_any_text(text: str) -> None:
    """Whatever the text, it becomes a name that certificates can carry, or a PkiError."""
    try:
        name = general_name(text)
    except PkiError:
        return
    assert isinstance(name, x509.IPAddress) or name.value.isascii()


@pytest.mark.parametrize(
    ("hosts", "permitted", "excluded"),
    [
        pytest.param(
            ["quay.io", "ghcr.io", "Quay.io"],
            [x509.DNSName("ghcr.io"), x509.DNSName("quay.io")],
            ALL_ADDRESSES,
            id="names alone exclude every address",
        ),
        pytest.param(
            ["10.0.0.7", "::1"],
            [x509.IPAddress(ip_network("10.0.0.7/32")), x509.IPAddress(ip_network("::1/128"))],
            [x509.DNSName("")],
            id="addresses alone exclude every name",
        ),
        pytest.param(
            ["quay.io", "10.0.0.7"],
            [x509.DNSName("quay.io"), x509.IPAddress(ip_network("10.0.0.7/32"))],
            None,
            id="with both, each type is bound by what it permits",
        ),
        pytest.param([], None, [x509.DNSName(""), *ALL_ADDRESSES], id="no host excludes everything"),
    ],
)
def test_name_constraints(
    hosts: list[str], permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None
) -> None:
    """Both types of name are always bound, since a type that is not listed is not constrained."""
    assert name_constraints(hosts) == x509.NameConstraints(permitted, excluded)


@pytest.mark.parametrize(
    ("found", "wanted", "is_permitted"),
    [
        (["a.example", "10.0.0.7"], ["a.example"], True),
        (["a.example", "10.0.0.7"], ["10.0.0.7"], True),
        (["a.example"], [], True),
        (["a.example"], ["a.example", "b.example"], False),
        (["a.example"], ["10.0.0.7"], False),
        ([], ["a.example"], False),
    ],
)
def test_constraints_that_permit_more_will_do(
    found: list[str], wanted: list[str], is_permitted: bool
) -> None:
    assert permits(name_constraints(found), name_constraints(wanted)) is is_permitted


def test_certificates_in_order() -> None:
    """All certificates of a file are read, in its order, whatever stands between them."""
    made = [make_root(NOW).certificate for _ in range(3)]
    assert load_certificates(b"s:CN=x\n" + b"\nsome text\n".join(map(certificate_pem, made))) == made


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "holds no PEM certificate"),
        (b"\x30\x82\x01\x0a", "holds no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds a broken certificate"),
    ],
)
def test_bad_certificates(pem: bytes, message: str) -> None:
    """What holds no whole certificate is refused."""
    with pytest.raises(PkiError, match=message):
        load_certificates(pem)


def _pem(key: ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey, password: bytes | None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"), "is encrypted.*store it decrypted"),
        (_pem(x25519.X25519PrivateKey.generate(), None), "neither an EC, an RSA nor"),
        (b"", "no PEM private key"),
        (certificate_pem(make_root(NOW).certificate), "no PEM private key"),
    ],
    ids=["encrypted", "cannot sign", "empty", "a certificate"],
)
def test_bad_key(pem: bytes, message: str) -> None:
    """A key that cannot sign as it stands is refused."""
    with pytest.raises(PkiError, match=message):
        load_key(pem)
