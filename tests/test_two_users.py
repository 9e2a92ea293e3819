"""Two users, two private repositories, one layer in both: each pulls its own, and nobody anything else."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet import reactor as _reactor

from regcachd.reference import Digest
from regcachd.testing import FakeRegistry, Image, Status
from tests.test_registry import Wall
from tests.through import basic, blob_path, running
from tests.world import Client, Reply, World, until

reactor: Any = _reactor

COMMON = random.Random(31).randbytes(60_000)
"""The layer that both images have."""
OWN = {user: random.Random(user).randbytes(40_000) for user in ("alice", "bob")}
USERS = {"alice": "secret", "bob": "secret"}
SCRATCH = "bob/scratch"
"""Where bob may push, to a registry that does not look at what a manifest names."""
AUTHS = pytest.mark.parametrize("auth", ["basic", "token"])


@define
class Place:
    """A daemon, and a registry where alice reads alice/app, and bob reads bob/app and bob/scratch."""

    world: World
    auth: str
    images: dict[str, Image]
    _tokens: dict[tuple[str, str], str] = field(factory=dict)

    async def authorization(self, user: str, repository: str) -> str:
        """What this user's client shows for a repository: for a token, what it is given."""
        if self.auth == "basic":
            return basic(user, USERS[user])
        if (user, repository) not in self._tokens:
            path = f"/token?service=fake-registry&scope=repository:{repository}:pull"
            reply = await self.world.client().get(path, Authorization=basic(user, USERS[user]))
            self._tokens[user, repository] = f"Bearer {json.loads(reply.body)['token']}"
        return self._tokens[user, repository]

    async def ask(
        self, user: str | None, repository: str, path: str, method: str = "GET", **headers: str
    ) -> Reply:
        """One request, on a connection of its own."""
        if user is not None:
            headers["Authorization"] = await self.authorization(user, repository)
        client: Client = self.world.client()
        reply = await client.do(method, path, **headers)
        client.close()
        return reply

    async def pull(self, user: str) -> list[Reply]:
        """All of a user's own image."""
        repository, image = f"{user}/app", self.images[user]
        manifests = [f"/v2/{repository}/manifests/{target}" for target in ("1", image.manifest)]
        blobs = [blob_path(digest, repository) for digest in image.layers]
        replies = [await self.ask(user, repository, path) for path in [*manifests, *blobs]]
        await until(lambda: {digest.hex for digest in image.layers} <= set(self.world.stored()))
        return replies


@asynccontextmanager
async def place(directory: Path, auth: Any, settings: str = "") -> AsyncIterator[Place]:
    registry = FakeRegistry(reactor, auth=auth, users=USERS, token_life=1e9)
    images = {user: registry.add_image(f"{user}/app", "1", [COMMON, OWN[user]]) for user in USERS}
    for user in USERS:
        registry.private(f"{user}/app", {user})
    registry.private(SCRATCH, {"bob"})
    registry.add_blob(SCRATCH, b"bob's")
    named = b'{"schemaVersion": 2, "layers": [{"digest": "%b"}]}' % str(images["alice"].layers[1]).encode()
    registry.add_manifest(SCRATCH, "1", named)
    async with running(directory, registry, settings=settings) as world:
        yield Place(world, auth, images)


def is_leak(reply: Reply) -> bool:
    """Has it a byte of anybody's layer, or a word about one?"""
    pieces = [data[at : at + 16] for data in (COMMON, *OWN.values()) for at in range(0, len(data), 4000)]
    return (
        not 400 <= reply.status < 500
        or any(piece in reply.body for piece in pieces)
        or "content-range" in reply.headers
        or reply.headers.get("content-length") in {str(len(data)) for data in (COMMON, *OWN.values())}
    )


def same(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    """All of a reply that does not say what time it is."""
    return reply.status, {name: value for name, value in reply.headers.items() if name != "date"}, reply.body


def ways(repository: str, image: Image) -> list[tuple[str, dict[str, str]]]:
    """All that can be asked of an image in a repository: paths and headers."""
    odd = repository.replace("a", "%61").replace("b", "%62")
    found: list[tuple[str, dict[str, str]]] = [
        (f"/v2/{repository}/manifests/1", {}),
        (f"/v2/{odd}/manifests/1", {}),
        (f"/v2/{repository}/manifests/{image.manifest}", {}),
        (f"/v2/{repository}/manifests/{image.manifest}", {"If-None-Match": f'"{image.manifest}"'}),
        (f"/v2/{repository}/tags/list", {}),
    ]
    for digest in image.layers:
        found += [
            (blob_path(digest, repository), {}),
            (blob_path(digest, repository), {"Range": "bytes=0-9"}),
            (blob_path(digest, repository), {"Range": "bytes=-1"}),
            (blob_path(digest, repository), {"If-None-Match": f'"{digest}"'}),
            (blob_path(digest, repository) + "?a=b", {}),
            (blob_path(digest, repository).replace(":", "%3A"), {}),
            (blob_path(digest, odd), {}),
            (f"/v2/{repository}/manifests/{digest}", {}),
        ]
    return found


# -- what they have


@AUTHS
async def test_each_pulls_its_own_and_the_common_layer_is_downloaded_once(tmp_path: Path, auth: str) -> None:
    async with place(tmp_path, auth) as here:
        for _ in range(2):
            for user in USERS:
                replies = await here.pull(user)
                assert [reply.status for reply in replies] == [200] * 4
                assert [reply.body for reply in replies[2:]] == [COMMON, OWN[user]]
        assert here.world.registry.requests.count("GET", str(here.images["alice"].layers[0])) == 1


# -- what they have not


@AUTHS
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("stranger", ["bob", None])
async def test_a_strangers_refusal_does_not_tell_what_is_stored(
    tmp_path: Path, auth: str, method: str, stranger: str | None
) -> None:
    """Status, headers and body of every refusal are the same before and after the owner's pull; bob has the common
    layer in a repository of his own, too, and has pulled it."""
    async with place(tmp_path, auth) as here:
        asked = ways("alice/app", here.images["alice"])

        async def replies() -> list[Reply]:
            return [await here.ask(stranger, "alice/app", path, method, **extra) for path, extra in asked]

        before = await replies()
        await here.pull("bob")
        with_bobs = await replies()
        await here.pull("alice")
        after = await replies()
        for (path, extra), first, second, third in zip(asked, before, with_bobs, after, strict=True):
            assert not is_leak(first), (path, extra)
            assert same(first) == same(second) == same(third), (path, extra)
        # and whoever asked, the owner is served
        assert (await here.pull("alice"))[-1].headers["cache-status"] == "regcachd; hit"


@AUTHS
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_repository_of_ones_own_is_no_way_to_a_strangers_layer(
    tmp_path: Path, auth: str, method: str
) -> None:
    """Neither by the digest, nor as a mount would name it, nor by a manifest that was pushed there to name it."""
    async with place(tmp_path, auth) as here:
        layer = here.images["alice"].layers[1]
        asked = [
            *[(path, extra) for path, extra in ways(SCRATCH, here.images["alice"]) if "/blobs/" in path],
            (f"/v2/{SCRATCH}/blobs/{layer}?mount={layer}&from=alice/app", {}),
            (f"/v2/{SCRATCH}/blobs/uploads/?mount={layer}&from=alice/app", {}),
            (f"/v2/{SCRATCH}/manifests/{layer}", {}),
            (f"/v2/{SCRATCH}/manifests/{here.images['alice'].manifest}", {}),
        ]

        async def replies() -> list[Reply]:
            manifest = await here.ask("bob", SCRATCH, f"/v2/{SCRATCH}/manifests/1")
            assert str(layer).encode() in manifest.body
            return [await here.ask("bob", SCRATCH, path, method, **extra) for path, extra in asked]

        before = await replies()
        await here.pull("alice")
        after = await replies()
        for (path, extra), first, second in zip(asked, before, after, strict=True):
            assert not is_leak(second), (path, extra)
            assert same(first) == same(second), (path, extra)


@AUTHS
async def test_a_mount_is_upstreams_to_judge(tmp_path: Path, auth: str) -> None:
    """It reaches upstream with the credential of whoever asks for it, and links nothing here."""
    async with place(tmp_path, auth, "allow_push = true") as here:
        await here.pull("alice")
        layer = here.images["alice"].layers[1]
        path = f"/v2/{SCRATCH}/blobs/uploads/?mount={layer}&from=alice/app"
        here.world.registry.fault("POST", Status(201, {"Location": blob_path(layer, SCRATCH)}))
        assert (await here.ask("bob", SCRATCH, path, "POST")).status == 201
        asked = here.world.registry.requests[-1]
        assert asked.authorization == await here.authorization("bob", SCRATCH)
        for method in ("GET", "HEAD"):
            assert is_leak(await here.ask("bob", SCRATCH, blob_path(layer, SCRATCH), method)) is False


# -- who has had it


@AUTHS
async def test_who_has_lost_the_right_is_served_for_access_ttl_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: str
) -> None:
    """Logged out, expired, or no reader any more: upstream's no is heard when the last yes is too old."""
    wall = Wall(monkeypatch)
    async with place(tmp_path, auth) as here:
        await here.pull("alice")
        registry, path = here.world.registry, blob_path(here.images["alice"].layers[1], "alice/app")
        registry.expire_tokens()
        registry.access.users["alice"] = "another"
        wall.time += 299
        assert (await here.ask("alice", "alice/app", path)).body == OWN["alice"]
        wall.time += 1
        for headers in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": '"*"'}):
            reply = await here.ask("alice", "alice/app", path, **headers)
            assert (reply.status, is_leak(reply)) == (401, False)
        # and the no is remembered, should upstream go away now
        await registry.stop()
        assert (await here.ask("alice", "alice/app", path)).status == 502


@AUTHS
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("way", ["down", "500", "503"])
async def test_while_upstream_is_away_the_last_yes_counts_for_offline_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: str, way: str, restart: bool
) -> None:
    """And only for the one who got it; over restarts, too."""
    wall = Wall(monkeypatch)
    async with place(tmp_path, auth, 'offline_grace = "1h"') as here:
        for user in USERS:
            await here.pull(user)
        wall.time += 1000
        image, registry = here.images["alice"], here.world.registry
        if way == "down":
            await registry.stop()
        else:
            registry.fault("/v2/", Status(int(way)))
        if restart:
            await here.world.restart_daemon()
        for path in (
            blob_path(image.layers[1], "alice/app"),
            blob_path(image.layers[0], "alice/app"),
            f"/v2/alice/app/manifests/{image.manifest}",
        ):
            reply = await here.ask("alice", "alice/app", path)
            assert (reply.status, reply.headers["cache-status"]) == (200, "regcachd; hit; detail=offline")
        common = blob_path(image.layers[0], "alice/app")
        stranger = "Bearer made-up" if auth == "token" else basic("bob", "secret")
        for headers in ({"Authorization": stranger}, {}):
            assert what_is_served(await here.world.client().get(common, **headers)) is None
        wall.time += 2600
        assert what_is_served(await here.ask("alice", "alice/app", common)) is None


def what_is_served(reply: Reply) -> bytes | None:
    """What of the layers is served; None for an error of upstream's kind."""
    if reply.status in (500, 502, 503, 504):
        assert COMMON[:16] not in reply.body
        return None
    return reply.body


@AUTHS
@pytest.mark.parametrize(("code", "served"), [(429, False), (500, True), (503, True)])
async def test_an_owners_old_yes_when_upstream_answers_a_probe_with_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: str, code: int, served: bool
) -> None:
    """429 comes from an upstream that can be asked, and that the owner could make busy; 5xx from one that cannot."""
    wall = Wall(monkeypatch)
    async with place(tmp_path, auth) as here:
        await here.pull("alice")
        wall.time += 301
        path = blob_path(here.images["alice"].layers[1], "alice/app")
        rule = here.world.registry.fault("/blobs/", Status(code, {"Retry-After": "7"}))
        reply = await here.ask("alice", "alice/app", path)
        assert (reply.status, reply.body == OWN["alice"]) == ((200, True) if served else (code, False))
        stranger = await here.ask("bob", "alice/app", path)
        assert (stranger.status, stranger.headers["retry-after"]) == (code, "7")
        # it is over: the owner is served as ever, and nothing was downloaded again
        here.world.registry.heal(rule)
        here.world.registry.requests.clear()
        assert (await here.ask("alice", "alice/app", path)).headers["cache-status"] == "regcachd; hit"
        assert here.world.registry.requests.count("GET", "/blobs/") == 0


@AUTHS
async def test_digests_that_nobody_has_are_refused_alike(tmp_path: Path, auth: str) -> None:
    """So nobody can find out by guessing what others have."""
    async with place(tmp_path, auth) as here:
        await here.pull("alice")
        stored, unheard = here.images["alice"].layers[1], Digest.of(b"nobody's")
        for repository in ("alice/app", SCRATCH, "bob/app", "no/such"):
            one, other = [
                await here.ask("bob", repository, blob_path(digest, repository))
                for digest in (stored, unheard)
            ]
            assert one.status == other.status
            assert one.body.replace(stored.hex.encode(), b"") == other.body.replace(unheard.hex.encode(), b"")
            assert one.headers.keys() == other.headers.keys()
