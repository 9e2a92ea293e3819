"""What links a repository and a digest, and what is public, where registries lie or are away."""

from http.client import RemoteDisconnected
from pathlib import Path

import pytest
from twisted.logger import LogLevel

from regcachd.reference import Repository
from regcachd.testing import FakeRegistry, NoContentLength, RedirectTo, Status
from regcachd.testing.message import Body
from tests.test_registry import ATTACKER, DATA, OWN, PRIVATE, VICTIM, Wall, private_registry, pulled
from tests.through import basic, blob_path, logged, questions, running, start, together
from tests.world import NAME, Reply, World, reactor, until


def linked(world: World, repository: str, digest: object) -> bool:
    return world.service._index.linked(Repository(NAME, repository), digest)  # type: ignore[arg-type]


async def ask(world: World, method: str, path: str, authorization: str) -> Reply:
    """A request; one whose connection was cut at its head has an empty reply."""
    try:
        return await world.client().do(method, path, Authorization=authorization)
    except RemoteDisconnected:
        return Reply(0, {}, b"", broken=True)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("size", [0, 1, len(DATA) - 1, len(DATA) + 1])
async def test_a_yes_with_another_size_is_no_yes_to_what_is_stored(
    tmp_path: Path, method: str, size: int
) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        world.registry.blobs[OWN][digest] = Body.of(bytes(size))
        with logged() as lines:
            reply = await ask(world, method, blob_path(digest, OWN), ATTACKER)
        assert DATA[:100] not in reply.body
        assert reply.headers.get("content-length") != str(len(DATA))
        assert not linked(world, OWN, digest)
        assert any("yes" in line and OWN in line for line in lines)
        # and it is no proof either, for what is linked there
        world.registry.blobs[OWN][digest] = Body.of(DATA)
        world.registry.private(OWN, set())
        reply = await world.client().do(method, blob_path(digest, OWN), Authorization=ATTACKER)
        assert reply.status == 403


async def test_a_yes_to_what_is_not_stored_yet_makes_no_link(tmp_path: Path) -> None:
    """There is nothing it could be compared with; and later it could be a stranger's."""
    async with running(tmp_path, private_registry()) as world:
        registry = world.registry
        digest = registry.add_blob(OWN, DATA)
        for kind in ("blobs", "manifests"):
            await world.client().do("HEAD", f"/v2/{OWN}/{kind}/{digest}", Authorization=ATTACKER)
        del registry.blobs[OWN][digest]
        await pulled(world)
        reply = await world.client().get(blob_path(digest, OWN), Authorization=ATTACKER)
        assert reply.status == 404


async def test_a_download_with_the_wrong_bytes_leaves_no_link(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        registry = world.registry
        digest = registry.add_blob(PRIVATE, DATA)
        registry.blobs[OWN][digest] = Body.of(bytes(len(DATA)))
        with logged(LogLevel.critical):
            reply = await world.client().get(blob_path(digest, OWN), Authorization=ATTACKER)
        assert reply.broken
        await until(lambda: digest not in world.service.fills._entries)
        assert not linked(world, OWN, digest)
        del registry.blobs[OWN][digest]
        await pulled(world)
        reply = await world.client().get(blob_path(digest, OWN), Authorization=ATTACKER)
        assert reply.status == 404


async def test_a_right_download_leaves_its_link(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        assert linked(world, PRIVATE, digest)
        assert not linked(world, OWN, digest)


async def test_a_log_in_page_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that shows a page with 200 to those who have logged out."""
    wall = Wall(monkeypatch)
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        page = Status(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Log in, please</html>")
        world.registry.fault(f"/v2/{PRIVATE}/", page)
        wall.time += 300
        for path in (blob_path(digest, PRIVATE), f"/v2/{PRIVATE}/manifests/1", blob_path(digest, PRIVATE)):
            for method in ("HEAD", "GET"):
                reply = await ask(world, method, path, VICTIM)
                assert DATA[:100] not in reply.body
                assert "hit" not in reply.headers.get("cache-status", "")
        assert world.stored() == [digest.hex]


async def test_a_yes_without_a_size_lets_upstream_serve(tmp_path: Path) -> None:
    """Its bytes have the digest; then that is as good as any other yes."""
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        world.registry.add_blob(OWN, DATA)
        rule = world.registry.fault(digest, NoContentLength())
        reply = await world.client().get(blob_path(digest, OWN), Authorization=ATTACKER)
        assert (reply.status, reply.body, reply.broken) == (200, DATA, False)
        world.registry.heal(rule)
        world.registry.requests.clear()
        reply = await world.client().get(blob_path(digest, OWN), Authorization=ATTACKER)
        assert reply.headers["cache-status"] == "regcachd; hit"


async def test_head_of_a_redirected_blob_names_its_digest(tmp_path: Path) -> None:
    storage = FakeRegistry(reactor)
    await storage.start()
    async with running(tmp_path, private_registry()) as world:
        digest = world.registry.add_blob(PRIVATE, DATA)
        world.registry.fault("/blobs/", RedirectTo(storage))
        reply = await world.client().do("HEAD", blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert (reply.status, reply.headers["content-length"]) == (200, str(len(DATA)))
        assert reply.headers["docker-content-digest"] == str(digest)
    await storage.stop()


# -- what is public


async def test_that_it_is_public_is_asked_once_for_a_crowd_with_credentials_of_their_own(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as world:
        digest = await pulled(world)
        crowd = [basic(f"node{number}", "x") for number in range(20)]
        asked = [start(world.client(), blob_path(digest, PRIVATE), Authorization=one) for one in crowd]
        assert {(reply.status, reply.body) for reply in await together(*asked)} == {(200, DATA)}
        assert [(request.method, request.authorization) for request in questions(world)] == [("HEAD", None)]


async def test_what_is_public_is_served_to_all_while_upstream_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path) as world:
        digest = await pulled(world)
        path, client = blob_path(digest, PRIVATE), world.client()
        assert (await client.get(path)).status == 200
        await world.registry.stop()
        wall.time += 20 * 86400
        for headers in ({}, {"Authorization": ATTACKER}):
            reply = await client.get(path, **headers)
            assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit; detail=offline")
        wall.time += 10 * 86400
        assert (await client.get(path)).status == 502


async def test_what_has_become_private_is_private_within_public_ttl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, FakeRegistry(reactor, auth="none", users={"victim": "secret"})) as world:
        digest = await pulled(world)
        path, client = blob_path(digest, PRIVATE), world.client()
        assert (await client.get(path)).status == 200
        world.registry.access.auth = "basic"
        world.registry.private(PRIVATE, {"victim"})
        wall.time += 3600
        assert (await client.get(path)).status == 401
        await world.registry.stop()
        assert (await client.get(path)).status == 502  # upstream has said no since it said yes
