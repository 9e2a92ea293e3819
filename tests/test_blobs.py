"""The blob endpoint: what is answered from the store, what upstream is asked, and what passes through."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.testing import (
    CutAfter,
    ExtraHeaders,
    FakeRegistry,
    NoContentLength,
    RedirectTo,
    StallBeforeHeaders,
    Status,
)
from tests.through import Download, blob_path, logged, questions, running, start, together
from tests.world import World, until

reactor: Any = _reactor

DATA = random.Random(5).randbytes(200_000)
SIZE = len(DATA)


async def stored(world: World, data: bytes = DATA) -> Any:
    """A blob that is in the store, and whose repository this client's missing credential may read."""
    digest = world.registry.add_blob("team/app", data)
    await world.client().get(blob_path(digest))
    await until(lambda: digest.hex in world.stored())
    world.registry.requests.clear()
    return digest


# -- HEAD


@pytest.mark.parametrize("fault", [None, NoContentLength()])
async def test_head_of_what_we_do_not_have_asks_upstream_and_downloads_nothing(
    tmp_path: Path, fault: Any
) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        if fault:
            world.registry.fault(digest, fault)
        reply = await world.client().do("HEAD", blob_path(digest))
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers.get("content-length") == (None if fault else str(SIZE))
        assert reply.headers["docker-content-digest"] == str(digest)
        assert reply.headers["cache-status"] == "regcachd; fwd=uri-miss"
        assert [request.method for request in questions(world)] == ["HEAD"]
        assert world.stored() == world.partials() == []


async def test_head_of_what_upstream_does_not_have_is_a_404(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.registry.add_blob("team/app", b"other")
        digest = "sha256:" + "0" * 64
        client = world.client()
        assert (await client.do("HEAD", f"/v2/team/app/blobs/{digest}")).status == 404
        assert (await client.get("/v2/")).status == 200  # and the connection goes on


async def test_head_of_what_we_have_is_answered_from_the_store(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        reply = await world.client().do("HEAD", blob_path(digest), Range="bytes=0-9")
        assert (reply.status, reply.headers["content-length"]) == (200, str(SIZE))
        assert reply.headers["cache-status"] == "regcachd; hit"
        assert "content-range" not in reply.headers
        assert not world.registry.requests


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_head_of_a_redirected_blob_is_asked_with_a_get_since_signatures_are_for_get(
    tmp_path: Path, elsewhere: bool
) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        storage = FakeRegistry(reactor)
        await storage.start()
        world.registry.fault(digest, RedirectTo(storage if elsewhere else None))
        reply = await world.client().do("HEAD", blob_path(digest))
        assert (reply.status, reply.headers["content-length"], reply.body) == (200, str(SIZE), b"")
        assert world.stored() == world.partials() == []
        assert (await world.client().do("HEAD", blob_path(digest))).status == 200
        await storage.stop()


# -- a stored blob


@pytest.mark.parametrize(
    ("wanted", "status", "start_", "stop"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=0-", 206, 0, SIZE),
        ("bytes=100-199", 206, 100, 200),
        (f"bytes={SIZE - 1}-", 206, SIZE - 1, SIZE),
        (f"bytes=199990-{10 * SIZE}", 206, 199_990, SIZE),
        ("bytes=-5", 206, SIZE - 5, SIZE),
        (f"bytes=-{10 * SIZE}", 206, 0, SIZE),
        ("bytes=0-1,5-6", 200, 0, SIZE),
        ("bytes=5-4", 200, 0, SIZE),
        ("lines=1-2", 200, 0, SIZE),
        ("bytes=a-b", 200, 0, SIZE),
    ],
)
async def test_ranges(tmp_path: Path, wanted: str, status: int, start_: int, stop: int) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        reply = await world.client().get(blob_path(digest), Range=wanted)
        assert (reply.status, reply.body) == (status, DATA[start_:stop])
        assert reply.headers["accept-ranges"] == "bytes"
        assert reply.headers["content-length"] == str(stop - start_)
        expected = f"bytes {start_}-{stop - 1}/{SIZE}" if status == 206 else None
        assert reply.headers.get("content-range") == expected
        assert not world.registry.requests


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={10 * SIZE}-", "bytes=-0"])
async def test_a_range_past_the_end_is_a_416_with_the_size(tmp_path: Path, wanted: str) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        client = world.client()
        reply = await client.get(blob_path(digest), Range=wanted)
        assert reply.status == 416
        assert reply.headers["content-range"] == f"bytes */{SIZE}"
        assert b"RANGE_INVALID" in reply.body
        assert (await client.get(blob_path(digest))).body == DATA


@pytest.mark.parametrize(
    ("condition", "status"),
    [('"{digest}"', 206), ('"other"', 200), ('W/"{digest}"', 200), ("Mon, 23 Nov 2026 21:33:31 GMT", 200)],
)
async def test_if_range(tmp_path: Path, condition: str, status: int) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        condition = condition.format(digest=digest)
        reply = await world.client().get(blob_path(digest), Range="bytes=0-9", If_Range=condition)
        assert reply.status == status
        assert reply.body == (DATA[:10] if status == 206 else DATA)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("condition", "status"), [('"{digest}"', 304), ('"a", W/"{digest}"', 304), ("*", 304), ('"a"', 200)]
)
async def test_if_none_match(tmp_path: Path, method: str, condition: str, status: int) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        client = world.client()
        condition = condition.format(digest=digest)
        reply = await client.do(method, blob_path(digest), If_None_Match=condition, Range="bytes=0-9")
        if status == 304:
            assert (reply.status, reply.body) == (304, b"")
            assert reply.headers["etag"] == f'"{digest}"'
            assert "content-length" not in reply.headers
        else:
            assert reply.status == (206 if method == "GET" else 200)
        assert (await client.get(blob_path(digest))).body == DATA


async def test_a_percent_encoded_digest_is_the_same_digest(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        reply = await world.client().get(blob_path(digest).replace(":", "%3A"))
        assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit")
        digest = world.registry.add_blob("team/app", b"fresh")
        assert (await world.client().get(blob_path(digest).replace(":", "%3a"))).body == b"fresh"
        assert world.registry.requests[-1].path == blob_path(digest)


async def test_one_blob_of_two_repositories_is_stored_once(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        world.registry.add_blob("team/other", DATA)
        reply = await world.client().get(blob_path(digest, "team/other"))
        assert reply.body == DATA
        assert [request.line for request in questions(world)] == [f"HEAD {blob_path(digest, 'team/other')}"]
        assert world.stored() == [digest.hex]


async def test_many_requests_on_one_connection(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        client = world.client()
        for _ in range(5):
            assert (await client.get(blob_path(digest))).body == DATA
            assert (await client.do("HEAD", blob_path(digest))).status == 200
            assert (await client.get(blob_path(digest), Range="bytes=-3")).body == DATA[-3:]
        assert world.service.door.connections == 2


async def test_a_restart_keeps_what_is_stored_and_what_upstream_has_said(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        await world.service.stopService()
        world.start_daemon()
        reply = await world.client().get(blob_path(digest))
        assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit")
        assert not world.registry.requests


@pytest.mark.parametrize("damage", ["lost", "text"])
async def test_a_lost_index_costs_a_question_and_no_download(tmp_path: Path, damage: str) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        await world.service.stopService()
        for path in (tmp_path / "store").glob("index.sqlite3*"):
            path.unlink()
        with logged() as lines:
            if damage == "text":
                (tmp_path / "store/index.sqlite3").write_text("no database " * 100)
            world.start_daemon()
        assert len(lines) == (damage == "text")
        reply = await world.client().get(blob_path(digest))
        assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit")
        assert [request.method for request in questions(world)] == ["HEAD"]


async def test_a_store_that_cannot_be_read_is_a_reason_to_ask_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as world:
        digest = await stored(world)
        path, real = str(tmp_path / "store/blobs"), os.open

        def fail(name: Any, *rest: Any, **how: Any) -> int:
            if str(name).startswith(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(name, *rest, **how)

        with logged() as lines, monkeypatch.context() as patched:
            patched.setattr(os, "open", fail)
            reply = await world.client().get(blob_path(digest))
            await until(lambda: len(lines) > 0)
        assert (reply.status, reply.body, reply.broken) == (200, DATA, False)
        assert "Input/output error" in lines[0]


async def test_a_blob_that_the_disk_cut_short_is_never_a_whole_one(tmp_path: Path) -> None:
    """The file shrinks while it is being sent: the response is cut, not ended."""
    async with running(tmp_path) as world:
        data = random.Random(6).randbytes(20_000_000)
        digest = await stored(world, data)
        download = await Download(world, blob_path(digest), buffer=65536).begin()
        path = tmp_path / "store/blobs/sha256" / digest.hex[:2] / digest.hex
        os.truncate(path, 15_000_000)
        with logged() as lines:
            await download.rest()
            await until(lambda: len(lines) > 0)
        assert not download.whole
        assert "shorter" in lines[0]


@pytest.mark.parametrize(("code", "result"), [(errno.EIO, "fwd=uri-miss; stored"), (errno.ESTALE, "hit")])
@pytest.mark.parametrize("where", ["cache", "disk"])
async def test_a_blob_on_a_bad_sector_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, result: str, where: str
) -> None:
    """A client that tries again does not meet the same sector. A store that is away as a whole loses nothing."""

    def fail(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    def cold(*_: Any) -> int:
        raise BlockingIOError(errno.EAGAIN, "not in the page cache")

    async with running(tmp_path) as world:
        digest = await stored(world)
        with logged() as lines, monkeypatch.context() as patched:
            patched.setattr(os, "preadv", fail if where == "cache" else cold)
            patched.setattr(os, "pread", fail)
            assert (await world.client().get(blob_path(digest))).broken
            await until(lambda: os.strerror(code) in "".join(lines))
        assert world.service._index.totals()[0] == len(world.stored()) == (code != errno.EIO)
        reply = await world.client().get(blob_path(digest))
        assert (reply.body, reply.headers["cache-status"]) == (DATA, f"regcachd; {result}")


# -- what upstream answers


@pytest.mark.parametrize("code", [400, 401, 403, 404, 416, 429, 500, 502, 503])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_upstreams_no_goes_to_the_client_as_it_is(tmp_path: Path, code: int, method: str) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        headers = {"Retry-After": "7", "WWW-Authenticate": 'Bearer  realm="x"', "Content-Type": "text/odd"}
        world.registry.fault(digest, Status(code, headers, b"upstream's words"))
        reply = await world.client().do(method, blob_path(digest))
        assert (reply.status, reply.body) == (code, b"upstream's words" if method == "GET" else b"")
        assert reply.headers["retry-after"] == "7"
        assert reply.headers["www-authenticate"] == 'Bearer  realm="x"'
        assert reply.headers["content-type"] == "text/odd"
        assert world.stored() == world.partials() == []
        world.registry.heal()
        assert (await world.client().get(blob_path(digest))).body == DATA


@pytest.mark.parametrize("body", [b"x" * 1_000_000, b"x" * 65_537])
async def test_of_an_enormous_error_only_the_status_and_the_headers_are_passed_on(
    tmp_path: Path, body: bytes
) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, Status(500, {"X-Why": "y"}, body))
        reply = await world.client().get(blob_path(digest))
        assert (reply.status, reply.body, reply.broken) == (500, b"", False)
        assert reply.headers["x-why"] == "y"


async def test_an_error_that_breaks_off_is_an_error_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, Status(500, {}, b"x" * 1000), CutAfter(10))
        assert (await world.client().get(blob_path(digest))).status == 500


async def test_what_upstream_has_encoded_is_passed_on_as_it_is_and_not_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, ExtraHeaders({"Content-Encoding": "gzip"}))
        replies = await together(*(start(world.client(), blob_path(digest)) for _ in range(3)))
        for reply in replies:
            assert (reply.status, reply.body) == (200, DATA)
            assert reply.headers["content-encoding"] == "gzip"
        assert world.stored() == []
        assert {request.headers["accept-encoding"] for request in world.registry.requests} == {"identity"}


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_redirected_blobs_are_stored_under_their_digest(tmp_path: Path, elsewhere: bool) -> None:
    async with running(tmp_path) as world:
        storage = FakeRegistry(reactor)
        await storage.start()
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, RedirectTo(storage if elsewhere else None))
        for _ in range(2):
            assert (await world.client().get(blob_path(digest))).body == DATA
            await until(lambda: world.stored() == [digest.hex])
        assert world.registry.requests.count("GET", "/blobs/") == 1
        await storage.stop()


async def test_storage_that_refuses_is_what_the_client_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        storage = FakeRegistry(reactor)
        await storage.start()
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, RedirectTo(storage))
        storage.fault("/storage/", Status(403, {}, b"<Code>Expired</Code>"))
        reply = await world.client().get(blob_path(digest))
        assert (reply.status, reply.body) == (403, b"<Code>Expired</Code>")
        assert world.stored() == []
        await storage.stop()


async def test_an_upstream_that_is_away_is_a_502_in_words(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        await world.registry.stop()
        reply = await world.client().get(blob_path(digest))
        assert reply.status == 502
        assert b"registry.test cannot be reached" in reply.body
        await world.registry.start()
        assert (await world.client().get(blob_path(digest))).body == DATA


async def test_an_upstream_that_does_not_answer_is_a_504_for_all_who_wait(tmp_path: Path) -> None:
    async with running(tmp_path, settings='timeout = "400ms"') as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, StallBeforeHeaders(), times=1)
        replies = await together(*(start(world.client(), blob_path(digest)) for _ in range(3)))
        assert {reply.status for reply in replies} <= {504, 200}
        assert b"did not answer for 0.4 s" in next(reply.body for reply in replies if reply.status == 504)
        assert (await world.client().get(blob_path(digest))).body == DATA


async def test_upstream_is_asked_with_what_matters_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        digest = world.registry.add_blob("team/app", DATA)
        await world.client().get(
            blob_path(digest),
            Authorization="Bearer abc",
            Cookie="a=b",
            Range="bytes=0-5",
            If_None_Match='"x"',
            User_Agent="containerd/2",
            Accept="application/json",
            X_Odd="y",
        )
        headers = world.registry.requests[0].headers
        assert headers["authorization"] == "Bearer abc"
        assert headers["user-agent"] == "containerd/2"
        assert headers["via"] == "1.1 regcachd"
        assert not {"cookie", "range", "if-none-match", "x-odd", "accept"} & set(headers)
