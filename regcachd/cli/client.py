"""The daemon's admin socket, from the operator's side."""

import http.client
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from regcachd.config import Config, ConfigError, parse_config
from regcachd.documents import INSTALLED, documents
from regcachd.sockets import socket_places

_TIMEOUT = 60.0
"""Seconds the daemon may take for an answer; its disk may be slow."""

Document = dict[str, Any]


class Unreachable(click.ClickException):
    """No daemon, none that we may talk to, or one that could not do what it was asked."""

    exit_code = 3


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("regcachd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@frozen
class Client:
    """A daemon's socket. Every question is a connection of its own."""

    path: Path

    def ask(
        self, method: str, path: str, document: Document | None = None, timeout: float = _TIMEOUT
    ) -> Document:
        """The daemon's answer, for which it may take `timeout` seconds. Raises Unreachable."""
        connection = _Connection(self.path, timeout)
        try:
            connection.request(method, path, None if document is None else json.dumps(document))
            response = connection.getresponse()
            answer = json.loads(response.read())
        except PermissionError:
            raise Unreachable(
                f"no permission for {self.path}: run this as root, or as a member of the socket's group"
            ) from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise Unreachable(f"no regcachd answers at {self.path}: is it running?") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"the regcachd at {self.path} did not answer: {error}") from None
        finally:
            connection.close()
        if response.status != 200 or not isinstance(answer, dict):
            said = answer.get("error") if isinstance(answer, dict) else None
            raise Unreachable(f"regcachd says: {said or f'status {response.status}'}")
        return answer


def find(given: Path | None, installed: Path = INSTALLED) -> Client:
    """The socket that was named, or the first that exists in the places where a daemon makes it. Raises Unreachable."""
    if given is not None:
        return Client(given)
    places = list(dict.fromkeys(socket_places(_configuration(installed))))
    for place in places:
        if _may_exist(place):
            return Client(place)
    raise Unreachable(
        f"no regcachd runs here: there is no socket at {_either(places)}; "
        "if it is elsewhere, name it with --socket"
    )


def _configuration(installed: Path) -> Config:
    """What is installed. Where that cannot be read, or is wrong by now, a daemon may run all the same."""
    try:
        return parse_config(documents(installed, needed=False))
    except ConfigError:
        return Config()


def _may_exist(path: Path) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        return True  # to be told so when it is opened
    except OSError:
        return False
    return True


def _either(places: Sequence[Path]) -> str:
    return " or ".join(map(str, places))
