"""Manifests: by digest from the store, by tag only after upstream's word."""

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd.reference import Digest
from regcachd.testing import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    CutAfter,
    ExtraHeaders,
    FakeRegistry,
    GarbageResponse,
    Image,
    NoContentLength,
    NoDigestHeader,
    StallBeforeHeaders,
    Status,
    WrongBytes,
    WrongDigestHeader,
)
from tests.through import basic, limits, logged, running, start, together
from tests.world import World, until

reactor: Any = _reactor

TAG = "/v2/team/app/manifests/1"
ALWAYS = "revalidate_interval = 0"
"""For tests that are about what upstream is asked, whenever it is."""


def path_of(target: object, repository: str = "team/app") -> str:
    return f"/v2/{repository}/manifests/{target}"


def add(world: World, layer: bytes = b"layer") -> Image:
    return world.registry.add_image("team/app", "1", [layer])


def lines(world: World) -> list[str]:
    """What upstream was asked since the last call."""
    found = [request.line for request in world.registry.requests]
    world.registry.requests.clear()
    return found


# -- by digest


async def test_by_digest_it_is_fetched_once_and_served_from_the_store(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        client = world.client()
        first = await client.get(path_of(image.manifest))
        assert (first.status, first.body) == (200, image.data)
        assert first.headers["content-type"] == OCI_MANIFEST
        assert first.headers["docker-content-digest"] == str(image.manifest)
        assert world.stored() == [image.manifest.hex]
        assert lines(world) == [f"GET {path_of(image.manifest)}"]
        second = await client.get(path_of(image.manifest))
        assert (second.status, second.body) == (200, image.data)
        assert second.headers["cache-status"] == "regcachd; hit"
        assert second.headers["content-type"] == OCI_MANIFEST
        assert second.headers["docker-content-digest"] == str(image.manifest)
        assert second.headers["etag"] == f'"{image.manifest}"'
        head = await client.do("HEAD", path_of(image.manifest))
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(image.data))
        assert head.headers["content-type"] == OCI_MANIFEST
        assert lines(world) == []


async def test_head_by_digest_of_what_we_do_not_have_downloads_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        reply = await world.client().do("HEAD", path_of(image.manifest))
        assert (reply.status, reply.headers["content-length"]) == (200, str(len(image.data)))
        assert lines(world) == [f"HEAD {path_of(image.manifest)}"]
        assert world.stored() == []


async def test_a_percent_encoded_digest_is_the_same_digest(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        for _ in range(2):
            reply = await world.client().get(path_of(str(image.manifest).replace(":", "%3a")))
            assert reply.body == image.data
        assert lines(world) == [f"GET {path_of(image.manifest)}"]


async def test_if_none_match(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        client = world.client()
        etag = f'"{image.manifest}"'
        for path in (path_of(image.manifest), TAG, TAG, path_of(image.manifest)):
            for method in ("GET", "HEAD") if path != TAG else ("GET",):
                reply = await client.do(method, path, If_None_Match=etag)
                if path == path_of(image.manifest) and method == "HEAD" and not world.stored():
                    continue
                assert (reply.status, reply.body) == (304, b"")
                assert "content-length" not in reply.headers
        assert (await client.get(TAG, If_None_Match='"other"')).body == image.data


async def test_a_restart_keeps_manifests(tmp_path: Path) -> None:
    async with running(tmp_path, settings=ALWAYS) as world:
        image = add(world)
        await world.client().get(TAG)
        await world.service.stopService()
        world.start_daemon()
        lines(world)
        assert (await world.client().get(path_of(image.manifest))).body == image.data
        assert (await world.client().get(TAG)).body == image.data
        assert lines(world) == [f"HEAD {TAG}"]


@pytest.mark.parametrize("damage", ["changed", "short", "empty", "gone"])
async def test_a_manifest_that_the_disk_has_damaged_is_fetched_again(tmp_path: Path, damage: str) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(TAG)
        path = tmp_path / "store/blobs/sha256" / image.manifest.hex[:2] / image.manifest.hex
        path.chmod(0o640)
        if damage == "gone":
            path.unlink()
        else:
            wrong = {"changed": b"X" + image.data[1:], "short": image.data[:-5], "empty": b""}
            path.write_bytes(wrong[damage])
        lines(world)
        with logged() as told:
            reply = await world.client().get(path_of(image.manifest))
        assert (reply.status, reply.body) == (200, image.data)
        assert len(told) == (damage != "gone")
        assert path.read_bytes() == image.data
        assert (await world.client().get(TAG)).body == image.data


async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    async with running(tmp_path, tables=limits(manifest_size="1KiB")) as world:
        image = add(world)
        client = world.client()
        await client.get(TAG)
        path = tmp_path / "store/blobs/sha256" / image.manifest.hex[:2] / image.manifest.hex
        path.chmod(0o640)
        path.write_bytes(b"x" * 5000)
        await client.get("/v2/")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await client.do("HEAD", path_of(image.manifest))
        assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_a_layer_asked_for_as_a_manifest_is_none(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        await world.client().get(f"/v2/team/app/blobs/{image.layers[0]}")
        await until(lambda: world.stored() == [image.layers[0].hex])
        assert (await world.client().get(path_of(image.layers[0]))).status == 404


async def test_access_to_a_stored_manifest_is_upstreams_to_grant(tmp_path: Path) -> None:
    users = {"victim": "secret", "attacker": "secret"}
    registry = FakeRegistry(reactor, auth="basic", users=users)
    registry.private("team/app", {"victim"})
    async with running(tmp_path, registry) as world:
        image = add(world)
        victim, attacker = basic("victim", "secret"), basic("attacker", "secret")
        assert (await world.client().get(TAG, Authorization=victim)).status == 200
        for path in (TAG, path_of(image.manifest)):
            for method in ("GET", "HEAD"):
                assert (await world.client().do(method, path, Authorization=attacker)).status == 403
                reply = await world.client().do(method, path)
                assert reply.status == 401
                assert reply.headers["www-authenticate"] == 'Basic realm="fake registry"'
        other = path_of(image.manifest, "attacker/own")
        reply = await world.client().get(other, Authorization=attacker, If_None_Match=f'"{image.manifest}"')
        assert reply.status == 404
        lines(world)
        assert (await world.client().get(path_of(image.manifest), Authorization=victim)).body == image.data
        assert lines(world) == []


# -- by tag


async def test_an_unchanged_tag_costs_one_head(tmp_path: Path) -> None:
    async with running(tmp_path, settings=ALWAYS) as world:
        image = add(world)
        client = world.client()
        await client.get(TAG)
        assert lines(world) == [f"GET {TAG}"]
        reply = await client.get(TAG)
        assert (reply.body, reply.headers["content-type"]) == (image.data, OCI_MANIFEST)
        assert reply.headers["docker-content-digest"] == str(image.manifest)
        assert reply.headers["cache-status"] == "regcachd; hit; detail=revalidated"
        assert lines(world) == [f"HEAD {TAG}"]
        assert (await client.get(path_of(image.manifest))).headers["cache-status"] == "regcachd; hit"
        assert lines(world) == []


async def test_a_moved_tag_is_served_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, settings=ALWAYS) as world:
        client = world.client()
        for layer in (b"one", b"two", b"three"):
            image = add(world, layer)
            reply = await client.get(TAG)
            assert (reply.body, reply.headers["docker-content-digest"]) == (image.data, str(image.manifest))


async def test_a_tag_that_is_gone_is_gone_here_too(tmp_path: Path) -> None:
    async with running(tmp_path, settings=ALWAYS) as world:
        add(world)
        client = world.client()
        await client.get(TAG)
        world.registry.remove("team/app", "1")
        reply = await client.get(TAG)
        assert reply.status == 404
        assert b"MANIFEST_UNKNOWN" in reply.body


async def test_what_a_tag_is_depends_on_what_the_client_accepts(tmp_path: Path) -> None:
    """enroot asks for index types first and for image types then; one tag, two manifests."""
    async with running(tmp_path, settings=ALWAYS) as world:
        index = world.registry.add_manifest("team/app", "1", b'{"manifests":[]}', OCI_INDEX)
        image = world.registry.add_manifest("team/app", "1", b'{"layers":[]}', OCI_MANIFEST, also=True)
        client = world.client()
        for _ in range(3):
            for accept, digest, kind in ((OCI_INDEX, index, OCI_INDEX), (OCI_MANIFEST, image, OCI_MANIFEST)):
                reply = await client.get(TAG, Accept=accept)
                assert (reply.headers["docker-content-digest"], reply.headers["content-type"]) == (
                    str(digest),
                    kind,
                )
        assert (await client.get(TAG, Accept=DOCKER_MANIFEST)).status == 404
        assert world.registry.requests.count("GET") == 3


async def test_head_of_a_tag_is_upstreams_answer(tmp_path: Path) -> None:
    async with running(tmp_path, settings=ALWAYS) as world:
        image = add(world)
        client = world.client()
        await client.get(TAG)
        lines(world)
        reply = await client.do("HEAD", TAG)
        assert (reply.status, reply.headers["docker-content-digest"]) == (200, str(image.manifest))
        assert reply.headers["content-length"] == str(len(image.data))
        assert lines(world) == [f"HEAD {TAG}"]


async def test_an_upstream_without_head_is_asked_with_get(tmp_path: Path) -> None:
    async with running(tmp_path, settings=ALWAYS) as world:
        image = add(world)
        world.registry.fault(f"HEAD {TAG}", Status(405))
        for _ in range(2):
            assert (await world.client().get(TAG)).body == image.data
        assert lines(world) == [f"GET {TAG}", f"HEAD {TAG}", f"GET {TAG}"]


async def test_an_upstream_whose_head_names_no_digest_is_asked_with_get(tmp_path: Path) -> None:
    async with running(tmp_path, settings=ALWAYS) as world:
        image = add(world)
        world.registry.fault(TAG, NoDigestHeader())
        for _ in range(2):
            reply = await world.client().get(TAG)
            assert reply.body == image.data
            assert reply.headers["docker-content-digest"] == str(image.manifest)
        assert lines(world) == [f"GET {TAG}", f"HEAD {TAG}", f"GET {TAG}"]


async def test_many_who_ask_for_a_tag_at_once_are_one_get(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        stall = world.registry.fault(TAG, StallBeforeHeaders())
        asked = [start(world.client(), TAG) for _ in range(20)]
        await until(lambda: len(world.service.door.busy()) == 20)
        world.registry.heal(stall)
        world.registry.release()
        assert {reply.body for reply in await together(*asked)} == {image.data}
        assert lines(world) == [f"GET {TAG}"]


async def test_what_one_credential_may_have_another_asks_for(tmp_path: Path) -> None:
    registry = FakeRegistry(reactor, auth="basic", users={"alice": "a", "bob": "b"})
    registry.private("team/app", {"alice"})
    async with running(tmp_path, registry) as world:
        image = add(world)
        stall = registry.fault(TAG, StallBeforeHeaders())
        alice = start(world.client(), TAG, Authorization=basic("alice", "a"))
        await registry.until(lambda r: len(r.stalls) == 1)
        bob = start(world.client(), TAG, Authorization=basic("bob", "b"))
        await until(lambda: len(world.service.door.busy()) == 2)
        registry.heal(stall)
        registry.release()
        assert (await alice).body == image.data
        assert (await bob).status == 403


@pytest.mark.parametrize("target", ["tag", "digest"])
async def test_redirected_manifests_are_followed_and_stored(tmp_path: Path, target: str) -> None:
    """registry.k8s.io redirects manifests, too."""
    async with running(tmp_path) as world:
        backend = FakeRegistry(reactor)
        await backend.start()
        image = backend.add_image("mirror/app", "1", [b"layer"])
        name = "1" if target == "tag" else str(image.manifest)
        location = f"{backend.url}/v2/mirror/app/manifests/{name}"
        world.registry.fault("/manifests/", Status(307, {"Location": location}))
        for _ in range(2):
            reply = await world.client().get(path_of(name))
            assert (reply.status, reply.body) == (200, image.data)
        assert world.stored() == [image.manifest.hex]
        assert backend.requests.count("GET") == 1
        await backend.stop()


# -- bad manifests


@pytest.mark.parametrize("target", ["tag", "digest"])
async def test_wrong_bytes_are_a_502_and_not_stored(tmp_path: Path, target: str) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        path = TAG if target == "tag" else path_of(image.manifest)
        world.registry.fault("/manifests/", WrongBytes(0))
        with logged() as told:
            reply = await world.client().get(path)
        assert reply.status == 502
        assert image.data[1:20] not in reply.body
        assert len(told) == 1
        assert world.stored() == []
        world.registry.heal()
        assert (await world.client().get(path)).body == image.data


@pytest.mark.parametrize("value", ["sha256:" + "0" * 64, "sha256:short", "md5:" + "0" * 32, "", "x" * 1000])
async def test_a_tag_with_a_digest_header_that_does_not_fit_is_a_502(tmp_path: Path, value: str) -> None:
    async with running(tmp_path) as world:
        add(world)
        world.registry.fault("/manifests/", ExtraHeaders({"Docker-Content-Digest": value}))
        with logged():
            reply = await world.client().get(TAG)
        assert reply.status == 502
        assert world.stored() == []


async def test_by_digest_the_digest_asked_for_counts_whatever_the_header_says(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        world.registry.fault("/manifests/", WrongDigestHeader())
        for _ in range(2):
            reply = await world.client().get(path_of(image.manifest))
            assert (reply.status, reply.body) == (200, image.data)
            assert reply.headers["docker-content-digest"] == str(image.manifest)


async def test_a_sha512_digest_header_is_as_good(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        digest = Digest.of(image.data, "sha512")
        world.registry.fault(TAG, WrongDigestHeader(digest))
        for _ in range(2):
            reply = await world.client().get(TAG)
            assert (reply.status, reply.body) == (200, image.data)
            assert reply.headers["docker-content-digest"] == str(digest)
        assert world.stored() == [digest.hex]


@pytest.mark.parametrize("data", [b"this is not JSON", b"\x00\xff" * 100, b"[]", b"null", b""])
async def test_what_is_no_json_is_as_good_as_its_digest(tmp_path: Path, data: bytes) -> None:
    """Manifests are kept byte for byte, whatever they are."""
    async with running(tmp_path) as world:
        digest = world.registry.add_manifest("team/app", "1", data, "text/odd; charset=x")
        for path in (TAG, TAG, path_of(digest)):
            reply = await world.client().get(path)
            assert (reply.status, reply.body) == (200, data)
            assert reply.headers["content-type"] == "text/odd; charset=x"


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_manifest_that_is_too_large_is_a_502_that_says_so(tmp_path: Path, with_length: bool) -> None:
    async with running(tmp_path, tables=limits(manifest_size="1KiB")) as world:
        world.registry.add_manifest("team/app", "1", b"x" * 1025)
        fits = world.registry.add_manifest("team/app", "fits", b"x" * 1024)
        if not with_length:
            world.registry.fault("/manifests/", NoContentLength())
        reply = await world.client().get(TAG)
        assert reply.status == 502
        assert b"limits.manifest_size" in reply.body
        assert (await world.client().get(path_of("fits"))).body == b"x" * 1024
        assert world.stored() == [fits.hex]


async def test_schema_1_is_passed_on_and_not_stored(tmp_path: Path) -> None:
    """Its digest leaves the signatures out, so it cannot be checked here."""
    async with running(tmp_path) as world:
        kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
        world.registry.add_manifest("team/app", "1", b"{}", kind)
        world.registry.fault(TAG, WrongDigestHeader())
        for _ in range(2):
            reply = await world.client().get(TAG)
            assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"{}", kind)
        assert world.stored() == []


@pytest.mark.parametrize("fault", [CutAfter(5), CutAfter(5, reset=True), GarbageResponse()])
async def test_a_manifest_that_breaks_off_is_a_502(tmp_path: Path, fault: Any) -> None:
    async with running(tmp_path) as world:
        image = add(world)
        world.registry.fault(TAG, fault, times=1)
        reply = await world.client().get(TAG)
        assert reply.status == 502
        assert b"registry.test" in reply.body
        assert world.stored() == []
        assert (await world.client().get(TAG)).body == image.data


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_upstreams_no_goes_to_the_client_as_it_is(tmp_path: Path, code: int, method: str) -> None:
    async with running(tmp_path) as world:
        add(world)
        headers = {"Retry-After": "7", "RateLimit-Remaining": "0;w=21600"}
        world.registry.fault("/manifests/", Status(code, headers, b"words"))
        reply = await world.client().do(method, TAG)
        assert (reply.status, reply.body) == (code, b"words" if method == "GET" else b"")
        assert (reply.headers["retry-after"], reply.headers["ratelimit-remaining"]) == ("7", "0;w=21600")


async def test_what_upstream_has_encoded_is_passed_on_and_not_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        add(world)
        world.registry.fault(TAG, ExtraHeaders({"Content-Encoding": "gzip"}))
        reply = await world.client().get(TAG)
        assert (reply.status, reply.headers["content-encoding"]) == (200, "gzip")
        assert world.stored() == []


@pytest.mark.parametrize("own_is_first", [True, False])
async def test_whoever_pushes_the_same_bytes_as_another_type_changes_nothing_for_others(
    tmp_path: Path, own_is_first: bool
) -> None:
    """The media type is not in the digest, and a manifest of no type is to no client's liking."""
    data = b'{"schemaVersion":2,"layers":[]}'
    async with running(tmp_path) as world:
        digest = world.registry.add_manifest("team/app", "1", data, OCI_MANIFEST)
        world.registry.add_manifest("thief/own", "1", data, "text/plain")
        client = world.client()
        paths = [path_of(1, "thief/own"), path_of(1)]
        for path in paths if own_is_first else reversed(paths):
            assert (await client.get(path)).body == data
        for target in (str(digest), "1"):
            for method in ("HEAD", "GET"):
                reply = await client.do(method, f"/v2/team/app/manifests/{target}")
                assert (reply.status, reply.headers["content-type"]) == (200, OCI_MANIFEST)
                reply = await client.do(method, f"/v2/thief/own/manifests/{target}")
                assert (reply.status, reply.headers["content-type"]) == (200, "text/plain")
