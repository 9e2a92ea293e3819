"""A token server as the Distribution project specifies it, whose tokens docker-registry accepts.

"Token Authentication Specification" says what is asked and answered, "Token Authentication Implementation" what is in a
token: a JWT (RFC 7519) signed by a key whose certificate docker-registry trusts (`rootcertbundle`), which the token
brings along (`x5c`, RFC 7515 section 4.1.6).
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import ssl
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from attrs import define, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from tests.e2e.certificates import ServerCertificate, certificate_builder

SERVICE, ISSUER = "docker-registry", "token-server"

Algorithm = Literal["RS256", "ES256"]


@frozen
class Grants:
    """Who may do what: actions by repository, by user; those of the user "" are everybody's."""

    passwords: Mapping[str, str]
    actions: Mapping[str, Mapping[str, frozenset[str]]]

    def of(self, user: str, repository: str) -> frozenset[str]:
        """What a user, or nobody (""), may do with a repository."""
        nothing: frozenset[str] = frozenset()
        own = self.actions.get(user, {}).get(repository, nothing)
        return own | self.actions.get("", {}).get(repository, nothing)


@frozen
class Signer:
    """A key, and the certificate that says whose it is."""

    algorithm: Algorithm
    key: Any
    certificate: x509.Certificate

    @classmethod
    def make(cls, algorithm: Algorithm) -> Signer:
        """A new key."""
        key: Any
        if algorithm == "RS256":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Token server of a test")])
        certificate = certificate_builder(name, name, key.public_key()).sign(key, hashes.SHA256())
        return cls(algorithm, key, certificate)

    def token(self, claims: Mapping[str, object]) -> str:
        """A signed JWT."""
        der = self.certificate.public_bytes(Encoding.DER)
        header = {"typ": "JWT", "alg": self.algorithm, "x5c": [base64.b64encode(der).decode()]}
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        return f"{signed}.{_encoded(self._sign(signed.encode()))}"

    def _sign(self, data: bytes) -> bytes:
        if self.algorithm == "RS256":
            signature: bytes = self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
            return signature
        r, s = decode_dss_signature(self.key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")  # RFC 7518 section 3.4


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@frozen
class Asked:
    """A request for a token: the user who has shown the right password, or "", and the scopes."""

    user: str
    scopes: tuple[str, ...]


@define(eq=False)
class TokenServer:
    """Serves https://NAME:PORT/token in a thread. `life` is that of tokens, in seconds."""

    signer: Signer
    bundle: Path
    """What docker-registry is to trust."""
    life: int
    name: str
    _grants: Grants
    _context: ssl.SSLContext
    _server: ThreadingHTTPServer = field(init=False)
    _thread: Thread = field(init=False)
    port: int = field(init=False, default=0)
    is_awake: Event = field(init=False, factory=Event)
    """Unless it is set, whoever asks waits."""
    asked: list[Asked] = field(init=False, factory=list)

    @classmethod
    def start(
        cls,
        directory: Path,
        tls: ServerCertificate,
        grants: Grants,
        algorithm: Algorithm,
        life: int = 300,
        name: str = "localhost",
    ) -> TokenServer:
        """Start one on a free port."""
        directory.mkdir(parents=True)
        signer = Signer.make(algorithm)
        bundle = directory / "tokens.crt"
        bundle.write_bytes(signer.certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        tokens = cls(signer, bundle, life, name, grants, context)
        tokens.is_awake.set()
        tokens.serve()
        return tokens

    def serve(self) -> None:
        """Begin to serve; after `stop` once more, on the same port."""
        server = ThreadingHTTPServer(("127.0.0.1", self.port), _Handler)
        server.daemon_threads = True
        server.socket = self._context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        server.tokens = self  # type: ignore[attr-defined]
        self._server, self.port = server, int(server.server_address[1])
        self._thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def realm(self) -> str:
        """The URL that challenges name."""
        return f"https://{self.name}:{self.port}/token"

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def answer(self, query: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        """A token for what is asked, as far as it is granted; 401 for a wrong password."""
        user = self._user(authorization)
        if user is None:
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong name or password"}]}
        asked = parse_qs(query)
        scopes = tuple(each for line in asked.get("scope", []) for each in line.split())
        self.asked.append(Asked(user, scopes))
        now = int(time.time())
        claims = {
            **{
                "iss": ISSUER,
                "sub": user,
                "aud": asked.get("service", [SERVICE])[0],
                "jti": secrets.token_hex(8),
            },
            **{"iat": now, "nbf": now - 10, "exp": now + self.life},
            "access": [access for scope in scopes if (access := self._access(user, scope))],
        }
        token = self.signer.token(claims)
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        return 200, {"token": token, "access_token": token, "expires_in": self.life, "issued_at": issued}

    def _access(self, user: str, scope: str) -> dict[str, object] | None:
        kind, _, rest = scope.partition(":")
        name, _, wanted = rest.rpartition(":")
        actions = sorted(self._grants.of(user, name) & set(wanted.split(",")))
        return {"type": kind, "name": name, "actions": actions} if actions and kind == "repository" else None

    def _user(self, authorization: str | None) -> str | None:
        """The user; "" without a credential, None for a wrong one."""
        if authorization is None:
            return ""
        scheme, _, encoded = authorization.partition(" ")
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        is_right = scheme.lower() == "basic" and self._grants.passwords.get(name) == password
        return name if is_right else None


class _Handler(BaseHTTPRequestHandler):
    timeout = 20

    def do_GET(self) -> None:
        tokens: TokenServer = self.server.tokens  # type: ignore[attr-defined]
        tokens.is_awake.wait(60)
        address = urlsplit(self.path)
        status: int = 404
        document: dict[str, Any] = {}
        if address.path == "/token":
            status, document = tokens.answer(address.query, self.headers.get("Authorization"))
        body = json.dumps(document).encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="tokens"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """There is no OAuth2 here; clients go back to GET."""
        self.send_error(405)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
