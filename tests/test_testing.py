"""The fake registry is a good one until told otherwise, and each fault looks on the wire as it says."""

import base64
import gzip
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import frozen
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.internet.ssl import Certificate as TrustedCertificate
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from regcachd.reference import Digest
from regcachd.testing import (
    OCI_INDEX,
    OCI_MANIFEST,
    Certificate,
    CloseAtAccept,
    CutAfter,
    ExtraHeaders,
    FakeRegistry,
    GarbageChunks,
    GarbageResponse,
    IgnoreRange,
    NoContentLength,
    NoDigestHeader,
    RedirectTo,
    RegistryStoppedError,
    StallAfter,
    StallBeforeHeaders,
    Status,
    Throttle,
    WrongBytes,
    WrongDigestHeader,
    WrongLength,
)

reactor: Any = _reactor

DATA = bytes(range(256)) * 1000
DIGEST = Digest.of(DATA)
BLOB = f"/v2/team/app/blobs/{DIGEST}"

MakeRegistry = Callable[..., Awaitable[FakeRegistry]]


@frozen
class Response:
    """What came back on one connection: parsed if it looks like HTTP, and how the connection ended."""

    raw: bytes
    end: type[BaseException]

    @property
    def head(self) -> str:
        """Status line and headers."""
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.head.split()[1])

    @property
    def body(self) -> bytes:
        """Everything after the headers, chunked or not."""
        return self.raw.partition(b"\r\n\r\n")[2]

    def header(self, name: str) -> str | None:
        """A header's value, if it was sent."""
        lines = (line.partition(": ") for line in self.head.splitlines())
        return next((value for key, _, value in lines if key.lower() == name.lower()), None)


class Client(Protocol):
    """Sends a request and collects bytes until the connection ends."""

    def __init__(self, request: bytes, enough: int | None) -> None:
        self.request = request
        self.enough = enough
        self.raw = b""
        self.done: Deferred[Response] = Deferred()

    def connectionMade(self) -> None:
        """Send the request."""
        assert self.transport is not None
        self.transport.write(self.request)

    def dataReceived(self, data: bytes) -> None:
        """Keep it, and leave when it is enough."""
        self.raw += data
        if self.enough is not None and len(self.raw) >= self.enough:
            assert self.transport is not None
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Report."""
        assert reason.type is not None
        self.done.callback(Response(self.raw, reason.type))


def wire(path: str, method: str = "GET", /, close: bool = True, **headers: str) -> bytes:
    """A request as it is sent; `Accept_Encoding` stands for Accept-Encoding."""
    lines = [f"{method} {path} HTTP/1.1", "Host: registry"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += ["Connection: close"] if close else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def connect(registry: FakeRegistry, request: bytes, enough: int | None = None) -> Client:
    """Open a connection, trusting the registry's CA where it has one, and send a request."""
    endpoint: Any = HostnameEndpoint(reactor, registry.host, registry.port)
    if registry.ca_pem:
        trust = TrustedCertificate.loadPEM(registry.ca_pem)
        endpoint = wrapClientTLS(optionsForClientTLS("localhost", trustRoot=trust), endpoint)
    client: Client = await endpoint.connect(Factory.forProtocol(lambda: Client(request, enough)))
    return client


async def fetch(registry: FakeRegistry, path: str, method: str = "GET", **headers: str) -> Response:
    """One request on its own connection, read to the end."""
    client = await connect(registry, wire(path, method, True, **headers))
    return await client.done


@pytest.fixture
def make_registry() -> Iterator[MakeRegistry]:
    """Start registries, all of which stop with the test."""
    registries: list[FakeRegistry] = []

    async def make(**options: Any) -> FakeRegistry:
        registry = FakeRegistry(reactor, **options)
        registries.append(registry)
        await registry.start()
        registry.add_blob("team/app", DATA)
        return registry

    yield make
    for registry in registries:
        pytest_twisted.blockon(Deferred.fromCoroutine(registry.stop()))


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def registry() -> AsyncIterator[FakeRegistry]:
    """A plain registry with one blob."""
    registry = FakeRegistry(reactor)
    await registry.start()
    registry.add_blob("team/app", DATA)
    yield registry
    await registry.stop()


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def storage() -> AsyncIterator[FakeRegistry]:
    """Another one, to be redirected to."""
    storage = FakeRegistry(reactor)
    await storage.start()
    yield storage
    await storage.stop()


# The protocol


async def test_ping(registry: FakeRegistry) -> None:
    """The ping answers 200 and tells the API version."""
    response = await fetch(registry, "/v2/")
    assert response.status == 200
    assert response.header("Docker-Distribution-Api-Version") == "registry/2.0"


async def test_blob(registry: FakeRegistry) -> None:
    """A blob comes whole, with its digest; HEAD has the same headers and no body."""
    got = await fetch(registry, BLOB)
    head = await fetch(registry, BLOB, "HEAD")
    assert (got.status, got.body, head.status, head.body) == (200, DATA, 200, b"")
    for name, value in [
        ("Content-Length", str(len(DATA))),
        ("Docker-Content-Digest", str(DIGEST)),
        ("ETag", f'"{DIGEST}"'),
        ("Accept-Ranges", "bytes"),
    ]:
        assert got.header(name) == head.header(name) == value


async def test_blob_from_a_file(registry: FakeRegistry, tmp_path: Path) -> None:
    """A blob can be a file on disk, larger than any buffer."""
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(3_000_000))
    digest = registry.add_blob("team/app", path)
    assert digest == Digest.of(path.read_bytes())
    response = await fetch(registry, f"/v2/team/app/blobs/{digest}", Range="bytes=5-")
    assert response.body == path.read_bytes()[5:]


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "body"),
    [
        ("bytes=0-9", 206, "bytes 0-9/256000", DATA[:10]),
        ("bytes=255990-", 206, "bytes 255990-255999/256000", DATA[-10:]),
        ("bytes=-3", 206, "bytes 255997-255999/256000", DATA[-3:]),
        ("bytes=255999-400000", 206, "bytes 255999-255999/256000", DATA[-1:]),
        ("bytes=256000-", 416, "bytes */256000", None),
        ("bytes=0-1,5-6", 200, None, DATA),
        ("lines=1-2", 200, None, DATA),
    ],
)
async def test_range(
    registry: FakeRegistry, asked: str, status: int, content_range: str | None, body: bytes | None
) -> None:
    """Single byte ranges are honoured, others ignored, impossible ones refused."""
    response = await fetch(registry, BLOB, Range=asked)
    assert (response.status, response.header("Content-Range")) == (status, content_range)
    if body is not None:
        assert response.body == body


async def test_conditions(registry: FakeRegistry) -> None:
    """If-Range with another validator gives everything; If-None-Match with this one gives 304."""
    other = await fetch(registry, BLOB, Range="bytes=1-2", If_Range='"other"')
    same = await fetch(registry, BLOB, Range="bytes=1-2", If_Range=f'"{DIGEST}"')
    unchanged = await fetch(registry, BLOB, If_None_Match=f'"{DIGEST}"')
    assert (other.status, same.status, unchanged.status, unchanged.body) == (200, 206, 304, b"")


async def test_image(registry: FakeRegistry) -> None:
    """An image's manifest is there by tag and by digest, and names blobs that are there."""
    image = registry.add_image("team/app", "1", [b"one", b"two"])
    by_tag = await fetch(registry, "/v2/team/app/manifests/1")
    by_digest = await fetch(registry, f"/v2/team/app/manifests/{image.manifest}")
    assert by_tag.body == by_digest.body == image.data
    assert by_tag.header("Content-Type") == OCI_MANIFEST
    assert by_tag.header("Docker-Content-Digest") == str(image.manifest)
    manifest = json.loads(by_tag.body)
    for descriptor in [manifest["config"], *manifest["layers"]]:
        blob = await fetch(registry, f"/v2/team/app/blobs/{descriptor['digest']}")
        assert str(Digest.of(blob.body)) == descriptor["digest"]
        assert len(blob.body) == descriptor["size"]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (OCI_INDEX, OCI_INDEX),
        (f"{OCI_MANIFEST};q=0.5", OCI_MANIFEST),
        (f"{OCI_MANIFEST}, {OCI_INDEX}", OCI_INDEX),
        ("*/*", OCI_INDEX),
        ("text/plain", None),
    ],
)
async def test_accept(registry: FakeRegistry, accept: str, media_type: str | None) -> None:
    """A tag with an index and an image answers with the first that the client accepts, or 404."""
    image = registry.add_image("team/app", None, [b"layer"])
    registry.add_index("team/app", "1", {"amd64": image})
    registry.add_manifest("team/app", "1", image.data, also=True)
    response = await fetch(registry, "/v2/team/app/manifests/1", Accept=accept)
    if media_type is None:
        assert response.status == 404
    else:
        assert response.header("Content-Type") == media_type


async def test_tag_moves(registry: FakeRegistry) -> None:
    """A tag that is added again moves, and the old manifest stays under its digest; a removed tag is gone."""
    old = registry.add_image("team/app", "1", [b"old"])
    new = registry.add_image("team/app", "1", [b"new"])
    assert (await fetch(registry, "/v2/team/app/manifests/1")).body == new.data
    assert (await fetch(registry, f"/v2/team/app/manifests/{old.manifest}")).status == 200
    registry.remove("team/app", "1")
    assert (await fetch(registry, "/v2/team/app/manifests/1")).status == 404


async def test_tags_list(registry: FakeRegistry) -> None:
    """Tags are listed in order, in pages with a Link to the next."""
    for tag in "cab":
        registry.add_image("team/app", tag, [])
    first = await fetch(registry, "/v2/team/app/tags/list?n=2")
    assert json.loads(first.body) == {"name": "team/app", "tags": ["a", "b"]}
    link = first.header("Link")
    assert link == '</v2/team/app/tags/list?n=2&last=b>; rel="next"'
    second = await fetch(registry, "/v2/team/app/tags/list?n=2&last=b")
    assert json.loads(second.body)["tags"] == ["c"]
    assert second.header("Link") is None


async def test_referrers(registry: FakeRegistry) -> None:
    """Manifests with a subject are its referrers, and can be filtered by artifact type."""
    image = registry.add_image("team/app", "1", [])
    subject = {"mediaType": OCI_MANIFEST, "digest": str(image.manifest), "size": len(image.data)}
    extra = {"subject": subject, "artifactType": "application/sbom"}
    signature = registry.add_image("team/app", None, [], extra=extra)
    path = f"/v2/team/app/referrers/{image.manifest}"
    found = json.loads((await fetch(registry, path)).body)["manifests"]
    assert [(each["digest"], each["artifactType"]) for each in found] == [
        (str(signature.manifest), "application/sbom")
    ]
    filtered = await fetch(registry, f"{path}?artifactType=other")
    assert json.loads(filtered.body)["manifests"] == []
    assert filtered.header("OCI-Filters-Applied") == "artifactType"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"/v2/team/app/blobs/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/team/app/blobs/sha256:0", 400, "DIGEST_INVALID"),
        ("GET", "/v2/team/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/no/such/manifests/1", 404, "NAME_UNKNOWN"),
        ("GET", "/elsewhere", 404, "UNSUPPORTED"),
        ("POST", "/v2/team/app/blobs/uploads/", 405, "UNSUPPORTED"),
    ],
)
async def test_errors(registry: FakeRegistry, method: str, path: str, status: int, code: str) -> None:
    """What is not there or not allowed gets an OCI error."""
    response = await fetch(registry, path, method)
    assert response.status == status
    assert json.loads(response.body)["errors"][0]["code"] == code


async def test_keep_alive(registry: FakeRegistry) -> None:
    """Requests follow each other on one connection, which the log tells."""
    request = wire("/v2/", close=False) + wire(BLOB)
    client = await connect(registry, request)
    response = await client.done
    assert response.raw.endswith(DATA)
    assert response.raw.count(b"HTTP/1.1 200 OK\r\n") == 2
    await fetch(registry, "/v2/")
    assert [each.connection for each in registry.requests] == [1, 1, 2]


async def test_request_log(registry: FakeRegistry) -> None:
    """The log keeps each request and can be asked."""
    await fetch(registry, BLOB, Authorization="Basic x", Accept="a")
    await fetch(registry, "/v2/team/app/tags/list?n=1", "HEAD")
    first, second = registry.requests
    assert (first.method, first.path, first.authorization, first.headers["accept"]) == (
        "GET",
        BLOB,
        "Basic x",
        "a",
    )
    assert second.line == "HEAD /v2/team/app/tags/list?n=1"
    assert second.time >= first.time
    count = registry.requests.count
    assert (count(), count("GET"), count("", "/blobs/"), count("HEAD", "/blobs/")) == (2, 1, 1, 0)
    response = await fetch(registry, "/_log")
    assert [each["path"] for each in json.loads(response.body)] == [first.path, second.path]
    assert len(registry.requests) == 2


# Access


def basic(user: str, password: str) -> str:
    """A Basic Authorization header's value."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_basic(make_registry: MakeRegistry) -> None:
    """With Basic, everything needs a user, and a private repository one of its readers."""
    registry = await make_registry(auth="basic", users={"alice": "secret", "bob": "hidden"})
    registry.private("team/app", {"alice"})
    registry.add_blob("open/app", DATA)
    anonymous = await fetch(registry, "/v2/")
    assert (anonymous.status, anonymous.header("WWW-Authenticate")) == (401, 'Basic realm="fake registry"')
    alice, bob, liar = basic("alice", "secret"), basic("bob", "hidden"), basic("alice", "wrong")
    for user, path, status in [
        (alice, "/v2/", 200),
        (liar, "/v2/", 401),
        ("Basic !", "/v2/", 401),
        (alice, BLOB, 200),
        (bob, BLOB, 403),
        (bob, BLOB.replace("team", "open"), 200),
    ]:
        assert (await fetch(registry, path, Authorization=user)).status == status


async def test_token(make_registry: MakeRegistry) -> None:
    """With tokens, the challenge leads to the token endpoint, and the token opens what its user may read."""
    registry = await make_registry(auth="token", users={"alice": "secret"})
    registry.add_blob("open/app", DATA)
    registry.private("team/app", {"alice"})
    challenged = await fetch(registry, BLOB)
    assert challenged.status == 401
    assert challenged.header("WWW-Authenticate") == (
        f'Bearer realm="{registry.url}/token",service="fake-registry",scope="repository:team/app:pull"'
    )

    async def token(scope: str, **headers: str) -> str:
        answer = await fetch(registry, f"/token?service=fake-registry&scope={scope}", **headers)
        return f"Bearer {json.loads(answer.body)['token']}"

    team, public = "repository:team/app:pull", "repository:open/app:pull"
    alice = await token(team, Authorization=basic("alice", "secret"))
    nobody = await token(team)
    anyone = await token(public)
    assert registry.token_fetches == 3
    for bearer, path, status in [
        (alice, BLOB, 200),
        (alice, "/v2/", 200),
        (nobody, BLOB, 401),
        (anyone, BLOB, 401),
        (anyone, BLOB.replace("team", "open"), 200),
        ("Bearer invented", "/v2/", 401),
    ]:
        assert (await fetch(registry, path, Authorization=bearer)).status == status
    wrong = await fetch(registry, f"/token?scope={team}", Authorization=basic("alice", "wrong"))
    assert wrong.status == 401
    registry.expire_tokens()
    expired = await fetch(registry, BLOB, Authorization=alice)
    assert 'error="invalid_token"' in (expired.header("WWW-Authenticate") or "")


async def test_short_tokens(make_registry: MakeRegistry) -> None:
    """A token dies with its life span."""
    registry = await make_registry(auth="token", token_life=0)
    answer = json.loads((await fetch(registry, "/token")).body)
    assert answer["expires_in"] == 0
    response = await fetch(registry, "/v2/", Authorization=f"Bearer {answer['token']}")
    assert response.status == 401


# TLS


async def test_tls(make_registry: MakeRegistry, tmp_path: Path) -> None:
    """With TLS a client that trusts the registry's CA gets its answer, under a name or the address."""
    registry = await make_registry(tls=True)
    assert registry.url == f"https://localhost:{registry.port}"
    assert registry.ca_file(tmp_path / "ca.pem").read_bytes().startswith(b"-----BEGIN CERTIFICATE")
    assert (await fetch(registry, BLOB)).body == DATA
    for name in "localhost", "127.0.0.1":
        raw, clean = await deferToThread(read_tls, registry, name, wire(BLOB))
        assert raw.endswith(DATA)
        assert clean


async def test_cut_tls(make_registry: MakeRegistry) -> None:
    """CutAfter leaves TLS without the alert that would make the end look regular."""
    registry = await make_registry(tls=True)
    registry.fault(DIGEST, CutAfter(1000))
    raw, clean = await deferToThread(read_tls, registry, "localhost", wire(BLOB))
    assert raw.endswith(b"\r\n\r\n" + DATA[:1000])
    assert not clean


def read_tls(registry: FakeRegistry, name: str, request: bytes) -> tuple[bytes, bool]:
    """Read a response with Python's own TLS, and tell whether it ended with a close alert (blocking)."""
    context = ssl.create_default_context(cadata=registry.ca_pem.decode())
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    raw = b""
    with (
        socket.create_connection((registry.host, registry.port)) as tcp,
        context.wrap_socket(tcp, server_hostname=name, suppress_ragged_eofs=False) as tls,
    ):
        tls.sendall(request)
        try:
            while data := tls.recv(65536):
                raw += data
        except ssl.SSLError:
            return raw, False
    return raw, True


@pytest.mark.parametrize("kind", [Certificate.WRONG_NAME, Certificate.UNTRUSTED, Certificate.EXPIRED])
async def test_bad_certificates(make_registry: MakeRegistry, kind: Certificate) -> None:
    """A certificate that is to be refused is refused."""
    registry = await make_registry(tls=True, certificate=kind)
    response = await fetch(registry, "/v2/")
    assert response.raw == b""
    assert issubclass(response.end, SSL.Error) or "Verification" in response.end.__name__
    assert not registry.requests


# Faults


async def test_cut(registry: FakeRegistry) -> None:
    """CutAfter ends the connection after so many bytes, though more were announced."""
    registry.fault(DIGEST, CutAfter(1000), times=1)
    response = await fetch(registry, BLOB)
    assert (response.header("Content-Length"), response.body) == ("256000", DATA[:1000])
    assert response.end is ConnectionDone
    assert (await fetch(registry, BLOB)).body == DATA


async def test_reset(registry: FakeRegistry) -> None:
    """CutAfter with reset ends the connection with an error."""
    registry.fault(DIGEST, CutAfter(1000, reset=True))
    assert (await fetch(registry, BLOB)).end is ConnectionLost


async def test_stall_until_released(registry: FakeRegistry) -> None:
    """StallAfter sends so many bytes and waits; released, it sends the rest."""
    registry.fault("/blobs/", StallAfter(1000))
    client = await connect(registry, wire(BLOB))
    await registry.until(lambda it: len(it.stalls) == 1)
    registry.heal()
    registry.release()
    assert (await client.done).body == DATA
    assert not registry.stalls


async def test_stall_shows_what_came_before(registry: FakeRegistry) -> None:
    """Headers and the bytes before a stall arrive although nothing follows; leaving ends the stall."""
    registry.fault("/blobs/", StallAfter(1000))
    client = await connect(registry, wire(BLOB), enough=1000)
    assert DATA[:500] in (await client.done).raw
    await registry.until(lambda it: not it.stalls)


async def test_stall_for_a_time(registry: FakeRegistry) -> None:
    """Both stalls can end by themselves, and compose."""
    registry.fault("/blobs/", StallBeforeHeaders(0.01), StallAfter(0, 0.01), StallAfter(10, 0.01))
    before = reactor.seconds()
    assert (await fetch(registry, BLOB)).body == DATA
    assert reactor.seconds() - before >= 0.03


async def test_stall_before_headers(registry: FakeRegistry) -> None:
    """StallBeforeHeaders takes the request and says nothing."""
    registry.fault("/blobs/", StallBeforeHeaders())
    client = await connect(registry, wire(BLOB))
    await registry.until(lambda it: len(it.stalls) == 1)
    assert client.raw == b""
    registry.release()
    assert (await client.done).body == DATA


async def test_stop_ends_stalls(registry: FakeRegistry) -> None:
    """Stopping resets connections that stall, and fails those who still wait for something."""
    registry.fault("/blobs/", StallAfter(5))
    client = await connect(registry, wire(BLOB))
    await registry.until(lambda it: bool(it.stalls))
    waiting = registry.until(lambda it: False)
    await registry.stop()
    assert (await client.done).end is ConnectionLost
    with pytest.raises(RegistryStoppedError):
        await waiting
    assert registry.connections == 0


async def test_wrong_bytes(registry: FakeRegistry) -> None:
    """WrongBytes inverts bytes at an offset of the whole, also where only a part is asked for."""
    registry.fault(DIGEST, WrongBytes(100, 2))
    wrong = DATA[:100] + bytes([DATA[100] ^ 255, DATA[101] ^ 255]) + DATA[102:]
    assert (await fetch(registry, BLOB)).body == wrong
    assert (await fetch(registry, BLOB, Range="bytes=101-104")).body == wrong[101:105]
    assert (await fetch(registry, BLOB, Range="bytes=102-")).body == wrong[102:]


@pytest.mark.parametrize("delta", [10, -10])
async def test_wrong_length(registry: FakeRegistry, delta: int) -> None:
    """WrongLength announces more or less than it sends."""
    registry.fault(DIGEST, WrongLength(delta))
    client = await connect(registry, wire(BLOB, close=False))
    response = await client.done
    assert (response.header("Content-Length"), response.body) == (str(len(DATA) + delta), DATA)


async def test_status(registry: FakeRegistry) -> None:
    """Status answers instead, for as many requests as told, and then all is well."""
    registry.fault("/blobs/", Status(429, {"Retry-After": "1"}), times=2)
    first = await fetch(registry, BLOB)
    assert (first.status, first.header("Retry-After")) == (429, "1")
    assert json.loads(first.body)["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert [(await fetch(registry, BLOB)).status for _ in range(2)] == [429, 200]
    registry.fault("GET /v2/team", Status(500, body=b"<html>"), skip=1)
    responses = [await fetch(registry, BLOB) for _ in range(3)]
    assert [each.status for each in responses] == [200, 500, 500]
    assert responses[2].body == b"<html>"
    assert (await fetch(registry, BLOB, "HEAD")).status == 200


async def test_match_by_function(registry: FakeRegistry) -> None:
    """A rule can look at anything in the request, and counts what it was applied to."""
    rule = registry.fault(lambda request: "range" in request.headers, Status(503))
    assert (await fetch(registry, BLOB)).status == 200
    assert (await fetch(registry, BLOB, Range="bytes=0-1")).status == 503
    assert rule.applied == 1
    registry.heal(rule)
    assert (await fetch(registry, BLOB, Range="bytes=0-1")).status == 206


async def test_redirect(registry: FakeRegistry, storage: FakeRegistry) -> None:
    """RedirectTo another registry gives a presigned URL that works for this content and method only."""
    registry.fault("/blobs/", RedirectTo(storage))
    response = await fetch(registry, BLOB)
    location = response.header("Location") or ""
    assert (response.status, response.body) == (307, b"")
    assert location.startswith(f"{storage.url}/storage/{DIGEST}?")
    path = location.removeprefix(storage.url)
    assert (await fetch(storage, path)).body == DATA
    assert (await fetch(storage, path, Range="bytes=5-6")).body == DATA[5:7]
    assert (await fetch(storage, path, "HEAD")).status == 403
    assert (await fetch(storage, path, Authorization="Bearer x")).status == 400
    assert (await fetch(storage, path + "0")).status == 403
    storage.revoke_presigned()
    assert (await fetch(storage, path)).status == 403
    assert (await fetch(registry, "/v2/team/app/blobs/" + str(Digest.of(b"")))).status == 404


async def test_other_redirects(registry: FakeRegistry) -> None:
    """RedirectTo can stay on the host with a relative reference, or lead anywhere."""
    registry.fault("/blobs/", RedirectTo(None, 302), times=1)
    registry.fault("/blobs/", RedirectTo("http://elsewhere.example/x"), skip=1)
    response = await fetch(registry, BLOB)
    assert response.status == 302
    assert (await fetch(registry, response.header("Location") or "")).body == DATA
    assert (await fetch(registry, BLOB)).header("Location") == "http://elsewhere.example/x"


def chunks(body: bytes) -> bytes:
    """The content of a chunked body, checked."""
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        content += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        body = rest[length + 2 :]
    return content


async def test_no_content_length(registry: FakeRegistry) -> None:
    """NoContentLength sends the body in chunks."""
    registry.fault("/blobs/", NoContentLength())
    response = await fetch(registry, BLOB)
    assert (response.header("Content-Length"), response.header("Transfer-Encoding")) == (None, "chunked")
    assert chunks(response.body) == DATA


async def test_garbage_chunks(registry: FakeRegistry) -> None:
    """GarbageChunks breaks the chunked encoding after some good bytes."""
    registry.fault("/blobs/", GarbageChunks(10))
    response = await fetch(registry, BLOB)
    assert response.header("Transfer-Encoding") == "chunked"
    assert response.body == b"a\r\n" + DATA[:10] + b"\r\nthis is no chunk\r\n"


async def test_garbage_response(registry: FakeRegistry) -> None:
    """GarbageResponse sends no HTTP at all."""
    registry.fault("/blobs/", GarbageResponse(b"SSH-2.0-OpenSSH\r\n"))
    assert (await fetch(registry, BLOB)).raw == b"SSH-2.0-OpenSSH\r\n"


async def test_ignore_range(registry: FakeRegistry) -> None:
    """IgnoreRange answers 200 with everything and announces no ranges."""
    registry.fault("/blobs/", IgnoreRange())
    response = await fetch(registry, BLOB, Range="bytes=5-6")
    assert (response.status, response.header("Accept-Ranges"), response.body) == (200, None, DATA)


async def test_throttle(registry: FakeRegistry) -> None:
    """Throttle spreads a body over time, each connection for itself, and delivers it whole."""
    registry.fault("/blobs/", Throttle(2_560_000))
    before = reactor.seconds()
    clients = [await connect(registry, wire(BLOB)) for _ in range(2)]
    assert [(await client.done).body for client in clients] == [DATA, DATA]
    assert reactor.seconds() - before > 0.07


async def test_headers(registry: FakeRegistry) -> None:
    """Headers can be left out, wrong or added."""
    registry.fault("/blobs/", NoDigestHeader(), times=1)
    registry.fault("/blobs/", WrongDigestHeader(), ExtraHeaders({"ETag": '"new"', "X-Odd": "1"}), skip=1)
    assert (await fetch(registry, BLOB)).header("Docker-Content-Digest") is None
    response = await fetch(registry, BLOB)
    assert response.header("Docker-Content-Digest") == f"sha256:{'0' * 64}"
    assert (response.header("ETag"), response.header("X-Odd")) == ('"new"', "1")


@pytest.mark.parametrize("tls", [False, True])
async def test_close_at_accept(make_registry: MakeRegistry, tls: bool) -> None:
    """CloseAtAccept hangs up on new connections, as many as told."""
    registry = await make_registry(tls=tls)
    rule = registry.fault("", CloseAtAccept(), times=1)
    assert (await fetch(registry, "/v2/")).raw == b""
    assert rule.applied == 1
    assert (await fetch(registry, "/v2/")).status == 200
    assert len(registry.requests) == 1


async def test_refuse(registry: FakeRegistry) -> None:
    """A stopped registry refuses connections, and can start again on its port with all it had."""
    url = registry.url
    await registry.stop()
    with pytest.raises(ConnectionRefusedError):
        await fetch(registry, BLOB)
    await registry.start()
    assert registry.url == url
    assert (await fetch(registry, BLOB)).body == DATA


async def test_faults_compose(registry: FakeRegistry) -> None:
    """Faults of one rule and of several hold together."""
    registry.fault("/blobs/", NoContentLength(), WrongBytes(0))
    registry.fault(DIGEST, StallAfter(10, 0), CutAfter(20))
    response = await fetch(registry, BLOB)
    assert response.body == b"a\r\n" + bytes([255]) + DATA[1:10] + b"\r\na\r\n" + DATA[10:20] + b"\r\n"


async def test_backpressure(registry: FakeRegistry, tmp_path: Path) -> None:
    """A body waits for a client that does not read: no more of it is in memory than a transport's buffer."""
    path = tmp_path / "blob"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    registry.add_blob("team/app", path)
    digest = next(each for each in registry.blobs["team/app"] if each != DIGEST)
    client = await connect(registry, wire(f"/v2/team/app/blobs/{digest}"))
    transport: Any = client.transport
    transport.pauseProducing()
    await registry.until(lambda it: it.requests.count() == 1)
    [connection] = registry._connections.protocols
    server: Any = connection.transport
    assert len(server.dataBuffer) + server._tempDataLen < 1_000_000
    transport.resumeProducing()
    transport.abortConnection()
    await client.done


# As a process of its own


class Process(ProcessProtocol):
    """Collects a process's first line, its errors and its exit code."""

    transport: Any

    def __init__(self) -> None:
        self.line: Deferred[str] = Deferred()
        self.ended: Deferred[tuple[int | None, str]] = Deferred()
        self._output = b""
        self._errors = b""

    def outReceived(self, data: bytes) -> None:
        """Report the first line."""
        self._output += data
        if b"\n" in self._output and not self.line.called:
            self.line.callback(self._output.decode())

    def errReceived(self, data: bytes) -> None:
        """Keep complaints."""
        self._errors += data

    def processEnded(self, reason: Failure) -> None:
        """Report the end, also to one who waits for the first line."""
        code = getattr(reason.value, "exitCode", None)
        if not self.line.called:
            self.line.errback(AssertionError(f"exit code {code}: {self._errors.decode()}"))
        self.ended.callback((code, self._errors.decode()))


async def test_as_a_process(tmp_path: Path) -> None:
    """`python -m regcachd.testing` says in a line where it is, serves its image, and ends at SIGTERM."""
    process = Process()
    arguments = ["--port", "0", "--blob-size", "1500000", "--layers", "2", "--throttle", "1e9", "--tls"]
    command = [sys.executable, "-m", "regcachd.testing", *arguments, str(tmp_path / "tls")]
    reactor.spawnProcess(process, sys.executable, command, env=os.environ)
    about = json.loads(await process.line)
    remote = FakeRegistry(reactor, tls=True, port=int(about["url"].rpartition(":")[2]))
    remote.ca_pem = Path(about["ca"]).read_bytes()
    manifest = await fetch(remote, f"/v2/{about['repository']}/manifests/{about['tag']}")
    assert str(Digest.of(manifest.body)) == about["manifest"]
    layer = await fetch(remote, f"/v2/{about['repository']}/blobs/{about['layers'][1]}")
    assert str(Digest.of(layer.body)) == about["layers"][1]
    assert len(layer.body) == about["blob_size"] == 1500000
    assert len(gzip.compress(layer.body, 1)) > 1_000_000
    log = json.loads((await fetch(remote, "/_log")).body)
    assert [each["method"] for each in log] == ["GET", "GET"]
    process.transport.signalProcess(signal.SIGTERM)
    assert await process.ended == (0, "")
