"""What a registry can do wrong when it is asked for a tag, and what clients get then: the whole table."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from attrs import frozen

from regcachd.testing import (
    OCI_MANIFEST,
    CloseAtAccept,
    CutAfter,
    ExtraHeaders,
    GarbageResponse,
    Image,
    StallBeforeHeaders,
    Status,
    WrongBytes,
    WrongDigestHeader,
    WrongLength,
)
from regcachd.testing.faults import Fault
from tests.test_registry import Wall
from tests.through import limits, logged, running
from tests.world import Reply, World

TAG = "/v2/team/app/manifests/1"
AGO = 100
"""Seconds since the copy came: by then it is to be revalidated."""
IN_NEED = "regcachd; fwd=stale"


@frozen
class Got:
    """What a client gets: `says` is a part of the body, `told` of the line that is logged, if one is."""

    status: int
    says: bytes = b""
    told: str = ""


OK, STALE, GONE, NO = Got(200), Got(200, told="is served as it was 100 s ago"), Got(404), Got(401)
"""STALE is the copy, with `Cache-Status: fwd=stale` and its age."""
TOO_LARGE = Got(502, b"is too large: 2000 bytes, more than 1024 (limits.manifest_size)")
BAD_DIGEST = Got(502, b"registry.test sent a manifest with a bad digest")
OTHER_DIGEST = Got(502, b"bytes do not have the digest sha256:", "upstream sent wrong bytes for the manifest")

Step = Callable[[World], Awaitable[None]] | Fault


@frozen
class Case:
    """Something that goes wrong: what GET and HEAD get then, without and with a copy that came AGO."""

    id: str
    steps: tuple[Step, ...]
    get: Got
    head: Got
    get_copy: Got = STALE
    head_copy: Got = STALE
    saw: tuple[str, ...] = ("HEAD",)
    """What upstream is asked for a GET with a copy. For all else it is asked what the client asks."""
    is_heard: bool = True
    """Does it hear what it is asked?"""


async def stop(world: World) -> None:
    """Nobody listens there any more."""
    await world.registry.stop()


async def restart(world: World) -> None:
    """Connections that were kept are gone."""
    await world.registry.stop()
    await world.registry.start()


def moved(data: bytes) -> Step:
    """The tag names something else now."""

    async def move(world: World) -> None:
        world.registry.add_manifest("team/app", "1", data)

    return move


BOTH = ("HEAD", "GET")
MOVED = moved(b'{"moved": true}')
SHORT_DIGEST = ExtraHeaders({"Docker-Content-Digest": "sha256:short"})
LATE = Got(504, b"registry.test did not answer for 0.2 s")
REFUSED = Got(502, b"registry.test cannot be reached: Connection was refused")
CLOSED = Got(502, b"registry.test closed the connection too early")
NOT_HTTP = Got(502, b"registry.test answered with something that is not HTTP")
CASES = [
    # upstream fails: the copy will do
    Case("429", (Status(429, {"Retry-After": "7"}),), Got(429), Got(429)),
    Case("500", (Status(500),), Got(500), Got(500)),
    Case("502", (Status(502),), Got(502), Got(502)),
    Case("503", (Status(503, {"Retry-After": "7"}),), Got(503), Got(503)),
    Case("no answer", (StallBeforeHeaders(),), LATE, LATE),
    Case("refused", (stop,), REFUSED, REFUSED, is_heard=False),
    Case("closed at once", (restart, CloseAtAccept()), CLOSED, CLOSED, is_heard=False),
    Case("not HTTP", (GarbageResponse(),), NOT_HTTP, NOT_HTTP),
    Case("breaks off", (MOVED, CutAfter(5)), CLOSED, OK, STALE, OK, BOTH),
    Case("ends early", (MOVED, WrongLength(5)), CLOSED, OK, STALE, OK, BOTH),
    # upstream answers, and wrongly: nothing older will do, and what its HEAD says nobody can check
    Case("other digest", (MOVED, WrongDigestHeader()), OTHER_DIGEST, OK, OTHER_DIGEST, OK, BOTH),
    Case("other bytes", (MOVED, WrongBytes(3)), OTHER_DIGEST, OK, OTHER_DIGEST, OK, BOTH),
    Case("no digest", (MOVED, SHORT_DIGEST), BAD_DIGEST, OK, BAD_DIGEST, OK, BOTH),
    Case("too large", (moved(b"x" * 2000),), TOO_LARGE, OK, TOO_LARGE, OK, BOTH),
    # the same, but the copy is still right, and upstream's 304 says so
    Case("other digest, 304", (WrongDigestHeader(),), OTHER_DIGEST, OK, OK, OK, BOTH),
    Case("no digest, 304", (SHORT_DIGEST,), BAD_DIGEST, OK, OK, OK, BOTH),
    # upstream answers, and that counts
    Case("not JSON", (moved(b"\x00\xff no JSON"),), OK, OK, OK, OK, BOTH),
    Case("empty", (moved(b""),), OK, OK, OK, OK, BOTH),
    Case("gone", (Status(404),), GONE, GONE, GONE, GONE, BOTH),
    Case("refusal", (Status(401, {"WWW-Authenticate": "Basic"}),), NO, NO, NO, NO, BOTH),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("has_copy", [True, False], ids=["copy", "no copy"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_a_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, has_copy: bool, method: str
) -> None:
    wall = Wall(monkeypatch)
    lines = 'timeout = "200ms"'
    async with running(tmp_path, settings=lines, tables=limits(manifest_size="1KiB")) as world:
        registry = world.registry
        image = registry.add_image("team/app", "1", [b"layer"])
        if has_copy:
            await world.client().get(TAG)
        before = world.stored()
        wall.time += AGO
        for step in case.steps:
            if callable(step):
                await step(world)
            else:
                registry.fault("/v2/", step)
        registry.requests.clear()
        with logged() as told:
            reply = await world.client().do(method, TAG)

        if method == "GET":
            expected = case.get_copy if has_copy else case.get
        else:
            expected = case.head_copy if has_copy else case.head
        assert reply.status == expected.status
        assert method == "HEAD" or expected.says in reply.body
        assert len(told) == bool(expected.told), told
        assert expected.told in "".join(told)
        saw = case.saw if has_copy and method == "GET" else (method,)
        assert [each.line for each in registry.requests] == [f"{each} {TAG}" for each in saw * case.is_heard]
        assert world.stored() == before or (expected, method) == (OK, "GET")
        if expected is STALE:
            check_copy(reply, image, method)
        else:
            assert reply.headers.get("cache-status") != IN_NEED
            assert reply.headers.get("age", "0") == "0"
        registry.heal()
        registry.release()


def check_copy(reply: Reply, image: Image, method: str) -> None:
    """It is the copy, and says so."""
    assert (reply.headers["cache-status"], reply.headers["age"]) == (IN_NEED, str(AGO))
    assert reply.headers["docker-content-digest"] == str(image.manifest)
    assert reply.headers["content-type"] == OCI_MANIFEST
    assert reply.headers["content-length"] == str(len(image.data))
    assert reply.body == (image.data if method == "GET" else b"")
