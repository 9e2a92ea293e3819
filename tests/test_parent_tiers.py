"""A regcachd behind another: a rack's cache whose parent is the site's."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import define
from twisted.internet.threads import deferToThread

from regcachd.reference import Digest
from regcachd.testing import CutAfter, FakeRegistry, StallAfter, Status
from tests.proxy import ForwardProxy
from tests.through import Download, blob_path, running
from tests.wire import connect_through
from tests.world import NAME, World, until

SIZE = 4_000_000


@define(eq=False)
class Behind:
    """What the rack's daemon has for a registry: the site's daemon, which it reaches as its parent."""

    site: World
    url: str = f"https://{NAME}"

    def ca_file(self, path: Path) -> Path:
        """The CA of the site's daemon."""
        path.write_bytes(self.site.service.ca.root_pem)
        return path

    async def start(self) -> None:
        """It runs."""

    async def stop(self) -> None:
        """It goes on."""

    def release(self) -> None:
        """For tests that end early."""
        self.site.registry.release()


@asynccontextmanager
async def tiers(tmp_path: Path) -> AsyncIterator[tuple[World, World]]:
    """The rack and the site."""
    for name in ("rack", "site"):
        (tmp_path / name).mkdir()
    lines = 'timeout = "5s"\nretry_delay = "20ms"'
    tables = '[limits]\nstop_timeout = "0s"'
    async with running(tmp_path / "site", settings=lines, tables=tables, retries=8) as site:
        lines += f'\nupstream_proxy = "http://127.0.0.1:{site.port}"'
        registry: FakeRegistry = Behind(site)  # type: ignore[assignment]
        async with running(tmp_path / "rack", registry, settings=lines, tables=tables, retries=8) as rack:
            yield rack, site


def add(site: World, size: int = SIZE) -> tuple[Digest, bytes]:
    data = os.urandom(size)
    return site.registry.add_blob("team/app", data), data


async def test_a_layer_is_stored_in_both_and_crosses_each_link_once(tmp_path: Path) -> None:
    async with tiers(tmp_path) as (rack, site):
        digest, data = add(site)
        for _ in range(2):
            assert (await rack.client().get(blob_path(digest))).body == data
        await until(lambda: rack.stored() == site.stored() == [digest.hex])
        assert len(site.registry.requests.matching("GET", "/blobs/")) == 1


async def test_the_first_bytes_reach_the_client_while_upstream_is_still_sending(tmp_path: Path) -> None:
    """Cut-through: neither tier waits for the whole of a layer."""
    async with tiers(tmp_path) as (rack, site):
        digest, data = add(site)
        stalled = site.registry.fault(digest, StallAfter(SIZE // 2))
        download = await Download(rack, blob_path(digest)).begin()
        await site.registry.until(lambda r: len(r.stalls) == 1)
        assert await download.read(SIZE // 2) == data[: SIZE // 2]
        assert len(site.registry.stalls) == 1  # it has not sent the rest
        assert not rack.stored()
        site.registry.heal(stalled)
        site.registry.release()
        assert await download.rest() == data


async def test_what_breaks_upstream_is_resumed_and_the_rack_notices_nothing(tmp_path: Path) -> None:
    async with tiers(tmp_path) as (rack, site):
        digest, data = add(site)
        site.registry.fault(digest, CutAfter(SIZE // 3), times=1)
        reply = await rack.client().get(blob_path(digest))
        assert (reply.broken, reply.body) == (False, data)
        assert len(site.registry.requests.matching("GET", "/blobs/")) == 2


async def test_a_parent_that_dies_in_the_middle_is_a_pause_to_the_client(tmp_path: Path) -> None:
    async with tiers(tmp_path) as (rack, site):
        digest, data = add(site)
        stalled = site.registry.fault(digest, StallAfter(SIZE // 2))
        download = await Download(rack, blob_path(digest)).begin()
        await download.read(SIZE // 4)
        site.registry.heal(stalled)
        site.registry.release()
        site.service.door.close()  # every connection to the site's daemon is reset
        assert await download.rest() == data
        await until(lambda: rack.stored() == [digest.hex])


async def test_a_no_of_the_registry_passes_through_both(tmp_path: Path) -> None:
    async with tiers(tmp_path) as (rack, site):
        digest, _ = add(site, 1000)
        site.registry.fault(digest, Status(403))
        assert (await rack.client().get(blob_path(digest))).status == 403


async def test_tunnels_lead_through_the_parent_of_the_defaults(tmp_path: Path) -> None:
    """Clients fetch their tokens by tunnel: where there is no other way out, these take it, too."""
    proxy = ForwardProxy().start()
    tables = f'[defaults]\nupstream_proxy = "http://{proxy.authority}"\nno_proxy = ["127.0.0.1"]'
    async with running(tmp_path, tables=tables) as here:
        proxy.names = {"auth.test": ("127.0.0.1", here.registry.port)}

        def ask() -> bytes:
            with connect_through(here.port, "auth.test:443") as connection:
                connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: auth.test\r\nConnection: close\r\n\r\n")
                return connection.recv(65536)

        assert (await deferToThread(ask)).startswith(b"HTTP/1.1 200")
        assert proxy.lines == ["CONNECT auth.test:443 HTTP/1.1"]
    await proxy.stop()
