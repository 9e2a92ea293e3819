"""Trust: TLS with upstream, and whom to believe that he is upstream."""

from typing import Any

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.error import ConnectionClosed

from .errors import RegcachdError
from .http1 import UpstreamFailed
from .passage import NotConnected
from .tls import MODE
from .tls_socket import HandshakeFailed

_VERIFY_ERRORS = {  # of x509_vfy.h, in words an operator can act on
    7: "its signature is wrong: is the `ca` of this registry an older one of the same name?",
    9: "it is not valid yet (is this machine's clock right?)",
    10: "it has expired",
    18: "it is self-signed; name it as `ca` of this registry if it is to be trusted",
    19: "its root is not trusted; name the root's file as `ca` of this registry",
    20: "its issuer is not trusted; name the issuer's file as `ca` of this registry",
    21: "its issuer is not trusted; name the issuer's file as `ca` of this registry",
}


class TrustUnusable(RegcachdError):
    """The certificates that a registry is to be trusted by cannot be read."""


def load(context: SSL.Context, ca: str) -> None:
    """Have a context trust the certificates in the file `ca`. Raises TrustUnusable."""
    try:
        context.load_verify_locations(ca)
    except SSL.Error:
        raise TrustUnusable(
            f"ca = {ca}: no certificates can be read from it; name a readable file in PEM"
        ) from None


class Verified:
    """A context that verifies upstream by the system's roots, and by those of the file `ca`. Raises TrustUnusable."""

    def __init__(self, ca: str | None) -> None:
        self.error = 0
        """The X509 error of the handshake that has just failed: read in the same turn of the reactor."""
        self.context = _context()
        self.context.set_default_verify_paths()
        if ca is not None:
            load(self.context, ca)
        self.context.set_verify(SSL.VERIFY_PEER, self._judge)

    def _judge(self, connection: SSL.Connection, certificate: Any, error: int, depth: int, ok: int) -> bool:
        if not ok:
            self.error = error
        return bool(ok)


class Roots:
    """Reads the same roots once for all registries: with OpenSSL 3.0 those of the system take a tenth of a second."""

    def __init__(self) -> None:
        self._read: dict[str | None, Verified] = {}

    def verified(self, ca: str | None) -> Verified:
        """For registries with this `ca`. Raises TrustUnusable."""
        if ca not in self._read:
            self._read[ca] = Verified(ca)
        return self._read[ca]


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_mode(MODE)
    context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    context.set_alpn_protos([b"http/1.1"])
    return context


class Trust:
    """For one registry: the system's roots, and those of the file `ca`; `timeout` (seconds) is a handshake's.

    Raises TrustUnusable.
    """

    def __init__(self, clock: Any, ca: str | None, timeout: float, roots: Roots | None = None) -> None:
        self._clock = clock
        self._timeout = timeout
        self._verified = (roots or Roots()).verified(ca)
        self._unverified = _context()

    async def handshake(self, transport: Any, host: str, name: str, *, insecure: bool) -> None:
        """Switch a connection to TLS with `host`, which errors call `name`; with `insecure`, whoever it is.

        Raises NotConnected, and UpstreamFailed when it is somebody else.
        """
        verified = self._verified
        context = self._unverified if insecure else verified.context
        verified.error = 0
        watch = self._clock.callLater(self._timeout, transport.abortConnection)
        try:
            await transport.start_tls(context, host)
            if not insecure:
                verify = verify_ip_address if is_address(host) else verify_hostname
                verify(transport.tls, host)
        except HandshakeFailed as error:
            if code := verified.error:
                why = _VERIFY_ERRORS.get(code, f"OpenSSL says so (X509 error {code})")
                raise UpstreamFailed(f"the certificate of {name} is refused: {why}") from error
            raise NotConnected(f"no TLS with {name}: {error}") from error
        except (VerificationError, CertificateError) as error:
            transport.abortConnection()
            raise UpstreamFailed(f"the certificate of {name} is refused: it is not for {host}") from error
        except ConnectionClosed as error:
            if not watch.active():
                raise NotConnected(f"no TLS with {name} within {self._timeout:g} s", status=504) from error
            raise NotConnected(f"no TLS with {name}: {error}") from error
        finally:
            if watch.active():
                watch.cancel()


def is_address(host: str) -> bool:
    """Is it an IP address?"""
    return bool(isIPAddress(host) or isIPv6Address(host))
