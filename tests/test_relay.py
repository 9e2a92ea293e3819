"""What of a message goes on to the other side, and at whose pace."""

import random
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from regcachd import relay
from regcachd.http1 import Response, UpstreamFailed
from regcachd.relay import BYPASS, HIT, Answer, TooLarge, cache_status, capture, downward
from regcachd.testing import (
    CutAfter,
    GarbageChunks,
    GarbageResponse,
    NoContentLength,
    StallAfter,
    Status,
    Throttle,
)
from tests.test_http1 import OK, Wire
from tests.through import Download, running
from tests.world import until

reactor: Any = _reactor

BODY = random.Random(9).randbytes(300_000)


# -- headers towards upstream


async def test_what_belongs_to_the_clients_connection_stays_there(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        download = Download(
            world,
            "/v2/",
            "Connection: X-Named, keep-alive",
            "connection: x-also",
            "X-Named: 1",
            "X-ALSO: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic c2VjcmV0",
            "TE: trailers",
            "Trailer: X-T",
            "Upgrade: h2c",
            "Expect: 100-continue",
            "X-Kept: a, b",
            "X-Kept: c",
            "Authorization: Bearer abc",
            "Via: 1.0 someone",
            "Forwarded: for=x",
        )
        await download.begin()
        (request,) = world.registry.requests
        named = {
            "x-named", "x-also", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer",
            "upgrade", "expect", "connection", "transfer-encoding",
        }  # fmt: skip
        assert not named & set(request.headers)
        assert request.headers["x-kept"] == "a, b, c"
        assert request.headers["authorization"] == "Bearer abc"
        assert request.headers["via"] == "1.0 someone, 1.1 regcachd"
        assert request.headers["forwarded"] == "for=x"
        assert request.headers["host"] == world.registry.authority


# -- headers towards the client

RAW = (
    b"HTTP/1.1 401 Who are you\r\n"
    b"WWW-Authenticate: Bearer  realm=\"https://a.test/token\",service=X , scope='odd'\r\n"
    b'WWW-Authenticate: Basic realm="b"\r\n'
    b"Connection: X-Named, Keep-Alive\r\n"
    b"X-Named: 1\r\n"
    b"Keep-Alive: timeout=5\r\n"
    b"Proxy-Authenticate: Basic\r\n"
    b"Trailer: X-T\r\n"
    b"Set-Cookie: a=b; Path=/\r\n"
    b"Set-Cookie: c=d\r\n"
    b"Via: 1.1 varnish\r\n"
    b"Date: Mon, 23 Nov 2026 21:33:31 GMT\r\n"
    b"Server: nginx\r\n"
    b"Docker-Distribution-Api-Version: registry/2.0\r\n"
    b"X-Latin: caf\xe9\r\n"
    b"Content-Type: Application/JSON; charset=UTF-8\r\n"
    b"Content-Length: 5\r\n\r\nhello"
)


async def test_upstreams_headers_reach_the_client_as_they_were_written(tmp_path: Path) -> None:
    """Clients parse challenges with awk: several stay several, in order, spaces and quotes included."""
    async with running(tmp_path) as world:
        world.registry.fault("/v2/", GarbageResponse(RAW))
        download = await Download(world, "/v2/_catalog").begin()
        assert await download.rest() == b"hello"
        assert download.status == 401
        assert download.header("www-authenticate") == [
            "Bearer  realm=\"https://a.test/token\",service=X , scope='odd'",
            'Basic realm="b"',
        ]
        assert download.header("set-cookie") == ["a=b; Path=/", "c=d"]
        assert download.header("via") == ["1.1 varnish", "1.1 regcachd"]
        assert download.header("date") == ["Mon, 23 Nov 2026 21:33:31 GMT"]
        assert download.header("server") == ["nginx"]
        assert download.header("content-type") == ["Application/JSON; charset=UTF-8"]
        assert download.header("x-latin") == ["caf\xe9"]
        assert download.header("content-length") == ["5"]
        assert download.header("cache-status") == ["regcachd; fwd=bypass"]
        for name in ("x-named", "keep-alive", "proxy-authenticate", "trailer"):
            assert download.header(name) == []
        names = [line.partition(":")[0] for line in download.head]
        assert names.count("WWW-Authenticate") == 2
        assert "Docker-Distribution-Api-Version" in names


@pytest.mark.parametrize("path", ["/v2/team/app/manifests/1", "/v2/team/app/blobs/sha256:" + "0" * 64])
async def test_a_challenge_of_any_endpoint_is_verbatim(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/v2/", GarbageResponse(RAW))
        download = await Download(world, path).begin()
        assert download.header("www-authenticate") == [
            "Bearer  realm=\"https://a.test/token\",service=X , scope='odd'",
            'Basic realm="b"',
        ]


async def test_a_date_is_added_where_upstream_has_none(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/v2/", GarbageResponse(OK + b"Content-Length: 0\r\n\r\n"))
        assert len((await Download(world, "/v2/").begin()).header("date")) == 1


def test_downward_adds_what_it_is_given_after_via() -> None:
    headers = [(b"A", b"1"), (b"content-length", b"5"), (b"Connection", b"A")]
    assert downward(headers, HIT) == [(b"Via", b"1.1 regcachd"), (b"Cache-Status", b"regcachd; hit")]
    assert cache_status("fwd=bypass") == BYPASS


# -- bodies


@pytest.mark.parametrize("fault", [None, NoContentLength()])
async def test_a_body_streams_through_in_whatever_framing(tmp_path: Path, fault: Any) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/page", Status(200, {}, BODY), *([fault] if fault else []))
        reply = await world.client().get("/page")
        assert (reply.status, reply.body, reply.broken) == (200, BODY, False)
        assert reply.headers.get("content-length") == (None if fault else str(len(BODY)))


async def test_a_body_that_ends_with_the_connection_streams_through(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/page", GarbageResponse(OK + b"\r\nhello"))
        reply = await world.client().get("/page")
        assert (reply.body, reply.broken) == (b"hello", False)


async def test_a_stream_begins_before_upstream_has_ended(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/page", Status(200, {}, BODY), StallAfter(1000))
        download = await Download(world, "/page").begin()
        assert await download.read(1000) == BODY[:1000]
        world.registry.release()
        assert await download.rest() == BODY


@pytest.mark.parametrize(
    "faults",
    [
        [CutAfter(100_000)],
        [CutAfter(100_000, reset=True)],
        [CutAfter(100_000), NoContentLength()],
        [GarbageChunks(100_000)],
        [CutAfter(0)],
    ],
)
async def test_when_upstream_breaks_off_the_clients_response_is_not_whole(
    tmp_path: Path, faults: list[Any]
) -> None:
    async with running(tmp_path) as world:
        rule = world.registry.fault("/page", Status(200, {}, BODY), *faults)
        reply = await world.client().get("/page")
        assert reply.broken
        assert len(reply.body) <= 100_000
        world.registry.heal(rule)
        assert (await world.client().get("/v2/")).status == 200


async def test_a_slow_client_pauses_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as world:
        received = 0
        original = relay._Stream.body_received

        def count(self: Any, data: bytes) -> None:
            nonlocal received
            received += len(data)
            original(self, data)

        monkeypatch.setattr(relay._Stream, "body_received", count)
        body = BODY * 100
        world.registry.fault("/page", Status(200, {}, body))
        download = await Download(world, "/page").begin()
        seen = -1
        while seen != received:
            seen = received
            assert await download.read(1) or True
            for _ in range(10):
                await until(lambda: True)
        assert received < 20_000_000  # kernel buffers, not ours
        await download.rest()
        assert download.body == body


async def test_a_client_that_leaves_ends_the_download(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/page", Status(200, {}, BODY * 10), Throttle(1_000_000))
        download = await Download(world, "/page").begin()
        await download.read(1000)
        download.close()
        await until(lambda: world.registry.connections == 0)
        await until(lambda: world.service.door.connections == 0)


# -- capturing


def answered(raw: bytes, *, end: bool = False, limit: int = 10) -> tuple[Wire, list[Any]]:
    """Capture the response that these bytes are."""
    wire = Wire()
    asked = wire.ask()
    wire.receive(raw)
    response = asked.response
    assert isinstance(response, Response)
    outcome: list[Any] = []
    Deferred.fromCoroutine(capture(response, limit)).addBoth(outcome.append)
    wire.turn()
    if end:
        wire.close()
    wire.turn()
    return wire, outcome


@pytest.mark.parametrize(
    "raw",
    [
        OK + b"Content-Length: 10\r\n\r\n0123456789",
        OK + b"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
    ],
)
def test_capture_keeps_what_fits(raw: bytes) -> None:
    wire, (answer,) = answered(raw)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body) == (200, b"0123456789")
    assert wire.idle == 1


@pytest.mark.parametrize(
    "raw",
    [
        OK + b"Content-Length: 11\r\n\r\n",
        OK + b"Content-Length: 99999999999\r\n\r\n0123",
        OK + b"Transfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n",
        OK + b"\r\n0123456789a",
    ],
)
def test_capture_reads_no_more_than_its_limit(raw: bytes) -> None:
    wire, (failure,) = answered(raw)
    failure.trap(TooLarge)
    assert not wire.clock.getDelayedCalls()


def test_capture_of_what_breaks_off() -> None:
    _, (failure,) = answered(OK + b"Content-Length: 10\r\n\r\n01234", end=True)
    failure.trap(UpstreamFailed)
