"""The admin socket: what regcachctl asks of the daemon, as small JSON documents over HTTP on a Unix socket.

Whoever may open the socket (mode 0660: the daemon's user and group) may do everything here; it is never on the
network. A command is a row in a table: method, path and a function from the request's document to the answer's.

    GET /store          200  {"blobs": 12, ...}
    POST /scrub  {}     200  {"running": true, ...}
    anything else       4xx  {"error": "what is wrong, and what to do"}
"""

import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from .errors import RegcachdError

log = Logger()

MODE = 0o660
_LARGEST = 64 * 1024
"""Bytes of a request's document."""
_LONGEST = 107
"""Bytes of a Unix socket's path, unix(7)."""
_PATIENCE = 60
"""Seconds an idle connection is kept."""

Document: TypeAlias = dict[str, Any]


class CannotListenForAdmin(RegcachdError):
    """The admin socket cannot be made."""


class BadCommand(RegcachdError):
    """A command that was not understood; the text goes to the operator."""


@frozen
class Command:
    """What the daemon can be asked for. `run` may raise BadCommand, and RegcachdError when it cannot be done."""

    method: str
    path: str
    run: Callable[[Document], Awaitable[Document]]


class _Commands(Resource):
    """Every path there is."""

    isLeaf = True

    def __init__(self, commands: Iterable[Command]) -> None:
        super().__init__()
        self._commands = {(each.path, each.method): each for each in commands}
        self.is_closed = False

    def render(self, request: Request) -> Any:
        """Run a command."""
        if self.is_closed:
            return _answer(request, 503, {"error": "regcachd is stopping"})
        path, method = request.path.decode("latin-1"), request.method.decode("latin-1")
        command = self._commands.get((path, method))
        if command is None:
            methods = [known for there, known in self._commands if there == path]
            if methods:
                request.setHeader(b"Allow", ", ".join(methods).encode())
                return _answer(request, 405, {"error": f"{path} takes {' and '.join(methods)}"})
            return _answer(request, 404, {"error": f"this version of regcachd has no {path}"})
        running = Deferred.fromCoroutine(self._run(command, request))
        gone = request.notifyFinish()
        gone.addErrback(lambda _: running.cancel())
        running.addErrback(self._failed, request)
        return NOT_DONE_YET

    async def _run(self, command: Command, request: Request) -> None:
        request.write(_answer(request, 200, await command.run(_document(request))))
        request.finish()

    def _failed(self, failure: Failure, request: Request) -> None:
        if request._disconnected:
            return
        if failure.check(BadCommand):
            status = 400
        elif failure.check(RegcachdError, OSError):
            status = 500
        else:
            log.failure("an admin command failed", failure)
            status = 500
        request.write(_answer(request, status, {"error": failure.getErrorMessage()}))
        request.finish()


def _document(request: Request) -> Document:
    body = request.content.read(_LARGEST + 1) if request.content is not None else b""
    if not body:
        return {}
    if len(body) > _LARGEST:
        raise BadCommand(f"the document is larger than {_LARGEST} bytes")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BadCommand("the body of a command is a JSON object")
    return document


def _answer(request: Request, status: int, document: Document) -> bytes:
    body = json.dumps(document).encode() + b"\n"
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Content-Length", str(len(body)).encode())
    return body


class _QuietSite(Site):
    """Without an access log: these requests are not clients'."""

    noisy = False

    def log(self, request: Any) -> None:
        """Say nothing."""


class Admin:
    """The socket at `path`."""

    def __init__(self, reactor: Any, path: Path, commands: Iterable[Command]) -> None:
        self._reactor = reactor
        self.path = path
        self._commands = _Commands(commands)
        self._site = _QuietSite(self._commands, timeout=_PATIENCE)
        self._port: Any = None

    def listen(self) -> None:
        """Make the socket; one that a killed daemon has left is replaced. Raises CannotListenForAdmin."""
        why = _hindrance(self.path)  # Twisted's port leaks its socket when it cannot bind it
        if why is None:
            try:
                self._port = self._reactor.listenUNIX(str(self.path), self._site, mode=MODE)
            except CannotListenError as error:
                why = str(error.socketError)
        if why is not None:
            raise CannotListenForAdmin(
                f"admin: cannot listen on {self.path}: {why}; name another with --admin or the key admin"
            )

    async def stop(self) -> None:
        """Close the socket, and remove it. Who is connected already is told so."""
        self._commands.is_closed = True
        if self._port is not None:
            port, self._port = self._port, None
            await port.stopListening()


def _hindrance(path: Path) -> str | None:
    """Why there cannot be a socket here, after removing that of a daemon that is no more."""
    if len(os.fsencode(path)) > _LONGEST:
        return f"it is longer than the {_LONGEST} bytes that the path of a Unix socket may have"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"{path.parent} is not a directory that this user can write to"
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return "there is something else"
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except FileNotFoundError:
        return None
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return None
    except OSError as error:
        return str(error.strerror)
    return "another daemon uses it"
