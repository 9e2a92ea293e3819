"""Upstreams behind a parent: passages by CONNECT, plain HTTP in absolute form, refusals, and what stays direct."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import evolve
from twisted.internet.defer import Deferred

from regcachd.config import parse_config
from regcachd.http1 import UpstreamFailed
from regcachd.passage import NotConnected
from regcachd.relay import Answer, capture
from regcachd.testing import CutAfter, FakeRegistry, RedirectTo, Status
from regcachd.upstream import Upstream
from tests.proxy import ForwardProxy
from tests.world import reactor, until

NAME = "registry.test"


class Site:
    """A registry that only the parent can find, and the parent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.proxy = ForwardProxy().start()
        self._registries: list[FakeRegistry] = []
        self._upstreams: list[Upstream] = []

    async def registry(self, name: str = NAME, *, tls: bool = True) -> FakeRegistry:
        """A registry of this name."""
        registry = FakeRegistry(reactor, tls=tls, names=(name,))
        await registry.start()
        self._registries.append(registry)
        self.proxy.names = {**self.proxy.names, name: (registry.host, registry.port)}
        return registry

    def upstream(
        self,
        url: str = f"https://{NAME}",
        *,
        user: str = "",
        lines: str = "",
        trusting: FakeRegistry | None = None,
        **limits: Any,
    ) -> Upstream:
        """An upstream through the parent."""
        if trusting is not None:
            lines += f'\nca = "{trusting.ca_file(self.directory / "ca.pem")}"'
        text = f'[registries."{NAME}"]\nupstream = "{url}"\nupstream_proxy = "http://{user}{self.proxy.authority}"\n'
        config = parse_config([("test.toml", text + lines)])
        upstream = Upstream(reactor, config.registries[NAME], evolve(config.limits, **limits))
        self._upstreams.append(upstream)
        return upstream

    async def stop(self) -> None:
        """Stop everything."""
        for upstream in self._upstreams:
            upstream.close()
        for registry in self._registries:
            await registry.stop()
        await self.proxy.stop()
        await until(lambda: not self.proxy.connections)


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    here = Site(tmp_path)
    yield here
    await here.stop()


async def read(upstream: Upstream, target: bytes = b"/v2/", **how: Any) -> Answer:
    """The whole response to a GET."""
    return await capture(await upstream.request(b"GET", target, (), **how), 2**24)


async def failure(asked: Any) -> UpstreamFailed:
    """What a request fails with."""
    with pytest.raises(UpstreamFailed) as told:
        await asked
    assert "\n" not in str(told.value)
    return told.value


# -- the way through


async def test_tls_to_the_registry_goes_through_the_parent_which_resolves_its_name(site: Site) -> None:
    registry = await site.registry()
    upstream = site.upstream(trusting=registry)
    assert (await read(upstream)).status == 200
    assert (await read(upstream)).status == 200
    assert site.proxy.lines == [f"CONNECT {NAME}:443 HTTP/1.1"]  # one passage serves both
    assert registry.requests[0].headers["host"] == NAME
    assert "proxy-authorization" not in registry.requests[0].headers


@pytest.mark.parametrize("where", ["url", "file"])
async def test_the_parent_is_told_user_and_password(site: Site, where: str) -> None:
    registry = await site.registry()
    site.proxy.users = {"us er": "p:@/ß"}
    if where == "url":
        upstream = site.upstream(user="us%20er:p:%40%2F%C3%9F@", trusting=registry)
    else:
        (site.directory / "password").write_text("p:@/ß\n")
        line = f'upstream_proxy_password = "file:{site.directory}/password"'
        upstream = site.upstream(user="us%20er@", lines=line, trusting=registry)
    assert (await read(upstream)).status == 200
    assert registry.requests[0].authorization is None


async def test_plain_http_is_asked_of_the_parent_in_absolute_form(site: Site) -> None:
    await site.registry(tls=False)
    site.proxy.users = {"user": "password"}
    upstream = site.upstream(f"http://{NAME}", user="user:password@")
    assert (await read(upstream, b"/v2/?a=%2f")).status == 200
    assert (await read(upstream, b"/v2/")).status == 200
    assert site.proxy.lines == [f"GET http://{NAME}/v2/?a=%2f HTTP/1.1", f"GET http://{NAME}/v2/ HTTP/1.1"]
    for head in site.proxy.heads:
        assert f"Proxy-Authorization: Basic {base64.b64encode(b'user:password').decode()}" in head
    assert len(site.proxy.asked) == 1


async def test_redirects_lead_through_the_parent_too(site: Site) -> None:
    registry, storage = await site.registry(tls=False), await site.registry("storage.test", tls=False)
    digest = registry.add_blob("team/app", b"x" * 1000)
    registry.fault(digest, RedirectTo(storage))
    storage._name = "storage.test"  # what its URLs say
    answer = await read(site.upstream(f"http://{NAME}"), f"/v2/team/app/blobs/{digest}".encode(), follow=True)
    assert answer.body == b"x" * 1000
    assert site.proxy.lines[1].startswith(f"GET http://storage.test:{storage.port}/")


async def test_whom_no_proxy_names_is_reached_directly(site: Site) -> None:
    registry = await site.registry(tls=False)
    upstream = site.upstream(registry.url, lines='no_proxy = ["127.0.0.0/8"]')
    assert (await read(upstream)).status == 200
    assert not site.proxy.heads


async def test_a_redirect_to_whom_no_proxy_names_is_followed_directly(site: Site) -> None:
    registry, storage = await site.registry(tls=False), await site.registry("storage.test", tls=False)
    registry.fault("/v2/", Status(307, {"Location": f"{storage.url}/there"}))
    upstream = site.upstream(f"http://{NAME}", lines='no_proxy = ["127.0.0.1"]')
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("regcachd.upstream.never_ours", lambda address: None)
        await read(upstream, follow=True)
    assert site.proxy.lines == [f"GET http://{NAME}/v2/ HTTP/1.1"]
    assert storage.requests[0].line == "GET /there"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "169.254.169.254", "2130706433", "0x7f.1", "localhost", "a.localhost."]
)
async def test_a_redirect_to_a_forbidden_address_does_not_even_reach_the_parent(
    site: Site, host: str
) -> None:
    """Behind the parent it would be the parent's own machine, and its metadata service."""
    registry = await site.registry(tls=False)
    registry.fault("/v2/", Status(307, {"Location": f"http://{host}/latest/"}))
    error = await failure(read(site.upstream(f"http://{NAME}"), follow=True))
    assert "is refused" in str(error)
    assert len(site.proxy.heads) == 1


# -- refusals and failures


def refusing(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "", ""]).encode()


@pytest.mark.parametrize(
    ("answer", "status", "said", "counts"),
    [
        (refusing("407 No", 'Proxy-Authenticate: Basic realm="x"'), 502, "upstream_proxy_password", False),
        (refusing("407 No", "Proxy-Authenticate: NTLM", "Proxy-Authenticate: Negotiate"), 502, "NTLM", False),
        (refusing("407 No"), 502, "wants a user and a password", False),
        (refusing("403 Forbidden"), 502, "no_proxy", False),
        (refusing("405 Method Not Allowed"), 502, "really a proxy", False),
        (refusing("302 Found", "Location: http://login/"), 502, "really a proxy", False),
        (refusing("502 Bad Gateway"), 502, "could not connect to registry.test:443", True),
        (refusing("503 Unavailable"), 502, "could not connect", True),
        (refusing("504 Timeout"), 504, "could not connect", True),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 502, "not HTTP", True),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20000, 502, "a head of more than 16384 bytes", True),
        (b"HTTP/1.1 200", 502, "closed the connection instead of answering", True),
        (b"", 502, "closed the connection instead of answering", True),
    ],
)
async def test_a_refusal_says_what_to_do(
    site: Site, answer: bytes, status: int, said: str, counts: bool
) -> None:
    site.proxy.answer = answer
    error = await failure(read(site.upstream()))
    assert error.status == status
    assert said in str(error)
    assert f"the parent {site.proxy.authority}" in str(error)
    assert isinstance(error, NotConnected) == counts
    await until(lambda: not site.proxy.connections)


async def test_a_wrong_password_is_not_in_the_error(site: Site) -> None:
    site.proxy.users = {"user": "right"}
    for url in (f"https://{NAME}", f"http://{NAME}"):
        upstream = site.upstream(url, user="user:wr0ng@")
        error = await failure(read(upstream))
        assert "does not accept the user and the password (407)" in str(error)
        assert "wr0ng" not in str(error) + repr(error) + repr(upstream.registry)


async def test_a_password_that_cannot_be_read_is_named_by_its_place(site: Site) -> None:
    lines = f'upstream_proxy_password = "file:{site.directory}/nowhere"'
    for url in (f"https://{NAME}", f"http://{NAME}"):
        error = await failure(read(site.upstream(url, user="user@", lines=lines)))
        assert f"file:{site.directory}/nowhere: cannot be read" in str(error)


async def test_informational_answers_are_passed_over(site: Site) -> None:
    site.proxy.answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + refusing("403 No")
    assert "403 No" in str(await failure(read(site.upstream())))


async def test_a_parent_that_is_not_there(site: Site) -> None:
    upstream, authority = site.upstream(), site.proxy.authority
    await site.proxy.stop()
    error = await failure(read(upstream))
    assert isinstance(error, NotConnected)
    assert f"the parent {authority} cannot be reached" in str(error)


async def test_a_parent_that_does_not_answer_is_a_504(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regcachd.dial.GRACE", 0.05)
    site.proxy.holding = True
    error = await failure(read(site.upstream(connect_timeout=0.4)))
    assert error.status == 504
    assert "did not answer CONNECT in time" in str(error)


async def test_a_parent_may_be_slow(site: Site) -> None:
    registry = await site.registry()
    site.proxy.holding = True
    asked = Deferred.fromCoroutine(read(site.upstream(trusting=registry)))
    await until(lambda: len(site.proxy.heads) == 1)
    site.proxy.release()
    assert (await asked).status == 200


async def test_closing_ends_passages_that_have_not_come_about(site: Site) -> None:
    site.proxy.holding = True
    upstream = site.upstream()
    asked = Deferred.fromCoroutine(read(upstream))
    await until(lambda: len(site.proxy.heads) == 1)
    upstream.close()
    assert (await failure(asked)).status == 503
    await until(lambda: not site.proxy.connections)


async def test_a_parent_that_dies_in_the_middle_of_a_body(site: Site) -> None:
    registry = await site.registry()
    digest = registry.add_blob("team/app", b"x" * 1_000_000)
    upstream = site.upstream(trusting=registry)
    response = await upstream.request(b"GET", f"/v2/team/app/blobs/{digest}".encode(), ())
    reading = Deferred.fromCoroutine(capture(response, 2**24))
    site.proxy.cut()
    error = await failure(reading)
    assert f"through the parent {site.proxy.authority}" in str(error)


async def test_a_registry_that_breaks_off_behind_the_parent(site: Site) -> None:
    registry = await site.registry()
    digest = registry.add_blob("team/app", b"x" * 1000)
    registry.fault(digest, CutAfter(5))
    error = await failure(read(site.upstream(trusting=registry), f"/v2/team/app/blobs/{digest}".encode()))
    assert error.status == 502


async def test_the_registrys_certificate_is_checked_through_the_parent(site: Site) -> None:
    await site.registry()
    error = await failure(read(site.upstream()))
    assert "the certificate of registry.test" in str(error)
    assert "is refused" in str(error)
