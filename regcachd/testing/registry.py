"""A registry on a loopback port: content, access and faults behind a real socket."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from regcachd.errors import RegcachdError
from regcachd.testing.access import Access, Auth
from regcachd.testing.certificates import Certificate, ServerContext, make_identity
from regcachd.testing.content import Content
from regcachd.testing.exchange import HTTPRequest, Stall
from regcachd.testing.faults import (
    CloseAtAccept,
    Delivery,
    Fault,
    IgnoreRange,
    Match,
    RedirectTo,
    Rule,
    Status,
    plan,
)
from regcachd.testing.listener import Connections, HTTPServer, TLSServer
from regcachd.testing.message import Body, Reply, Request, RequestLog
from regcachd.testing.protocol import answer, repository_of, serve

_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN", 429: "TOOMANYREQUESTS"}
_STORAGE = "/storage/"


class RegistryStoppedError(RegcachdError):
    """A `FakeRegistry` was stopped while somebody waited for something to happen in it."""


class FakeRegistry(Content):
    """An OCI registry in this process: it serves what it is given, to whom and as badly as it is told.

    ``users`` maps names to passwords for ``auth="basic"`` (no request passes without) and ``auth="token"``
    (anonymous tokens for what is not private; they live ``token_life`` seconds). With ``tls`` the registry
    has a CA of its own, `ca_pem`, and the certificate is for ``names`` and ``address``. With a ``token_server``
    that one hands out the tokens, and the challenges name it.

    Nothing happens before `start`, and after `stop` nothing is left in the reactor. It can be started again,
    on the same port.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        tls: bool = False,
        certificate: Certificate = Certificate.GOOD,
        names: Sequence[str] = ("localhost",),
        address: str = "127.0.0.1",
        port: int = 0,
        auth: Auth = "none",
        users: Mapping[str, str] | None = None,
        token_life: float = 300.0,
        token_server: FakeRegistry | None = None,
    ) -> None:
        super().__init__()
        self.clock: IReactorTime = reactor
        self.host = address
        self.port = port
        """The TCP port; with 0, the one that `start` finds."""
        self.requests = RequestLog()
        """Every request so far, oldest first."""
        self.access = Access(auth, users or {}, token_life)
        self.token_server = token_server or self
        """Where tokens are to be had."""
        self.token_server.access = self.access
        self.rules: list[Rule] = []
        self.stalls: set[Stall] = set()
        """The responses that wait in a StallAfter or StallBeforeHeaders now."""
        self._reactor = reactor
        self._tls = tls
        self._name = names[0] if tls else address
        self._presigned: dict[str, tuple[Body, str]] = {}
        self._waiters: list[tuple[Callable[[FakeRegistry], bool], Deferred[None]]] = []
        self._look: IDelayedCall | None = None
        self._listening: Any = None
        server: HTTPServer | TLSServer = HTTPServer(lambda channel: HTTPRequest(channel, self), reactor)
        self.ca_pem = b""
        if tls:
            now = datetime.datetime.fromtimestamp(reactor.seconds(), datetime.UTC)
            identity = make_identity([*names, address], certificate, now)
            self.ca_pem = identity.ca_pem
            server = TLSServer(ServerContext(identity), False, server)
        self._connections = Connections(server, self._accepts)

    async def start(self) -> None:
        """Listen; requests are answered from now on."""
        self._listening = self._reactor.listenTCP(self.port, self._connections, interface=self.host)
        self.port = self._listening.getHost().port

    async def stop(self) -> None:
        """Stop listening (new connections are refused) and reset all connections."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        await self._connections.abort_all()
        if self._look is not None and self._look.active():
            self._look.cancel()
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            waiter.errback(
                RegistryStoppedError(f"{self.url} was stopped; what was awaited there has not happened")
            )

    @property
    def url(self) -> str:
        """Scheme, name and port, without a path."""
        return f"{'https' if self._tls else 'http'}://{self.authority}"

    @property
    def authority(self) -> str:
        """Name and port, as in an image's name."""
        return f"{self._name}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections.protocols)

    def ca_file(self, path: Path) -> Path:
        """Write the CA's certificate to a file for clients to trust, and return the file's path."""
        path.write_bytes(self.ca_pem)
        return path

    def private(self, repository: str, readers: Iterable[str]) -> None:
        """Let only these users read a repository."""
        self.access.restrict(repository, readers)

    def expire_tokens(self) -> None:
        """Refuse every token handed out so far."""
        self.access.expire_tokens()

    @property
    def token_fetches(self) -> int:
        """How often a token was asked for."""
        return self.token_server.requests.count(path="/token")

    def fault(self, match: Match, *faults: Fault, times: int | None = None, skip: int = 0) -> Rule:
        """Misbehave on the requests that match: after ``skip`` of them, ``times`` times (always, if None).

        ``match`` is a part of the request line such as ``/blobs/`` or ``GET /v2/app/manifests/latest``, a
        Digest in the path, or a function of the Request. All rules that match hold together, in order.
        """
        rule = Rule(match, faults, times, skip)
        self.rules.append(rule)
        return rule

    def heal(self, rule: Rule | None = None) -> None:
        """Forget one rule, or all of them; responses on their way keep the faults they have."""
        self.rules = [] if rule is None else [each for each in self.rules if each is not rule]

    def release(self) -> None:
        """Let all responses that stall now go on."""
        for stall in list(self.stalls):
            stall.end()

    def until(self, predicate: Callable[[FakeRegistry], bool]) -> Deferred[None]:
        """Fire when this is true of the registry, looked at as requests arrive, stall and are lost.

        Fails with RegistryStoppedError when the registry stops first.
        """
        waiter: Deferred[None] = Deferred(lambda cancelled: self._waiters.remove((predicate, cancelled)))
        self._waiters.append((predicate, waiter))
        self.notice()
        return waiter

    def notice(self) -> None:
        """Look at what `until` waits for, soon: not in the middle of an exchange."""
        if self._waiters and (self._look is None or not self._look.active()):
            self._look = self.clock.callLater(0, self._fire_waiters)

    def _fire_waiters(self) -> None:
        for entry in list(self._waiters):
            predicate, waiter = entry
            if entry in self._waiters and predicate(self):
                self._waiters.remove(entry)
                waiter.callback(None)

    def presign(self, body: Body, method: str, name: str) -> str:
        """A URL that serves this body to this method, without Authorization, until `revoke_presigned`."""
        signature = secrets.token_hex(16)
        self._presigned[signature] = (body, method)
        return f"{self.url}{_STORAGE}{name}?X-Amz-Expires=600&X-Amz-Signature={signature}"

    def revoke_presigned(self) -> None:
        """Answer 403 on all presigned URLs made so far, as when they have expired."""
        self._presigned.clear()

    def receive(self, request: Request) -> Delivery:
        """Log a request and say how to answer it."""
        if request.path == "/_log":
            return plan(Reply.json(200, [asdict(each) for each in self.requests]), [])
        self.requests.append(request)
        rules = [rule for rule in self.rules if CloseAtAccept() not in rule.faults and rule.matches(request)]
        faults = [fault for rule in rules for fault in rule.use()]
        self.notice()
        return plan(self._reply(request, faults), faults)

    def _accepts(self) -> bool:
        """Whether to talk on a new connection."""
        rules = [rule for rule in self.rules if CloseAtAccept() in rule.faults]
        return not any(rule.use() for rule in rules)

    def _reply(self, request: Request, faults: Sequence[Fault]) -> Reply:
        for fault in faults:
            if isinstance(fault, Status):
                return _status(fault)
        if IgnoreRange() in faults:
            headers = {name: value for name, value in request.headers.items() if name != "range"}
            request = evolve(request, headers=headers)
        if request.path == "/token" and self.access.auth == "token":
            return self.access.grant(request)
        if request.path.startswith(_STORAGE):
            return self._storage(request)
        refusal = self.access.refusal(request, repository_of(request.path), f"{self.token_server.url}/token")
        if refusal is not None:
            return refusal
        reply = answer(self, request)
        for fault in faults:
            if isinstance(fault, RedirectTo) and reply.status in (200, 206):
                return self._redirect(fault, request)
        return reply

    def _redirect(self, fault: RedirectTo, request: Request) -> Reply:
        name = request.path.rpartition("/")[2]
        whole = answer(self, evolve(request, headers={})).body
        if isinstance(fault.target, str):
            location = fault.target
        elif fault.target is None:
            location = self.presign(whole, request.method, name).removeprefix(self.url)
        else:
            location = fault.target.presign(whole, request.method, name)
        return Reply(fault.status, {"Location": location}, Body.of(b""))

    def _storage(self, request: Request) -> Reply:
        """Serve a presigned URL, as strictly as Azure (Authorization) and Amazon (signature, method)."""
        if request.authorization is not None:
            return _xml(400, "InvalidAuthenticationInfo")
        body, method = self._presigned.get(request.query.rpartition("=")[2], (None, ""))
        if body is None or method != request.method:
            return _xml(403, "SignatureDoesNotMatch")
        return serve(body, request, {"ETag": f'"{request.path[-32:]}"'})


def _status(fault: Status) -> Reply:
    if fault.body is not None:
        return Reply(fault.code, fault.headers, Body.of(fault.body))
    return Reply.error(
        fault.code, _CODES.get(fault.code, "UNKNOWN"), "This fault was ordered.", fault.headers
    )


def _xml(status: int, code: str) -> Reply:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code></Error>'
    return Reply(status, {"Content-Type": "application/xml"}, Body.of(body.encode()))
