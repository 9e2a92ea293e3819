"""HEAD and GET agree, whatever the state of the copy and of upstream: a client may ask with one, and go on with the
other."""

import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from regcachd.testing import OCI_INDEX, OCI_MANIFEST, Image, Status
from tests.test_registry import Wall
from tests.through import blob_path, running
from tests.world import Reply, World

TAG = "/v2/team/app/manifests/1"
TOLD = ("content-type", "content-length", "docker-content-digest", "etag")
"""What clients look at. Whether a copy is served, or what upstream says, makes a difference for other headers."""


def agree(head: Reply, get: Reply) -> None:
    """The same but for the body, which is as long as both say. Two refusals may have different words."""
    assert (head.status, head.body) == (get.status, b"")
    if get.status >= 400:
        return
    one, other = (
        {k: v for k, v in reply.headers.items() if k not in ("date", "age")} for reply in (head, get)
    )
    if one["cache-status"] == other["cache-status"]:
        assert one == other
    assert [one.get(name) for name in TOLD] == [other.get(name) for name in TOLD]
    assert get.status == 304 or one["content-length"] == str(len(get.body))


class Walk:
    """What happens to a tag, in a world where an outage is only what is found out anew."""

    def __init__(self, world: World, wall: Wall, seed: int) -> None:
        self.world, self.wall = world, wall
        self.random = random.Random(seed)
        self.images: list[Image] = []
        self.port = world.registry.port
        self.place: socket.socket | None = None
        """Keeps the registry's port, while that is away, from everybody else."""
        self.client = world.client()

    async def move(self) -> None:
        self.images.append(self.world.registry.add_image("team/app", "1", [self.random.randbytes(50)]))

    async def remove(self) -> None:
        if self.images:
            self.world.registry.remove("team/app", "1")

    async def wait(self) -> None:
        self.wall.time += self.random.choice((0.5, 5, 60, 4000))

    async def fail(self) -> None:
        self.world.registry.heal()
        self.world.registry.fault("/v2/", Status(self.random.choice((500, 503, 429))))

    async def heal(self) -> None:
        self.world.registry.heal()
        if self.place is not None:
            self.world.registry.port = self.port
            await self.world.registry.start()
            self.place.close()
            self.place = None

    async def stop(self) -> None:
        if self.place is None:
            await self.world.registry.stop()
            self.place = socket.socket()
            self.place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.place.bind((self.world.registry.host, self.port))

    async def restart(self) -> None:
        self.client.close()
        await self.world.restart_daemon()
        self.client = self.world.client()

    async def both(self, path: str, headers: dict[str, str]) -> tuple[Reply, Reply]:
        """The answers to HEAD and GET, in one order or the other."""
        replies = {}
        for method in self.random.sample(("HEAD", "GET"), 2):
            replies[method] = await self.client.do(method, path, **headers)
        return replies["HEAD"], replies["GET"]

    async def step(self) -> str:
        """Something happens; returns what."""
        steps: list[Callable[[], Awaitable[None]]] = [
            *[self.wait] * 4,
            *[self.move] * 2,
            *[self.heal] * 3,
            self.fail,
            self.stop,
            self.remove,
            self.restart,
        ]
        step = self.random.choice(steps)
        await step()
        return step.__name__


@pytest.mark.parametrize(("policy", "seed"), [("revalidate", 0), ("revalidate", 1), ("ttl", 2), ("never", 3)])
async def test_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, seed: int
) -> None:
    wall = Wall(monkeypatch)
    monkeypatch.setattr("regcachd.upstream.WAIT", 0.0)
    monkeypatch.setattr("regcachd.breaker.ENOUGH", 10**9)
    lines = f'tags = "{policy}"\ntag_ttl = "1m"\nmax_stale = "2h"'
    async with running(tmp_path, settings=lines) as world:
        walk = Walk(world, wall, seed)
        await walk.move()
        happened = []
        for _ in range(30):
            happened.append(await walk.step())
            image = walk.random.choice(walk.images)
            by_digest = f"/v2/team/app/manifests/{image.manifest}"
            path = walk.random.choice((TAG, TAG, by_digest, blob_path(image.layers[0])))
            headers = {"Accept": walk.random.choice((OCI_MANIFEST, f"{OCI_INDEX}, {OCI_MANIFEST}"))}
            if walk.random.random() < 0.2:
                headers["If_None_Match"] = f'"{image.manifest}"'
            head, get = await walk.both(path, headers)
            try:
                agree(head, get)
            except AssertionError:
                print(happened, path, headers, head, get, sep="\n")
                raise
        await walk.heal()


@pytest.mark.parametrize("code", [429, 500])
async def test_what_a_head_has_named_and_no_get_can_bring_is_named_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Clients that begin with a HEAD, and go on by its digest, get the old image, too."""
    wall = Wall(monkeypatch)
    async with running(tmp_path, settings='tags = "ttl"\ntag_ttl = "1h"') as world:
        client, registry = world.client(), world.registry
        old = registry.add_image("team/app", "1", [b"old"])
        await client.get(TAG)
        new = registry.add_image("team/app", "1", [b"new"])
        wall.time += 3600
        assert (await client.do("HEAD", TAG)).headers["docker-content-digest"] == str(new.manifest)
        registry.fault("/v2/", Status(code))
        for _ in range(2):
            get, head = await client.get(TAG), await client.do("HEAD", TAG)
            agree(head, get)
            assert get.body == old.data
        registry.heal()
        wall.time += 10
        assert (await client.do("HEAD", TAG)).headers["docker-content-digest"] == str(new.manifest)
        assert (await client.get(TAG)).body == new.data
