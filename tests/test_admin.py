"""admin.py and care.py: what the daemon answers on its admin socket, and who may ask."""

import http.client
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from regcachd.admin import Admin, BadCommand, CannotListenForAdmin, Command, Document
from regcachd.config import parse_config
from regcachd.errors import RegcachdError
from regcachd.sockets import socket_path, socket_places
from regcachd.testing import FakeRegistry
from tests.conftest import FlushErrors
from tests.stores import NOW
from tests.world import World, reactor, until


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self.path))


async def ask(path: Path, method: str, target: str, body: bytes | None = None) -> tuple[int, Any]:
    """One question: status and document."""

    def exchange() -> tuple[int, Any]:
        connection = Connection(path)
        connection.request(method, target, body=body)
        response = connection.getresponse()
        document = json.loads(response.read())
        connection.close()
        return response.status, document

    answer: tuple[int, Any] = await deferToThread(exchange)
    return answer


async def echo(document: Document) -> Document:
    return {"got": document}


async def refuse(document: Document) -> Document:
    raise BadCommand("not like this")


async def fail(document: Document) -> Document:
    raise RegcachdError("the disk is full; make room")


async def crash(document: Document) -> Document:
    raise ZeroDivisionError


COMMANDS = (
    Command("POST", "/echo", echo),
    Command("POST", "/refuse", refuse),
    Command("POST", "/fail", fail),
    Command("POST", "/crash", crash),
)


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "document"),
    [
        ("POST", "/echo", b'{"a": [1]}', 200, {"got": {"a": [1]}}),
        ("POST", "/echo", None, 200, {"got": {}}),
        ("POST", "/echo", b"[]", 400, {"error": "the body of a command is a JSON object"}),
        ("POST", "/echo", b"{", 400, {"error": "the body of a command is a JSON object"}),
        ("POST", "/echo", b"[" * 60000, 400, {"error": "the body of a command is a JSON object"}),
        ("POST", "/echo", b" " * 70000, 400, {"error": "the document is larger than 65536 bytes"}),
        ("GET", "/echo", None, 405, {"error": "/echo takes POST"}),
        ("GET", "/", None, 404, {"error": "this version of regcachd has no /"}),
        ("POST", "/echo/", None, 404, {"error": "this version of regcachd has no /echo/"}),
        ("POST", "/refuse", None, 400, {"error": "not like this"}),
        ("POST", "/fail", None, 500, {"error": "the disk is full; make room"}),
    ],
)
async def test_commands(
    tmp_path: Path, method: str, target: str, body: bytes | None, status: int, document: Document
) -> None:
    """Every answer is a JSON document, and says what is wrong."""
    admin = Admin(reactor, tmp_path / "admin.sock", COMMANDS)
    admin.listen()
    assert await ask(admin.path, method, target, body) == (status, document)
    await admin.stop()
    assert not admin.path.exists()


async def test_who_is_connected_when_it_stops_is_told_so(tmp_path: Path) -> None:
    """A command would begin something that nobody ends any more."""
    admin = Admin(reactor, tmp_path / "admin.sock", COMMANDS)
    admin.listen()
    connection = Connection(admin.path)

    def exchange() -> tuple[int, Any]:
        connection.request("POST", "/echo")
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    assert (await deferToThread(exchange))[0] == 200
    await admin.stop()
    assert await deferToThread(exchange) == (503, {"error": "regcachd is stopping"})
    connection.close()


async def test_a_command_that_fails_unexpectedly_harms_nobody(
    tmp_path: Path, flush_errors: FlushErrors
) -> None:
    admin = Admin(reactor, tmp_path / "admin.sock", COMMANDS)
    admin.listen()
    assert (await ask(admin.path, "POST", "/crash"))[0] == 500
    assert (await ask(admin.path, "POST", "/echo"))[0] == 200
    assert len(flush_errors(ZeroDivisionError)) == 1
    await admin.stop()


async def test_the_socket_is_for_user_and_group(tmp_path: Path) -> None:
    admin = Admin(reactor, tmp_path / "admin.sock", COMMANDS)
    admin.listen()
    assert stat.S_IMODE(admin.path.stat().st_mode) == 0o660
    await admin.stop()


async def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    admin = Admin(reactor, path, COMMANDS)
    admin.listen()
    assert (await ask(path, "POST", "/echo"))[0] == 200
    with pytest.raises(
        CannotListenForAdmin, match=r"admin\.sock: another daemon uses it; name another with --admin"
    ):
        Admin(reactor, path, COMMANDS).listen()
    assert (await ask(path, "POST", "/echo"))[0] == 200
    await admin.stop()


def test_a_place_that_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(CannotListenForAdmin, match="longer than the 107 bytes"):
        Admin(reactor, tmp_path / ("x" * 120), COMMANDS).listen()
    with pytest.raises(CannotListenForAdmin, match="absent is not a directory that this user can write to"):
        Admin(reactor, tmp_path / "absent" / "admin.sock", COMMANDS).listen()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CannotListenForAdmin, match="there is something else"):
        Admin(reactor, tmp_path / "file", COMMANDS).listen()
    assert (tmp_path / "file").read_text() == "mine"


def test_where_the_socket_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is told to be; otherwise in /run/regcachd where that is ours, and in the state directory elsewhere."""
    told = parse_config([("a", 'admin = "/srv/admin"\nstate = "/srv/state"')])
    default = parse_config([("a", 'state = "/srv/state"')])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert socket_path(told) == Path("/srv/admin")
    assert socket_path(default) == Path("/srv/state/admin.sock")
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert socket_path(default) == Path("/run/regcachd/admin.sock")
    assert list(socket_places(told)) == [Path("/srv/admin")]
    assert [str(place) for place in socket_places(default)] == [
        *("/run/regcachd/admin.sock", "/srv/state/admin.sock", "var/state/admin.sock")
    ]


async def test_store_and_scrub(tmp_path: Path) -> None:
    """What a daemon says of its store, before and after a scrub."""
    here = await World(tmp_path, FakeRegistry(reactor)).start()
    digest = here.registry.add_blob("team/app", b"x" * 1000)
    await here.client().get(f"/v2/team/app/blobs/{digest}")
    await until(lambda: here.service._index.totals() == (1, 1000))
    await until(lambda: here.care.recovery.running is None)
    path = tmp_path / "admin.sock"
    status, store = await ask(path, "GET", "/store")
    assert status == 200
    assert (store["blobs"], store["bytes"], store["partials"], store["trouble"]) == (1, 1000, [], None)
    assert (store["max_size"], store["min_free"], store["path"]) == (2**40, 0, str(tmp_path / "store"))
    assert store["oldest_use"] > NOW
    assert store["filesystem"]["size"] > store["filesystem"]["free"] > 0
    assert store["scrub"]["finished"] == []
    status, began = await ask(path, "POST", "/scrub")
    assert status == 200
    assert (began["current"] or began["last"])["full_speed"]
    await until(lambda: here.care.scrub.current is None)
    _, scrub = await ask(path, "GET", "/scrub")
    assert (scrub["current"], scrub["last"]["blobs"], scrub["last"]["rotten_digests"]) == (None, 1, [])
    assert (await ask(path, "DELETE", "/scrub"))[0] == 200
    await here.stop()
    assert not path.exists()


async def test_a_store_in_trouble_is_said(tmp_path: Path) -> None:
    """Here its directory has been moved away, as an unmounted disk's would be. Nothing is made where it was."""
    here = await World(tmp_path, FakeRegistry(reactor)).start()
    await until(lambda: here.care.recovery.running is None)
    path = tmp_path / "admin.sock"
    (tmp_path / "store").rename(tmp_path / "gone")
    why = "was its filesystem unmounted"
    status, answer = await ask(path, "GET", "/store")
    assert status == 500
    assert why in answer["error"]
    (tmp_path / "store").mkdir()
    status, store = await ask(path, "GET", "/store")
    assert (status, store["partials"]) == (200, [])
    assert why in store["trouble"]
    status, answer = await ask(path, "POST", "/scrub")
    assert status == 500
    assert why in answer["error"]
    here.care.tick()
    here.care._look()
    assert here.care.scrub.current is None
    assert list((tmp_path / "store").iterdir()) == []
    await here.stop()
