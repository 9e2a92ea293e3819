"""What plugins have of the web: verified, bounded, no further than allowed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import evolve
from twisted.internet import reactor as _reactor
from zope.interface.verify import verifyObject

from regcachd.config import parse_config
from regcachd.fetch import Web
from regcachd.interfaces import AuthFailed, Fetched, IWeb
from regcachd.testing import Certificate, FakeRegistry, StallAfter, StallBeforeHeaders, Status
from regcachd.upstream import Upstream

reactor: Any = _reactor


class Here:
    """A server, and the web as plugins of a registry elsewhere see it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server: Any = None
        self.upstream: Any = None

    async def start(self, trusted: bool = True, **settings: Any) -> FakeRegistry:
        self.server = FakeRegistry(reactor, **settings)
        await self.server.start()
        ca = ""
        if self.server.ca_pem and trusted:
            ca = f'ca = "{self.server.ca_file(self.directory / "ca.pem")}"'
        config = parse_config([("a", f'[registries."registry.test"]\n{ca}\ntimeout = "400ms"')])
        limits = evolve(config.limits, connect_timeout=5)
        self.upstream = Upstream(reactor, config.registries["registry.test"], limits)
        return self.server  # type: ignore[no-any-return]

    async def fetch(self, url: str = "/x", **how: Any) -> Fetched:
        if url.startswith("/"):
            url = self.server.url + url
        given = {"method": "GET", "headers": {}, "body": b"", "local": True, **how}
        return await Web(self.upstream, reactor).fetch(given.pop("method"), url, **given)

    async def failure(self, url: str = "/x", **how: Any) -> str:
        with pytest.raises(AuthFailed) as caught:
            await self.fetch(url, **how)
        assert not caught.value.refused
        assert "hunter2" not in str(caught.value)
        return str(caught.value)

    async def stop(self) -> None:
        self.upstream.close()
        await self.server.stop()


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    here = Here(tmp_path)
    yield here
    await here.stop()


async def test_it_is_what_plugins_are_promised(here: Here) -> None:
    await here.start()
    verifyObject(IWeb, Web(here.upstream, reactor))


async def test_an_answer_comes_whole_with_lower_case_names(here: Here) -> None:
    server = await here.start()
    server.fault("/x", Status(418, {"X-Some": "Thing"}, b"body"))
    found = await here.fetch("/x?a=b")
    assert (found.status, found.headers["x-some"], found.body) == (418, "Thing", b"body")
    assert server.requests[0].line == "GET /x?a=b"


async def test_headers_and_body_go_as_they_are_given(here: Here) -> None:
    server = await here.start()
    await here.fetch(method="POST", headers={"X-A": "b", "accept": "x/y"}, body=b"a=b")
    (request,) = server.requests
    assert (request.method, request.body) == ("POST", "a=b")
    assert request.headers["x-a"] == "b"
    assert request.headers["accept"] == "x/y"
    assert request.headers["content-length"] == "3"
    assert request.headers["user-agent"].startswith("regcachd/")


async def test_every_request_has_a_connection_of_its_own(here: Here) -> None:
    server = await here.start()
    await here.fetch()
    await here.fetch()
    assert [request.connection for request in server.requests] == [1, 2]


async def test_this_machine_is_reached_only_when_that_is_asked_for(here: Here) -> None:
    server = await here.start()
    assert "is a loopback address" in await here.failure(local=False)
    assert "is a link-local address" in await here.failure("http://169.254.169.254/", local=False)
    assert not server.requests


async def test_certificates_are_verified(here: Here) -> None:
    await here.start(tls=True, trusted=False)
    assert "is not trusted; name" in await here.failure()


async def test_the_registrys_ca_is_trusted_too(here: Here) -> None:
    await here.start(tls=True)
    assert (await here.fetch()).status == 404


async def test_a_certificate_for_another_name_is_refused(here: Here) -> None:
    await here.start(tls=True, certificate=Certificate.WRONG_NAME)
    assert "it is not for localhost" in await here.failure()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(here: Here, code: int) -> None:
    server = await here.start()
    server.fault("/x", Status(code, {"Location": "/y"}))
    assert f"redirects (status {code})" in await here.failure()
    assert len(server.requests) == 1


async def test_an_answer_has_at_most_a_mebibyte(here: Here) -> None:
    server = await here.start()
    server.fault("/x", Status(200, {}, b"x" * 2**20))
    assert len((await here.fetch()).body) == 2**20
    server.heal()
    server.fault("/x", Status(200, {}, b"x" * (2**20 + 1)))
    assert "too large" in await here.failure()


async def test_a_server_that_does_not_answer_is_not_waited_for(here: Here) -> None:
    server = await here.start()
    server.fault("/x", StallBeforeHeaders())
    assert "did not answer for 0.4 s" in await here.failure()


async def test_an_answer_in_drops_is_not_waited_for(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regcachd.fetch.LONGEST", 0.05)
    server = await here.start()
    server.fault("/x", Status(200, {}, b"x" * 1000), StallAfter(10))
    assert "could not be asked" in await here.failure()


@pytest.mark.parametrize(
    "url", ["", "ftp://x/hunter2", "https://", "https://u:hunter2@127.0.0.1:1/hunter2?hunter2"]
)
async def test_an_url_is_not_repeated_in_an_error(here: Here, url: str) -> None:
    await here.start()
    await here.failure(url or "ftp:")


async def test_a_header_that_is_none_is_not_sent(here: Here) -> None:
    server = await here.start()
    assert "Illegal header value" in await here.failure(headers={"X": "a\r\nhunter2: b"})
    assert not server.requests
