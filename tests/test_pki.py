"""The CA on disk, its renewal, an operator's own; and that OpenSSL and Go obey what its certificates say."""

import os
import shutil
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from regcachd._compat import is_issued_by, validity
from regcachd.certificates import PrivateKey, certificate_pem, key_pem, load_certificates
from regcachd.pki import CA, Leaf, PkiError, make_authority, open_ca

NOW = datetime.now(UTC).replace(microsecond=0)  # clients verify against the real time
DAY = timedelta(days=1)
HOSTS = ["registry.example", "localhost"]
FILES = ["issuing.crt", "issuing.key", "root.crt", "root.key"]


def read(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def issuing(ca: CA) -> x509.Certificate:
    return load_certificates(ca.mint("registry.example", NOW).chain_pem)[1]


class TestMade:
    """What the first start makes."""

    @pytest.mark.parametrize("umask", [0, 0o077])
    def test_files(self, tmp_path: Path, umask: int) -> None:
        """Keys are for the daemon's user alone, whatever the umask; nothing else is left behind."""
        before = os.umask(umask)
        try:
            open_ca(tmp_path / "state" / "ca", HOSTS, NOW)
        finally:
            os.umask(before)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "state" / "ca").iterdir()}
        assert modes == {"root.key": 0o600, "issuing.key": 0o600, "root.crt": 0o644, "issuing.crt": 0o644}
        assert stat.S_IMODE((tmp_path / "state" / "ca").stat().st_mode) == 0o700

    def test_root(self, tmp_path: Path) -> None:
        """The root is a P-256 CA for ten years that may do nothing but sign certificates and CRLs."""
        ca = open_ca(tmp_path, HOSTS, NOW)
        (root,) = load_certificates(ca.root_pem)
        assert ca.root_path.read_bytes() == ca.root_pem
        assert ca.fingerprint == "sha256:" + root.fingerprint(hashes.SHA256()).hex()
        assert validity(root) == (NOW - timedelta(hours=1), NOW + timedelta(days=3652))
        key = root.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (basic.critical, basic.value.ca) == (True, True)
        usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
        assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)

    def test_issuing(self, tmp_path: Path) -> None:
        """The issuing CA lives a year, signs no further CA, and its name constraints are critical."""
        ca = open_ca(tmp_path, HOSTS, NOW)
        certificate = issuing(ca)
        assert ca.expires == validity(certificate)[1] == NOW + 365 * DAY
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
        assert certificate.extensions.get_extension_for_class(x509.NameConstraints).critical

    def test_two_roots_are_distinguishable(self, tmp_path: Path) -> None:
        """The roots of two clusters differ in their subject."""
        subjects = [
            load_certificates(open_ca(tmp_path / name, HOSTS, NOW).root_pem)[0].subject for name in ("a", "b")
        ]
        assert subjects[0] != subjects[1]

    @pytest.mark.parametrize(
        ("name", "subject", "critical"),
        [
            ("registry.example", "CN=registry.example", False),
            ("x" * 60 + ".registry.example", "", True),
            ("127.0.0.1", "", True),
            ("::1", "", True),
        ],
    )
    def test_leaf(self, tmp_path: Path, name: str, subject: str, critical: bool) -> None:
        """A leaf is good for serving one name for seven days; a name that fits no CN is in the SAN alone."""
        leaf = open_ca(tmp_path, HOSTS, NOW).mint(name, NOW)
        certificate, issuer = load_certificates(leaf.chain_pem)
        extension = certificate.extensions.get_extension_for_class
        san = extension(x509.SubjectAlternativeName)
        assert (certificate.subject.rfc4514_string(), san.critical) == (subject, critical)
        assert [str(each.value) for each in san.value] == [name]
        assert validity(certificate) == (NOW - timedelta(hours=1), NOW + 7 * DAY)
        assert leaf.not_after == NOW + 7 * DAY
        assert list(extension(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
        assert extension(x509.KeyUsage).value.digital_signature
        assert not extension(x509.BasicConstraints).value.ca
        assert (
            extension(x509.AuthorityKeyIdentifier).value.key_identifier
            == issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        )

    def test_secrets_do_not_show(self, tmp_path: Path) -> None:
        """No key is in the repr of anything, where a log could take it."""
        ca = open_ca(tmp_path, HOSTS, NOW)
        assert "PRIVATE" not in repr(ca) + repr(ca.mint("localhost", NOW))


class TestOpenedAgain:
    """What later starts keep and what they make anew."""

    def test_kept(self, tmp_path: Path) -> None:
        """With the same hosts in any order nothing on disk changes."""
        open_ca(tmp_path, HOSTS, NOW)
        before = read(tmp_path)
        again = open_ca(tmp_path, ["LOCALHOST", *HOSTS], NOW + 300 * DAY)
        assert read(tmp_path) == before
        assert is_issued_by(issuing(again), load_certificates(again.root_pem)[0])

    @pytest.mark.parametrize(
        ("hosts", "later"),
        [([*HOSTS, "quay.io"], 0 * DAY), (["localhost"], 0 * DAY), ([*HOSTS, "10.0.0.7"], 0 * DAY),
         (HOSTS, 336 * DAY), (HOSTS, 5 * 365 * DAY)],
        ids=["host added", "host removed", "address added", "29 days left", "expired long ago"],
    )  # fmt: skip
    def test_issuing_made_anew(self, tmp_path: Path, hosts: list[str], later: timedelta) -> None:
        """Other hosts or a near end make a new issuing CA under the same root."""
        before = open_ca(tmp_path, HOSTS, NOW)
        after = open_ca(tmp_path, hosts, NOW + later)
        assert after.root_pem == before.root_pem
        assert after.expires == NOW + later + 365 * DAY
        assert after.mint("localhost", NOW + later)
        assert sorted(read(tmp_path)) == FILES

    @pytest.mark.parametrize("name", ["issuing.crt", "issuing.key"])
    @pytest.mark.parametrize("content", [None, b"", b"garbage", "other"])
    def test_issuing_spoilt(self, tmp_path: Path, name: str, content: bytes | str | None) -> None:
        """An issuing CA that is missing, broken, or another's is made anew under the same root."""
        before = open_ca(tmp_path / "ca", HOSTS, NOW)
        if content is None:
            (tmp_path / "ca" / name).unlink()
        elif isinstance(content, bytes):
            (tmp_path / "ca" / name).write_bytes(content)
        else:
            open_ca(tmp_path / "other", HOSTS, NOW)
            shutil.copy(tmp_path / "other" / name, tmp_path / "ca" / name)
        after = open_ca(tmp_path / "ca", HOSTS, NOW)
        assert after.root_pem == before.root_pem
        assert is_issued_by(issuing(after), load_certificates(before.root_pem)[0])
        made = read(tmp_path / "ca")
        open_ca(tmp_path / "ca", HOSTS, NOW)
        assert read(tmp_path / "ca") == made

    def test_issuing_of_another_root(self, tmp_path: Path) -> None:
        """An issuing pair that fits together and is signed by another root is made anew."""
        open_ca(tmp_path / "ca", HOSTS, NOW)
        other = open_ca(tmp_path / "other", HOSTS, NOW)
        for name in ("issuing.crt", "issuing.key"):
            shutil.copy(tmp_path / "other" / name, tmp_path / "ca" / name)
        assert issuing(open_ca(tmp_path / "ca", HOSTS, NOW)) != issuing(other)

    @pytest.mark.parametrize("name", ["root.crt", "root.key"])
    @pytest.mark.parametrize("content", [None, b"", b"garbage", "other"])
    def test_root_spoilt(self, tmp_path: Path, name: str, content: bytes | str | None) -> None:
        """A root that is not whole is an error that says what to do, and nothing is touched."""
        open_ca(tmp_path / "ca", HOSTS, NOW)
        if content is None:
            (tmp_path / "ca" / name).unlink()
        elif isinstance(content, bytes):
            (tmp_path / "ca" / name).write_bytes(content)
        else:
            open_ca(tmp_path / "other", HOSTS, NOW)
            shutil.copy(tmp_path / "other" / name, tmp_path / "ca" / name)
        before = read(tmp_path / "ca")
        with pytest.raises(PkiError, match=r"root\.(crt|key).*restore it from a copy.*move .* away") as e:
            open_ca(tmp_path / "ca", HOSTS, NOW)
        assert str(tmp_path / "ca") in str(e.value)
        assert read(tmp_path / "ca") == before

    def test_root_expired(self, tmp_path: Path) -> None:
        """After ten years the operator is told, in words, that clients need a new root."""
        open_ca(tmp_path, HOSTS, NOW)
        with pytest.raises(PkiError, match=r"root\.crt expired on .* new root"):
            open_ca(tmp_path, HOSTS, NOW + 3653 * DAY)

    def test_root_key_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user who may not read the root's key can use the issuing CA, and cannot make another."""
        open_ca(tmp_path, HOSTS, NOW)
        whole = Path.read_bytes

        def read_bytes(path: Path) -> bytes:  # the tests may run as root, who may read everything
            if path.name == "root.key":
                raise PermissionError(13, "Permission denied", str(path))
            return whole(path)

        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        made = open_ca(tmp_path, HOSTS, NOW)
        assert open_ca(tmp_path, HOSTS[:1], NOW).handed_over() == made.handed_over()  # a registry has gone
        with pytest.raises(PkiError, match=r"may not read root\.key"):
            open_ca(tmp_path, [*HOSTS, "new.example"], NOW)
        nearly_over = open_ca(tmp_path, HOSTS, NOW + 364 * DAY)
        assert nearly_over.expires > NOW + 364 * DAY
        with pytest.raises(PkiError, match=r"restart the service"):
            open_ca(tmp_path, HOSTS, NOW + 366 * DAY)

    def test_first_start_cut_short(self, tmp_path: Path) -> None:
        """A root's key with nothing beside it, or a half-written file, is what a crash leaves."""
        open_ca(tmp_path / "whole", HOSTS, NOW)
        (tmp_path / "ca").mkdir()
        shutil.copy(tmp_path / "whole" / "root.key", tmp_path / "ca" / "root.key")
        (tmp_path / "ca" / "root.crt.new").write_bytes(b"-----BEG")
        open_ca(tmp_path / "ca", HOSTS, NOW)
        assert sorted(read(tmp_path / "ca")) == FILES

    @pytest.mark.parametrize("cut", FILES)
    def test_write_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
        """A disk that fails at any of the files is a clear error, and the next start ends well."""
        rename = os.rename

        def fail(source: Path, target: Path) -> None:
            if target.name == cut:
                raise OSError(28, "No space left on device", str(target))
            rename(source, target)

        monkeypatch.setattr(os, "rename", fail)
        with pytest.raises(PkiError, match=r"cannot keep the CA in .*No space left"):
            open_ca(tmp_path, HOSTS, NOW)
        monkeypatch.undo()
        open_ca(tmp_path, HOSTS, NOW)
        assert sorted(read(tmp_path)) == FILES

    def test_no_directory(self, tmp_path: Path) -> None:
        """A place where no directory can be is an error that names it."""
        (tmp_path / "file").touch()
        with pytest.raises(PkiError, match=r"cannot keep the CA in .*file/ca"):
            open_ca(tmp_path / "file" / "ca", HOSTS, NOW)

    def test_processes_at_once(self, tmp_path: Path) -> None:
        """Processes that start together on an empty directory end with one root and one issuing CA."""
        code = (
            "import pathlib, sys; from datetime import *; from regcachd.pki import open_ca; sys.stdin.read();"
            "ca = open_ca(pathlib.Path(sys.argv[1]), ['quay.io'], datetime.now(UTC));"
            "print(ca.fingerprint, ca.mint('quay.io', datetime.now(UTC)).chain_pem.split(b'-----END')[1])"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "ca")]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started = [subprocess.Popen(command, **pipes) for _ in range(4)]
        for process in started:
            assert process.stdin is not None
            process.stdin.close()  # what they wait for, so that they go on together
        said = set()
        for process in started:
            assert process.stdout is not None
            said.add(process.stdout.read())
            process.stdout.close()
            assert process.wait(60) == 0
        assert len(said) == 1
        assert said.pop().startswith("sha256:")

    def test_leaf_within_issuer(self, tmp_path: Path) -> None:
        """No leaf outlives the CA that signed it or begins before it; an expired CA signs none."""
        ca = open_ca(tmp_path, HOSTS, NOW)
        assert ca.mint("localhost", ca.expires - DAY).not_after == ca.expires
        (leaf, _) = load_certificates(ca.mint("localhost", NOW - DAY).chain_pem)
        assert validity(leaf)[0] == validity(issuing(ca))[0]
        for moment in (ca.expires, NOW - 30 * DAY):
            with pytest.raises(PkiError, match="not now: renew it, or set the clock"):
                ca.mint("localhost", moment)


# An operator's own CA.

BASIC = x509.BasicConstraints(ca=True, path_length=None)


def make(
    subject: str,
    key: PrivateKey,
    issuer: tuple[str, PrivateKey] | None = None,
    life: tuple[datetime, datetime] = (NOW - DAY, NOW + 30 * DAY),
    basic: x509.BasicConstraints | None = BASIC,
    cert_sign: bool = True,
) -> bytes:
    """The PEM of a certificate as some operator's tool may make it."""
    issuer_name, signing_key = issuer or (subject, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(life[0])
        .not_valid_after(life[1])
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, cert_sign, cert_sign, False, False), critical=True
        )
    )
    if basic is not None:
        builder = builder.add_extension(basic, critical=True)
    edwards = isinstance(signing_key, ed25519.Ed25519PrivateKey)
    return certificate_pem(builder.sign(signing_key, None if edwards else hashes.SHA256()))


P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()


def open_own(tmp_path: Path, certificate: bytes, key: bytes) -> CA:
    (tmp_path / "own.crt").write_bytes(certificate)
    (tmp_path / "own.key").write_bytes(key)
    return open_ca(tmp_path / "ca", HOSTS, NOW, (tmp_path / "own.crt", tmp_path / "own.key"))


class TestOwn:
    """An operator's own CA instead of ours."""

    @pytest.mark.parametrize("key", [P256, P384, RSA, ED25519], ids=["P-256", "P-384", "RSA", "Ed25519"])
    def test_root(self, tmp_path: Path, key: PrivateKey) -> None:
        """A self-signed CA of any usual kind signs leaves that OpenSSL accepts; nothing is written."""
        ca = open_own(tmp_path, make("Site CA", key), key_pem(key))
        leaf = ca.mint("anything.example", NOW)
        assert ca.root_path == tmp_path / "own.crt"
        assert len(load_certificates(leaf.chain_pem)) == 1
        assert verify(tmp_path, ca, leaf) == ""
        assert not (tmp_path / "ca").exists()

    @pytest.mark.parametrize("above", [P256, P384, RSA, ED25519], ids=["P-256", "P-384", "RSA", "Ed25519"])
    def test_chain(self, tmp_path: Path, above: PrivateKey) -> None:
        """Of a chain, the last is what clients trust, and all but the root is sent along."""
        root = make("Root", above)
        middle = make("Middle", RSA, ("Root", above))
        own = make("Own", P256, ("Middle", RSA), life=(NOW - DAY, NOW + 10 * DAY))
        ca = open_own(tmp_path, own + middle + root, key_pem(P256))
        leaf = ca.mint("anything.example", NOW)
        assert ca.root_pem == root
        assert [certificate_pem(each) for each in load_certificates(leaf.chain_pem)][1:] == [own, middle]
        assert ca.expires == NOW + 10 * DAY
        assert verify(tmp_path, ca, leaf) == ""

    def test_intermediate_alone(self, tmp_path: Path) -> None:
        """Under a root that clients have already, the operator's certificate is sent along."""
        own = make("Own", P256, ("Corporate root", RSA))
        ca = open_own(tmp_path, own, key_pem(P256))
        assert own in ca.mint("anything.example", NOW).chain_pem

    def test_old_formats(self, tmp_path: Path) -> None:
        """A key in the old PEM format (PKCS #1) is as good."""
        old = RSA.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        assert open_own(tmp_path, make("Site CA", RSA), old).mint("quay.io", NOW)

    @pytest.mark.parametrize(
        ("certificate", "key", "message"),
        [
            pytest.param(
                make("Own", P256),
                P256.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.BestAvailableEncryption(b"secret"),
                ),
                r"own\.key is encrypted.*store it decrypted",
                id="encrypted key",
            ),
            pytest.param(
                make("Own", RSA),
                RSA.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.TraditionalOpenSSL,
                    serialization.BestAvailableEncryption(b"secret"),
                ),
                r"own\.key is encrypted.*store it decrypted",
                id="encrypted key in the old format",
            ),
            pytest.param(
                make("Own", P256), key_pem(P384), r"own\.key is not the key of .*CN=Own", id="another's key"
            ),
            pytest.param(
                make("Own", P256, basic=x509.BasicConstraints(ca=False, path_length=None)),
                key_pem(P256),
                r"own\.crt: certificate 1 \(CN=Own\) lacks CA:TRUE",
                id="CA:FALSE",
            ),
            pytest.param(
                make("Own", P256, basic=None), key_pem(P256), "lacks CA:TRUE", id="no basic constraints"
            ),
            pytest.param(
                make("Own", P256, cert_sign=False),
                key_pem(P256),
                "lacks the key usage keyCertSign",
                id="usage",
            ),
            pytest.param(
                make("Own", P256, life=(NOW - 9 * DAY, NOW - DAY)), key_pem(P256), "renew it", id="expired"
            ),
            pytest.param(
                make("Own", P256, life=(NOW + DAY, NOW + 9 * DAY)),
                key_pem(P256),
                "set the clock",
                id="not yet valid",
            ),
            pytest.param(
                make("Own", P256, ("Root", RSA))
                + make("Root", RSA, basic=x509.BasicConstraints(ca=True, path_length=0)),
                key_pem(P256),
                r"certificate 2 \(CN=Root\) allows a path length of 0 and has 1 CA",
                id="path length",
            ),
            pytest.param(
                make("Own", P256, ("Root", RSA)) + make("Root", P384),
                key_pem(P256),
                r"certificate 2 \(CN=Root\) did not sign the one before",
                id="another root of the same name",
            ),
            pytest.param(
                make("Root", RSA) + make("Own", P256, ("Root", RSA)),
                key_pem(P256),
                r"own\.key is not the key of .*CN=Root",
                id="root first",
            ),
            pytest.param(
                make("Own", P256, ("Root", RSA)) + make("Root", RSA, life=(NOW - 9 * DAY, NOW - DAY)),
                key_pem(P256),
                r"certificate 2 \(CN=Root\) is valid from",
                id="expired root",
            ),
            pytest.param(b"", key_pem(P256), r"own\.crt holds no PEM certificate", id="empty certificate"),
            pytest.param(make("Own", P256), b"", r"own\.key holds no PEM private key", id="empty key"),
        ],
    )
    def test_refused(self, tmp_path: Path, certificate: bytes, key: bytes, message: str) -> None:
        """Each defect is refused at start, with the file and the way out."""
        with pytest.raises(PkiError, match=message):
            open_own(tmp_path, certificate, key)

    @pytest.mark.parametrize("name", ["own.crt", "own.key"])
    @pytest.mark.parametrize("kind", ["missing", "directory"])
    def test_unreadable(self, tmp_path: Path, name: str, kind: str) -> None:
        """A file that cannot be read is named, with the table of the configuration it is named in."""
        (tmp_path / "own.crt").write_bytes(make("Own", P256))
        (tmp_path / "own.key").write_bytes(key_pem(P256))
        (tmp_path / name).unlink()
        if kind == "directory":
            (tmp_path / name).mkdir()
        with pytest.raises(PkiError, match=rf"cannot read .*{name}, named in \[ca\]"):
            open_ca(tmp_path / "ca", HOSTS, NOW, (tmp_path / "own.crt", tmp_path / "own.key"))


# What real clients make of the certificates.


def verify(directory: Path, ca: CA, leaf: Leaf, *options: str) -> str:
    """What `openssl verify` has against a leaf; nothing where it accepts it."""
    end, above = leaf.chain_pem.split(b"-----END CERTIFICATE-----\n", 1)
    (directory / "trusted.pem").write_bytes(ca.root_pem)
    (directory / "leaf.pem").write_bytes(end + b"-----END CERTIFICATE-----\n")
    (directory / "above.pem").write_bytes(above)
    command = ["openssl", "verify", *options, "-purpose", "sslserver", "-CAfile", "trusted.pem"]
    command += ["-untrusted", "above.pem"] if above else []
    done = subprocess.run([*command, "leaf.pem"], cwd=directory, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


PERMITTED = [
    (["registry.example"], "registry.example"),
    (["registry.example", "10.0.0.7"], "registry.example"),
    (["registry.example", "10.0.0.7"], "10.0.0.7"),
    (["registry.example", "2001:db8::7"], "2001:db8::7"),
    (["10.0.0.7"], "10.0.0.7"),
    (["x" * 60 + ".registry.example"], "x" * 60 + ".registry.example"),
]
NOT_PERMITTED = [
    (["registry.example"], "bank.example"),
    (["registry.example"], "xregistry.example"),
    (["registry.example"], "10.0.0.7"),
    (["registry.example"], "::1"),
    (["registry.example", "10.0.0.7"], "bank.example"),
    (["registry.example", "10.0.0.7"], "10.0.0.8"),
    (["registry.example", "10.0.0.7"], "::1"),
    (["10.0.0.7"], "registry.example"),
    (["10.0.0.7"], "localhost"),
    (["::1"], "127.0.0.1"),
    ([], "localhost"),
    ([], "127.0.0.1"),
]


@pytest.mark.parametrize(("hosts", "name"), PERMITTED)
def test_openssl_accepts(tmp_path: Path, hosts: list[str], name: str) -> None:
    """`openssl verify` accepts the chain of a configured host."""
    ca = open_ca(tmp_path / "ca", hosts, NOW)
    assert verify(tmp_path, ca, ca.mint(name, NOW), "-x509_strict") == ""


@pytest.mark.parametrize(("hosts", "name"), NOT_PERMITTED)
def test_openssl_rejects(tmp_path: Path, hosts: list[str], name: str) -> None:
    """`openssl verify` rejects a leaf for any other name, though the issuing key signed it."""
    ca = open_ca(tmp_path / "ca", hosts, NOW)
    said = verify(tmp_path, ca, ca.mint(name, NOW))
    assert "permitted subtree violation" in said or "excluded subtree violation" in said


class Registry(BaseHTTPRequestHandler):
    """As much of a registry as tells that a client came through TLS."""

    def do_GET(self) -> None:
        """Every request is answered with the same error."""
        body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"came through to HTTP"}]}'
        self.send_response(200 if self.path == "/v2/" else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(directory: Path, leaf: Leaf) -> Iterator[int]:
    """A TLS server on loopback that presents a leaf's chain; yields its port."""
    (directory / "server.pem").write_bytes(leaf.key_pem + leaf.chain_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    with HTTPServer(("127.0.0.1", 0), Registry) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def skopeo(directory: Path, ca: CA, host: str, port: int) -> str:
    """What skopeo, a Go program, says of an image on this host and port."""
    assert shutil.which("skopeo"), "this test needs Debian's skopeo: apt install skopeo"
    (directory / "trust").mkdir()
    (directory / "trust" / "ca.crt").write_bytes(ca.root_pem)
    command = ["skopeo", "inspect", "--cert-dir", str(directory / "trust"), f"docker://{host}:{port}/x:y"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    ).stderr


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("hosts", "name"),
    [(["localhost"], "localhost"), (["quay.io", "127.0.0.1"], "127.0.0.1"), (["127.0.0.1"], "127.0.0.1")],
)
def test_go_accepts(tmp_path: Path, hosts: list[str], name: str) -> None:
    """A Go client accepts the chain of a configured host and goes on to HTTP."""
    ca = open_ca(tmp_path / "ca", hosts, NOW)
    with serving(tmp_path, ca.mint(name, NOW)) as port:
        assert "came through to HTTP" in skopeo(tmp_path, ca, name, port)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("hosts", "name", "message"),
    [
        (["quay.io"], "localhost", "not permitted by any constraint"),
        (["127.0.0.1"], "localhost", "excluded by constraint"),
        ([], "localhost", "excluded by constraint"),
        (["localhost"], "127.0.0.1", "excluded by constraint"),
        (["localhost", "10.0.0.7"], "127.0.0.1", "not permitted by any constraint"),
    ],
)
def test_go_rejects(tmp_path: Path, hosts: list[str], name: str, message: str) -> None:
    """A Go client rejects a leaf for any other name because of the constraints."""
    ca = open_ca(tmp_path / "ca", hosts, NOW)
    with serving(tmp_path, ca.mint(name, NOW)) as port:
        assert message in skopeo(tmp_path, ca, name, port)


class TestMakeAuthority:
    """A root that is made before there is a daemon."""

    def test_a_daemon_signs_by_it(self, tmp_path: Path) -> None:
        end, fingerprint = make_authority(tmp_path / "made", NOW)
        assert stat.S_IMODE((tmp_path / "made/root.key").stat().st_mode) == 0o600
        assert end > NOW + timedelta(days=3600)
        ca = open_ca(tmp_path / "made", ["a.example"], NOW)
        assert ca.fingerprint == fingerprint

    @pytest.mark.parametrize("name", ["root.crt", "root.key"])
    def test_what_is_there_is_left_alone(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("precious")
        with pytest.raises(PkiError, match="is there already"):
            make_authority(tmp_path, NOW)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "precious"

    def test_a_place_that_cannot_be_written_to(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(PkiError, match="cannot make a CA in"):
            make_authority(tmp_path / "file", NOW)
