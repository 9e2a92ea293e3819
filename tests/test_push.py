"""Pushing through a daemon to an upstream that the test plays itself, byte by byte, over real sockets."""

import json
import random
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread

from regcachd.freshness import TagEntry
from regcachd.reference import Digest, Repository, Tag
from regcachd.testing import FakeRegistry, Status
from regcachd.web import MOST_UNREAD
from tests.proxy import ForwardProxy
from tests.test_parent_tiers import Behind
from tests.through import Download, running
from tests.wire import TIMEOUT, Talk, connect_through, read_exactly, resident, trusting
from tests.world import NAME, Reply, World, until

reactor: Any = _reactor

BODY = random.Random(11).randbytes(1_500_000)
UPLOAD = "/v2/team/app/blobs/uploads/one?_state=a%3Db"
LOCATION = f"https://{NAME}/v2/team/app/blobs/uploads/one?_state=x%2By%3D&z"


class Peer:
    """Upstream's side of one connection. Blocking."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(TIMEOUT)

    def head(self) -> list[str]:
        """The next request's head, in lines."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += read_exactly(self.connection, 1)
        return head.decode("latin-1").split("\r\n")[:-2]

    def body(self, count: int) -> bytes:
        """Bytes of the request's body."""
        return read_exactly(self.connection, count)

    def chunks(self) -> bytes:
        """A chunked body, without its framing."""
        data = b""
        while True:
            line = b""
            while not line.endswith(b"\r\n"):
                line += read_exactly(self.connection, 1)
            size = int(line, 16)
            data += read_exactly(self.connection, size)
            assert read_exactly(self.connection, 2) == b"\r\n"
            if not size:
                return data

    def answer(self, status: int, *lines: str, body: bytes = b"") -> None:
        """A response."""
        head = [f"HTTP/1.1 {status} As It Is", f"Content-Length: {len(body)}", *lines, "", ""]
        self.connection.sendall("\r\n".join(head).encode() + body)

    def rest(self) -> bytes:
        """What comes until the other side ends the connection, in whatever way."""
        data = b""
        try:
            while piece := self.connection.recv(65536):
                data += piece
        except ConnectionError:
            pass
        return data

    def reset(self) -> None:
        """Die."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()


class Played:
    """A registry whose answers the test gives."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(TIMEOUT)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.peers: list[Peer] = []

    async def start(self) -> None:
        """It listens already."""

    def release(self) -> None:
        """Nothing is held."""

    async def stop(self) -> None:
        """The end."""
        self._listening.close()
        for peer in self.peers:
            peer.connection.close()

    def peer(self) -> Peer:
        """The next connection. Blocking."""
        self.peers.append(Peer(self._listening.accept()[0]))
        return self.peers[-1]

    def alone(self) -> bool:
        """Does nobody connect?"""
        return not select.select([self._listening], [], [], 0.05)[0]


class Place:
    """A daemon that lets pushes pass, the registry behind it, and clients."""

    def __init__(self, world: World, registry: Played) -> None:
        self.world = world
        self.registry = registry

    def talk(self) -> Talk:
        """A client's connection. Blocking."""
        context = trusting(self.world.service.ca.root_pem.decode())
        plain = connect_through(self.world.port, f"{NAME}:443")
        talk = Talk(context.wrap_socket(plain, server_hostname=NAME))
        self.world.clients.append(talk)  # type: ignore[arg-type]
        return talk

    @property
    def busy(self) -> bool:
        """Is a request of a client under way?"""
        return bool(self.world.service.door.busy())


@asynccontextmanager
async def pushing(directory: Path, settings: str = "allow_push = true") -> AsyncIterator[Place]:
    """A place, for the length of a test."""
    registry = Played()
    async with running(directory, registry, settings=settings) as world:  # type: ignore[arg-type]
        yield Place(world, registry)


def head(method: str, path: str, *lines: str) -> bytes:
    """A request's head."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {NAME}", *lines, "", ""]).encode()


def chunked(data: bytes, size: int = 70_001) -> bytes:
    """A chunked body."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def together(*parts: Callable[[], Any]) -> "Any":
    """Run blocking parts, each in a thread; their results."""
    from twisted.internet.defer import gatherResults

    return gatherResults([deferToThread(part) for part in parts], consumeErrors=True)


# -- through


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_passes_as_it_is(tmp_path: Path, framing: str) -> None:
    """Body, credential and target reach upstream as sent; its Location comes back verbatim; the connections go on."""
    async with pushing(tmp_path) as place:

        def client() -> list[Reply]:
            talk, replies = place.talk(), []
            for method in ("PATCH", "PUT"):
                if framing == "length":
                    lines, body = [f"Content-Length: {len(BODY)}"], BODY
                else:
                    lines, body = ["Transfer-Encoding: chunked"], chunked(BODY)
                talk.send(head(method, UPLOAD, "Authorization: Bearer own", "X-Odd: y", *lines) + body)
                replies.append(talk.reply(method))
            return replies

        def upstream() -> list[tuple[list[str], bytes]]:
            peer, seen = place.registry.peer(), []
            for _ in range(2):
                lines = peer.head()
                seen.append((lines, peer.body(len(BODY)) if framing == "length" else peer.chunks()))
                peer.answer(202, f"Location: {LOCATION}", "Range: 0-1")
            return seen

        replies, seen = await together(client, upstream)
        for method, reply, (lines, body) in zip(("PATCH", "PUT"), replies, seen, strict=True):
            assert (reply.status, reply.headers["location"]) == (202, LOCATION)
            assert "connection" not in reply.headers
            assert lines[0] == f"{method} {UPLOAD} HTTP/1.1"
            assert "Authorization: Bearer own" in lines
            assert "X-Odd: y" in lines
            assert "X-Forwarded-Proto: https" in lines  # to a registry without TLS
            assert body == BODY
        assert place.registry.alone()


async def test_requests_without_a_body(tmp_path: Path) -> None:
    """The beginning of an upload, its state, a deletion."""
    async with pushing(tmp_path) as place:
        asked = [("POST", "/v2/team/app/blobs/uploads/?mount=a&from=b"), ("GET", UPLOAD), ("HEAD", UPLOAD)]
        asked += [("DELETE", UPLOAD), ("PUT", UPLOAD)]

        def client() -> None:
            talk = place.talk()
            for method, path in asked:
                talk.send(head(method, path, *["Content-Length: 0"] * (method in ("POST", "PUT"))))
                assert talk.reply(method).status == 202

        def upstream() -> list[str]:
            peer, seen = place.registry.peer(), []
            for _ in asked:
                lines = peer.head()
                seen.append(lines[0])
                assert ("Content-Length: 0" in lines) == lines[0].startswith(("POST", "PUT"))
                peer.answer(202)
            return seen

        _, seen = await together(client, upstream)
        assert seen == [f"{method} {path} HTTP/1.1" for method, path in asked]


async def test_what_follows_an_upload_on_the_connection(tmp_path: Path) -> None:
    """A request sent together with it is answered after it."""
    async with pushing(tmp_path) as place:

        def client() -> list[int]:
            talk = place.talk()
            first = head("PUT", UPLOAD, "Content-Length: 5") + b"hello"
            talk.send(first + head("GET", "/v2/") + head("PUT", UPLOAD, "Content-Length: 2") + b"yo")
            return [talk.reply("PUT").status, talk.reply().status, talk.reply("PUT").status]

        def upstream() -> list[bytes]:
            peer, bodies = place.registry.peer(), []
            for status, count in (201, 5), (200, 0), (202, 2):
                peer.head()
                bodies.append(peer.body(count))
                peer.answer(status)
            return bodies

        replies, bodies = await together(client, upstream)
        assert (replies, bodies) == ([201, 200, 202], [b"hello", b"", b"yo"])


# -- the pace


async def test_a_slow_upstream_slows_the_client(tmp_path: Path) -> None:
    """What upstream does not take stays with the client, whatever it would like to send."""
    async with pushing(tmp_path) as place:
        total = 256 * 1024 * 1024
        piece = bytes(1024 * 1024)
        started = resident()

        def send() -> int:
            """Until nothing goes any more."""
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, f"Content-Length: {total}"))
            talk.connection.settimeout(0.5)
            sent = 0
            try:
                while sent < total:
                    sent += talk.connection.send(piece)
            except (TimeoutError, ssl.SSLWantWriteError):
                pass
            return sent

        def upstream() -> Peer:
            peer = place.registry.peer()
            peer.head()
            return peer

        sent, peer = await together(send, upstream)
        assert sent < 32 * 1024 * 1024  # what two sockets hold, and a little
        assert resident() - started < 32 * 1024 * 1024
        await deferToThread(peer.body, 1024 * 1024)
        peer.reset()
        await until(lambda: not place.busy)


async def test_a_client_that_takes_its_time(tmp_path: Path) -> None:
    """Upstream's timeout is not for the client's pauses."""
    async with pushing(tmp_path, 'allow_push = true\ntimeout = "400ms"') as place:

        def client() -> int:
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, "Content-Length: 10") + b"hello")
            select.select([talk.connection], [], [], 0.8)
            talk.send(b"world")
            return talk.reply("PATCH").status

        def upstream() -> bytes:
            peer = place.registry.peer()
            peer.head()
            body = peer.body(10)
            peer.answer(202)
            return body

        assert await together(client, upstream) == [202, b"helloworld"]


async def test_an_upstream_that_does_not_answer_an_upload(tmp_path: Path) -> None:
    """Once all has been sent its timeout counts."""
    async with pushing(tmp_path, 'allow_push = true\ntimeout = "400ms"') as place:

        def client() -> Reply:
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, "Content-Length: 5") + b"hello")
            return talk.reply("PATCH")

        def upstream() -> bytes:
            peer = place.registry.peer()
            peer.head()
            return peer.rest()

        reply, body = await together(client, upstream)
        assert (reply.status, body) == (504, b"hello")
        assert place.registry.alone()


# -- Expect


async def test_expectations_are_upstreams_to_meet(tmp_path: Path) -> None:
    """Nothing is said to a client that waits before upstream says it."""
    async with pushing(tmp_path) as place:

        def client() -> tuple[bytes, Reply]:
            talk = place.talk()
            talk.send(head("PUT", UPLOAD, "Content-Length: 5", "Expect: 100-continue"))
            said = read_exactly(talk.connection, len(b"HTTP/1.1 100 Continue\r\n\r\n"))
            talk.send(b"hello")
            return said, talk.reply("PUT")

        def upstream() -> bytes:
            peer = place.registry.peer()
            assert "Expect: 100-continue" in peer.head()
            assert not select.select([peer.connection], [], [], 0.05)[0]
            peer.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = peer.body(5)
            peer.answer(201)
            return body

        (said, reply), body = await together(client, upstream)
        assert (said, reply.status, body) == (b"HTTP/1.1 100 Continue\r\n\r\n", 201, b"hello")


async def test_an_expectation_refused(tmp_path: Path) -> None:
    """The client hears no instead of go on; whether it sends its body after all nobody can tell, so that is the end."""
    async with pushing(tmp_path) as place:

        def client() -> tuple[Reply, bool]:
            talk = place.talk()
            talk.send(head("PUT", UPLOAD, f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
            return talk.reply("PUT"), talk.at_end()

        def upstream() -> bytes:
            peer = place.registry.peer()
            peer.head()
            peer.answer(401, 'WWW-Authenticate: Bearer realm="x"', body=b"who?")
            return peer.rest()

        (reply, ended), rest = await together(client, upstream)
        assert (reply.status, reply.body) == (401, b"who?")
        assert reply.headers["www-authenticate"] == 'Bearer realm="x"'
        assert reply.headers["connection"] == "close"
        assert ended
        assert rest == b""


async def test_a_client_that_does_not_wait_for_its_expectation(tmp_path: Path) -> None:
    async with pushing(tmp_path) as place:

        def client() -> int:
            talk = place.talk()
            talk.send(head("PUT", UPLOAD, "Content-Length: 5", "Expect: 100-continue"))
            talk.send(b"hello")
            return talk.reply("PUT").status

        def upstream() -> bytes:
            peer = place.registry.peer()
            peer.head()
            body = peer.body(5)
            peer.answer(201)
            return body

        assert await together(client, upstream) == [201, b"hello"]


# -- early answers


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("closes", [False, True])
async def test_an_answer_before_the_body_has_been_sent(tmp_path: Path, framing: str, closes: bool) -> None:
    """It reaches the client, which is told that the connection ends; upstream gets no more, and no second try."""
    async with pushing(tmp_path) as place:
        large = BODY * 20

        def client() -> tuple[Reply, bool]:
            talk = place.talk()
            if framing == "length":
                data = head("PATCH", UPLOAD, f"Content-Length: {len(large)}") + large
            else:
                data = head("PATCH", UPLOAD, "Transfer-Encoding: chunked") + chunked(large)
            talk.send(data)  # all of it, before looking for an answer
            return talk.reply("PATCH"), talk.at_end()

        def upstream() -> int:
            peer = place.registry.peer()
            peer.head()
            peer.answer(413, body=b"too much")
            if closes:  # with bytes unread, which makes it a reset
                peer.connection.close()
                return 0
            return len(peer.rest())

        (reply, ended), taken = await together(client, upstream)
        assert (reply.status, reply.body, reply.headers["connection"]) == (413, b"too much", "close")
        assert ended
        assert taken < len(large)
        assert place.registry.alone()


async def test_a_short_body_that_nobody_wanted_is_read_away(tmp_path: Path) -> None:
    """The client's connection goes on, upstream's does not."""
    async with pushing(tmp_path) as place:

        def client() -> list[int]:
            talk = place.talk()
            talk.send(head("PUT", UPLOAD, "Content-Length: 10") + b"hello")
            first = talk.reply("PUT").status
            talk.send(b"world" + head("GET", "/v2/"))
            return [first, talk.reply().status]

        def upstream() -> bytes:
            peer = place.registry.peer()
            peer.head()
            peer.body(5)
            peer.answer(401)
            rest = peer.rest()
            second = place.registry.peer()
            second.head()
            second.answer(200)
            return rest

        assert await together(client, upstream) == [[401, 200], b""]


# -- ends


async def test_an_upstream_that_dies(tmp_path: Path) -> None:
    """The client hears of it, and nothing is tried again."""
    async with pushing(tmp_path) as place:

        def client() -> Reply:
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, f"Content-Length: {10 * len(BODY)}") + BODY)
            return talk.reply("PATCH")

        def upstream() -> None:
            peer = place.registry.peer()
            peer.head()
            peer.body(1000)
            peer.reset()

        reply, _ = await together(client, upstream)
        assert (reply.status, reply.headers["connection"]) == (502, "close")
        assert "closed the connection" in json.loads(reply.body)["errors"][0]["message"]
        assert place.registry.alone()


@pytest.mark.parametrize("how", ["gone", "close_notify", "half"])
async def test_a_client_that_dies(tmp_path: Path, how: str) -> None:
    """Upstream never takes what came for the whole."""
    async with pushing(tmp_path) as place:

        def client() -> None:
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, "Transfer-Encoding: chunked") + chunked(BODY)[:-5])
            if how == "gone":
                talk.close()
            elif how == "close_notify":
                with suppress(ConnectionError):
                    talk.connection.unwrap()  # type: ignore[attr-defined]  # it is TLS
            else:
                talk.connection.shutdown(socket.SHUT_WR)

        def upstream() -> bytes:
            return place.registry.peer().rest()

        _, rest = await together(client, upstream)
        assert not rest.endswith(b"0\r\n\r\n")
        await until(lambda: not place.busy)


async def test_a_body_that_is_no_body(tmp_path: Path) -> None:
    """A broken chunk is a 400, and ends upstream's connection."""
    async with pushing(tmp_path) as place:

        def client() -> Reply:
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, "Transfer-Encoding: chunked") + b"5\r\nhello\r\nzz\r\n")
            return talk.reply("PATCH")

        def upstream() -> bytes:
            return place.registry.peer().rest()

        reply, rest = await together(client, upstream)
        assert reply.status == 400
        assert not rest.endswith(b"0\r\n\r\n")


async def test_a_connection_that_upstream_has_closed_meanwhile(tmp_path: Path) -> None:
    """Uploads go over connections that are open for sure: they could not be repeated."""
    async with pushing(tmp_path) as place:
        talk = await deferToThread(place.talk)

        def ping() -> int:
            talk.send(head("GET", "/v2/"))
            return talk.reply().status

        def pong() -> None:
            peer = place.registry.peer()
            peer.head()
            peer.answer(200)
            peer.connection.close()

        assert (await together(ping, pong))[0] == 200
        # without a turn of the reactor in which the end could be noticed
        upstream = place.world.service.edition.registries[NAME].upstream
        asked = upstream.request(b"POST", b"/v2/team/app/blobs/uploads/", [])

        def serve() -> None:
            peer = place.registry.peer()
            assert peer.head()[0].startswith("POST ")
            peer.answer(202)

        served = deferToThread(serve)
        response = await asked
        await served
        assert response.status == 202


async def test_a_client_that_stands_still(tmp_path: Path) -> None:
    """It may pause for as long as one that reads a response; then both connections end."""
    from tests.test_frontdoor import sweep_in

    async with pushing(tmp_path) as place:
        door = place.world.service.door

        def client() -> Talk:
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, "Content-Length: 10") + b"hello")
            return talk

        def upstream() -> Peer:
            peer = place.registry.peer()
            peer.head()
            peer.body(5)
            return peer

        talk, peer = await together(client, upstream)
        sweep_in(door, 0)
        sweep_in(door, 590)
        assert place.busy
        talk.send(b"w")
        await deferToThread(peer.body, 1)
        sweep_in(door, 610)
        assert await deferToThread(peer.rest) == b""
        await until(lambda: not door.connections)


# -- what is not allowed


@pytest.mark.parametrize("lines", [["Content-Length: 300000000"], ["Transfer-Encoding: chunked"]])
async def test_a_large_upload_that_is_not_allowed_is_not_read(tmp_path: Path, lines: list[str]) -> None:
    async with running(tmp_path) as world:
        download = Download(world, UPLOAD, *lines, "Expect: 100-continue", method="PATCH")
        await download.begin()
        assert (download.status, download.header("allow")) == (405, ["GET, HEAD"])
        assert download.header("connection") == ["close"]
        assert b"allow_push" in await download.rest()
        assert not world.registry.requests


async def test_a_refused_body_of_some_length(tmp_path: Path) -> None:
    """Up to a quarter of a mebibyte the connection goes on."""
    async with running(tmp_path) as world:
        client = world.client()
        for count, keeps in (MOST_UNREAD, True), (MOST_UNREAD + 1, False):
            reply = await deferToThread(client.ask, "PUT", UPLOAD, {}, bytes(count))
            assert reply.status == 405
            assert (reply.headers.get("connection") != "close") == keeps


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("OPTIONS", "/v2/"),
        ("TRACE", UPLOAD),
        ("PUT", "//v2/team/app/manifests/1"),
        ("PUT", "/%762/team/app/manifests/1"),
        ("DELETE", "/v2/x/../team/app/manifests/1"),
        ("DELETE", "/v2/team/%2e%2e/app/manifests/1"),
        ("DELETE", "/v2/team//app/manifests/1"),
        ("DELETE", "/v2/team%2Fapp/manifests/1"),
        ("DELETE", "/x/../v2/team/app/manifests/1"),
        ("PUT", "/v2/team/app/manifests/.."),
    ],
)
async def test_what_stays_refused_where_pushing_is_allowed(tmp_path: Path, method: str, path: str) -> None:
    async with running(tmp_path, settings="allow_push = true") as world:
        assert (await world.client().do(method, path)).status == 405
        assert not world.registry.requests


# -- what is forgotten

REPOSITORY = Repository(NAME, "team/app")
OTHER = Repository(NAME, "team/other")
MANIFEST = Digest.of(b"manifest")
BLOB = Digest.of(b"blob")


@pytest.mark.parametrize(
    ("method", "path", "status", "tags", "links"),
    [
        ("PUT", "manifests/1", 201, 0, 2),
        ("PUT", f"manifests/{MANIFEST}", 201, 0, 2),
        ("DELETE", "manifests/1", 202, 0, 2),
        ("DELETE", f"manifests/{MANIFEST}", 202, 0, 1),
        ("DELETE", f"blobs/{BLOB}", 202, 1, 1),
        ("DELETE", "blobs/uploads/one", 204, 1, 2),
        ("PUT", "blobs/uploads/one?digest=x", 201, 1, 2),
        ("PUT", "manifests/1", 403, 1, 2),
        ("DELETE", f"manifests/{MANIFEST}", 405, 1, 2),
        ("POST", "manifests/1", 201, 1, 2),
    ],
)
async def test_what_a_write_makes_untrue_is_forgotten(
    tmp_path: Path, method: str, path: str, status: int, tags: int, links: int
) -> None:
    """In this repository alone, and by all workers."""
    registry = FakeRegistry(reactor)
    async with running(tmp_path, registry, settings="allow_push = true") as world:
        registry.fault("", Status(status, {}, b""))
        other = world.second()
        try:
            index = world.service._index
            for repository in REPOSITORY, OTHER:
                index.tags.set(repository, Tag("1"), "", TagEntry(MANIFEST, "x", 1.0))
                index.link(repository, MANIFEST)
                index.link(repository, BLOB)
            body = b"content" if method in ("PUT", "POST") else None
            reply = await deferToThread(world.client().ask, method, f"/v2/team/app/{path}", {}, body)
            assert reply.status == status
            seen = other.service._index
            for repository, kept in (REPOSITORY, (tags, links)), (OTHER, (1, 2)):
                found = seen.tags.get(repository, Tag("1"), "") is not None
                linked = [digest for digest in (MANIFEST, BLOB) if seen.linked(repository, digest)]
                assert (int(found), len(linked)) == kept
        finally:
            await other.stop()


async def test_a_write_of_which_nobody_knows_the_end(tmp_path: Path) -> None:
    """It may have happened."""
    async with pushing(tmp_path) as place:
        index = place.world.service._index
        index.tags.set(REPOSITORY, Tag("1"), "", TagEntry(MANIFEST, "x", 1.0))

        def client() -> int:
            talk = place.talk()
            talk.send(head("PUT", "/v2/team/app/manifests/1", "Content-Length: 2") + b"{}")
            return talk.reply("PUT").status

        def upstream() -> None:
            peer = place.registry.peer()
            peer.head()
            peer.body(2)
            peer.reset()

        assert (await together(client, upstream))[0] == 502
        assert index.tags.get(REPOSITORY, Tag("1"), "") is None


async def test_a_write_that_was_never_sent_changes_nothing(tmp_path: Path) -> None:
    async with pushing(tmp_path) as place:
        index = place.world.service._index
        index.tags.set(REPOSITORY, Tag("1"), "", TagEntry(MANIFEST, "x", 1.0))
        await place.registry.stop()
        reply = await deferToThread(place.world.client().ask, "PUT", "/v2/team/app/manifests/1", {}, b"{}")
        assert reply.status == 502
        assert index.tags.get(REPOSITORY, Tag("1"), "") is not None


# -- the breaker


async def test_clients_that_leave_do_not_make_a_registry_unreachable(tmp_path: Path) -> None:
    """Nor do uploads on which it closes, or over which it broods: others can be served meanwhile."""
    async with pushing(tmp_path, 'allow_push = true\ntimeout = "400ms"') as place:

        def left() -> None:
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, "Content-Length: 10") + b"hello")
            peer = place.registry.peer()
            peer.head()
            peer.body(5)
            talk.close()
            peer.rest()

        def closed() -> None:
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, "Content-Length: 10") + b"hello")
            peer = place.registry.peer()
            peer.head()
            peer.reset()
            assert talk.reply("PATCH").status == 502

        def brooded() -> None:
            talk = place.talk()
            talk.send(head("PUT", UPLOAD, "Content-Length: 0"))
            place.registry.peer().rest()
            assert talk.reply("PUT").status == 504

        for _ in range(4):
            for way in left, closed, brooded:
                await deferToThread(way)
        await until(lambda: not place.busy)
        assert place.world.service.edition.registries[NAME].upstream.outage is None


async def test_an_upload_is_not_what_others_wait_for(tmp_path: Path) -> None:
    """While a registry is being tried again, an upload of a slow client is one of those who try, and no more."""
    async with pushing(tmp_path) as place:
        upstream = place.world.service.edition.registries[NAME].upstream
        breaker = upstream._breaker(upstream._home)
        for _ in range(3):
            breaker.failed(0.0, 0.0, "test", 502, 0.0)
        assert upstream.unreachable_since is not None

        def slow() -> tuple[Talk, Peer]:
            talk = place.talk()
            talk.send(head("PATCH", UPLOAD, "Content-Length: 10") + b"hello")
            peer = place.registry.peer()
            peer.head()
            return talk, peer

        def ping() -> int:
            talk = place.talk()
            talk.send(head("GET", "/v2/team/app/tags/list"))
            peer = place.registry.peer()
            peer.head()
            peer.answer(200)
            return talk.reply().status

        talk, peer = await deferToThread(slow)
        assert upstream.unreachable_since is not None
        assert await deferToThread(ping) == 200
        assert upstream.unreachable_since is None
        peer.reset()
        talk.close()
        await until(lambda: not place.busy)


# -- where uploads go on

ELSEWHERE = "https://storage.test/upload?a=%2F"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/v2/team/app/blobs/uploads/x?_state=%3D", None),
        ("https://registry.test/v2/a?_state=%3D", None),
        ("https://registry.test:443/v2/a", None),
        (ELSEWHERE, None),
        ("//HOME/v2/a", None),
        ("https://HOME.test/v2/a", None),
        ("https://[/v2/a", None),
        (
            "https://HOME/v2/a?_state=%3D&x=http://HOME/",
            "https://registry.test/v2/a?_state=%3D&x=http://HOME/",
        ),
        ("http://HOME/v2/a", "https://registry.test/v2/a"),
        ("HTTPS://HOME", "https://registry.test"),
        ("http://registry.test/v2/a", None),  # not where it is
    ],
)
async def test_where_an_upload_goes_on(tmp_path: Path, location: str, expected: str | None) -> None:
    """Verbatim, unless it is an address that only the daemon knows the registry by."""
    async with pushing(tmp_path) as place:
        home = place.registry.url.removeprefix("http://")
        location = location.replace("HOME", home)

        def client() -> Reply:
            talk = place.talk()
            talk.send(head("POST", "/v2/team/app/blobs/uploads/", "Content-Length: 0"))
            return talk.reply("POST")

        def upstream() -> None:
            peer = place.registry.peer()
            peer.head()
            peer.answer(202, f"LOCATION: {location}", "Docker-Upload-UUID: x")

        reply, _ = await together(client, upstream)
        assert reply.headers["location"] == (location if expected is None else expected.replace("HOME", home))


# -- through a parent


@pytest.mark.parametrize("parent", ["regcachd", "another"])
async def test_a_push_through_a_parent(tmp_path: Path, parent: str) -> None:
    """Streamed, with its expectation, by CONNECT or in absolute form; the parent's password stays with the parent."""
    registry, proxy = Played(), ForwardProxy().start()
    for name in "site", "rack":
        (tmp_path / name).mkdir()
    lines = "allow_push = true"
    async with running(tmp_path / "site", registry, settings=lines) as site:  # type: ignore[arg-type]
        behind: Any = registry
        if parent == "regcachd":
            behind, lines = Behind(site), f'{lines}\nupstream_proxy = "http://127.0.0.1:{site.port}"'
        else:
            password = tmp_path / "password"
            password.write_text("pw")
            password.chmod(0o600)
            lines += f'\nupstream_proxy = "http://us@{proxy.authority}"\nupstream_proxy_password = "file:{password}"'
        async with running(tmp_path / "rack", behind, settings=lines) as rack:

            def client() -> tuple[bytes, Reply]:
                talk = Place(rack, registry).talk()
                talk.send(head("PATCH", UPLOAD, "Transfer-Encoding: chunked", "Expect: 100-continue"))
                said = read_exactly(talk.connection, len(b"HTTP/1.1 100 Continue\r\n\r\n"))
                talk.send(chunked(BODY))
                return said, talk.reply("PATCH")

            def upstream() -> tuple[list[str], bytes]:
                peer = registry.peer()
                lines = peer.head()
                peer.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = peer.chunks()
                peer.answer(202, f"Location: {LOCATION}")
                return lines, body

            (said, reply), (asked, body) = await together(client, upstream)
            assert said.startswith(b"HTTP/1.1 100")
            assert (reply.status, reply.headers["location"]) == (202, LOCATION)
            assert body == BODY
            assert asked[0] == f"PATCH {UPLOAD} HTTP/1.1"
            if parent == "another":
                assert proxy.heads[0][0] == f"PATCH {registry.url}{UPLOAD} HTTP/1.1"
                assert any(line.startswith("Proxy-Authorization: Basic ") for line in proxy.heads[0])
    await proxy.stop()


@pytest.mark.parametrize(
    "session",
    [
        "/artifacts-uploads/namespaces/site/repositories/team/uploads/AF~x?upload_id=%2Fa",  # Artifact Registry
        "/v2/team/app/blobs/upload/7a1",  # ghcr.io
        "/v2/team/app/blobs/uploads/",
        "/v2/team/app/blobs/uploads/7a1?_state=%2F..%2F",
    ],
)
async def test_wherever_a_registry_keeps_its_upload_sessions(tmp_path: Path, session: str) -> None:
    async with pushing(tmp_path) as place:

        def client() -> int:
            talk = place.talk()
            talk.send(head("PATCH", session, "Content-Length: 5") + b"hello")
            return talk.reply("PATCH").status

        def upstream() -> tuple[str, bytes]:
            peer = place.registry.peer()
            line, body = peer.head()[0], peer.body(5)
            peer.answer(202)
            return line, body

        assert await together(client, upstream) == [202, (f"PATCH {session} HTTP/1.1", b"hello")]


async def test_nothing_is_written_at_token_hosts(tmp_path: Path) -> None:
    """They are beside the registry; it would not even get there."""
    settings = 'allow_push = true\ntoken_hosts = ["auth.registry.test"]'
    async with running(tmp_path, settings=settings) as world:
        client = world.client()
        client.host = "auth.registry.test"
        assert (await client.do("DELETE", "/token")).status == 405
        assert not world.registry.requests
