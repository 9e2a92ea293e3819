"""Sessions against registries of all kinds: who is asked what, how often, and what a client is told when it fails."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults

from regcachd.authentication import Sessions, find_plugins, kinds_of, open_sessions
from regcachd.config import parse_config
from regcachd.http1 import UpstreamFailed
from regcachd.interfaces import Scope
from regcachd.relay import Answer, capture
from regcachd.session import MEMORY, CredentialRefused, Session
from regcachd.testing import FakeRegistry, Status
from regcachd.testing.message import Reply, Request
from regcachd.upstream import Upstream
from tests.through import basic

reactor: Any = _reactor
PLUGINS = find_plugins()
USERS = {"robot": "hunter2"}
PRIVATE, PUBLIC = "team/private", "team/public"


class Time:
    """A reactor whose clock can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def seconds(self) -> float:
        return float(reactor.seconds()) + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class Here:
    """A registry with a private and a public repository, and sessions with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.password = directory / "password"
        self.password.write_text("hunter2\n")
        self.time = Time()
        self.registry: Any = None
        self.upstreams: list[Upstream] = []

    async def start(self, auth: Any = "token", **settings: Any) -> FakeRegistry:
        registry = self.registry = FakeRegistry(reactor, auth=auth, users=USERS, **settings)
        for repository in (PRIVATE, PUBLIC):
            registry.add_image(repository, "1", [repository.encode()])
        registry.private(PRIVATE, {"robot"})
        await registry.start()
        return registry

    def sessions(self, lines: str | None = None) -> Sessions:
        if lines is None:
            lines = f'username = "robot"\npassword = "file:{self.password}"'
        ca = f'ca = "{self.registry.ca_file(self.directory / "ca.pem")}"' if self.registry.ca_pem else ""
        text = f'[registries."registry.test"]\nupstream = "{self.registry.url}"\n{ca}\n{lines}\n'
        config = parse_config([("test.toml", text)], kinds_of(PLUGINS))
        upstream = Upstream(reactor, config.registries["registry.test"], config.limits)
        self.upstreams.append(upstream)
        return open_sessions(self.time, upstream, PLUGINS)

    def own(self, lines: str | None = None) -> Session:
        found = self.sessions(lines).own
        assert found is not None
        return found

    @property
    def lines(self) -> list[str]:
        """What was asked so far, without queries."""
        return [f"{each.method} {each.path}" for each in self.registry.requests]

    async def stop(self) -> None:
        for upstream in self.upstreams:
            upstream.close()
        await self.registry.stop()


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    here = Here(tmp_path)
    yield here
    await here.stop()


def manifest(repository: str) -> str:
    return f"/v2/{repository}/manifests/1"


async def get(session: Session, repository: str = PRIVATE, *headers: tuple[bytes, bytes]) -> Answer:
    response = await session.request(
        b"GET", manifest(repository).encode(), headers, scope=Scope(repository), follow=True
    )
    return await capture(response, 2**20)


async def failure(asked: Any) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as told:
        await asked
    message = str(told.value)
    assert "hunter2" not in message
    assert "\n" not in message
    return told.value


async def test_the_first_request_costs_a_ping_and_a_token_and_later_ones_nothing(here: Here) -> None:
    await here.start()
    session = here.own()
    for _ in range(3):
        assert (await get(session)).status == 200
    assert here.lines == ["GET /v2/", "GET /token", *[f"GET {manifest(PRIVATE)}"] * 3]
    token = here.registry.requests[1]
    assert token.authorization == basic("robot", "hunter2")
    assert "scope=repository:team/private:pull" in token.query


async def test_a_thousand_at_once_cost_one_ping_and_one_token(here: Here) -> None:
    await here.start()
    session = here.own()
    answers = await gatherResults([Deferred.fromCoroutine(get(session)) for _ in range(100)])
    assert {answer.status for answer in answers} == {200}
    assert here.lines.count("GET /v2/") == here.lines.count("GET /token") == 1


async def test_both_sessions_share_the_ping_and_no_token(here: Here) -> None:
    await here.start()
    sessions = here.sessions()
    assert sessions.own is not None
    assert (await get(sessions.own)).status == 200
    assert (await get(sessions.anonymous)).status == 401
    assert (await get(sessions.anonymous, PUBLIC)).status == 200
    assert here.lines.count("GET /v2/") == 1
    tokens = [request.authorization for request in here.registry.requests if request.path == "/token"]
    assert tokens.count(basic("robot", "hunter2")) == 1
    assert set(tokens) == {basic("robot", "hunter2"), None}


async def test_what_a_client_has_sent_of_its_own_is_not_mixed_in(here: Here) -> None:
    await here.start()
    clients = ((b"Authorization", b"Bearer client"), (b"cookie", b"a=b"), (b"Accept", b"*/*"))
    assert (await get(here.own(), PRIVATE, *clients)).status == 200
    for request in here.registry.requests:
        assert "client" not in (request.authorization or "")
        assert "cookie" not in request.headers
    assert here.registry.requests[-1].headers["accept"] == "*/*"


async def test_a_registry_that_asks_for_nothing_is_told_nothing(here: Here) -> None:
    await here.start("none")
    assert (await get(here.own())).status == 200
    assert (await get(here.own())).status == 200
    assert {request.authorization for request in here.registry.requests} == {None}


@pytest.mark.parametrize("kind", ["bearer", "basic"])
async def test_a_htpasswd_registry_gets_name_and_password(here: Here, kind: str) -> None:
    await here.start("basic")
    session = here.own(f'auth = "{kind}"\nusername = "robot"\npassword = "file:{here.password}"')
    assert (await get(session)).status == 200
    assert here.registry.requests[-1].authorization == basic("robot", "hunter2")


async def test_basic_gives_its_password_to_no_realm(here: Here) -> None:
    await here.start("token")
    session = here.own(f'auth = "basic"\nusername = "robot"\npassword = "file:{here.password}"')
    error = await failure(get(session))
    assert 'set auth = "bearer"' in str(error)
    assert {request.authorization for request in here.registry.requests} == {None}


async def test_a_wrong_password_at_a_htpasswd_registry_is_tried_once(here: Here) -> None:
    await here.start("basic")
    here.password.write_text("wrong")
    assert (await get(here.own())).status == 401
    assert here.lines == ["GET /v2/", f"GET {manifest(PRIVATE)}"]


async def test_a_changed_password_counts_at_once(here: Here) -> None:
    await here.start("basic")
    here.password.write_text("wrong")
    session = here.own()
    assert (await get(session)).status == 401
    here.password.write_text("hunter2")
    assert (await get(session)).status == 200


async def test_a_token_that_ended_early_is_replaced_unnoticed(here: Here) -> None:
    await here.start()
    session = here.own()
    await get(session)
    here.registry.expire_tokens()
    here.registry.requests.clear()
    assert (await get(session)).status == 200
    assert here.lines == [f"GET {manifest(PRIVATE)}", "GET /token", f"GET {manifest(PRIVATE)}"]


async def test_a_challenge_is_remembered_for_five_minutes(here: Here) -> None:
    await here.start()
    session = here.own()
    await get(session)
    here.time.ahead = MEMORY - 5
    await get(session)
    assert here.lines.count("GET /v2/") == 1
    here.time.ahead = MEMORY + 5
    await get(session)
    assert here.lines.count("GET /v2/") == 2


async def test_the_challenge_of_any_401_is_newer_than_that_of_the_ping(here: Here) -> None:
    registry = await here.start()
    challenge = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token?other=realm",service="other"'}
    session = here.own()
    await get(session)
    registry.fault("/manifests/", Status(401, challenge), times=1)
    registry.requests.clear()
    assert (await get(session)).status == 200
    assert registry.requests.matching(path="/token")[0].query.startswith("other=realm&service=other&scope=")


async def test_a_realm_that_takes_no_new_tokens_is_left_for_the_one_of_strangers(here: Here) -> None:
    """nvcr.io's way: to those whose token has ended it names a realm that refuses them."""
    registry = await here.start()
    session = here.own()
    await get(session)
    registry.access.realm_of_expired = f"{registry.url}/proxy_auth"
    registry.expire_tokens()
    registry.fault("/proxy_auth", Status(401))
    registry.requests.clear()
    assert (await get(session)).status == 200
    path = f"GET {manifest(PRIVATE)}"
    assert here.lines == [path, "GET /proxy_auth", path, "GET /token", path]
    assert registry.requests[2].authorization is None


async def test_a_realm_whose_tokens_are_worth_nothing_is_left_too(here: Here) -> None:
    registry = await here.start()
    session = here.own()
    await get(session)
    registry.access.realm_of_expired = f"{registry.url}/proxy_auth"
    registry.expire_tokens()
    registry.fault("/proxy_auth", Status(200, {}, b'{"token": "worthless"}'))
    assert (await get(session)).status == 200


async def test_a_realm_that_refuses_the_password_is_a_refusal(here: Here) -> None:
    await here.start()
    here.password.write_text("wrong")
    error = await failure(get(here.own()))
    assert isinstance(error, CredentialRefused)
    assert error.status == 403
    assert str(error).startswith("no access to registry.test: ")
    assert "gives no token for this credential (status 401)" in str(error)
    assert here.lines == ["GET /v2/", "GET /token", f"GET {manifest(PRIVATE)}"]


async def test_a_realm_that_refuses_strangers_is_a_refusal(here: Here) -> None:
    """ghcr.io and GitLab have no anonymous token for what is private."""
    registry = await here.start()
    registry.fault("/token", Status(403))
    error = await failure(get(here.sessions().anonymous))
    assert isinstance(error, CredentialRefused)
    assert "gives no token to clients without a credential" in str(error)


async def test_a_token_for_less_than_was_asked_ends_in_the_registrys_own_401(here: Here) -> None:
    registry = await here.start()
    answer = await get(here.sessions().anonymous)
    assert answer.status == 401
    assert b"insufficient_scope" in (answer.header(b"www-authenticate") or b"")
    assert len(registry.requests.matching(path="/manifests/")) <= 2


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_realm_that_cannot_answer_refuses_nothing(here: Here, status: int) -> None:
    registry = await here.start()
    registry.fault("/token", Status(status))
    error = await failure(get(here.own()))
    assert not isinstance(error, CredentialRefused)
    assert error.status == 502
    registry.heal()
    assert (await get(here.own())).status == 200


async def test_a_ping_that_fails_teaches_nothing_and_the_request_is_its_own_ping(here: Here) -> None:
    registry = await here.start()
    registry.fault("GET /v2/", Status(503), times=1)
    assert (await get(here.own())).status == 200
    path = f"GET {manifest(PRIVATE)}"
    assert here.lines == ["GET /v2/", path, "GET /token", path]


async def test_a_401_without_a_challenge_is_the_answer(here: Here) -> None:
    registry = await here.start("none")
    registry.fault("/manifests/", Status(401))
    assert (await get(here.own())).status == 401
    assert here.lines == ["GET /v2/", f"GET {manifest(PRIVATE)}"]


async def test_a_password_that_cannot_be_read_is_named_by_its_place(here: Here) -> None:
    await here.start()
    session = here.own()
    here.password.unlink()
    error = await failure(get(session))
    assert not isinstance(error, CredentialRefused)
    assert f"file:{here.password}: cannot be read" in str(error)
    assert here.lines == ["GET /v2/"]


async def test_a_password_is_not_told_to_a_strangers_realm(here: Here) -> None:
    registry = await here.start()
    registry.access.realm = "https://tokens.evil.example/token"
    error = await failure(get(here.own()))
    assert 'add "tokens.evil.example" to realm_hosts' in str(error)
    assert "/token" not in "".join(here.lines)


@pytest.mark.parametrize("realm", ["http://127.0.0.1:1/token", "https://169.254.169.254/"])
async def test_nobody_is_asked_on_a_registrys_word_on_this_machine(here: Here, realm: str) -> None:
    registry = await here.start(tls=True)
    registry.access.realm = realm
    for session in (here.own(), here.sessions().anonymous):
        assert "if that is right, add" in str(await failure(get(session)))


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream", ""])
async def test_the_content_type_of_a_token_does_not_matter(here: Here, content_type: str) -> None:
    registry = await here.start()

    def write(fields: dict[str, object]) -> Reply:
        return Reply.json(200, fields, {"Content-Type": content_type})

    registry.access.write = write
    assert (await get(here.own())).status == 200


async def test_a_token_may_be_called_access_token_and_have_no_lifetime(here: Here) -> None:
    registry = await here.start()
    registry.access.write = lambda fields: Reply.json(200, {"access_token": fields["token"]})
    assert (await get(here.own())).status == 200


async def test_an_endless_token_is_not_read_to_its_end(here: Here) -> None:
    registry = await here.start()
    registry.access.write = lambda fields: Reply.json(200, {**fields, "padding": "x" * 2**20})
    assert "too large" in str(await failure(get(here.own())))


async def test_a_realm_that_redirects_is_not_followed(here: Here) -> None:
    registry = await here.start()
    registry.fault("/token", Status(307, {"Location": f"{registry.url}/elsewhere"}))
    assert "redirects" in str(await failure(get(here.own())))
    assert "GET /elsewhere" not in here.lines


async def test_tokens_come_over_tls_that_is_verified_as_the_registry_is(here: Here) -> None:
    await here.start(tls=True)
    assert (await get(here.own())).status == 200


async def test_redirects_are_followed_without_the_credential(here: Here) -> None:
    registry = await here.start()
    storage = FakeRegistry(reactor)
    await storage.start()
    registry.fault("/manifests/", Status(307, {"Location": f"{storage.url}/there"}))
    assert (await get(here.own())).status == 404
    assert storage.requests[0].authorization is None
    await storage.stop()


async def test_a_request_for_nothing_in_particular_needs_no_scope(here: Here) -> None:
    await here.start()
    response = await here.own().request(b"GET", b"/v2/", [], scope=Scope())
    assert json.loads((await capture(response, 1000)).body) == {}
    assert "scope" not in here.registry.requests[1].query


async def test_no_upstream_is_a_failure_to_ask(here: Here) -> None:
    await here.start()
    session = here.own()
    await here.registry.stop()
    error = await failure(get(session))
    assert not isinstance(error, CredentialRefused)
    assert "cannot be reached" in str(error)


async def test_that_the_registry_is_away_is_larger_news_than_that_no_token_is_to_be_had(here: Here) -> None:
    await here.start()
    session = here.own()
    await get(session)
    await here.registry.stop()
    assert "cannot be reached" in str(await failure(get(session)))
    error = await failure(get(session, PUBLIC))  # which takes another token
    assert str(error).startswith("registry.test has been unreachable for ")


async def test_connections_are_kept_over_all_of_this(here: Here) -> None:
    registry = await here.start()
    session = here.own()
    for _ in range(3):
        await get(session)
        registry.expire_tokens()
    asked: list[Request] = [request for request in registry.requests if request.path != "/token"]
    assert (
        len({request.connection for request in asked}) <= 2
    )  # while the body of a 401 is read, another is used
