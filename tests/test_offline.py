"""The cable is out: who is served what is here, and for how long, and what the others hear."""

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.testing import FakeRegistry, Image
from tests.test_registry import Wall
from tests.through import basic, blob_path, running
from tests.world import Reply, World, until

reactor: Any = _reactor

USERS = {"alice": "a", "bob": "b"}
ALICE, BOB = ({"Authorization": basic(name, password)} for name, password in USERS.items())
NOBODY: dict[str, str] = {}
STALE, HIT, OFFLINE = "regcachd; fwd=stale", "regcachd; hit", "regcachd; hit; detail=offline"
HOUR, DAY = 3600.0, 86400.0
TERMS = 'access_ttl = "5m"\npublic_ttl = "10m"\noffline_grace = "1h"\nmax_stale = "2d"'


async def pull(world: World, image: Image, who: dict[str, str], repository: str = "team/app") -> list[Reply]:
    """All that a pull asks for, by a new client: HEAD and GET of the tag, the digest, and a layer."""
    client, manifests = world.client(), f"/v2/{repository}/manifests"
    paths = [f"{manifests}/1", f"{manifests}/{image.manifest}", blob_path(image.layers[0], repository)]
    replies = [await client.do(method, path, **who) for path in paths for method in ("HEAD", "GET")]
    client.close()
    return replies


def statuses(replies: list[Reply]) -> list[str]:
    """The Cache-Status of each that was served; what is left of the others."""
    return [r.headers["cache-status"] if r.status == 200 else f"{r.status}" for r in replies]


async def stored(world: World, image: Image, who: dict[str, str]) -> None:
    """It has been pulled, and is here."""
    await pull(world, image, who)
    await until(lambda: image.layers[0].hex in world.stored())
    await world.registry.stop()


def words(replies: list[Reply]) -> str:
    """What the bodies of errors say."""
    return b"".join(reply.body for reply in replies if reply.status != 200).decode()


@pytest.mark.parametrize("restart", [False, True])
async def test_what_is_private_is_its_readers_for_offline_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    wall = Wall(monkeypatch)
    registry = FakeRegistry(reactor, auth="basic", users=USERS)
    registry.private("team/app", {"alice"})
    async with running(tmp_path, registry, settings=TERMS) as world:
        image = registry.add_image("team/app", "1", [b"alice's"])
        await stored(world, image, ALICE)
        for past in (HOUR - 1, 1):
            wall.time += past
            if restart:
                await world.restart_daemon()
            replies = await pull(world, image, ALICE)
            if past > 1:
                assert statuses(replies) == [STALE, STALE, OFFLINE, OFFLINE, OFFLINE, OFFLINE]
            else:
                assert statuses(replies) == ["502"] * 6
                assert (
                    "registry.test last let this client read team/app 60 min ago, and that counts for 60 min "
                    "while it does not answer (offline_grace)" in words(replies)
                )
            for stranger in (BOB, NOBODY):
                replies = await pull(world, image, stranger)
                assert statuses(replies) == ["502"] * 6
                assert "registry.test" in words(replies)
                assert "team/app" not in words(replies)


async def test_what_is_public_is_everybodys_for_max_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, settings=TERMS) as world:
        image = world.registry.add_image("team/app", "1", [b"everybody's"])
        await stored(world, image, NOBODY)
        for past, expected in (
            (599, [STALE, STALE, HIT, HIT, HIT, HIT]),
            (2 * DAY - 600, [STALE, STALE, OFFLINE, OFFLINE, OFFLINE, OFFLINE]),
            (1, ["502"] * 6),
        ):
            wall.time += past
            for who in (NOBODY, ALICE):
                replies = await pull(world, image, who)
                assert statuses(replies) == expected
        told = words(await pull(world, image, NOBODY))
        assert "the last good copy is 2 d old, and max_stale is 2 d" in told
        assert (
            "registry.test last let anybody read team/app 2 d ago, and that counts for 2 d while it does not answer "
            "(max_stale)" in told
        )


async def test_what_a_shared_credential_reads_needs_no_token_of_a_clients_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it can be pulled for offline_grace by clients that could get no token."""
    wall = Wall(monkeypatch)
    registry = FakeRegistry(reactor, auth="token", users=USERS)
    registry.private("team/app", {"alice"})
    password = tmp_path / "password"
    password.write_text("a")
    password.chmod(0o600)
    lines = f'{TERMS}\nusername = "alice"\npassword = "file:{password}"\nshare = true'
    async with running(tmp_path, registry, settings=lines) as world:
        image = registry.add_image("team/app", "1", [b"shared"])
        await stored(world, image, NOBODY)
        for past in (HOUR - 1, 1):
            await world.restart_daemon()
            wall.time += past
            assert (await world.client().get("/v2/")).status == 200
            served = [STALE, STALE, OFFLINE, OFFLINE, OFFLINE, OFFLINE]
            assert statuses(await pull(world, image, NOBODY)) == (served if past > 1 else ["502"] * 6)
