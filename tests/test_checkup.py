"""Checkups of registries in every condition: what is said of each, that it says no secret, and that it ends."""

import json
import socket
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from regcachd import checkups
from regcachd.admin import BadCommand
from regcachd.authentication import find_plugins, kinds_of
from regcachd.checkups import Checkups
from regcachd.config import parse_config
from regcachd.reachability import resolve
from regcachd.testing import (
    Certificate,
    ExtraHeaders,
    FakeRegistry,
    IgnoreRange,
    NoDigestHeader,
    RedirectTo,
    Status,
)
from regcachd.testing.faults import Fault, StallBeforeHeaders
from tests.proxy import ForwardProxy

reactor: Any = _reactor
PLUGINS = find_plugins()
USERS = {"robot": "hunter2"}
PRIVATE, PUBLIC = "team/private", "team/public"
NAME = "registry.test"


class Here:
    """A registry with a private and a public image, and a daemon's checkups of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.password = directory / "password"
        self.password.write_text("hunter2\n")
        self.password.chmod(0o600)
        self.registry: Any = None
        self.now = reactor.seconds()
        self.ends: list[FakeRegistry] = []

    async def start(self, auth: Any = "token", *, tls: bool = True, **settings: Any) -> FakeRegistry:
        """Start the registry."""
        registry = self.registry = FakeRegistry(reactor, tls=tls, auth=auth, users=USERS, **settings)
        for repository in (PRIVATE, PUBLIC):
            registry.add_image(repository, "1", [repository.encode() * 100])
        registry.private(PRIVATE, {"robot"})
        await registry.start()
        self.ends.append(registry)
        return registry

    @property
    def own(self) -> str:
        """Lines of a credential that the registry knows."""
        return f'username = "robot"\npassword = "file:{self.password}"\nshare = true\n'

    async def check(
        self,
        image: str | None = None,
        lines: str = "",
        tables: str = "",
        upstream: str | None = None,
        name: str = NAME,
    ) -> dict[str, Any]:
        """Look at the registry. Nothing of the answer is secret."""
        registry, ca = self.registry, ""
        if registry is not None and registry.ca_pem and "ca =" not in lines and "insecure" not in lines:
            ca = f'ca = "{registry.ca_file(self.directory / "ca.pem")}"'
        url = upstream or registry.url
        text = f'[registries."{NAME}"]\nupstream = "{url}"\n{ca}\n{lines}\n{tables}'
        config = parse_config([("test.toml", text)], kinds_of(PLUGINS))
        answer = await Checkups(reactor, lambda: config, PLUGINS, lambda: self.now).run(
            {"registry": name, "image": image}
        )
        said = json.dumps(answer)
        assert "hunter2" not in said
        assert "cm9ib3Q6aHVudGVyMg" not in said  # robot:hunter2 in Base64
        assert "Signature" not in said
        return answer


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    here = Here(tmp_path)
    yield here
    for registry in here.ends:
        await registry.stop()


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    """By step, in order."""
    return {each["step"]: each["outcome"] for each in answer["findings"]}


def said(answer: dict[str, Any], step: str) -> str:
    """What was said of a step, with the advice."""
    return " ".join(f"{each['says']} {each['advice']}" for each in answer["findings"] if each["step"] == step)


ALL = ["name", "share", "dns", "tcp", "tls", "ping", "clock", "challenge", "realm", "token"]
OF_IMAGE = ["manifest", "digest", "layer", "download", "clients"]


async def test_all_is_well(here: Here) -> None:
    """Each step is named, and the private image is private."""
    registry = await here.start()
    registry.fault("GET /v2/", ExtraHeaders({"Date": formatdate(here.now, usegmt=True)}))
    answer = await here.check(f"{PRIVATE}:1", here.own)
    assert list(outcomes(answer)) == ALL + OF_IMAGE
    assert {o for s, o in outcomes(answer).items()} == {"ok"}, answer
    assert answer["outcome"] == "ok"
    assert "told the credential" in said(answer, "realm")
    assert "every client may have it" in said(answer, "clients")
    assert registry.requests.count("GET", "/blobs/") == 1


async def test_without_an_image_the_registry_alone_is_looked_at(here: Here) -> None:
    registry = await here.start()
    answer = await here.check(lines=here.own)
    assert [step for step in outcomes(answer) if step != "clock"] == [step for step in ALL if step != "clock"]
    assert registry.requests.count("GET", "/manifests/") == 0


@pytest.mark.parametrize("name", [NAME, f"https://{NAME}/", f"{NAME}:443"])
async def test_a_registry_is_named_by_its_name_or_host(here: Here, name: str) -> None:
    await here.start()
    assert (await here.check(name=name))["registry"] == NAME


@pytest.mark.parametrize("name", ["quay.io", "", "a b", "\x1b[31m"])
async def test_a_registry_that_is_not_configured(here: Here, name: str) -> None:
    await here.start()
    answer = await here.check(name=name)
    assert outcomes(answer) == {"name": "failure"}
    assert NAME in said(answer, "name")


@pytest.mark.parametrize("document", [{}, {"registry": 5}, {"registry": "a", "image": 5}])
async def test_a_question_that_is_none(document: dict[str, Any]) -> None:
    with pytest.raises(BadCommand):
        await Checkups(reactor, lambda: parse_config([]), PLUGINS, reactor.seconds).run(document)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("Team/App", "not the name of an image"),
        ("quay.io/team/app", "not an image of registry.test"),
        ("a:b:c", "not the name of an image"),
        ("bad_.host:x/app", "not the name of an image"),
    ],
)
async def test_an_image_that_is_none_of_this_registry(here: Here, image: str, words: str) -> None:
    await here.start()
    answer = await here.check(image)
    assert answer["outcome"] == "failure"
    assert words in said(answer, "image")


@pytest.mark.parametrize("image", [f"{PUBLIC}:1", f"{NAME}/{PUBLIC}:1", f"docker://{NAME}/{PUBLIC}:1"])
async def test_without_a_credential_a_public_image_is_looked_at_as_anybody(here: Here, image: str) -> None:
    await here.start()
    answer = await here.check(image)
    assert answer["outcome"] == "ok", answer
    assert "given to everybody" in said(answer, "token")
    assert "public" in said(answer, "clients")


async def test_by_digest(here: Here) -> None:
    await here.start()
    digest = next(iter(here.registry.manifests[PUBLIC]))
    answer = await here.check(f"{PUBLIC}@{digest}")
    assert answer["outcome"] == "ok", answer


async def test_an_index_leads_to_the_image_for_amd64(here: Here) -> None:
    registry = await here.start()
    image = registry.add_image("team/multi", None, [b"amd64"])
    registry.add_index("team/multi", "1", {"amd64": image})
    answer = await here.check("team/multi:1")
    assert answer["outcome"] == "ok", answer
    assert str(image.layers[0]) in said(answer, "layer")


async def test_a_credential_that_is_not_shared_is_of_no_use(here: Here) -> None:
    await here.start()
    answer = await here.check(f"{PRIVATE}:1", here.own.replace("true", "false"))
    assert outcomes(answer)["share"] == answer["outcome"] == "warning"
    assert "not public (status 401)" in said(answer, "clients")


async def test_a_private_image_without_a_credential_is_the_clients_business(here: Here) -> None:
    await here.start()
    answer = await here.check(f"{PRIVATE}:1")
    assert outcomes(answer)["manifest"] == answer["outcome"] == "warning"
    assert "credential of their own" in said(answer, "manifest")


# -- credentials


async def test_a_wrong_password(here: Here) -> None:
    await here.start()
    here.password.write_text("guessed")
    answer = await here.check(f"{PRIVATE}:1", here.own)
    assert outcomes(answer)["token"] == "failure"
    assert "no token for this credential" in said(answer, "token")
    assert "look whether the credential is right" in said(answer, "token")


@pytest.mark.parametrize("image", [None, f"{PRIVATE}:1"])
async def test_a_wrong_password_of_a_htpasswd_registry(here: Here, image: str | None) -> None:
    """Where no token is asked for, a request shows whether it is right."""
    await here.start("basic")
    here.password.write_text("guessed")
    answer = await here.check(image, here.own)
    assert outcomes(answer)["token"] == "failure"
    assert "the registry refuses the credential (status 401)" in said(answer, "token")
    here.password.write_text("hunter2")
    assert (await here.check(image, here.own))["outcome"] == "ok"


async def test_a_repository_that_the_credential_may_not_read(here: Here) -> None:
    registry = await here.start()
    registry.add_image("team/secret", "1", [b"secret"])
    registry.private("team/secret", {"somebody"})
    answer = await here.check("team/secret:1", here.own)
    assert outcomes(answer)["manifest"] == "failure"
    assert "says no to the credential" in said(answer, "manifest")


async def test_a_secret_that_is_not_there(here: Here) -> None:
    await here.start()
    here.password.unlink()
    answer = await here.check(lines=here.own)
    assert outcomes(answer) == {"name": "ok", "share": "ok", "secret": "failure"}
    assert "No such file" in said(answer, "secret")


async def test_a_secret_that_others_may_read(here: Here) -> None:
    await here.start()
    here.password.chmod(0o644)
    answer = await here.check(lines=here.own)
    assert (outcomes(answer)["secret"], outcomes(answer)["token"]) == ("warning", "ok")


async def test_a_plugin_that_cannot_answer(here: Here) -> None:
    await here.start()
    answer = await here.check(lines=f'auth = "basic"\n{here.own}')
    assert 'set auth = "bearer"' in said(answer, "token")


async def test_a_realm_that_is_a_strangers(here: Here) -> None:
    """It is not told the credential, and what to do if it should be is said."""
    registry = await here.start()
    registry.access.realm = "https://tokens.example/token?x=Signature"
    answer = await here.check(lines=here.own)
    assert outcomes(answer)["realm"] == "failure"
    assert 'add "tokens.example" to realm_hosts' in said(answer, "realm")


async def test_a_realm_that_may_not_be_asked_is_the_clients_business_without_a_credential(here: Here) -> None:
    registry = await here.start()
    registry.access.realm = "http://tokens.example/token"
    answer = await here.check()
    assert outcomes(answer)["realm"] == answer["outcome"] == "warning"
    assert "unencrypted" in said(answer, "realm")


async def test_clients_that_get_no_tunnel_to_the_realm(here: Here) -> None:
    registry = await here.start()
    registry.access.realm = "https://localhost/token"
    answer = await here.check(tables='[tunnel]\npolicy = "deny"')
    assert outcomes(answer)["tunnel"] == "warning"
    assert "tunnels are off" in said(answer, "tunnel")


async def test_a_registry_that_asks_for_nothing(here: Here) -> None:
    await here.start("none")
    answer = await here.check(f"{PUBLIC}:1")
    assert answer["outcome"] == "ok", answer
    assert "challenge" not in outcomes(answer)


async def test_a_registry_that_gives_no_token_to_anybody(here: Here) -> None:
    registry = await here.start()
    registry.fault("/token", Status(401))
    answer = await here.check()
    assert outcomes(answer)["token"] == answer["outcome"] == "warning"
    assert "clients need a credential of their own" in said(answer, "token")


async def test_a_challenge_that_cannot_be_read(here: Here) -> None:
    registry = await here.start()
    registry.fault("GET /v2/", Status(401))
    assert outcomes(await here.check())["challenge"] == "failure"


# -- the way there


async def test_a_name_that_does_not_resolve(here: Here) -> None:
    answer = await here.check(upstream="https://registry.invalid")
    assert list(outcomes(answer)) == ["name", "dns"]
    assert "cannot be resolved" in said(answer, "dns")


async def test_a_resolver_that_says_nothing_is_not_waited_for() -> None:
    class Silent:
        """A reactor whose resolver never answers."""

        nameResolver: Any = None

        def __getattr__(self, name: str) -> Any:
            return getattr(reactor, name)

        def resolveHostName(self, receiver: Any, host: str) -> None:
            receiver.addressResolved(IPv4Address("TCP", "192.0.2.1", 0))
            receiver.addressResolved(IPv4Address("TCP", "192.0.2.1", 0))

    silent = Silent()
    silent.nameResolver = silent
    assert await resolve(silent, "somewhere.example", 0.01) == ["192.0.2.1"]


async def test_a_port_on_which_nobody_listens(here: Here) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        answer = await here.check(upstream=f"https://127.0.0.1:{taken.getsockname()[1]}")
    assert outcomes(answer) == {"name": "ok", "dns": "ok", "tcp": "failure"}
    assert "refused" in said(answer, "tcp")
    assert "is an address" in said(answer, "dns")


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (Certificate.WRONG_NAME, "it is not for localhost"),
        (Certificate.UNTRUSTED, "its signature is wrong"),
        (Certificate.EXPIRED, "it has expired"),
    ],
)
async def test_a_certificate_that_is_refused_is_described(
    here: Here, certificate: Certificate, words: str
) -> None:
    await here.start(certificate=certificate)
    answer = await here.check()
    assert list(outcomes(answer)) == ["name", "dns", "tcp", "tls"]
    assert words in said(answer, "tls")
    assert "shown is a certificate for" in said(answer, "tls")


async def test_a_certificate_of_an_unknown_authority(here: Here) -> None:
    await here.start()
    other = here.directory / "other.pem"
    stranger = FakeRegistry(reactor, tls=True, names=("other",))
    other.write_bytes(stranger.ca_pem)
    answer = await here.check(lines=f'ca = "{other}"')
    assert outcomes(answer)["tls"] == "failure"


async def test_a_ca_file_that_is_gone(here: Here) -> None:
    await here.start()
    answer = await here.check(lines=f'ca = "{here.directory}/gone.pem"')
    assert outcomes(answer) == {"name": "ok", "tls": "failure"}
    assert "gone.pem" in said(answer, "tls")


async def test_insecure_is_worth_a_warning(here: Here) -> None:
    await here.start()
    answer = await here.check(lines="insecure = true")
    assert (outcomes(answer)["tls"], outcomes(answer)["token"]) == ("warning", "ok")
    assert "not checked" in said(answer, "tls")


async def test_plain_http_is_worth_a_warning_where_there_is_a_password(here: Here) -> None:
    await here.start(tls=False)
    assert outcomes(await here.check())["tls"] == "ok"
    answer = await here.check(lines=here.own)
    assert (outcomes(answer)["tls"], outcomes(answer)["token"]) == ("warning", "ok")


async def test_something_that_is_no_tls(here: Here) -> None:
    await here.start("none", tls=False)
    answer = await here.check(
        upstream=f"https://127.0.0.1:{here.registry.port}", tables='[limits]\nconnect_timeout = "500ms"'
    )
    assert outcomes(answer)["tls"] == "failure"


async def test_a_parent_that_leads_there(here: Here) -> None:
    await here.start()
    proxy = ForwardProxy({"localhost": ("127.0.0.1", here.registry.port)}).start()
    answer = await here.check(f"{PUBLIC}:1", f'upstream_proxy = "http://{proxy.authority}"')
    await proxy.stop()
    assert answer["outcome"] == "ok", answer
    assert "the parent" in said(answer, "dns")
    assert f"connects to localhost:{here.registry.port}" in said(answer, "parent")


async def test_a_parent_that_refuses(here: Here) -> None:
    await here.start()
    proxy = ForwardProxy(answer=b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").start()
    answer = await here.check(lines=f'upstream_proxy = "http://{proxy.authority}"')
    await proxy.stop()
    assert list(outcomes(answer)) == ["name", "dns", "tcp", "parent"]
    assert "refuses to connect" in said(answer, "parent")


# -- answers


@pytest.mark.parametrize(
    ("match", "faults", "step", "outcome", "words"),
    [
        ("GET /v2/ ", [Status(503)], "ping", "failure", "trouble of its own"),
        ("GET /v2/ ", [ExtraHeaders({"Date": "Fri, 01 Jan 2021 00:00:00 GMT"})], "clock", "warning", "ahead"),
        ("HEAD", [NoDigestHeader()], "manifest", "warning", "does not say its digest"),
        ("HEAD", [Status(429, {"Retry-After": "7"})], "manifest", "failure", "try again after: 7"),
        (
            "HEAD",
            [ExtraHeaders({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "3;w=21600"})],
            "limit",
            "warning",
            "3 of 100 pulls in 6 h",
        ),
        ("GET /v2/team/public/manifests", [Status(500)], "digest", "failure", "GET gets status 500"),
        ("HEAD /v2/team/public/blobs", [Status(404)], "layer", "failure", "is not there"),
        ("GET /v2/team/public/blobs", [IgnoreRange()], "download", "warning", "not in parts"),
        ("GET /v2/team/public/blobs", [Status(403)], "download", "failure", "status 403"),
        (
            "GET /v2/team/public/blobs",
            [RedirectTo("http://169.254.169.254/latest?X-Signature=x")],
            "download",
            "failure",
            "link-local",
        ),
    ],
)
async def test_what_a_registry_answers(
    here: Here, match: str, faults: list[Fault], step: str, outcome: str, words: str
) -> None:
    registry = await here.start()
    registry.fault(lambda request: match in request.line + " ", *faults)
    answer = await here.check(f"{PUBLIC}:1")
    assert outcomes(answer)[step] == outcome, answer
    assert words in said(answer, step)


async def test_wrong_bytes_are_found(here: Here) -> None:
    registry = await here.start()
    registry.fault("GET /v2/team/public/manifests", Status(200, {}, b"{}"))
    assert "other bytes" in said(await here.check(f"{PUBLIC}:1"), "digest")


async def test_storage_is_named_by_its_host_and_never_by_its_signed_address(here: Here) -> None:
    registry = await here.start("none", tls=False)
    storage = FakeRegistry(reactor, address="127.0.0.2")
    await storage.start()
    here.ends.append(storage)
    registry.fault("/blobs/", RedirectTo(storage))
    answer = await here.check(f"{PUBLIC}:1")
    assert storage.authority in said(answer, "layer")
    assert outcomes(answer)["download"] == "failure"  # the guard: no redirect leads to this machine


async def test_a_registry_that_never_answers_is_not_waited_for(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has been found until then is told."""
    monkeypatch.setattr(checkups, "LONGEST", 0.5)
    registry = await here.start()
    registry.fault("HEAD", StallBeforeHeaders())
    answer = await here.check(f"{PUBLIC}:1")
    assert outcomes(answer)["manifest"] == "failure"
    assert "not through after 0.5 s" in said(answer, "manifest")
    assert outcomes(answer)["token"] == "ok"


async def test_a_peer_that_says_nothing_of_tls(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups, "LONGEST", 0.5)
    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    answer = await here.check(upstream=f"https://127.0.0.1:{port.getHost().port}")
    stopped: Deferred[None] = port.stopListening()
    await stopped
    assert outcomes(answer)["tls"] == "failure"
