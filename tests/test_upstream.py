"""Requests to registries over real sockets: the pool, redirects, certificates, and everything that can fail."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import evolve
from twisted.internet import reactor as _reactor
from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from regcachd.config import parse_config
from regcachd.http1 import Response, UpstreamFailed
from regcachd.netloc import Netloc, parse_url
from regcachd.relay import Answer, capture
from regcachd.testing import (
    Certificate,
    CloseAtAccept,
    CutAfter,
    FakeRegistry,
    GarbageResponse,
    RedirectTo,
    StallAfter,
    StallBeforeHeaders,
    Status,
)
from regcachd.upstream import Upstream
from tests.world import until

reactor: Any = _reactor
BASIC = (b"Authorization", b"Basic YWxpY2U6c2VjcmV0")
PING = b"/v2/"


def settle() -> Deferred[None]:
    """Let what has been closed go away."""
    done: Deferred[None] = Deferred()
    reactor.callLater(0.01, done.callback, None)
    return done


class Surroundings:
    """Makes registries and upstreams, and stops them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.upstreams: list[Upstream] = []
        self.registries: list[FakeRegistry] = []

    async def registry(self, **settings: Any) -> FakeRegistry:
        registry = FakeRegistry(reactor, **settings)
        await registry.start()
        self.registries.append(registry)
        return registry

    def upstream(
        self, url: str | FakeRegistry, lines: str = "", *, trusted: bool = True, **limits: Any
    ) -> Upstream:
        """An upstream with these lines in its table and these limits."""
        if isinstance(url, FakeRegistry):
            if url.ca_pem and trusted:
                lines += f'\nca = "{url.ca_file(self.directory / "ca.pem")}"'
            url = url.url
        text = f'[registries."registry.test"]\nupstream = "{url}"\n{lines}\n'
        config = parse_config([("test.toml", text)])
        upstream = Upstream(reactor, config.registries["registry.test"], evolve(config.limits, **limits))
        self.upstreams.append(upstream)
        return upstream

    async def stop(self) -> None:
        for upstream in self.upstreams:
            upstream.close()
        for registry in self.registries:
            await registry.stop()
        await settle()


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def here(tmp_path: Path) -> AsyncIterator[Surroundings]:
    surroundings = Surroundings(tmp_path)
    yield surroundings
    await surroundings.stop()


async def read(upstream: Upstream, target: bytes = PING, *headers: tuple[bytes, bytes], **how: Any) -> Answer:
    """The whole response to a GET."""
    return await capture(await upstream.request(b"GET", target, headers, **how), 2**24)


async def failure(asked: Any) -> UpstreamFailed:
    """What a request fails with."""
    with pytest.raises(UpstreamFailed) as told:
        await asked
    assert "\n" not in str(told.value)
    return told.value


# -- the pool


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_one_connection_serves_one_request_after_the_other(here: Surroundings, tls: bool) -> None:
    registry = await here.registry(tls=tls)
    upstream = here.upstream(registry)
    for _ in range(3):
        assert (await read(upstream)).status == 200
    assert {request.connection for request in registry.requests} == {1}


async def test_requests_at_the_same_time_have_a_connection_each_and_both_are_kept(here: Surroundings) -> None:
    registry = await here.registry()
    upstream = here.upstream(registry)
    stalled = registry.fault("GET /v2/", StallBeforeHeaders())
    asked = [Deferred.fromCoroutine(read(upstream)) for _ in range(2)]
    await registry.until(lambda r: len(r.stalls) == 2)
    registry.heal(stalled)
    registry.release()
    for each in asked:
        assert (await each).status == 200
    assert {request.connection for request in registry.requests} == {1, 2}
    await read(upstream)
    await read(upstream)
    assert registry.connections == 2


async def test_a_connection_that_died_in_the_pool_is_replaced_unnoticed(here: Surroundings) -> None:
    registry = await here.registry()
    upstream = here.upstream(registry)
    await read(upstream)
    await registry.stop()
    await registry.start()
    assert (await read(upstream)).status == 200


async def test_a_kept_connection_that_dies_on_the_request_is_tried_again_once(here: Surroundings) -> None:
    """The race of RFC 9112 section 9.3.1: the server closes while our next request is on its way."""
    registry = await here.registry()
    upstream = here.upstream(registry)
    await read(upstream)
    rule = registry.fault("/v2/", GarbageResponse(b""), times=1)
    assert (await read(upstream)).status == 200
    assert rule.applied == 1
    assert [request.connection for request in registry.requests] == [1, 1, 2]


async def test_a_fresh_connection_that_dies_on_the_request_is_not_tried_again(here: Surroundings) -> None:
    registry = await here.registry()
    registry.fault("/v2/", GarbageResponse(b""))
    error = await failure(read(here.upstream(registry)))
    assert error.status == 502
    assert "closed the connection too early" in str(error)
    assert len(registry.requests) == 1


async def test_what_might_have_had_an_effect_is_not_sent_twice(here: Surroundings) -> None:
    registry = await here.registry()
    upstream = here.upstream(registry)
    await read(upstream)
    registry.fault("/token", GarbageResponse(b""), times=1)
    await failure(upstream.request(b"POST", b"/token", (), body=b"grant_type=password"))
    assert registry.requests.count("POST") == 1


async def test_a_post_says_its_length_even_if_that_is_nothing(here: Surroundings) -> None:
    registry = await here.registry()
    upstream = here.upstream(registry)
    for body in (b"", b"a=b"):
        (await upstream.request(b"POST", b"/token", (), body=body)).discard()
        await settle()
    assert [request.headers.get("content-length") for request in registry.requests] == ["0", "3"]


async def test_an_abandoned_response_takes_its_connection_with_it(here: Surroundings) -> None:
    registry = await here.registry()
    digest = registry.add_blob("team/app", b"x" * 1_000_000)
    upstream = here.upstream(registry)
    response = await upstream.request(b"GET", f"/v2/team/app/blobs/{digest}".encode(), ())
    response.abandon()
    await until(lambda: registry.connections == 0)
    assert (await read(upstream)).status == 200


async def test_an_idle_connection_is_closed_before_the_server_would(
    here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.pool.KEEP_IDLE", 0.01)
    registry = await here.registry()
    upstream = here.upstream(registry)
    await read(upstream)
    await until(lambda: registry.connections == 0)
    assert (await read(upstream)).status == 200
    assert [request.connection for request in registry.requests] == [1, 2]


async def test_a_connection_that_expires_is_not_handed_out_in_the_same_turn(here: Surroundings) -> None:
    registry = await here.registry()
    upstream = here.upstream(registry)
    await read(upstream)
    (netloc,) = upstream._pool.idle
    upstream._pool.expire_all(netloc)
    assert (await read(upstream)).status == 200


async def test_the_number_of_idle_connections_is_bounded(
    here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.pool.MOST_IDLE", 2)
    registry = await here.registry()
    upstream = here.upstream(registry)
    registry.fault("GET /v2/", StallBeforeHeaders())
    asked = [Deferred.fromCoroutine(read(upstream)) for _ in range(5)]
    await registry.until(lambda r: len(r.stalls) == 5)
    registry.release()
    for each in asked:
        await each
    await until(lambda: registry.connections == 2)


async def test_the_host_header_names_upstream_with_its_port(here: Surroundings) -> None:
    registry = await here.registry()
    await read(here.upstream(registry))
    assert registry.requests[0].headers["host"] == f"127.0.0.1:{registry.port}"


@pytest.mark.parametrize(
    "target", [b"/v2/?a=%2f%2F&&b=+%20#c", b"//evil.test/v2/", b"/v2/..//%2e%2e/;x", b"/@evil.test:1/"]
)
async def test_a_clients_target_goes_to_upstream_byte_for_byte(here: Surroundings, target: bytes) -> None:
    registry = await here.registry()
    await read(here.upstream(registry), target)
    assert registry.requests[0].line == f"GET {target.decode()}"


@pytest.mark.parametrize("target", [b"/v\xff2/", b"/v2/ x", b"/v2/\x7f"])
async def test_a_target_that_is_none_goes_nowhere(here: Surroundings, target: bytes) -> None:
    """Dropping the odd byte instead would make another target of it, past whoever has judged this one."""
    registry = await here.registry()
    assert (await failure(read(here.upstream(registry), target))).status == 400
    assert not registry.requests


# -- redirects


async def test_redirects_are_returned_unless_they_are_to_be_followed(here: Surroundings) -> None:
    registry = await here.registry()
    registry.fault("/v2/", Status(307, {"Location": "/elsewhere"}))
    upstream = here.upstream(registry)
    answer = await read(upstream)
    assert (answer.status, answer.header(b"location")) == (307, b"/elsewhere")
    assert len(registry.requests) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_every_kind_of_redirect_is_followed(here: Surroundings, code: int) -> None:
    registry = await here.registry()
    registry.fault("/v2/a/b", Status(code, {"Location": "/there"}), times=1)
    await read(here.upstream(registry), b"/v2/a/b", BASIC, follow=True)
    assert [request.line for request in registry.requests] == ["GET /v2/a/b", "GET /there"]


@pytest.mark.parametrize(
    ("location", "line"),
    [
        ("/token?a=%2Fb&sig=x%3d%3D+", "GET /token?a=%2Fb&sig=x%3d%3D+"),
        ("{url}/there?b", "GET /there?b"),
        ("there", "GET /v2/a/there"),
        ("../../x#fragment", "GET /x"),
        ("?only=query", "GET /v2/a/b?only=query"),
        ("//127.0.0.1:{port}/there", "GET /there"),
        ("{url}", "GET /"),
        ("{url}?x", "GET /?x"),
    ],
)
async def test_a_redirect_may_be_relative_or_absolute(here: Surroundings, location: str, line: str) -> None:
    registry = await here.registry()
    location = location.format(url=registry.url, port=registry.port)
    registry.fault("/v2/a/b", Status(307, {"Location": location}), times=1)
    upstream = here.upstream(registry)
    await read(upstream, b"/v2/a/b", BASIC, follow=True)
    assert [request.line for request in registry.requests] == ["GET /v2/a/b", line]
    assert [request.authorization for request in registry.requests] == [BASIC[1].decode()] * 2


async def test_a_signed_url_is_asked_for_byte_for_byte(here: Surroundings) -> None:
    """Signatures cover the URL as it was written: no escape may be added, removed or changed in case."""
    registry, storage = await here.registry(), await here.registry()
    target = "/b/%7Euser/a%2fb/@:!$'()*,;=?X-Amz-Credential=A%2F2026%2fus&sig=a+b%2B==&x=~%7e|"
    registry.fault("/v2/", Status(307, {"Location": f"{storage.url}{target}"}))
    await read(here.upstream(registry), PING, follow=True)
    assert storage.requests[0].line == f"GET {target}"


async def test_bytes_that_no_url_may_have_are_escaped(here: Surroundings) -> None:
    registry = await here.registry()
    registry.fault("/v2/", Status(307, {"Location": "/a b/\u00fc?\u00e9=\u20ac"}), times=1)
    await read(here.upstream(registry), PING, follow=True)
    assert registry.requests[1].line == "GET /a%20b/%C3%BC?%C3%A9=%E2%82%AC"


async def test_credentials_stay_behind_when_the_host_changes(here: Surroundings) -> None:
    registry, storage = await here.registry(), await here.registry()
    data = b"x" * 1000
    digest = registry.add_blob("team/app", data)
    registry.fault(digest, RedirectTo(storage))
    headers = [BASIC, (b"Cookie", b"a=b"), (b"authorization", b"Bearer x"), (b"User-Agent", b"test")]
    answer = await read(
        here.upstream(registry), f"/v2/team/app/blobs/{digest}".encode(), *headers, follow=True
    )
    assert (answer.status, answer.body) == (200, data)
    assert registry.requests[0].authorization is not None
    (there,) = storage.requests
    assert "authorization" not in there.headers
    assert "cookie" not in there.headers
    assert there.headers["user-agent"] == "test"
    assert there.headers["host"] == f"127.0.0.1:{storage.port}"


async def test_credentials_do_not_come_back_when_a_stranger_leads_back(here: Surroundings) -> None:
    registry, storage = await here.registry(), await here.registry()
    registry.fault("/v2/a", Status(307, {"Location": f"{storage.url}/there"}))
    storage.fault("/there", Status(307, {"Location": f"{registry.url}/v2/secret"}))
    await read(here.upstream(registry), b"/v2/a", BASIC, follow=True)
    assert [request.authorization for request in registry.requests] == [BASIC[1].decode(), None]


async def test_credentials_are_not_sent_in_plain_to_the_same_host(here: Surroundings) -> None:
    registry, plain = await here.registry(tls=True), await here.registry()
    registry.fault("/v2/a", Status(307, {"Location": f"http://localhost:{plain.port}/there"}))
    await read(here.upstream(registry), b"/v2/a", BASIC, follow=True)
    assert plain.requests[0].authorization is None


async def test_a_redirect_to_storage_keeps_the_connection_to_the_registry(here: Surroundings) -> None:
    registry, storage = await here.registry(), await here.registry()
    digest = registry.add_blob("team/app", b"x")
    registry.fault(digest, RedirectTo(storage))
    upstream = here.upstream(registry)
    for _ in range(3):
        await read(upstream, f"/v2/team/app/blobs/{digest}".encode(), follow=True)
        await settle()
    assert {request.connection for request in registry.requests} == {1}
    assert {request.connection for request in storage.requests} == {1}


@pytest.mark.parametrize(("hops", "works"), [(5, True), (6, False)])
async def test_five_redirects_are_followed_and_no_more(here: Surroundings, hops: int, works: bool) -> None:
    registry = await here.registry()
    for hop in range(hops):
        registry.fault(f"/hop{hop}/", Status(302, {"Location": f"/hop{hop + 1}/"}))
    asked = read(here.upstream(registry), b"/hop0/", follow=True)
    if works:
        assert (await asked).status == 404
    else:
        assert "redirects more than 5 times" in str(await failure(asked))


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("ftp://host/x", "not http or https"),
        ("file:///etc/passwd", "not http or https"),
        ("gopher://127.0.0.1:6379/_x", "not http or https"),
        ("https://", "without a host"),
        ("http:///x", "without a host"),
        ("http://[::1/x", "not http or https"),
        ("http://host:99999/x", "not http or https"),
        ("http://" + "a" * 70 + ".test/x", "not http or https"),
    ],
)
async def test_a_redirect_to_what_is_no_address_is_a_502(
    here: Surroundings, location: str, reason: str
) -> None:
    registry = await here.registry()
    registry.fault("/v2/", Status(307, {"Location": location}))
    error = await failure(read(here.upstream(registry), follow=True))
    assert error.status == 502
    assert reason in str(error)


async def test_a_redirect_without_location_is_an_answer(here: Surroundings) -> None:
    registry = await here.registry()
    registry.fault("/v2/", Status(302))
    assert (await read(here.upstream(registry), follow=True)).status == 302


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("169.254.169.254", "link-local"),
        ("[fe80::1]", "link-local"),
        ("100.100.100.200", "metadata"),
        ("127.0.0.2", "loopback"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("localhost", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("2130706433", "loopback"),  # 127.0.0.1 as the C library reads it
        ("0x7f.1", "loopback"),
    ],
)
async def test_a_redirect_leads_neither_to_this_machine_nor_to_its_secrets(
    here: Surroundings, host: str, why: str
) -> None:
    registry = await here.registry()
    registry.fault("/v2/", Status(307, {"Location": f"http://{host}:{registry.port}/latest/meta-data/"}))
    error = await failure(read(here.upstream(registry), follow=True))
    assert error.status == 502
    assert "is refused" in str(error)
    assert why in str(error)
    assert len(registry.requests) == 1


async def test_a_name_that_resolves_to_a_forbidden_address_is_refused(here: Surroundings) -> None:
    registry = await here.registry()
    registry.fault("/v2/", Status(307, {"Location": "http://rebind.test/latest/"}))
    upstream = here.upstream(registry)
    upstream._dialer._reactor = Resolving({"rebind.test": "169.254.169.254"})
    error = await failure(read(upstream, follow=True))
    assert "169.254.169.254 is a link-local address" in str(error)


class Resolving:
    """The reactor, with names of its own."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def resolveHostName(self, receiver: Any, host: str, portNumber: int = 0, **how: Any) -> Any:
        if host not in self._names:
            return reactor.nameResolver.resolveHostName(receiver, host, portNumber, **how)
        receiver.resolutionBegan(self)
        receiver.addressResolved(IPv4Address("TCP", self._names[host], portNumber))
        receiver.resolutionComplete()
        return receiver


async def test_a_host_that_the_configuration_names_may_be_this_machine(here: Surroundings) -> None:
    registry = await here.registry()
    upstream = here.upstream(f"http://home.test:{registry.port}")
    upstream._dialer._reactor = Resolving({"home.test": "127.0.0.1"})
    assert (await read(upstream)).status == 200


# -- certificates


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Certificate.WRONG_NAME, "it is not for localhost"),
        (Certificate.EXPIRED, "it has expired"),
        (Certificate.UNTRUSTED, "refused"),
    ],
)
async def test_a_certificate_that_is_not_right_is_a_502_with_the_reason(
    here: Surroundings, kind: Certificate, reason: str
) -> None:
    registry = await here.registry(tls=True, certificate=kind)
    error = await failure(read(here.upstream(registry)))
    assert error.status == 502
    assert "the certificate of registry.test is refused" in str(error)
    assert reason in str(error)
    assert not registry.requests


async def test_a_private_ca_is_not_trusted_unless_it_is_named_and_the_error_says_so(
    here: Surroundings,
) -> None:
    registry = await here.registry(tls=True)
    error = await failure(read(here.upstream(registry, trusted=False)))
    assert "issuer is not trusted" in str(error)
    assert "`ca`" in str(error)
    assert not registry.requests


async def test_a_registry_named_by_address_needs_a_certificate_for_the_address(here: Surroundings) -> None:
    right = await here.registry(tls=True, names=("127.0.0.1",))
    assert (await read(here.upstream(right))).status == 200


async def test_a_certificate_of_the_ca_for_a_name_is_not_one_for_an_address(here: Surroundings) -> None:
    registry = await here.registry(tls=True, certificate=Certificate.WRONG_NAME)
    ca = registry.ca_file(here.directory / "ca.pem")
    error = await failure(read(here.upstream(f"https://127.0.0.1:{registry.port}", f'ca = "{ca}"')))
    assert "it is not for 127.0.0.1" in str(error)


@pytest.mark.parametrize("kind", list(Certificate))
async def test_insecure_takes_any_certificate(here: Surroundings, kind: Certificate) -> None:
    registry = await here.registry(tls=True, certificate=kind)
    upstream = here.upstream(registry, "insecure = true", trusted=False)
    assert (await read(upstream)).status == 200


async def test_insecure_is_for_the_registry_not_for_where_it_leads(here: Surroundings) -> None:
    registry = await here.registry(tls=True)
    storage = await here.registry(tls=True, certificate=Certificate.UNTRUSTED, names=("storage.test",))
    registry.fault("/v2/", Status(307, {"Location": f"{storage.url}/x"}))
    upstream = here.upstream(registry, "insecure = true", trusted=False)
    upstream._dialer._reactor = Resolving({"storage.test": "127.0.0.1"})
    error = await failure(read(upstream, follow=True))
    assert "loopback" in str(error)  # the rule for addresses comes first
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("regcachd.upstream.never_ours", lambda address: None)
        error = await failure(read(upstream, follow=True))
    assert "certificate of storage.test" in str(error)
    assert not storage.requests


async def test_no_tls_where_tls_should_be(here: Surroundings) -> None:
    class Plain(Protocol):
        """Answers whatever comes in plain HTTP."""

        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")  # type: ignore[union-attr]

    plain = reactor.listenTCP(0, Factory.forProtocol(Plain), interface="127.0.0.1")
    error = await failure(read(here.upstream(f"https://127.0.0.1:{plain.getHost().port}")))
    assert error.status == 502
    assert "no TLS with registry.test: wrong version number" in str(error)
    await plain.stopListening()


async def test_tls_where_none_should_be(here: Surroundings) -> None:
    registry = await here.registry(tls=True)
    error = await failure(read(here.upstream(f"http://127.0.0.1:{registry.port}")))
    assert error.status == 502


async def test_one_refused_certificate_does_not_colour_the_next_error(here: Surroundings) -> None:
    registry = await here.registry(tls=True)
    upstream = here.upstream(registry, trusted=False)
    await failure(read(upstream))
    registry.fault("", CloseAtAccept())
    assert "certificate" not in str(await failure(read(upstream)))


# -- what else can fail


async def test_a_refused_connection_is_a_502(here: Surroundings) -> None:
    registry = await here.registry()
    upstream = here.upstream(registry)
    await registry.stop()
    error = await failure(read(upstream))
    assert error.status == 502
    assert "registry.test cannot be reached" in str(error)


async def test_a_name_that_does_not_exist_is_a_502(here: Surroundings) -> None:
    upstream = here.upstream("http://nowhere.invalid")
    upstream._dialer._reactor = Nameless()
    error = await failure(read(upstream))
    assert error.status == 502
    assert "cannot be reached" in str(error)
    assert "nowhere.invalid" in str(error)


async def test_name_servers_that_say_nothing_are_given_up(
    here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.dial.LATE", 0.05)
    upstream = here.upstream("http://nowhere.invalid", connect_timeout=0.1)
    upstream._dialer._reactor = mute = Mute()
    error = await failure(read(upstream))
    assert error.status == 504
    assert str(error) == (
        "registry.test cannot be reached: no name server says what its address is (nowhere.invalid)"
    )
    assert upstream.outage is not None
    mute.waiting[0].resolutionComplete()  # and what comes later does no harm


class Nameless(Resolving):
    """A resolver that finds nothing."""

    def __init__(self) -> None:
        super().__init__({})

    def resolveHostName(self, receiver: Any, host: str, portNumber: int = 0, **how: Any) -> Any:
        receiver.resolutionBegan(self)
        receiver.resolutionComplete()
        return receiver


class Mute(Resolving):
    """A resolver that does not answer."""

    def __init__(self) -> None:
        super().__init__({})
        self.waiting: list[Any] = []

    def resolveHostName(self, receiver: Any, host: str, portNumber: int = 0, **how: Any) -> Any:
        receiver.resolutionBegan(self)
        self.waiting.append(receiver)
        return receiver


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (StallBeforeHeaders(), 504),
        (StallAfter(5), 504),
        (GarbageResponse(), 502),
        (CutAfter(5), 502),
        (CutAfter(5, reset=True), 502),
    ],
)
async def test_an_upstream_that_breaks_off_or_falls_silent(
    here: Surroundings, fault: Any, status: int
) -> None:
    registry = await here.registry()
    digest = registry.add_blob("team/app", b"x" * 1000)
    registry.fault(digest, fault)
    upstream = here.upstream(registry, 'timeout = "100ms"')
    error = await failure(read(upstream, f"/v2/team/app/blobs/{digest}".encode()))
    assert error.status == status
    assert "registry.test" in str(error)
    await until(lambda: registry.connections == 0)


async def test_a_handshake_that_does_not_end_is_given_up(here: Surroundings) -> None:
    class Silent(Protocol):
        """Accepts, and says nothing."""

    silent = reactor.listenTCP(0, Factory.forProtocol(Silent), interface="127.0.0.1")
    upstream = here.upstream(f"https://127.0.0.1:{silent.getHost().port}", connect_timeout=0.4)
    error = await failure(read(upstream))
    assert error.status == 504
    assert "no TLS with registry.test within 0.4 s" in str(error)
    await silent.stopListening()


async def test_a_connection_that_does_not_come_about_is_given_up(here: Surroundings) -> None:
    """A listener whose backlog is full drops SYNs, as a firewall does."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        fillers.append(filler)
    upstream = here.upstream(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout=0.4)
    error = await failure(read(upstream))
    assert error.status == 504
    assert "cannot be reached" in str(error)
    for each in (full, *fillers):
        each.close()


async def test_backpressure_reaches_the_registry(here: Surroundings) -> None:
    """A response nobody reads stays where it is: in the kernel's buffers and at the registry."""
    registry = await here.registry()
    size = 64_000_000
    path = here.directory / "blob"
    path.write_bytes(b"x" * size)
    digest = registry.add_blob("team/app", path)
    upstream = here.upstream(registry)
    response = await upstream.request(b"GET", f"/v2/team/app/blobs/{digest}".encode(), ())
    slow = Slow(response)
    response.deliver(slow)
    await until(lambda: slow.received > 1_000_000)
    before = slow.received
    for _ in range(5):
        await settle()
    assert slow.received - before <= 65536 * 4
    response.abandon()
    await settle()


class Slow:
    """A consumer that has enough after a megabyte."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.received = 0

    def body_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > 1_000_000:
            self.response.pause()

    def body_done(self) -> None:
        raise AssertionError("it cannot end")

    def body_failed(self, error: UpstreamFailed) -> None:
        """Abandoned."""


# -- the end


async def test_closing_ends_what_is_under_way_and_refuses_what_comes(here: Surroundings) -> None:
    registry = await here.registry()
    upstream = here.upstream(registry)
    registry.fault("", StallBeforeHeaders())
    asked = Deferred.fromCoroutine(read(upstream))
    await registry.until(lambda r: len(r.stalls) == 1)
    upstream.close()
    await failure(asked)
    assert (await failure(read(upstream))).status == 503


async def test_closing_ends_connections_that_have_not_come_about(here: Surroundings) -> None:
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        fillers.append(filler)
    upstream = here.upstream(f"http://127.0.0.1:{full.getsockname()[1]}")
    asked = Deferred.fromCoroutine(read(upstream))
    await until(lambda: any(isinstance(each, tcp.BaseClient) for each in reactor.getWriters()))
    upstream.close()
    assert (await failure(asked)).status == 503
    for each in (full, *fillers):
        each.close()


# -- URLs


@pytest.mark.parametrize(
    ("url", "netloc", "target"),
    [
        ("https://a.test", Netloc("https", "a.test", 443), b"/"),
        ("http://A.Test:5000/X?y", Netloc("http", "a.test", 5000), b"/X?y"),
        ("https://user:secret@a.test/x", Netloc("https", "a.test", 443), b"/x"),
        ("https://[2001:db8::1]:8443/x", Netloc("https", "2001:db8::1", 8443), b"/x"),
        ("https://b\u00fccher.test/x".encode().decode("latin-1"), None, b""),
        ("https://a.test?x#y", Netloc("https", "a.test", 443), b"/?x"),
        ("https://a.test/x#/../y", Netloc("https", "a.test", 443), b"/x"),
        ("https://a.test/%zz%2f", Netloc("https", "a.test", 443), b"/%zz%2f"),
        ("https://a\t.test/x", None, b""),
    ],
)
def test_urls(url: str, netloc: Netloc | None, target: bytes) -> None:
    """None: a host that no name service will know."""
    found = parse_url(url)
    if netloc is None:
        assert "%" in found[0].host
    else:
        assert found == (netloc, target)
