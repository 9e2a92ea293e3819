"""Proxy authentication at the front door: what clients hear, on which connection, and what of it goes no further."""

import base64
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread

from regcachd.frontdoor import MOST_CHALLENGES
from regcachd.testing import FakeRegistry
from tests.through import logged, running
from tests.wire import TIMEOUT, Talk, trusting
from tests.world import NAME, Reply, World

reactor: Any = _reactor

PASSWORD = "correct horse"
RIGHT = "Proxy-Authorization: Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
WRONG = "Proxy-Authorization: Basic " + base64.b64encode(b"ada:guessed").decode()
CONNECT = f"CONNECT {NAME}:443 HTTP/1.1"


@asynccontextmanager
async def guarded(directory: Path, **settings: Any) -> AsyncIterator[World]:
    """A daemon that ada may use."""
    users = directory / "htpasswd"
    users.write_text("ada:" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode() + "\n")
    async with running(directory, top=f'proxy_users = "file:{users}"', **settings) as world:
        yield world


class Caller:
    """A client's connection before there is TLS in it. Blocking."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.talk = Talk(socket.create_connection(("127.0.0.1", world.port), timeout=TIMEOUT))
        world.clients.append(self.talk)  # type: ignore[arg-type]  # to be closed with the others

    def say(self, *lines: str) -> Reply:
        """A head, and the answer to it."""
        self.talk.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return self.talk.reply("HEAD" if self._is_yes(lines) else "GET")

    @staticmethod
    def _is_yes(lines: tuple[str, ...]) -> bool:
        return lines[0].startswith("CONNECT") and RIGHT in lines

    def inside(self, *lines: str) -> Reply:
        """The same through TLS, once CONNECT has been granted."""
        if not isinstance(self.talk.connection, ssl.SSLSocket):
            context = trusting(self._world.service.ca.root_pem.decode())
            self.talk = Talk(context.wrap_socket(self.talk.connection, server_hostname=NAME))
            self._world.clients.append(self.talk)  # type: ignore[arg-type]
        self.talk.send("\r\n".join([*lines, f"Host: {NAME}", "", ""]).encode("latin-1"))
        return self.talk.reply()


async def test_a_client_that_is_asked_says_its_password_on_the_same_connection(tmp_path: Path) -> None:
    async with guarded(tmp_path) as world:

        def client() -> None:
            caller = Caller(world)
            for lines in [CONNECT], [CONNECT, WRONG]:
                reply = caller.say(*lines)
                assert reply.status == 407
                assert reply.headers["proxy-authenticate"] == 'Basic realm="regcachd", charset="UTF-8"'
                assert "connection" not in reply.headers
            assert caller.say(CONNECT, RIGHT).status == 200
            assert caller.inside("GET /v2/ HTTP/1.1").status == 200

        await deferToThread(client)


async def test_nobody_is_asked_for_ever(tmp_path: Path) -> None:
    """And who speaks HTTP/1.0 only once."""
    async with guarded(tmp_path) as world:

        def client() -> None:
            caller = Caller(world)
            replies = [caller.say(CONNECT) for _ in range(MOST_CHALLENGES + 1)]
            assert [reply.status for reply in replies] == [407] * len(replies)
            assert replies[-1].headers["connection"] == "close"
            assert caller.talk.at_end()
            old = Caller(world)
            assert old.say(CONNECT.replace("1.1", "1.0")).headers["connection"] == "close"
            assert old.talk.at_end()

        await deferToThread(client)
        assert not world.registry.requests


@pytest.mark.parametrize(
    ("line", "statuses"),
    [
        (CONNECT, (407, 407, 200)),
        ("CONNECT forbidden.test:22 HTTP/1.1", (407, 407, 403)),  # no word on what is forbidden to strangers
        ("GET http://registry.test/v2/ HTTP/1.1", (407, 407, 403)),
        ("GET / HTTP/1.1", (200, 200, 200)),
        ("GET /ca.crt HTTP/1.1", (200, 200, 200)),
        ("GET /healthz HTTP/1.1", (200, 200, 200)),
        ("GET /none HTTP/1.1", (404, 404, 404)),
    ],
)
async def test_what_needs_a_password(tmp_path: Path, line: str, statuses: tuple[int, int, int]) -> None:
    """What leads to others does; the daemon's own pages do not."""
    async with guarded(tmp_path) as world:

        def client() -> tuple[int, ...]:
            answers = []
            for lines in [], [WRONG], [RIGHT]:
                caller = Caller(world)
                caller.talk.send("\r\n".join([line, "Host: x", *lines, "", ""]).encode())
                no_body = line == CONNECT and lines == [RIGHT]
                answers.append(caller.talk.reply("HEAD" if no_body else "GET").status)
            return tuple(answers)

        assert await deferToThread(client) == statuses


async def test_what_is_said_to_the_proxy_goes_no_further(tmp_path: Path) -> None:
    """Not to upstream, though clients say it again inside of TLS, not with a push, and not into the log."""
    registry = FakeRegistry(reactor)
    async with guarded(tmp_path, registry=registry, settings="allow_push = true") as world:
        paths = ["/v2/", "/v2/a/tags/list", "/v2/a/manifests/1", "/v2/a/blobs/sha256:" + "0" * 64, "/token"]

        def client() -> None:
            caller = Caller(world)
            assert caller.say(CONNECT, WRONG).status == 407
            assert caller.say(CONNECT, RIGHT).status == 200
            for path in paths:
                caller.inside(f"GET {path} HTTP/1.1", RIGHT)
            caller.inside("POST /v2/a/blobs/uploads/ HTTP/1.1", RIGHT, "Content-Length: 0")

        with logged() as lines:
            await deferToThread(client)
        assert len(registry.requests) >= len(paths)
        for request in registry.requests:
            assert "proxy-authorization" not in {name.lower() for name in request.headers}
        secrets = (PASSWORD, "guessed", RIGHT.split()[-1], WRONG.split()[-1])
        assert not [line for line in lines if any(secret in line for secret in secrets)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("proxy", "options", "code"),
    [
        ("http://ada:correct%20horse@", (), "200 200"),
        ("http://ada:correct%20horse@", ("--proxy-anyauth",), "200 200"),
        ("http://ada:guessed@", (), "407 000"),
        ("http://ada:guessed@", ("--proxy-anyauth",), "407 000"),
        ("http://", (), "407 000"),
    ],
)
async def test_curl(tmp_path: Path, proxy: str, options: tuple[str, ...], code: str) -> None:
    """As in https_proxy; curl waits to be asked with --proxy-anyauth."""
    async with guarded(tmp_path) as world:
        authority = tmp_path / "ca.crt"
        authority.write_bytes(world.service.ca.root_pem)
        command = ["curl", "--silent", "--output", "/dev/null", "--cacert", str(authority), *options]
        command += ["--write-out", "%{http_connect} %{http_code}", f"https://{NAME}/v2/"]
        environ = {"https_proxy": f"{proxy}127.0.0.1:{world.port}", "PATH": "/usr/bin:/bin"}
        done = await deferToThread(
            subprocess.run, command, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout == code
