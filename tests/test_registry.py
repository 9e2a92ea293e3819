"""Who may read what is stored: the rule, attacked from outside."""

import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.logger import LogLevel

import tests.world
from regcachd.reference import Digest
from regcachd.service import RegcacheService
from regcachd.testing import (
    CutAfter,
    FakeRegistry,
    NoContentLength,
    RedirectTo,
    StallAfter,
    StallBeforeHeaders,
    Status,
)
from tests.through import basic, blob_path, limits, logged, questions, running, start, together
from tests.world import Client, Reply, World, until

reactor: Any = _reactor

DATA = random.Random(8).randbytes(200_000)
VICTIM, ATTACKER = basic("victim", "secret"), basic("attacker", "secret")
USERS = {"victim": "secret", "attacker": "secret"}
PRIVATE, OWN = "team/private", "attacker/own"


class Wall:
    """A clock for `now` that stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 1_000_000.0
        monkeypatch.setattr(tests.world, "RegcacheService", functools.partial(RegcacheService, now=self))

    def __call__(self) -> float:
        return self.time


def private_registry(auth: Any = "basic") -> FakeRegistry:
    """A registry where only the victim reads the private repository, and the attacker has one of its own."""
    registry = FakeRegistry(reactor, auth=auth, users=USERS)
    registry.private(PRIVATE, {"victim"})
    registry.private(OWN, {"attacker"})
    registry.add_blob(OWN, b"the attacker's own")
    return registry


async def pulled(world: World) -> Digest:
    """The victim has pulled its layer, which is stored now."""
    digest = world.registry.add_blob(PRIVATE, DATA)
    reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
    assert reply.body == DATA
    await until(lambda: digest.hex in world.stored())
    world.registry.requests.clear()
    return digest


def credentials(world: World) -> list[str | None]:
    """In whose name upstream was asked."""
    return [request.authorization for request in questions(world)]


def no_secret(reply: Reply) -> bool:
    """Nothing of the layer, and no word about it but that it is not for this client."""
    return (
        reply.status in (401, 403, 404)
        and not any(DATA[i : i + 32] in reply.body for i in range(0, len(DATA), 5000))
        and "content-range" not in reply.headers
        and reply.headers.get("content-length") != str(len(DATA))
    )


# -- Basic


async def test_the_right_user_is_served_from_the_store_without_any_question(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit")
        assert not world.registry.requests


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": basic("victim", "wrong")}, 401),
        ({"Authorization": basic("nobody", "")}, 401),
        ({"Authorization": ATTACKER}, 403),
        ({"Authorization": VICTIM.lower()}, 401),
        ({"Authorization": "Bearer x"}, 401),
        ({"Authorization": ""}, 401),
    ],
)
async def test_a_stranger_gets_upstreams_own_no(
    tmp_path: Path, headers: dict[str, str], status: int, method: str
) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        for extra in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": f'"{digest}"'}):
            reply = await world.client().do(method, blob_path(digest, PRIVATE), **headers, **extra)
            assert reply.status == status
            assert no_secret(reply)
            if status == 401:
                assert reply.headers["www-authenticate"] == 'Basic realm="fake registry"'
        # each GET is one that was refused: its answer is upstream's
        assert world.registry.requests.count("GET", "/blobs/") == (3 if method == "GET" else 0)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("repository", [OWN, "attacker/new", "team/privat", "team/private/x"])
async def test_a_digest_asked_for_under_another_repository_is_not_served(
    tmp_path: Path, method: str, repository: str
) -> None:
    """The attack that breaks caches keyed by digest alone: rights on one's own repository, a stranger's digest."""
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        attacker = world.client()
        path = blob_path(digest, repository)
        for extra in ({}, {"Range": "bytes=0-9"}, {"Range": "bytes=-1"}, {"If-None-Match": f'"{digest}"'}):
            reply = await attacker.do(method, path, Authorization=ATTACKER, **extra)
            assert reply.status == 404
            assert no_secret(reply)
        # a proof for its own repository, in which the attacker has real content, changes nothing
        own = Digest.of(b"the attacker's own")
        assert (await attacker.get(blob_path(own, OWN), Authorization=ATTACKER)).status == 200
        assert no_secret(await attacker.do(method, path, Authorization=ATTACKER))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_a_manifest_that_names_the_digest_is_no_proof(tmp_path: Path, method: str, kind: str) -> None:
    """Whoever can push a manifest can name a stranger's layer in it."""
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        manifest = world.registry.add_manifest(
            OWN, "1", b'{"layers":[{"digest":"%b"}]}' % str(digest).encode()
        )
        attacker = world.client()
        for target in ("1", str(manifest)):
            reply = await attacker.get(f"/v2/{OWN}/manifests/{target}", Authorization=ATTACKER)
            assert reply.status == 200
        assert no_secret(await attacker.do(method, f"/v2/{OWN}/{kind}/{digest}", Authorization=ATTACKER))


@pytest.mark.parametrize("repository", [PRIVATE, OWN])
async def test_a_stranger_gets_nothing_while_the_victims_fill_is_under_way(
    tmp_path: Path, repository: str
) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = world.registry.add_blob(PRIVATE, DATA)
        world.registry.fault(digest, StallAfter(150_000), times=1)
        victim = start(world.client(), blob_path(digest, PRIVATE), Authorization=VICTIM)
        await until(lambda: (f := world.service.fills.get(digest)) is not None and f.watermark == 150_000)
        for headers in ({"Authorization": ATTACKER}, {}):
            for extra in ({}, {"Range": "bytes=0-9"}):
                reply = await world.client().get(blob_path(digest, repository), **headers, **extra)
                assert no_secret(reply)
        world.registry.release()
        assert (await victim).body == DATA


@pytest.mark.parametrize("repository", [PRIVATE, OWN])
@pytest.mark.parametrize("leader", ["victim", "attacker"])
async def test_a_stranger_gets_nothing_while_upstreams_answer_is_waited_for(
    tmp_path: Path, repository: str, leader: str
) -> None:
    """Who asks first shares its question with the others; its answer it does not share."""
    async with running(tmp_path, private_registry()) as world:
        digest = world.registry.add_blob(PRIVATE, DATA)
        stall = world.registry.fault(digest, StallBeforeHeaders())
        asked: dict[str, Any] = {}
        for who in (leader, *({"victim", "attacker"} - {leader})):
            path = blob_path(digest, PRIVATE if who == "victim" else repository)
            asked[who] = start(world.client(), path, Authorization=VICTIM if who == "victim" else ATTACKER)
            await until(lambda: len(world.service.door.busy()) == len(asked))
        world.registry.heal(stall)
        world.registry.release()
        assert no_secret(await asked["attacker"])
        reply = await asked["victim"]
        assert (reply.status, reply.body, reply.broken) == (200, DATA, False)


async def test_the_attackers_refusal_does_not_stop_the_victim(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        for _ in range(3):
            await world.client().get(blob_path(digest, PRIVATE), Authorization=ATTACKER)
            await world.client().get(blob_path(digest, PRIVATE))
        world.registry.requests.clear()
        reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert reply.body == DATA
        assert not world.registry.requests


async def test_registries_that_redirect_everything_are_no_proof_of_anything(tmp_path: Path) -> None:
    """registry.k8s.io answers 307 whatever it is asked for: what the redirect leads to decides."""
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        storage = FakeRegistry(reactor)
        await storage.start()
        world.registry.fault(
            lambda request: request.path.startswith(f"/v2/{OWN}/"),
            Status(307, {"Location": f"{storage.url}/v2/mirror/x/blobs/{digest}"}),
        )
        for method in ("GET", "HEAD"):
            assert no_secret(await world.client().do(method, blob_path(digest, OWN), Authorization=ATTACKER))
        storage.fault("/v2/mirror/", Status(403))
        assert no_secret(await world.client().get(blob_path(digest, OWN), Authorization=ATTACKER))
        await storage.stop()


async def test_a_redirect_to_a_log_in_page_is_no_proof(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        world.registry.fault(f"/v2/{PRIVATE}", Status(302, {"Location": "/users/sign_in"}))
        reply = await world.client().get(blob_path(digest, PRIVATE))
        assert no_secret(reply)


async def test_what_storage_asks_for_is_no_challenge_of_the_registry(tmp_path: Path) -> None:
    """A client takes it for one, and would tell its password to the realm."""
    storage = FakeRegistry(reactor)
    async with running(tmp_path, private_registry()) as world:
        await storage.start()
        storage.fault("/", Status(401, {"WWW-Authenticate": 'Bearer realm="https://thief.example/token"'}))
        digest = world.registry.add_blob(PRIVATE, DATA)
        world.registry.fault("/blobs/", RedirectTo(storage))
        for method in ("HEAD", "GET"):
            reply = await world.client().do(method, blob_path(digest, PRIVATE), Authorization=VICTIM)
            assert reply.status == 401
            assert "www-authenticate" not in reply.headers
        await storage.stop()


def show_strangers_a_page(registry: FakeRegistry, content_type: str = "text/html; charset=utf-8") -> None:
    """Where a log-in page is the answer to all that the victim has not asked, with status 200."""
    page = Status(200, {"Content-Type": content_type}, b"<h1>Log in</h1>" * 1000)
    registry.fault(lambda r: r.path.startswith(f"/v2/{PRIVATE}") and r.authorization != VICTIM, page)


async def test_a_page_in_place_of_an_unknown_blob_does_not_make_a_repository_public(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        show_strangers_a_page(world.registry)
        await world.client().get(blob_path(Digest.of(b"made up"), PRIVATE))
        reply = await world.client().get(blob_path(digest, PRIVATE))
        assert DATA[:32] not in reply.body


@pytest.mark.parametrize("content_type", ["text/html", "application/json"])
async def test_a_page_does_not_bring_what_is_left_of_a_broken_download(
    tmp_path: Path, content_type: str
) -> None:
    async with running(tmp_path, private_registry(), retries=0) as world:
        digest = world.registry.add_blob(PRIVATE, DATA)
        rule = world.registry.fault("/blobs/", CutAfter(150_000))
        assert (await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)).broken
        await until(lambda: world.service.fills.get(digest) is None)
        world.registry.heal(rule)
        show_strangers_a_page(world.registry, content_type)
        world.registry.fault(lambda r: r.authorization != VICTIM, NoContentLength())
        reply = await world.client().get(blob_path(digest, PRIVATE))
        assert DATA[:32] not in reply.body


@pytest.mark.parametrize(
    "path",
    [
        "/v2/{own}/../../{private}/blobs/{digest}",
        "/v2/{own}/%2e%2e/%2e%2e/{private}/blobs/{digest}",
        "/v2//{private}/blobs/{digest}",
        "/v2/{private}/blobs//{digest}",
        "//v2/{private}/blobs/{digest}",
        "/v2/{private}/blobs/{digest}/",
    ],
)
async def test_odd_paths_lead_nowhere(tmp_path: Path, path: str) -> None:
    """Whatever is not exactly a blob's path passes through to upstream, with the client's own credential."""
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        path = path.format(own=OWN, private=PRIVATE, digest=digest)
        assert no_secret(await world.client().get(path, Authorization=ATTACKER))
        assert world.registry.requests[-1].path == path


# -- time


async def test_a_yes_is_good_for_access_ttl_and_then_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private_registry(), settings='access_ttl = "5m"') as world:
        digest = await pulled(world)
        client, path = world.client(), blob_path(digest, PRIVATE)
        wall.time += 299
        assert (await client.get(path, Authorization=VICTIM)).status == 200
        assert len(world.registry.requests) == 0
        wall.time += 1
        assert (await client.get(path, Authorization=VICTIM)).body == DATA
        # one question in nobody's name, for the repository might be public; and one in the client's
        assert credentials(world) == [None, VICTIM]
        wall.time += 299
        assert (await client.get(path, Authorization=VICTIM)).status == 200
        assert len(questions(world)) == 2


async def test_who_has_lost_the_right_loses_it_here_within_access_ttl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        client, path = world.client(), blob_path(digest, PRIVATE)
        world.registry.private(PRIVATE, set())
        assert (await client.get(path, Authorization=VICTIM)).status == 200
        wall.time += 300
        assert (await client.get(path, Authorization=VICTIM)).status == 403
        world.registry.private(PRIVATE, {"victim"})
        assert (await client.get(path, Authorization=VICTIM)).status == 200


async def test_a_refusal_that_is_heard_takes_an_earlier_yes_back_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        other = world.registry.add_blob(PRIVATE, b"other")
        world.registry.private(PRIVATE, set())
        client = world.client()
        assert (await client.get(blob_path(other, PRIVATE), Authorization=VICTIM)).status == 403
        assert (await client.get(blob_path(digest, PRIVATE), Authorization=VICTIM)).status == 403


async def test_a_clock_that_was_set_back_makes_no_yes_eternal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        world.registry.private(PRIVATE, set())
        wall.time -= 86_400
        reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert reply.status == 403


async def test_with_access_ttl_0_upstream_is_asked_each_time(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry(), settings='access_ttl = "0s"') as world:
        digest = await pulled(world)
        for _ in range(3):
            assert (await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)).body == DATA
        assert credentials(world) == [None, *[VICTIM] * 3]


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_an_upstream_in_trouble_is_no_yes(tmp_path: Path, code: int) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        world.registry.fault("/blobs/", Status(code, {"Retry-After": "3"}))
        reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=ATTACKER)
        assert (reply.status, reply.headers["retry-after"]) == (code, "3")
        assert DATA[:100] not in reply.body


async def test_an_upstream_that_is_away_is_no_yes(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        await world.registry.stop()
        assert (await world.client().get(blob_path(digest, PRIVATE), Authorization=ATTACKER)).status == 502
        assert (await world.client().get(blob_path(digest, PRIVATE))).status == 502
        reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert reply.body == DATA  # its proof is fresh


async def test_a_restart_makes_no_yes_younger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        wall.time += 200
        await world.restart_daemon()
        world.registry.private(PRIVATE, set())
        assert (await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)).status == 200
        assert (await world.client().get(blob_path(digest, PRIVATE), Authorization=ATTACKER)).status == 403
        wall.time += 100
        await world.restart_daemon()
        assert (await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)).status == 403


async def test_without_offline_grace_a_restart_forgets_every_yes(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry(), settings="offline_grace = 0") as world:
        digest = await pulled(world)
        assert not (tmp_path / "state/private/proofs.key").exists()
        await world.restart_daemon()
        world.registry.private(PRIVATE, set())
        assert (await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)).status == 403


# -- many


async def test_identical_requests_that_upstream_refuses_cost_few_questions(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = world.registry.add_blob(PRIVATE, DATA)
        stall = world.registry.fault(digest, StallBeforeHeaders())
        asked = [start(world.client(), blob_path(digest, PRIVATE)) for _ in range(50)]
        await until(lambda: len(world.service.door.busy()) == 50)
        world.registry.heal(stall)
        world.registry.release()
        replies = await together(*asked)
        assert {reply.status for reply in replies} == {401}
        assert {reply.headers["www-authenticate"] for reply in replies} == {'Basic realm="fake registry"'}
        assert len(world.registry.requests) <= 2


async def test_identical_questions_about_something_stored_are_asked_once(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = await pulled(world)
        stall = world.registry.fault("HEAD", StallBeforeHeaders())
        asked = [start(world.client(), blob_path(digest, PRIVATE), Authorization=ATTACKER) for _ in range(30)]
        await until(lambda: len(world.service.door.busy()) == 30)
        world.registry.heal(stall)
        world.registry.release()
        assert {reply.status for reply in await together(*asked)} == {403}
        # in nobody's name, in the attacker's, and for what the attacker is told
        assert [request.method for request in questions(world)] == ["HEAD", "HEAD", "GET"]


async def test_different_strangers_in_one_crowd_each_get_their_own_answer(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry()) as world:
        digest = world.registry.add_blob(PRIVATE, DATA)
        stall = world.registry.fault(digest, StallBeforeHeaders())
        crowd = [(VICTIM, 200), (ATTACKER, 403), (basic("victim", "wrong"), 401), ("", 401)] * 5
        asked = []
        for number, (authorization, _) in enumerate(reversed(crowd), 1):
            asked.append(start(world.client(), blob_path(digest, PRIVATE), Authorization=authorization))
            await until(lambda count=number: len(world.service.door.busy()) == count)  # type: ignore[misc]
        world.registry.heal(stall)
        world.registry.release()
        replies = await together(*asked)
        for reply, (_, status) in zip(replies, reversed(crowd), strict=True):
            assert reply.status == status
            assert reply.body == DATA if status == 200 else no_secret(reply)
        assert world.registry.requests.count("GET") <= 5


# -- tokens


async def token(client: Client, world: World, repository: str, authorization: str | None) -> str:
    """What a client does with a challenge: fetch a token, here from the registry's own host."""
    headers = {"Authorization": authorization} if authorization else {}
    reply = await client.get(f"/token?service=fake-registry&scope=repository:{repository}:pull", **headers)
    assert reply.status == 200
    return f"Bearer {json.loads(reply.body)['token']}"


async def test_token_registries_from_the_challenge_to_the_layer(tmp_path: Path) -> None:
    async with running(tmp_path, private_registry("token")) as world:
        registry = world.registry
        registry.add_blob("library/public", DATA)
        digest = registry.add_blob(PRIVATE, DATA)
        client = world.client()
        challenge = await client.get(blob_path(digest, PRIVATE))
        assert challenge.status == 401
        assert challenge.headers["www-authenticate"] == (
            f'Bearer realm="{registry.url}/token",service="fake-registry",scope="repository:{PRIVATE}:pull"'
        )
        mine = await token(client, world, PRIVATE, VICTIM)
        assert (await client.get(blob_path(digest, PRIVATE), Authorization=mine)).body == DATA
        await until(lambda: world.stored() == [digest.hex])
        registry.requests.clear()

        # who has no right has no token, or one that is for something else
        anonymous = await token(client, world, PRIVATE, None)
        attackers = await token(client, world, OWN, ATTACKER)
        for bearer in (anonymous, attackers, "Bearer made-up"):
            reply = await client.get(blob_path(digest, PRIVATE), Authorization=bearer)
            assert reply.status == 401
            assert "error=" in reply.headers["www-authenticate"]
            assert no_secret(reply)
        assert no_secret(await client.get(blob_path(digest, OWN), Authorization=attackers))

        # a fresh token of the right user costs one question and no download
        again = await token(client, world, PRIVATE, VICTIM)
        assert again != mine
        assert (await client.get(blob_path(digest, PRIVATE), Authorization=again)).body == DATA
        # and the same layer of a public image is public
        public = await token(client, world, "library/public", None)
        assert (await client.get(blob_path(digest, "library/public"), Authorization=public)).body == DATA
        assert registry.requests.count("GET", "/blobs/") == 4  # those that were refused


async def test_an_expired_token_of_the_right_user_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private_registry("token")) as world:
        digest = world.registry.add_blob(PRIVATE, DATA)
        client = world.client()
        mine = await token(client, world, PRIVATE, VICTIM)
        await client.get(blob_path(digest, PRIVATE), Authorization=mine)
        await until(lambda: world.stored() == [digest.hex])
        world.registry.expire_tokens()
        wall.time += 300
        reply = await client.get(blob_path(digest, PRIVATE), Authorization=mine)
        assert (reply.status, 'error="invalid_token"' in reply.headers["www-authenticate"]) == (401, True)


# -- storage elsewhere


async def test_private_blobs_in_storage_elsewhere(tmp_path: Path) -> None:
    storage = FakeRegistry(reactor)
    await storage.start()
    async with running(tmp_path, private_registry()) as world:
        world.registry.fault("/blobs/", RedirectTo(storage))
        digest = await pulled(world)
        assert all(request.authorization is None for request in storage.requests)
        assert no_secret(await world.client().get(blob_path(digest, PRIVATE), Authorization=ATTACKER))
        assert no_secret(await world.client().get(blob_path(digest, OWN), Authorization=ATTACKER))
        # the right user after a restart: one question, which is a redirect, and no download
        await world.service.stopService()
        world.start_daemon()
        reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit")
    await storage.stop()


async def test_a_registry_whose_head_is_of_no_use_is_asked_with_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """public.ecr.aws answers HEAD of a blob with 401 whoever asks."""
    monkeypatch.setattr("regcachd.schema.blob_probe", lambda url: "get")
    async with running(tmp_path, private_registry(), tables=limits()) as world:
        world.registry.fault(lambda r: r.method == "HEAD" and "/blobs/" in r.path, Status(401))
        digest = await pulled(world)
        await world.service.stopService()
        world.start_daemon()
        reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit")
        assert (
            await world.client().do("HEAD", blob_path(digest, PRIVATE), Authorization=VICTIM)
        ).status == 200
        assert (await world.client().get(blob_path(digest, PRIVATE), Authorization=ATTACKER)).status == 403
        assert no_secret(await world.client().get(blob_path(digest, OWN), Authorization=ATTACKER))


async def test_secrets_are_not_logged(tmp_path: Path) -> None:
    with logged(LogLevel.debug) as lines:
        async with running(tmp_path, private_registry()) as world:
            digest = await pulled(world)
            await world.client().get(blob_path(digest, PRIVATE), Authorization=basic("victim", "wrong"))
            await world.registry.stop()
            await world.client().get("/token?password=hunter2", Authorization=VICTIM)
    text = "\n".join(lines)
    assert text
    for secret in (VICTIM.split()[1], basic("victim", "wrong").split()[1], "hunter2"):
        assert secret not in text


# -- an upstream that does not answer everything


async def provoked(world: World) -> None:
    """Whoever likes to can ask something that upstream does not answer."""
    world.registry.fault("/v2/_catalog", StallBeforeHeaders())
    for _ in range(2):
        assert (await world.client().get("/v2/_catalog", Authorization=VICTIM)).status == 504


async def test_who_has_lost_the_right_cannot_keep_it_by_what_upstream_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not away: asked about the right, it answers."""
    wall = Wall(monkeypatch)
    async with running(tmp_path, private_registry(), settings='timeout = "500ms"') as world:
        digest = await pulled(world)
        world.registry.private(PRIVATE, set())
        wall.time += 300
        await provoked(world)
        reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert no_secret(reply) or reply.status == 504
        world.registry.private(PRIVATE, {"victim"})
        reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit")


async def test_an_upstream_that_does_not_answer_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with running(tmp_path, private_registry(), settings='timeout = "500ms"') as world:
        digest = await pulled(world)
        wall.time += 300
        world.registry.fault(lambda request: True, StallBeforeHeaders())
        for _ in range(5):
            reply = await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
            assert (reply.body, reply.headers["cache-status"]) == (DATA, "regcachd; hit; detail=offline")
        assert credentials(world).count(VICTIM) == 1
        wall.time += 30
        await world.client().get(blob_path(digest, PRIVATE), Authorization=VICTIM)
        assert credentials(world).count(VICTIM) == 2
        assert (await world.client().get(blob_path(digest, PRIVATE), Authorization=ATTACKER)).status == 504
