"""Secrets are planted wherever the daemon meets one, and all that it writes or says is searched for them."""

import base64
import json
import socket
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bcrypt
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from zope.interface import implementer

from regcachd.http1 import UpstreamFailed
from regcachd.interfaces import Scope
from regcachd.registry import CachedRegistry
from regcachd.relay import capture
from regcachd.testing import CutAfter, FakeRegistry, Status
from regcachd.testing.message import Reply
from tests.proxy import ForwardProxy
from tests.test_admin import ask
from tests.through import basic, running
from tests.world import NAME, World, raw, until

reactor: Any = _reactor

OWN, CLIENTS, WRONG, IDENTITY = "0wn-pl4nted", "cl1ent-pl4nted", "wr0ng-pl4nted", "1dent-pl4nted"
NODES, PARENTS = "n0de-pl4nted", "p4rent-pl4nted"
"""What clients say to this proxy, and this proxy to its parent."""
HASHED = bcrypt.hashpw(NODES.encode(), bcrypt.gensalt(4)).decode()
PRIVATE, PUBLIC = "team/private", "team/public"
USERS = {"robot": OWN, "alice": CLIENTS}


class Planted:
    """All secrets there are, in all forms in which they travel."""

    def __init__(self) -> None:
        self.forms: set[bytes] = set()
        for secret in (OWN, CLIENTS, WRONG, IDENTITY, NODES, PARENTS, HASHED, HASHED.rpartition("$")[2]):
            self.add(secret)
        users = [*USERS.items(), ("node", NODES), ("regcachd", PARENTS)]
        for user, password in [*users, ("alice", WRONG), ("robot", WRONG), ("node", WRONG)]:
            self.add(basic(user, password).removeprefix("Basic "))

    def add(self, secret: str) -> None:
        """One more."""
        plain = secret.encode()
        self.forms |= {
            plain,
            base64.b64encode(plain),
            plain.hex().encode(),
            urllib.parse.quote(plain).encode(),
        }

    def write(self, fields: dict[str, object]) -> Reply:
        """What the token server answers; its tokens are secrets too."""
        self.add(str(fields["token"]))
        return Reply.json(200, fields)

    def found(self, where: str, data: bytes) -> list[str]:
        """Where which secret is in some bytes."""
        return [f"{form.decode()} in {where}" for form in self.forms if form in data]


@implementer(ILogObserver)
class Everything:
    """Every event, as text and as all of its fields."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        self.lines.append(eventAsText(event, includeTimestamp=False))
        self.lines += [f"{key}={value!r} {value}" for key, value in event.items()]


@contextmanager
def everything_logged() -> Iterator[Everything]:
    observer = Everything()
    globalLogPublisher.addObserver(observer)
    yield observer
    globalLogPublisher.removeObserver(observer)


def cached(world: World) -> CachedRegistry:
    """The daemon's own view of the registry."""
    return world.service.edition.registries[NAME].endpoints._registry


async def check_upstream(daemon: Path) -> str:
    """All that regcachctl is told of the registry."""
    question = json.dumps({"registry": NAME, "image": f"{PRIVATE}:1"}).encode()
    return str(await ask(daemon / "admin.sock", "POST", "/check-upstream", question))


async def ask_own(world: World, repository: str, anonymous: bool = False) -> str:
    """A request on a session; what comes of it, as text."""
    registry = cached(world)
    session = registry.anonymous if anonymous else registry.session
    assert session is not None
    target = f"/v2/{repository}/manifests/1".encode()
    try:
        response = await session.request(b"GET", target, [], scope=Scope(repository), follow=True)
        return str(await capture(response, 2**20))
    except UpstreamFailed as error:
        return f"{error!r} {error}"


def malformed(port: int) -> bytes:
    """What the daemon says to requests that are none, with secrets in them."""
    said = b""
    for line in (
        f"GET http://robot:{CLIENTS}@{NAME}/ HTTP/1.1",
        f"CONNECT {CLIENTS}@x:443 HTTP/1.1",
        "GET / HTTP/1.1",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
            head = f"{line}\r\nHost: x\r\nAuthorization: Basic {CLIENTS}\r\nProxy-Authorization: Basic {CLIENTS}\r\n"
            plain.sendall(head.encode() + b"Connection: close\r\n\r\n")
            while piece := plain.recv(65536):
                said += piece
    return said


def not_admitted(port: int) -> bytes:
    """What the daemon says to those that it does not let through."""
    said = b""
    for shown in (basic("node", WRONG), f"Basic {NODES}", f"Bearer {NODES}", f"{NODES}"):
        said += raw(
            port, f"CONNECT {NAME}:443 HTTP/1.1\r\nProxy-Authorization: {shown}\r\n\r\n".encode(), end=True
        )
    return said


async def test_no_secret_is_in_what_the_daemon_writes_or_says(tmp_path: Path) -> None:
    planted = Planted()
    registry = FakeRegistry(reactor, auth="token", users=USERS)
    registry.access.write = planted.write
    images = {name: registry.add_image(name, "1", [name.encode() * 1000]) for name in (PRIVATE, PUBLIC)}
    registry.private(PRIVATE, {"robot", "alice"})
    secret = tmp_path / "secrets" / "password"
    secret.parent.mkdir()
    secret.write_text(OWN)
    secret.chmod(0o644)
    parents, nodes = secret.with_name("parent"), secret.with_name("htpasswd")
    parents.write_text(PARENTS)
    nodes.write_text(f"node:{HASHED}\n")
    parent = ForwardProxy(users={"regcachd": PARENTS}).start()
    daemon = tmp_path / "daemon"
    daemon.mkdir()
    said: list[str] = []
    settings = f'username = "robot"\npassword = "file:{secret}"\nshare = true'
    settings += (
        f'\nupstream_proxy = "http://regcachd@{parent.authority}"\nupstream_proxy_password = "file:{parents}"'
    )
    with everything_logged() as log:
        top = f'proxy_users = "file:{nodes}"'
        async with running(daemon, registry, settings=settings, top=top) as world:
            client = world.client()
            client.tunnel_headers["Proxy-Authorization"] = basic("node", NODES)

            async def pull(authorization: str | None, repository: str = PRIVATE) -> None:
                headers = {} if authorization is None else {"Authorization": authorization}
                paths = [f"/v2/{repository}/blobs/{digest}" for digest in images[repository].layers]
                for path in ["/v2/", f"/v2/{repository}/manifests/1", *paths]:
                    reply = await client.get(path, **headers)
                    said.append(f"{reply.status} {reply.headers} {reply.body!r}")

            async def token(user: str, password: str) -> str:
                target = f"/token?service=fake-registry&scope=repository:{PRIVATE}:pull"
                reply = await client.get(target, Authorization=basic(user, password))
                return f"Bearer {json.loads(reply.body).get('token', WRONG)}"

            await pull(await token("alice", CLIENTS))
            await pull(await token("alice", WRONG))
            await pull(None)
            await pull(basic("alice", CLIENTS), PUBLIC)
            await pull(f"Bearer {WRONG}\x01")
            for anonymous in (False, True):
                for repository in (PRIVATE, PUBLIC, "no/such"):
                    said.append(await ask_own(world, repository, anonymous))
            registry.expire_tokens()
            said.append(await ask_own(world, PRIVATE))
            said.append(await check_upstream(daemon))
            for fault in (
                Status(500, {}, OWN.encode()),
                Status(401, {"WWW-Authenticate": f'Basic realm="{OWN}"'}, OWN.encode()),
                Status(200, {}, f'{{"tokn": "{OWN}"}}'.encode()),
                Status(200, {}, f'{{"token": "{OWN} {OWN}"}}'.encode()),
                Status(307, {"Location": f"https://robot:{OWN}@x.example/{OWN}?{OWN}"}),
                CutAfter(3),
            ):
                rule = registry.fault("/token", fault)
                registry.expire_tokens()
                said.append(await ask_own(world, PRIVATE))
                said.append(await check_upstream(daemon))
                registry.heal(rule)
            for realm in (
                f"https://robot:{OWN}@127.0.0.1/",
                f"ftp://{OWN}@x/",
                f"https://x.example:1/?{OWN}",
            ):
                registry.access.realm = realm
                registry.expire_tokens()
                said.append(await ask_own(world, PRIVATE))
                said.append(await check_upstream(daemon))
            registry.access.realm = None
            parents.write_text(WRONG)  # 407, and what the parent says to that
            said.append(await check_upstream(daemon))
            parent.cut()
            said.append(await ask_own(world, PRIVATE))
            parents.unlink()
            said.append(await ask_own(world, PRIVATE))
            said.append(await check_upstream(daemon))
            parents.write_text(PARENTS)
            nodes.write_text(f"node:{HASHED}:{NODES}\nnode {HASHED}\n")  # no such file is taken
            assert world.service.edition.users is not None
            await world.service.edition.users.look()
            secret.write_text(WRONG)
            registry.expire_tokens()
            said.append(await ask_own(world, PRIVATE))
            said.append(await check_upstream(daemon))
            secret.write_bytes(OWN.encode() + b"\xff")
            said.append(await ask_own(world, PRIVATE))
            said.append(await check_upstream(daemon))
            secret.unlink()
            said.append(await ask_own(world, PRIVATE))
            said.append(repr(await deferToThread(malformed, world.port)))
            said.append(repr(await deferToThread(not_admitted, world.port)))
            said.append(repr(world.service.edition.users))
            for method, path in (("GET", "/status"), ("GET", "/"), ("POST", "/"), ("GET", f"/{CLIENTS}")):
                answer = str(await ask(daemon / "admin.sock", method, path))
                said.append(answer.replace(f"/{CLIENTS}", ""))  # its own question
            said += [repr(world.service.config), repr(cached(world)), repr(cached(world).session)]
            await until(lambda: len(world.stored()) >= 2)
    await parent.stop()
    assert any("Proxy-Authorization" in line for head in parent.heads for line in head)
    assert any("HTTP/1.1 407" in text for text in said)
    assert any("'step': 'token', 'outcome': 'ok'" in text for text in said), (
        "a checkup with the right credential"
    )
    assert len(planted.forms) > 40, "the tokens are among them"
    assert any("its owner alone should" in line for line in log.lines)
    leaks = [leak for line in log.lines for leak in planted.found(f"the log: {line}", line.encode())]
    for text in said:
        leaks += planted.found(text, text.encode())
    files = [path for path in daemon.rglob("*") if path.is_file()]
    assert {"index.sqlite3"} <= {path.name for path in files}
    for file in files:
        leaks += planted.found(str(file), file.read_bytes())
    assert not leaks
