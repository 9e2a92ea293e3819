"""The daemon's own pages, over plain HTTP on its port."""

import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from regcachd import __version__
from regcachd.breaker import ENOUGH
from regcachd.testing import FakeRegistry
from tests.wire import Talk, dial
from tests.world import NAME, Reply, World

reactor: Any = _reactor


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, FakeRegistry(reactor))
    pytest_twisted.blockon(Deferred.fromCoroutine(world.start()))
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.stop()))


async def ask(world: World, line: str, *headers: str) -> Reply:
    """One request on a connection of its own."""

    def talk() -> Reply:
        talk = Talk(dial(world.port))
        talk.send("\r\n".join((f"{line} HTTP/1.1", *headers, "", "")).encode())
        reply = talk.reply(line.partition(" ")[0])
        talk.close()
        return reply

    reply: Reply = await deferToThread(talk)
    return reply


async def test_index(world: World) -> None:
    """The page says what this is, what it caches, and the two steps to use it, under the name it was asked by."""
    reply = await ask(world, "GET /", "Host: head-node.example:3128")
    page = reply.body.decode()
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert f"regcachd {__version__}" in page
    assert NAME in page
    assert world.service.ca.fingerprint in page
    assert "HTTPS_PROXY=http://head-node.example:3128" in page
    assert "http://head-node.example:3128/ca.crt" in page


async def test_index_without_a_host(world: World) -> None:
    """A request that names no host gets a placeholder."""
    assert b"HTTPS_PROXY=http://HEAD-NODE:3128" in (await ask(world, "GET /")).body


async def test_index_is_not_for_injection(world: World) -> None:
    """What a client sends as Host is text in the page, and the page may run nothing."""
    reply = await ask(world, "GET /?x", 'Host: "><script>alert(1)</script>')
    assert b"<script" not in reply.body
    assert "default-src 'none'" in reply.headers["content-security-policy"]


async def test_ca(world: World, tmp_path: Path) -> None:
    """The root in PEM, with a file name, and openssl reads it: its fingerprint is the one on the page."""
    reply = await ask(world, "GET /ca.crt")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/x-pem-file"
    assert reply.headers["content-disposition"] == 'attachment; filename="regcachd.crt"'
    ssl.create_default_context(cadata=reply.body.decode())
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256"]
    shown = subprocess.run(command, input=reply.body, capture_output=True, check=True).stdout.decode()
    digits = re.sub("[^0-9a-f]", "", shown.partition("=")[2].lower())
    page = (await ask(world, "GET /")).body.decode().lower()
    assert digits in re.sub("[: ]", "", page)


async def test_head(world: World) -> None:
    """HEAD tells the length of what GET would send."""
    got, headed = await ask(world, "GET /ca.crt"), await ask(world, "HEAD /ca.crt")
    assert headed.body == b""
    assert headed.headers["content-length"] == str(len(got.body))


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("GET /healthz", 200, "ok\n"),
        ("GET /healthz?x=y", 200, "ok\n"),
        ("GET /nothing", 404, "no such page; / says what this is\n"),
        ("GET /ca.crt/", 404, "no such page"),
        ("GET /../ca.crt", 404, "no such page"),
        ("POST /", 405, "only GET and HEAD here\n"),
        ("DELETE /ca.crt", 405, "only GET and HEAD here\n"),
        ("GET http://example.org/", 403, "takes plain-HTTP requests for no other hosts"),
        ("OPTIONS *", 400, "neither a path nor an address"),
    ],
)
async def test_other_requests(world: World, line: str, status: int, says: str) -> None:
    """Each gets a line of text that says what is the matter."""
    reply = await ask(world, line, "Host: x")
    assert reply.status == status
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert says in reply.body.decode()
    assert ("allow" in reply.headers) == (status == 405)


async def test_connect_on_a_used_connection(world: World) -> None:
    """A CONNECT after another request is told that it comes too late."""

    def talk() -> tuple[Reply, Reply]:
        talk = Talk(dial(world.port))
        talk.send(b"GET /healthz HTTP/1.1\r\n\r\n")
        first = talk.reply()
        talk.send(f"CONNECT {NAME}:443 HTTP/1.1\r\n\r\n".encode())
        second = talk.reply()
        talk.close()
        return first, second

    first, second = await deferToThread(talk)
    assert first.status == 200
    assert second.status == 400
    assert b"CONNECT must be the first request of a connection" in second.body


async def test_a_store_that_has_gone_is_no_health(world: World) -> None:
    """Said by every worker, also by one that has not had to do with it since."""
    store = world.directory / "store"
    store.rename(world.directory / "elsewhere")
    reply = await ask(world, "GET /healthz")
    assert reply.status == 200
    assert (
        reply.body.decode()
        == f"ok, but nothing is cached: the store {store} is not there, or cannot be written to\n"
    )
    (world.directory / "elsewhere").rename(store)
    assert (await ask(world, "GET /healthz")).body == b"ok\n"


async def test_health_names_registries_that_cannot_be_reached(world: World) -> None:
    """After the line that says how the daemon itself is, which is well."""
    await world.registry.stop()
    for _ in range(ENOUGH):
        await world.client().get("/v2/")
    reply = await ask(world, "GET /healthz")
    assert reply.status == 200
    assert re.fullmatch(rb"ok\nregistry\.test has been unreachable for \d+ s .*refused.*\n", reply.body)
