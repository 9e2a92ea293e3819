"""Mirror mode and absolute-form requests over real sockets: who is asked, in whose name, and what is refused."""

import base64
import http.client
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread

from regcachd.testing import ExtraHeaders, FakeRegistry, Image, Status
from tests.through import basic, blob_path, running
from tests.wire import Talk, dial
from tests.world import NAME, Reply, World, raw, until

reactor: Any = _reactor

LAYER = random.Random(5).randbytes(80_000)
SECRET = random.Random(6).randbytes(80_000)
USERS = {"alice": "alices", "robot": "robots"}
ALICE = basic("alice", "alices")
PUBLIC, PRIVATE = "team/app", "alice/own"
NEXT = '</v2/team/app/tags/list?n=1&last=1>; rel="next"'


@define
class Mirror:
    """A daemon with two registries: NAME, and docker.io."""

    world: World
    hub: FakeRegistry
    image: Image
    private: Image
    hub_image: Image
    talks: list[Talk] = field(factory=list)

    def plain(self, port: int | None = None) -> http.client.HTTPConnection:
        """A connection of a mirror's client."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.world.port, timeout=20)
        self.world.clients.append(connection)  # type: ignore[arg-type]  # to be closed with the others
        return connection

    async def ask(
        self, method: str, target: str, connection: http.client.HTTPConnection | None = None, **headers: str
    ) -> Reply:
        """One exchange, on a connection of its own unless there is one."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        found: Reply = await deferToThread(_exchange, connection or self.plain(), method, target, named)
        return found

    async def get(self, target: str, **headers: str) -> Reply:
        return await self.ask("GET", target, None, **headers)

    async def lines(self, *lines: str) -> Reply:
        """A request in these very lines."""

        def talk() -> Reply:
            talk = Talk(dial(self.world.port))
            talk.send("\r\n".join((*lines, "", "")).encode("latin-1"))
            reply = talk.reply(lines[0].partition(" ")[0])
            talk.close()
            return reply

        found: Reply = await deferToThread(talk)
        return found

    @property
    def at(self) -> str:
        """Where plain-HTTP clients think that the registry is."""
        return f"http://{self.world.registry.authority}"


def _exchange(
    connection: http.client.HTTPConnection, method: str, target: str, headers: dict[str, str]
) -> Reply:
    connection.request(method, target, headers=headers)
    response = connection.getresponse()
    return Reply(
        response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    )


@asynccontextmanager
async def mirror(
    directory: Path, auth: Any = "token", settings: str = "", top: str = "", **more: Any
) -> AsyncIterator[Mirror]:
    registry = FakeRegistry(reactor, auth=auth, users=USERS)
    hub = FakeRegistry(reactor, auth="token")
    image = registry.add_image(PUBLIC, "1", [LAYER])
    private = registry.add_image(PRIVATE, "1", [SECRET])
    registry.private(PRIVATE, {"alice"})
    hub_image = hub.add_image("library/alpine", "1", [b"of the hub" * 1000])
    await hub.start()
    table = f'[registries."docker.io"]\nupstream = "{hub.url}"\nretries = 0'
    try:
        async with running(directory, registry, settings=settings, top=top, tables=table, **more) as world:
            yield Mirror(world, hub, image, private, hub_image)
    finally:
        await hub.stop()


def message(reply: Reply) -> str:
    """What an error in OCI form says."""
    (error,) = json.loads(reply.body)["errors"]
    assert reply.headers["content-type"] == "application/json"
    return f"{error['code']}: {error['message']}"


def manifest(repository: str, target: object, prefix: str = "", query: str = "") -> str:
    return f"/v2/{prefix}{repository}/manifests/{target}{query}"


WORDS = pytest.mark.parametrize(
    ("prefix", "query"), [(f"{NAME}/", ""), ("", f"?ns={NAME}"), (f"{NAME}/", f"?ns={NAME}")]
)


@WORDS
@pytest.mark.parametrize("auth", ["none", "token"])
async def test_an_image_is_pulled_without_a_credential(
    tmp_path: Path, auth: str, prefix: str, query: str
) -> None:
    """The daemon gets the token; upstream sees neither prefix nor ns; a second pull takes nothing from it."""
    async with mirror(tmp_path, auth) as place:
        digest = place.image.layers[0]
        for turn in range(2):
            assert (await place.get("/v2/")).status == 200
            by_tag = await place.get(manifest(PUBLIC, 1, prefix, query))
            by_digest = await place.get(manifest(PUBLIC, place.image.manifest, prefix, query))
            blob = await place.get(f"/v2/{prefix}{PUBLIC}/blobs/{digest}{query}")
            assert (by_tag.status, by_digest.status, blob.status) == (200, 200, 200)
            assert by_tag.body == by_digest.body
            assert by_tag.headers["docker-content-digest"] == str(place.image.manifest)
            assert blob.body == LAYER
            await until(lambda: digest.hex in place.world.stored())
            assert ("hit" in blob.headers["cache-status"]) == bool(turn)
        requests = place.world.registry.requests
        assert requests.count("GET", "/blobs/") == 1
        assert requests.count("GET", "/token") == (auth == "token")
        assert not [each for each in requests if "ns=" in each.line or NAME in each.line]
        assert not place.hub.requests


async def test_docker_hub_needs_no_name(tmp_path: Path) -> None:
    async with mirror(tmp_path) as place:
        for words in ("", "docker.io/"):
            reply = await place.get(f"/v2/{words}library/alpine/manifests/1")
            assert reply.headers["docker-content-digest"] == str(place.hub_image.manifest)
        assert not place.world.registry.requests


@pytest.mark.parametrize("target", ["/v2/", "/v2", f"/v2/?ns={NAME}", f"/v2/{NAME}/", "/v2/?ns=docker.io"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_ping_asks_nobody(tmp_path: Path, method: str, target: str) -> None:
    async with mirror(tmp_path) as place:
        reply = await place.ask(method, target)
        assert (reply.status, reply.body) == (200, b"{}" if method == "GET" else b"")
        assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
        assert not place.world.registry.requests
        assert not place.hub.requests


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("/v2/?ns=ghcr.io", 403, "DENIED: ghcr.io is not one of this proxy's registries"),
        ("/v2/ghcr.io/a/manifests/1", 403, '[registries."ghcr.io"]'),
        ("/v2/127.0.0.1:1/a/manifests/1", 403, '[registries."127.0.0.1:1"]'),
        (f"/v2/a/manifests/1?ns={NAME}&ns=docker.io", 400, "NAME_INVALID: "),
        (f"/v2/{NAME}/a/manifests/1?ns=docker.io", 400, "two registries"),
        ("/v2/%2e%2e/a/manifests/1", 404, "NAME_INVALID: '..'"),
        (f"/v2/{NAME}/../docker.io/library/alpine/manifests/1", 404, "NAME_INVALID"),
        (f"/v2/{NAME}/%2e%2e/_catalog", 404, "NAME_INVALID"),
        (f"/v2/{NAME}//_catalog", 404, "NAME_INVALID"),
        (f"/v2/{NAME}/team%2Fapp/tags/list", 404, "NAME_INVALID"),
        (f"/v2/{NAME}/token", 404, "NAME_INVALID"),  # clients ask the real one
        ("/v2/auth", 404, "NAME_INVALID"),
        (f"/v2/{NAME}/team/app/blobs/uploads/1", 405, "UNSUPPORTED: a mirror is read-only"),
    ],
)
async def test_what_is_refused_reaches_nobody(tmp_path: Path, target: str, status: int, says: str) -> None:
    async with mirror(tmp_path, settings="allow_push = true") as place:
        reply = await place.get(target)
        assert reply.status == status
        assert says in message(reply)
        assert not place.world.registry.requests
        assert not place.hub.requests


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("target", ["/v2/", f"/v2/{NAME}/team/app/blobs/uploads/", "/v2/a/manifests/1"])
async def test_pushes_are_refused_whatever_allow_push_says(tmp_path: Path, method: str, target: str) -> None:
    """At once: what a client is still sending is not waited for."""
    async with mirror(tmp_path, settings="allow_push = true") as place:
        reply = await place.lines(f"{method} {target} HTTP/1.1", "Host: x", "Content-Length: 100000000")
        assert reply.status == 405
        assert "push to the registry itself" in message(reply)
        assert reply.headers["allow"] == "GET, HEAD"
        assert not place.world.registry.requests


# -- in whose name


@pytest.mark.parametrize("auth", ["token", "basic"])
async def test_a_private_repository_is_not_for_strangers(tmp_path: Path, auth: str) -> None:
    """They get upstream's challenge, so that containerd can ask for a token, and podman and docker go elsewhere."""
    async with mirror(tmp_path, auth) as place:
        for target in (place.private.manifest, 1):
            reply = await place.get(manifest(PRIVATE, target, f"{NAME}/"))
            assert reply.status == 401
            assert ("realm=" in reply.headers["www-authenticate"]) is True
        reply = await place.get(blob_path(place.private.layers[0], f"{NAME}/{PRIVATE}"))
        assert reply.status == 401
        assert not place.world.stored()


async def test_a_clients_own_credential_is_passed_on(tmp_path: Path) -> None:
    async with mirror(tmp_path, "basic") as place:
        blob = blob_path(place.private.layers[0], f"{NAME}/{PRIVATE}")
        assert (await place.get(blob, Authorization=ALICE)).body == SECRET
        assert {each.authorization for each in place.world.registry.requests} == {ALICE}
        reply = await place.get(blob, Authorization=basic("alice", "wrong"))
        assert (reply.status, "www-authenticate" in reply.headers) == (401, True)


@pytest.mark.parametrize("lines", [["Negotiate abc"], [""], [ALICE, ALICE], ["Digest a=b"]])
async def test_other_credentials_go_nowhere(tmp_path: Path, lines: list[str]) -> None:
    async with mirror(tmp_path, "basic") as place:
        target = blob_path(place.private.layers[0], f"{NAME}/{PRIVATE}")
        named = [f"Authorization: {line}" for line in lines]
        reply = await place.lines(f"GET {target} HTTP/1.1", "Host: x", *named)
        assert reply.status == 400
        assert "Basic or Bearer" in message(reply)
        assert not place.world.registry.requests


@pytest.mark.parametrize("auth", ["token", "basic"])
async def test_what_one_has_proved_by_connect_is_no_strangers(tmp_path: Path, auth: str) -> None:
    """Nor the other way round: what alice has read from the mirror is nobody's on the other side."""
    async with mirror(tmp_path, auth) as place:
        world, digest = place.world, place.private.layers[0]
        own = blob_path(digest, PRIVATE)
        mirrored = blob_path(digest, f"{NAME}/{PRIVATE}")
        authorization = ALICE
        if auth == "token":
            path = f"/token?service=fake-registry&scope=repository:{PRIVATE}:pull"
            reply = await world.client().get(path, Authorization=ALICE)
            authorization = f"Bearer {json.loads(reply.body)['token']}"
        assert (await world.client().get(own, Authorization=authorization)).body == SECRET
        await until(lambda: digest.hex in world.stored())
        for _ in range(2):
            for reply in (await place.get(mirrored), await world.client().get(own)):
                assert reply.status == 401
                assert SECRET[:50] not in reply.body
            reply = await place.get(mirrored, Authorization=authorization)
            assert reply.body == SECRET
            assert reply.headers["cache-status"] == "regcachd; hit"


async def test_private_by_the_mirror_first(tmp_path: Path) -> None:
    async with mirror(tmp_path, "basic") as place:
        digest = place.private.layers[0]
        target = blob_path(digest, f"{NAME}/{PRIVATE}")
        assert (await place.get(target, Authorization=ALICE)).body == SECRET
        await until(lambda: digest.hex in place.world.stored())
        for path in (blob_path(digest, PRIVATE), blob_path(digest, PUBLIC)):
            assert (await place.world.client().get(path)).status == 401
        assert (await place.get(target)).status == 401
        assert (await place.get(blob_path(digest, f"{NAME}/{PUBLIC}"))).status == 401


async def test_the_configured_credential_is_for_no_stranger(tmp_path: Path) -> None:
    """Unless it is shared."""
    password = tmp_path / "password"
    password.write_text(USERS["robot"])
    password.chmod(0o600)
    lines = f'username = "robot"\npassword = "file:{password}"'
    for share, status in ((False, 401), (True, 200)):
        directory = tmp_path / str(share)
        directory.mkdir()
        shared = f"{lines}\nshare = {str(share).lower()}"
        async with mirror(directory, "basic", settings=shared) as place:
            place.world.registry.private(PRIVATE, {"robot"})
            reply = await place.get(manifest(PRIVATE, 1, f"{NAME}/"))
            assert reply.status == status
            used = {each.authorization for each in place.world.registry.requests}
            assert (basic("robot", "robots") in used) == share


async def test_a_realm_that_refuses_everybody_leaves_the_challenge(tmp_path: Path) -> None:
    """So a client that has a credential can still ask for a token of its own."""
    async with mirror(tmp_path) as place:
        place.world.registry.fault("/token", Status(403))
        reply = await place.get(manifest(PUBLIC, 1, f"{NAME}/"))
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith("Bearer ")


async def test_a_public_image_read_by_a_mirror_is_public_by_connect(tmp_path: Path) -> None:
    """The proof is the same: upstream has let anybody read it."""
    async with mirror(tmp_path) as place:
        digest = place.image.layers[0]
        await place.get(blob_path(digest, f"{NAME}/{PUBLIC}"))
        await until(lambda: digest.hex in place.world.stored())
        before = len(place.world.registry.requests)
        reply = await place.world.client().get(blob_path(digest))
        assert (reply.status, reply.headers["cache-status"]) == (200, "regcachd; hit")
        assert len(place.world.registry.requests) == before


# -- the same code


async def test_ranges_heads_and_conditions_are_as_by_connect(tmp_path: Path) -> None:
    async with mirror(tmp_path, "none") as place:
        digest = place.image.layers[0]
        path, client = blob_path(digest), place.world.client()
        await client.get(path)
        await until(lambda: digest.hex in place.world.stored())
        tag = (await client.get(manifest(PUBLIC, 1))).headers["etag"]
        for method, target, headers in (
            ("GET", path, {"Range": "bytes=10-19"}),
            ("HEAD", path, {}),
            ("GET", path, {"Range": "bytes=9999999-"}),
            ("GET", path, {"If_None_Match": f'"{digest}"'}),
            ("GET", manifest(PUBLIC, 1), {"If_None_Match": tag}),
            ("HEAD", manifest(PUBLIC, 1), {}),
            ("HEAD", manifest(PUBLIC, "none"), {}),
            ("GET", manifest(PUBLIC, "none"), {}),
            ("GET", f"/v2/{PUBLIC}/tags/list", {}),
            ("GET", f"/v2/{PUBLIC}/referrers/{place.image.manifest}", {}),
        ):
            there = await client.do(method, target, **headers)
            here = await place.ask(method, target.replace("/v2/", f"/v2/{NAME}/"), None, **headers)
            assert here.status == there.status, target
            assert here.body == there.body
            volatile = ("date", "age", "cache-status")
            assert {k: v for k, v in here.headers.items() if k not in volatile} == {
                k: v for k, v in there.headers.items() if k not in volatile
            }


async def test_one_connection_carries_requests_for_many(tmp_path: Path) -> None:
    async with mirror(tmp_path) as place:
        connection = place.plain()
        turns = [
            (manifest(PUBLIC, 1, f"{NAME}/"), 200, str(place.image.manifest)),
            (manifest("library/alpine", 1), 200, str(place.hub_image.manifest)),
            ("/healthz", 200, None),
            (manifest("library/alpine", 1, "", f"?ns={NAME}"), 401, None),
            (f"{place.at}{manifest(PUBLIC, 1)}", 200, str(place.image.manifest)),
            ("/v2/ghcr.io/a/manifests/1", 403, None),
            (manifest(PUBLIC, 1, "", f"?ns={NAME}"), 200, str(place.image.manifest)),
            (manifest(PUBLIC, 1), 401, None),  # of Docker Hub
            ("/ca.crt", 200, None),
        ]
        for target, status, digest in turns:
            reply = await place.ask("GET", target, connection)
            if status == 401:
                assert reply.status in (401, 404), target
            else:
                assert reply.status == status, target
            assert reply.headers.get("docker-content-digest") == digest


@pytest.mark.parametrize(
    ("prefix", "query", "expected"),
    [
        (f"{NAME}/", "", f"</v2/{NAME}/team/app/tags/list?n=1&last=1>"),
        ("", f"ns={NAME}&", f"</v2/team/app/tags/list?n=1&last=1&ns={NAME}>"),
    ],
)
async def test_the_next_page_is_the_mirrors(tmp_path: Path, prefix: str, query: str, expected: str) -> None:
    async with mirror(tmp_path) as place:
        place.world.registry.fault("/tags/list", ExtraHeaders({"Link": NEXT}))
        reply = await place.get(f"/v2/{prefix}team/app/tags/list?{query}n=1")
        assert reply.status == 200
        assert reply.headers["link"] == f'{expected}; rel="next"'
        assert place.world.registry.requests[-1].line == "GET /v2/team/app/tags/list?n=1"
        there = await place.get(f"{place.at}/v2/team/app/tags/list", Authorization="Bearer x")
        assert there.headers["link"] == NEXT


async def test_a_list_that_is_kept_is_everybodys_in_his_words(tmp_path: Path) -> None:
    """Referrers that one client's question brought have links for the next client, too."""
    async with mirror(tmp_path, "none") as place:
        link = f'</v2/team/app/referrers/{place.image.manifest}?last=x>; rel="next"'
        place.world.registry.fault("/referrers/", ExtraHeaders({"Link": link}))
        target = f"team/app/referrers/{place.image.manifest}"
        first = await place.get(f"/v2/{NAME}/{target}")
        second = await place.world.client().get(f"/v2/{target}")
        third = await place.get(f"/v2/{target}?ns={NAME}")
        assert [each.headers["cache-status"] for each in (second, third)] == ["regcachd; hit"] * 2
        assert first.headers["link"] == link.replace("/v2/", f"/v2/{NAME}/")
        assert second.headers["link"] == link
        assert third.headers["link"] == link.replace("last=x", f"last=x&ns={NAME}")


@WORDS
@pytest.mark.parametrize("auth", ["none", "token"])
async def test_with_the_cable_out_what_is_stored_is_pulled_all_the_same(
    tmp_path: Path, auth: str, prefix: str, query: str
) -> None:
    """By tag and by digest, by clients that begin with a ping; also when nobody has a token any more."""
    async with mirror(tmp_path, auth, settings='revalidate_interval = "0s"') as place:
        digest = place.image.layers[0]
        targets = [manifest(PUBLIC, each, prefix, query) for each in (1, place.image.manifest)]
        targets.append(f"/v2/{prefix}{PUBLIC}/blobs/{digest}{query}")
        before = [await place.get(target) for target in targets]
        await until(lambda: digest.hex in place.world.stored())
        await place.world.registry.stop()
        place.world.registry.expire_tokens()
        assert (await place.get("/v2/")).status == 200
        for target, reply in zip(targets, before, strict=True):
            again = await place.get(target)
            assert (again.status, again.body) == (200, reply.body)


async def test_errors_of_upstream_name_the_registry(tmp_path: Path) -> None:
    async with mirror(tmp_path) as place:
        await place.world.registry.stop()
        reply = await place.get(manifest(PUBLIC, 1, f"{NAME}/"))
        assert reply.status in (502, 503, 504)
        assert NAME in message(reply)


# -- addresses in requests


async def test_an_address_is_a_registry_in_plain_http(tmp_path: Path) -> None:
    """Whatever Host says; the client does the dance with tokens itself, as by CONNECT."""
    async with mirror(tmp_path, "none") as place:
        digest = place.image.layers[0]
        for host in (place.world.registry.authority, "docker.io", "evil.example"):
            target = f"{place.at}{blob_path(digest)}"
            reply = await place.lines(f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close")
            assert (reply.status, reply.body) == (200, LAYER)
            await until(lambda: digest.hex in place.world.stored())
        assert place.world.registry.requests.count("GET", "/blobs/") == 1
        assert not place.hub.requests
        reply = await place.get(f"/v2/{NAME}/{PUBLIC}/blobs/{digest}")
        assert reply.headers["cache-status"] == "regcachd; hit"


async def test_its_challenges_are_upstreams(tmp_path: Path) -> None:
    async with mirror(tmp_path) as place:
        assert (await place.get(f"{place.at}/v2/")).status == 401
        reply = await place.get(f"{place.at}/token?service=fake-registry&scope=repository:{PUBLIC}:pull")
        token = json.loads(reply.body)["token"]
        reply = await place.get(f"{place.at}{manifest(PUBLIC, 1)}", Authorization=f"Bearer {token}")
        assert reply.status == 200


async def test_a_path_says_nothing_behind_an_address(tmp_path: Path) -> None:
    async with mirror(tmp_path, "none") as place:
        reply = await place.get(f"{place.at}/v2/docker.io/library/alpine/manifests/1?ns=docker.io")
        assert reply.status == 404
        assert place.world.registry.requests
        assert not place.hub.requests


async def test_pushes_go_through_where_they_may(tmp_path: Path) -> None:
    async with mirror(tmp_path, "none") as place:
        reply = await place.ask("POST", f"{place.at}/v2/team/app/blobs/uploads/")
        assert reply.status == 405
        assert "the administrator can set allow_push" in message(reply)


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("http://example.org/v2/", 403, '[registries."example.org:80"]'),
        ("http://example.org/", 403, "takes plain-HTTP requests for no other hosts"),
        ("http://169.254.169.254/latest/", 403, "no other hosts"),
        (f"https://{NAME}/v2/", 403, "by CONNECT only"),
        ("http://docker.io@example.org/v2/", 400, "***@example.org"),
        ("example.org:80", 400, "neither a path nor an address"),
    ],
)
async def test_this_is_no_open_relay(tmp_path: Path, target: str, status: int, says: str) -> None:
    """Whatever Host says; and the body of a refused request is not waited for."""
    async with mirror(tmp_path) as place:
        for method in ("GET", "HEAD", "POST", "PUT"):
            body = [] if method in ("GET", "HEAD") else ["Content-Length: 5000000"]
            reply = await place.lines(f"{method} {target} HTTP/1.1", f"Host: {NAME}", *body)
            assert reply.status == status
            if method != "HEAD":
                assert says in reply.body.decode() or says in message(reply)
        assert not place.world.registry.requests


async def test_this_daemons_own_address(tmp_path: Path) -> None:
    """Is that of its pages, and of the mirror; another port of the machine is another's."""
    async with mirror(tmp_path, top='mirror_names = ["head.cluster"]') as place:
        port = place.world.port
        for name in ("127.0.0.1", "localhost", "head.cluster"):
            assert (await place.get(f"http://{name}:{port}/healthz")).body == b"ok\n"
            reply = await place.get(f"http://{name}:{port}{manifest(PUBLIC, 1, f'{NAME}/')}")
            assert reply.status == 200
        assert (await place.get(f"http://head.cluster:{port + 1}/healthz")).status == 403
        assert (await place.get(f"http://head2.cluster:{port}/healthz")).status == 403


@pytest.mark.parametrize("hosts", [[], ["a", "b"], [NAME, NAME]])
async def test_a_request_has_one_host(tmp_path: Path, hosts: list[str]) -> None:
    """RFC 9112 section 3.2, also where it says nothing."""
    async with mirror(tmp_path, "none") as place:
        lines = [f"Host: {host}" for host in hosts]
        for target in (f"{place.at}/v2/", f"/v2/{NAME}/team/app/manifests/1", "/v2/"):
            reply = await place.lines(f"GET {target} HTTP/1.1", *lines)
            assert reply.status == 400
        assert not place.world.registry.requests


async def test_requests_of_http_1_0(tmp_path: Path) -> None:
    async with mirror(tmp_path, "none") as place:
        target = f"{place.at}{manifest(PUBLIC, 1)}"
        answer = await deferToThread(raw, place.world.port, f"GET {target} HTTP/1.0\r\n\r\n".encode())
        assert b" 200 " in answer.split(b"\r\n")[0]


# -- who may


@pytest.mark.parametrize("target", ["/v2/", manifest(PUBLIC, 1, f"{NAME}/"), "/v2/ghcr.io/a/manifests/1"])
async def test_users_say_who_they_are(tmp_path: Path, target: str) -> None:
    """With each request that leads further; strangers hear nothing of what is configured."""
    users = tmp_path / "htpasswd"
    users.write_text("ada:" + bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode() + "\n")
    right = "Basic " + base64.b64encode(b"ada:pw").decode()
    async with mirror(tmp_path, top=f'proxy_users = "file:{users}"') as place:
        connection = place.plain()
        for authorization in ({}, {"Authorization": right}, {"Proxy-Authorization": basic("ada", "no")}):
            reply = await place.ask("GET", target, connection, **authorization)
            assert reply.status == 407
            assert reply.headers["proxy-authenticate"].startswith("Basic realm=")
            assert "password for" in message(reply) or "user and a password" in message(reply)
        assert not place.world.registry.requests
        reply = await place.ask("GET", target, connection, **{"Proxy-Authorization": right})
        assert reply.status == (403 if "ghcr" in target else 200)
        assert (await place.get("/ca.crt")).status == 200
        for request in place.world.registry.requests:
            assert "proxy-authorization" not in {name.lower() for name in request.headers}


async def test_clients_from_elsewhere_are_not_admitted(tmp_path: Path) -> None:
    async with mirror(tmp_path, top='clients = ["10.0.0.0/8"]') as place:
        assert (await place.get("/v2/")).status == 403
