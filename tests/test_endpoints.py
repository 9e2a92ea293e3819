"""Everything of a registry that is neither blob nor manifest, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread

from regcachd.testing import FakeRegistry, Status
from regcachd.web import MOST_BODY
from tests.through import Download, basic, running
from tests.world import Reply, World

reactor: Any = _reactor


async def send(world: World, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
    """A request with a body."""
    reply: Reply = await deferToThread(world.client().ask, method, path, headers, body)
    return reply


# -- what passes through


@pytest.mark.parametrize(
    "path",
    [
        "/v2/",
        "/v2",
        "/v2/_catalog?n=10&last=a%2Fb",
        "/v2/team/app/tags/list",
        "/v2/team/app/tags/list?n=1&last=%31",
        "/v2/team/app/blobs/sha256:short",
        "/v2/TEAM/app/manifests/1",
        "/v2/team/app/manifests/sha256:" + "A" * 64,
        "/v2/team%2Fapp/manifests/1",
        "/v2/team/app/blobs/uploads/some-id",
        "/token?service=x&scope=repository%3Ateam%2Fapp%3Apull",
        "/some/page?a=b&&c;d=%zz#x",
        "//odd//path",
    ],
)
async def test_the_rest_passes_through_byte_for_byte(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as world:
        world.registry.add_image("team/app", "1", [b"layer"])
        world.registry.fault("", Status(203, {"X-Odd": "kept"}, b"upstream's words"))
        download = await Download(world, path, "Authorization: Bearer x", "X-Client: y").begin()
        assert await download.rest() == b"upstream's words"
        assert (download.status, download.header("x-odd")) == (203, ["kept"])
        assert download.header("cache-status") == ["regcachd; fwd=bypass"]
        (request,) = world.registry.requests
        assert request.line == f"GET {path}"
        assert request.authorization == "Bearer x"
        assert request.headers["x-client"] == "y"


async def test_tags_referrers_and_pages_of_them(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        registry = world.registry
        image = registry.add_image("team/app", "1", [b"layer"])
        registry.add_image("team/app", "2", [b"layer"])
        subject = {"digest": str(image.manifest), "mediaType": "x", "size": 1}
        registry.add_image(
            "team/app", None, [b"sbom"], extra={"subject": subject, "artifactType": "text/sbom"}
        )
        client = world.client()
        reply = await client.get("/v2/team/app/tags/list?n=1")
        assert json.loads(reply.body) == {"name": "team/app", "tags": ["1"]}
        assert reply.headers["link"] == '</v2/team/app/tags/list?n=1&last=1>; rel="next"'
        reply = await client.get(f"/v2/team/app/referrers/{image.manifest}?artifactType=text/sbom")
        assert len(json.loads(reply.body)["manifests"]) == 1
        assert reply.headers["oci-filters-applied"] == "artifactType"


async def test_the_ping_shows_upstreams_challenge(tmp_path: Path) -> None:
    registry = FakeRegistry(reactor, auth="basic", users={"alice": "secret"})
    async with running(tmp_path, registry) as world:
        reply = await world.client().get("/v2/")
        assert (reply.status, reply.headers["www-authenticate"]) == (401, 'Basic realm="fake registry"')
        assert (await world.client().get("/v2/", Authorization=basic("alice", "secret"))).status == 200


async def test_head_passes_through_with_its_length(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        client = world.client()
        reply = await client.do("HEAD", "/v2/")
        assert (reply.status, reply.headers["content-length"], reply.body) == (200, "2", b"")
        assert (await client.get("/v2/")).body == b"{}"


async def test_range_and_conditions_are_upstreams_to_judge(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        await world.client().get(
            "/page", Range="bytes=0-1", If_None_Match='"x"', Accept_Encoding="gzip, zstd"
        )
        headers = world.registry.requests[0].headers
        assert (headers["range"], headers["if-none-match"]) == ("bytes=0-1", '"x"')
        assert headers["accept-encoding"] == "gzip, zstd"


async def test_an_encoded_body_is_not_touched(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        body = b"\x1f\x8b not really gzip"
        world.registry.fault("/page", Status(200, {"Content-Encoding": "gzip", "ETag": 'W/"x"'}, body))
        reply = await world.client().get("/page")
        assert (reply.body, reply.headers["content-encoding"], reply.headers["etag"]) == (
            body,
            "gzip",
            'W/"x"',
        )


@pytest.mark.parametrize("code", [204, 304])
async def test_answers_without_a_body(tmp_path: Path, code: int) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/page", Status(code, {"X-Odd": "y"}, b""))
        client = world.client()
        reply = await client.get("/page")
        assert (reply.status, reply.body, reply.headers["x-odd"]) == (code, b"", "y")
        assert (await client.get("/v2/")).status == 200


async def test_redirects_outside_blobs_and_manifests_are_the_clients_to_follow(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/page", Status(302, {"Location": "https://elsewhere.test/x?y"}))
        reply = await world.client().get("/page")
        assert (reply.status, reply.headers["location"]) == (302, "https://elsewhere.test/x?y")


# -- tokens by POST


async def test_a_token_endpoint_on_the_registrys_host_takes_posts(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.fault("/token", Status(200, {}, b'{"access_token":"x"}'))
        body = b"grant_type=password&username=a&password=b"
        kind = "application/x-www-form-urlencoded"
        reply = await send(world, "POST", "/oauth2/token?x=y", body, **{"Content-Type": kind})
        assert (reply.status, reply.body) == (200, b'{"access_token":"x"}')
        (request,) = world.registry.requests
        assert request.line == "POST /oauth2/token?x=y"
        assert request.headers["content-type"] == kind
        assert request.headers["content-length"] == str(len(body))


async def test_an_empty_post_is_a_post(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        await send(world, "POST", "/token")
        assert world.registry.requests[0].headers["content-length"] == "0"


async def test_a_post_that_is_too_large_is_a_413(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        reply = await send(world, "POST", "/token", b"x" * (MOST_BODY + 1))
        assert reply.status == 413
        assert b"SIZE_INVALID" in reply.body
        assert not world.registry.requests
        await send(world, "POST", "/token", b"x" * MOST_BODY)
        assert world.registry.requests[0].headers["content-length"] == str(MOST_BODY)


# -- writes


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize(
    "path",
    [
        "/v2/team/app/blobs/uploads/",
        "/v2/team/app/manifests/1",
        "/v2/team/app/blobs/sha256:" + "0" * 64,
        "/v2/",
        "/v2",
        "//v2/team/app/blobs/uploads/",
        "/./v2/team/app/blobs/uploads/",
        "/x/../v2/team/app/blobs/uploads/",
        "/%76%32/team/app/blobs/uploads/",
        "/x/%2e%2e/v2/team/app/blobs/uploads/",
    ],
)
async def test_writes_are_refused_here(tmp_path: Path, method: str, path: str) -> None:
    async with running(tmp_path) as world:
        reply = await send(world, method, path, b"" if method == "TRACE" else b"content")
        assert reply.status == 405
        assert reply.headers["allow"] == "GET, HEAD"
        (error,) = json.loads(reply.body)["errors"]
        assert error["code"] == "UNSUPPORTED"
        assert "read-only" in error["message"]
        assert not world.registry.requests


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_outside_the_api_only_post_is_passed_on(tmp_path: Path, method: str) -> None:
    async with running(tmp_path) as world:
        assert (await send(world, method, "/token")).status == 405
        assert not world.registry.requests


@pytest.mark.parametrize(
    "target",
    [
        b"/v\xff2/team/app/blobs/uploads/",
        b"/\xffv2/team/app/blobs/uploads/",
        b"/v\x002/",
        b"/v2\x7f/",
        b"/\x01v2/",
    ],
)
async def test_a_write_does_not_get_past_with_a_byte_that_would_be_dropped(
    tmp_path: Path, target: bytes
) -> None:
    async with running(tmp_path) as world:
        download = Download(world, "/x", "Content-Length: 1", method="POST")
        download._request = download._request.replace(b"/x", target, 1) + b"y"
        await download.begin()
        assert 400 <= download.status < 500
        assert not world.registry.requests


async def test_a_connection_goes_on_after_a_refused_write(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        client = world.client()
        assert (
            await deferToThread(client.ask, "PUT", "/v2/team/app/manifests/1", {}, b"x" * 100_000)
        ).status == 405
        assert (await client.get("/v2/")).status == 200


# -- whose connection it is


@pytest.mark.parametrize("host", ["evil.test", "registry.test.evil.test", "127.0.0.2", "[::1", "a b"])
async def test_another_host_is_not_answered_for(tmp_path: Path, host: str) -> None:
    async with running(tmp_path) as world:
        download = Download(world, "/v2/")
        download._request = download._request.replace(b"Host: registry.test", b"Host: " + host.encode())
        await download.begin()
        assert download.status in (400, 421)
        assert not world.registry.requests


@pytest.mark.parametrize(
    "host", ["registry.test", "Registry.TEST", "registry.test:443", "registry.test:8443"]
)
async def test_the_registry_by_any_spelling_of_its_name(tmp_path: Path, host: str) -> None:
    async with running(tmp_path) as world:
        download = Download(world, "/v2/")
        download._request = download._request.replace(b"Host: registry.test", b"Host: " + host.encode())
        await download.begin()
        assert download.status == 200


@pytest.mark.parametrize("uri", ["http://evil.test/v2/", "*", "evil.test:443"])
async def test_only_paths_are_answered_inside_an_intercepted_connection(tmp_path: Path, uri: str) -> None:
    async with running(tmp_path) as world:
        assert (await Download(world, uri).begin()).status in (400, 421)
        assert not world.registry.requests


@pytest.mark.parametrize(
    "line",
    [
        "X-Bad: a\x01b",
        "X-Bad: a\x7fb",
        "Authorization: Basic \xff\xfe",
        "Range: bytes=\xff",
        "Accept: \xe9",
        "If-None-Match: \xff",
        "Authorization: " + "x" * 8000,
    ],
)
@pytest.mark.parametrize("path", ["/v2/", "/v2/team/app/manifests/1", "/v2/team/app/blobs/{digest}"])
async def test_odd_bytes_in_a_clients_headers_are_no_reason_for_a_traceback(
    tmp_path: Path, line: str, path: str
) -> None:
    """Passed on, ignored or refused, but nothing of ours breaks."""
    async with running(tmp_path) as world:
        image = world.registry.add_image("team/app", "1", [b"layer"])
        path = path.format(digest=image.layers[0])
        # 404 is FakeRegistry's answer to an Accept that admits no manifest
        assert (await Download(world, path, line).begin()).status in (200, 400, 404)
        assert (await world.client().get(path)).status == 200
