"""The certificate authority: what makes a client believe that this daemon is its registry.

Three generations, all ECDSA P-256:

    root      10 years   made once; what clients trust
    issuing   1 year     may sign only for the configured registries; renewed by itself
    leaf      7 days     one per name, minted on demand, never on disk

So a stolen issuing key can impersonate the registries it serves (and names below theirs), and nothing
else. With an operator's own CA, its certificate is the issuing one and nothing is written at all.

certificates.py makes them; here is which there are, where they are kept and when they are made anew.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from regcachd._compat import is_issued_by, validity
from regcachd.certificates import (
    Pair,
    PkiError,
    PrivateKey,
    belong_together,
    certificate_pem,
    key_pem,
    load_certificates,
    load_key,
    make_issuing,
    make_leaf,
    make_root,
    name_constraints,
    permits,
)

__all__ = ["CA", "Leaf", "PkiError", "make_authority", "open_ca"]

DIRECTORY = "ca"
"""Where the CA is, in the state directory."""
ISSUING_RENEWAL = timedelta(days=30)
"""An issuing CA with less than this left is made anew when the CA is opened by who can."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@frozen
class Leaf:
    """A server certificate for one name, with a key of its own.

    Making the key takes less time than signing, and none outlives its certificate.
    """

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    """The leaf, then every CA certificate up to the root, without the root."""
    not_after: datetime


@frozen
class CA:
    """The issuing certificate with its key, and the root that clients trust."""

    root_pem: bytes = field(repr=False)
    """What clients must trust, served at /ca.crt."""
    root_path: Path
    """The file that holds it; an operator's own chain ends with it."""
    fingerprint: str
    """"sha256:" and the lowercase hex digest of the root's DER."""
    expires: datetime
    """When the first certificate of the chain ends; no leaf lives longer."""
    _issuing: Pair = field(repr=False)
    _sent_above: bytes = field(repr=False)
    """The PEM that goes after a leaf."""

    def mint(self, name: str, now: datetime) -> Leaf:
        """A leaf for a DNS name or an IP address.

        Raises PkiError for what is neither, and when the CA is not valid now.
        """
        leaf = make_leaf(self._issuing, name, now)
        chain = certificate_pem(leaf.certificate) + self._sent_above
        return Leaf(key_pem(leaf.key), chain, validity(leaf.certificate)[1])

    def handed_over(self) -> dict[str, str]:
        """As text, with the issuing key: for another process of this daemon, which makes it a CA by `taken_over`."""
        return {
            "root_pem": self.root_pem.decode(),
            "root_path": str(self.root_path),
            "fingerprint": self.fingerprint,
            "expires": self.expires.isoformat(),
            "certificate": certificate_pem(self._issuing.certificate).decode(),
            "key": key_pem(self._issuing.key).decode(),
            "sent_above": self._sent_above.decode(),
        }

    @classmethod
    def taken_over(cls, handed: Mapping[str, str]) -> "CA":
        """The CA that another process has handed over."""
        (certificate,) = load_certificates(handed["certificate"].encode())
        return cls(
            root_pem=handed["root_pem"].encode(),
            root_path=Path(handed["root_path"]),
            fingerprint=handed["fingerprint"],
            expires=datetime.fromisoformat(handed["expires"]),
            issuing=Pair(certificate, load_key(handed["key"].encode())),
            sent_above=handed["sent_above"].encode(),
        )


def open_ca(directory: Path, hosts: Iterable[str], now: datetime, own: tuple[Path, Path] | None = None) -> CA:
    """Load the CA kept in a directory, making what is not there yet.

    hosts are the names and IP literals of the configured registries, without ports. Any number of processes
    may open one directory at the same time. The issuing CA is made anew when the hosts changed, when it ends
    in less than 30 days, and when its files are unusable. The root never is, since clients trust it. Who may not
    read the root's key uses the issuing CA to its end, also when it permits more than the hosts.

    own is an operator's CA: the file of its certificate (and, after it, of those up to the root) and that of
    its key. The directory and the hosts are not used then.

    Raises PkiError.
    """
    if own is not None:
        return _open_own(*own, now)
    constraints = name_constraints(hosts)
    try:
        with _locked(directory) as lock:
            root, root_key = _open_root(directory, lock, now)
            if root_key is None:
                issuing = _load_issuing(directory, root, lambda found: permits(found, constraints), now)
            else:
                issuing = _load_issuing(
                    directory, root, lambda found: found == constraints, now + ISSUING_RENEWAL
                )
            if issuing is None:
                if root_key is None:
                    raise PkiError(
                        f"the issuing CA in {directory} must be made anew, and this user may not read"
                        " root.key in it: restart the service, or start once as the user who may"
                    )
                issuing = make_issuing(Pair(root, root_key), constraints, now)
                _write(directory / "issuing.key", key_pem(issuing.key), 0o600, lock)
                _write(directory / "issuing.crt", certificate_pem(issuing.certificate), 0o644, lock)
    except OSError as e:
        raise PkiError(
            f"cannot keep the CA in {directory} ({e}): give the daemon a state directory it may write to"
        ) from e
    return _ca(directory / "root.crt", [issuing.certificate, root], issuing)


def make_authority(directory: Path, now: datetime) -> tuple[datetime, str]:
    """Make the root of a CA that is opened later, or elsewhere: root.crt and root.key. Its end and its fingerprint.

    Raises PkiError, also when there is one already, whose clients would trust it no more.
    """
    try:
        with _locked(directory) as lock:
            for name in ("root.crt", "root.key"):
                if (directory / name).exists():
                    raise PkiError(
                        f"{directory / name} is there already, and is left alone: name another directory"
                    )
            made = make_root(now)
            _write(directory / "root.key", key_pem(made.key), 0o600, lock)
            _write(directory / "root.crt", certificate_pem(made.certificate), 0o644, lock)
    except OSError as e:
        raise PkiError(f"cannot make a CA in {directory}: {e}") from e
    return validity(made.certificate)[1], _fingerprint(made.certificate)


def _fingerprint(certificate: x509.Certificate) -> str:
    return "sha256:" + certificate.fingerprint(hashes.SHA256()).hex()


def _open_root(directory: Path, lock: int, now: datetime) -> tuple[x509.Certificate, PrivateKey | None]:
    """The root, made if this is the first start; its key is None where this user may not read it."""
    certificate_path, key_path = directory / "root.crt", directory / "root.key"
    # A key alone is what a first start leaves when it is cut short: nothing was signed or shown to anyone.
    if not any((directory / name).exists() for name in ("root.crt", "issuing.key", "issuing.crt")):
        made = make_root(now)
        _write(key_path, key_pem(made.key), 0o600, lock)
        _write(certificate_path, certificate_pem(made.certificate), 0o644, lock)
        return made.certificate, made.key
    try:
        root = _read_certificates(certificate_path)[0]
        if validity(root)[1] <= now:
            raise PkiError(f"{certificate_path} expired on {validity(root)[1]:%Y-%m-%d}")
        try:
            return root, _read_key(key_path, root)
        except PermissionError:
            return root, None
    except (PkiError, FileNotFoundError) as e:
        problem = e if isinstance(e, PkiError) else f"{e.filename} is missing"
        raise PkiError(
            f"{problem}: restore it from a copy; or, to begin again with a new root that every client must be"
            f" told to trust, move {directory} away and restart"
        ) from e


def _load_issuing(
    directory: Path,
    root: x509.Certificate,
    fits: Callable[[x509.NameConstraints], bool],
    until: datetime,
) -> Pair | None:
    """The issuing CA on disk, or None when there is none with constraints that fit and that lasts until then."""
    try:
        certificate = _read_certificates(directory / "issuing.crt")[0]
        key = _read_key(directory / "issuing.key", certificate)
    except (PkiError, FileNotFoundError):
        return None
    if not is_issued_by(certificate, root) or validity(certificate)[1] < until:
        return None
    found = _extension(certificate, x509.NameConstraints)
    return Pair(certificate, key) if found is not None and fits(found) else None


def _open_own(certificate_path: Path, key_path: Path, now: datetime) -> CA:
    """An operator's CA, refused at start for whatever would make every client refuse it later."""
    try:
        chain = _read_certificates(certificate_path)
        key = _read_key(key_path, chain[0])
    except OSError as e:
        raise PkiError(f"cannot read {e.filename}, named in [ca]: {e.strerror}") from e
    for above, certificate in enumerate(chain):
        who = f"{certificate_path}: certificate {above + 1} ({certificate.subject.rfc4514_string()})"
        start, end = validity(certificate)
        if not start <= now < end:
            raise PkiError(
                f"{who} is valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and it is now"
                f" {now:%Y-%m-%d %H:%M}: renew it, or set the clock"
            )
        basic = _extension(certificate, x509.BasicConstraints)
        if basic is None or not basic.ca:
            raise PkiError(f"{who} lacks CA:TRUE, so clients would refuse what it signs: name a CA's")
        usage = _extension(certificate, x509.KeyUsage)
        if usage is not None and not usage.key_cert_sign:
            raise PkiError(f"{who} lacks the key usage keyCertSign: have it issued with that usage")
        # RFC 5280 section 4.2.1.9: how many CA certificates may stand between this one and a leaf.
        if basic.path_length is not None and basic.path_length < above:
            raise PkiError(
                f"{who} allows a path length of {basic.path_length} and has {above} CA certificates below it:"
                " have it issued with a greater one, or use a CA nearer to the root"
            )
        if above and not is_issued_by(chain[above - 1], certificate):
            raise PkiError(f"{who} did not sign the one before it: order them from issuing CA to root")
    return _ca(certificate_path, chain, Pair(chain[0], key))


def _ca(root_path: Path, chain: Sequence[x509.Certificate], issuing: Pair) -> CA:
    """The chain goes from the issuing certificate to the one that clients trust."""
    root = chain[-1]
    return CA(
        root_pem=certificate_pem(root),
        root_path=root_path,
        fingerprint=_fingerprint(root),
        expires=min(validity(certificate)[1] for certificate in chain),
        issuing=issuing,
        sent_above=b"".join(certificate_pem(each) for each in chain if not is_issued_by(each, each)),
    )


def _read_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return load_certificates(path.read_bytes())
    except PkiError as e:
        raise PkiError(f"{path} {e}") from e


def _read_key(path: Path, certificate: x509.Certificate) -> PrivateKey:
    """The key of this certificate."""
    try:
        key = load_key(path.read_bytes())
    except PkiError as e:
        raise PkiError(f"{path} {e}") from e
    if not belong_together(certificate, key):
        raise PkiError(f"{path} is not the key of the certificate {certificate.subject.rfc4514_string()}")
    return key


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Hold the directory, made if need be, for this process alone; yields a descriptor of it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, mode: int, lock: int) -> None:
    """Write a file whole and durably, or not at all; lock is the locked directory's descriptor."""
    new = path.with_name(path.name + ".new")  # one name is enough under the lock, and crashes leave no pile
    new.unlink(missing_ok=True)
    with open(new, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    os.fsync(lock)
