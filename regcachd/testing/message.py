"""What goes over the wire, as values: a request as it was received, a reply and its body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from attrs import evolve, field, frozen


@frozen
class Request:
    """One request that a `FakeRegistry` received.

    ``path`` is as sent, without the query; header names are in lower case and repeated headers are joined
    with a comma; ``time`` is the reactor's clock in seconds; ``connection`` is the TCP connection's number,
    from 1; ``body`` is decoded as Latin-1.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(factory=dict)
    time: float = 0.0
    connection: int = 0
    body: str = ""

    @property
    def authorization(self) -> str | None:
        """The Authorization header, if there was one."""
        return self.headers.get("authorization")

    @property
    def line(self) -> str:
        """Method and target, such as ``GET /v2/app/tags/list?n=2``: what string matches look in."""
        return f"{self.method} {self.path}?{self.query}" if self.query else f"{self.method} {self.path}"


class RequestLog(list[Request]):
    """The requests a registry received, oldest first: a list with questions."""

    def matching(self, method: str = "", path: str = "") -> list[Request]:
        """The requests of this method (any, if empty) whose path contains ``path``."""
        return [each for each in self if method in ("", each.method) and path in each.path]

    def count(self, method: str = "", path: str = "") -> int:  # type: ignore[override]
        """How many requests of this method (any, if empty) have a path that contains ``path``."""
        return len(self.matching(method, path))


@frozen
class Body:
    """Bytes in memory or in a file, or a part of them.

    ``start`` and ``stop`` bound the part; ``flips`` are ranges of the whole whose bits come out inverted.
    """

    source: bytes | Path
    start: int
    stop: int
    flips: tuple[range, ...] = ()

    @classmethod
    def of(cls, source: bytes | Path) -> Body:
        """All of ``source``, which must not change any more if it is a file."""
        return cls(source, 0, source.stat().st_size if isinstance(source, Path) else len(source))

    @property
    def size(self) -> int:
        """Bytes from ``start`` to ``stop``."""
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Body:
        """The bytes from ``start`` to ``stop``, both counted within this body."""
        return evolve(self, start=self.start + start, stop=self.start + stop)

    def read(self, offset: int, count: int) -> bytes:
        """At most ``count`` bytes from ``offset``, counted from ``start``."""
        first = self.start + offset
        count = min(count, self.stop - first)
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                file.seek(first)
                data = file.read(count)
        else:
            data = self.source[first : first + count]
        for flip in self.flips:
            touched = range(max(flip.start, first), min(flip.stop, first + count))
            if touched:
                changed = bytearray(data)
                for position in touched:
                    changed[position - first] ^= 0xFF
                data = bytes(changed)
        return data


@frozen
class Reply:
    """A complete response; Content-Length is added when it is sent."""

    status: int
    headers: Mapping[str, str]
    body: Body

    @classmethod
    def json(cls, status: int, value: object, headers: Mapping[str, str] | None = None) -> Reply:
        """A JSON document."""
        body = Body.of(json.dumps(value).encode())
        return cls(status, {"Content-Type": "application/json", **(headers or {})}, body)

    @classmethod
    def error(cls, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
        """An error in the form of the OCI distribution specification ("Error codes")."""
        return cls.json(status, {"errors": [{"code": code, "message": message, "detail": None}]}, headers)

    def with_headers(self, headers: Mapping[str, str]) -> Reply:
        """The same reply, with these headers added or replaced."""
        return evolve(self, headers={**self.headers, **headers})

    def without_header(self, name: str) -> Reply:
        """The same reply, without this header."""
        return evolve(self, headers={key: value for key, value in self.headers.items() if key != name})
