"""A cloud's services on loopback: what they answer is set by the test, what they are asked is written down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from attrs import field, frozen
from twisted.internet import reactor as _reactor
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from regcachd.config import Limits, parse_config
from regcachd.fetch import Web
from regcachd.upstream import Upstream

reactor: Any = _reactor


@frozen
class Seen:
    """A request; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@frozen
class Said:
    """An answer."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(factory=dict)


Service = Callable[[Seen], Said]


class _Root(Resource):
    isLeaf = True

    def __init__(self, service: Service, seen: list[Seen]) -> None:
        super().__init__()
        self._service = service
        self._seen = seen

    def render(self, request: Request) -> bytes:
        seen = Seen(
            request.method.decode(),
            request.path.decode(),
            {name.decode(): values[0].decode() for name, values in request.args.items()},
            {
                name.decode().lower(): values[0].decode()
                for name, values in request.requestHeaders.getAllRawHeaders()
            },
            request.content.read(),  # type: ignore[union-attr]
        )
        self._seen.append(seen)
        said = self._service(seen)
        request.setResponseCode(said.status)
        for name, value in {"Connection": "close", **said.headers}.items():
            request.setHeader(name, value)
        return said.body


@frozen
class Running:
    """A service, and what it was asked so far."""

    url: str
    seen: list[Seen]


@asynccontextmanager
async def serve(service: Service) -> AsyncIterator[Running]:
    """The service, on a port of 127.0.0.1, while the test lasts."""
    seen: list[Seen] = []
    port = reactor.listenTCP(0, Site(_Root(service, seen)), interface="127.0.0.1")
    try:
        yield Running(f"http://127.0.0.1:{port.getHost().port}", seen)
    finally:
        await port.stopListening()


@asynccontextmanager
async def real_web() -> AsyncIterator[Web]:
    """What plugins have of the web in a daemon."""
    registry = parse_config([("test", '[registries."registry.test"]')]).registries["registry.test"]
    upstream = Upstream(reactor, registry, Limits())
    try:
        yield Web(upstream, reactor)
    finally:
        upstream.close()
