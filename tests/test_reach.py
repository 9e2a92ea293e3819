"""Hosts that cannot be reached: nobody waits for them twice, and downloads under way go on when they are back."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred

from regcachd.breaker import ENOUGH
from regcachd.config import parse_config
from regcachd.guard import anywhere, never_ours
from regcachd.http1 import UpstreamFailed
from regcachd.relay import Answer, capture
from regcachd.testing import FakeRegistry, GarbageResponse, StallAfter, StallBeforeHeaders, Status
from regcachd.upstream import Unreachable, Upstream
from tests.through import Download, blob_path, logged, running
from tests.world import reactor, until


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def registry() -> AsyncIterator[FakeRegistry]:
    found = FakeRegistry(reactor)
    await found.start()
    yield found
    await found.stop()


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def upstream(registry: FakeRegistry) -> AsyncIterator[Upstream]:
    text = f'[registries."registry.test"]\nupstream = "{registry.url}"\ntimeout = "500ms"'
    config = parse_config([("test.toml", text)])
    found = Upstream(reactor, config.registries["registry.test"], config.limits)
    yield found
    found.close()
    await until(lambda: not found._pool.connections)


async def read(upstream: Upstream, **how: Any) -> Answer:
    return await capture(await upstream.request(b"GET", b"/v2/", (), **how), 2**20)


async def failure(asked: Any) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as told:
        await asked
    return told.value


async def unplug(registry: FakeRegistry, upstream: Upstream) -> None:
    """Stop the registry, until that is known."""
    await registry.stop()
    for _ in range(ENOUGH):
        assert not isinstance(await failure(read(upstream)), Unreachable)


async def test_after_some_failures_requests_fail_at_once_and_say_since_when_and_why(
    registry: FakeRegistry, upstream: Upstream
) -> None:
    assert upstream.unreachable_since is None
    before = reactor.seconds()
    with logged() as lines:
        await unplug(registry, upstream)
        error = await failure(read(upstream))
    assert isinstance(error, Unreachable)
    assert error.status == 502
    assert re.match(
        "registry.test has been unreachable for [0-9]+ s and is tried again in 1 s; the last", str(error)
    )
    assert "refused" in str(error)
    assert upstream.unreachable_since is not None
    assert before <= error.since == upstream.unreachable_since <= reactor.seconds()
    assert upstream.outage is not None
    assert len(lines) == 1
    assert "registry.test is unreachable: registry.test cannot be reached" in lines[0]


async def test_one_failure_is_an_outage_to_those_who_can_do_without(
    registry: FakeRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upstream.outage is None
    await registry.stop()
    assert not isinstance(await failure(read(upstream)), Unreachable)
    assert "registry.test cannot be reached" in str(upstream.outage)
    assert upstream.unreachable_since is None
    monkeypatch.setattr("regcachd.upstream.WAIT", 0.0)
    assert upstream.outage is None
    await registry.start()
    await read(upstream)
    monkeypatch.undo()
    assert upstream.outage is None


async def test_requests_without_an_answer_are_no_outage(registry: FakeRegistry, upstream: Upstream) -> None:
    """There are clients who can bring that about; the breaker opens all the same, so that nobody waits for long."""
    registry.fault("/v2/", StallBeforeHeaders())
    for _ in range(2):
        assert (await failure(read(upstream))).status == 504
        assert upstream.outage is None
    assert isinstance(await failure(read(upstream)), Unreachable)
    await registry.stop()
    await failure(read(upstream, patient=True))
    assert upstream.outage is not None


async def test_when_it_is_back_the_probe_finds_it(
    registry: FakeRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.breaker.FIRST_HOLD", 0.01)
    await unplug(registry, upstream)
    await registry.start()
    breaker = upstream._breakers[upstream._home]
    await until(lambda: reactor.seconds() > breaker.until)
    assert (await read(upstream)).status == 200
    assert upstream.unreachable_since is None


async def test_a_probe_that_fails_says_since_when_too(
    registry: FakeRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.breaker.FIRST_HOLD", 0.01)
    await unplug(registry, upstream)
    breaker = upstream._breakers[upstream._home]
    since = breaker.since
    await until(lambda: reactor.seconds() > breaker.until)
    error = await failure(read(upstream))
    assert isinstance(error, Unreachable)
    assert error.since == since
    assert re.match("registry.test has been unreachable for [0-9]+ s .* refused", str(error))


async def test_while_one_probes_the_others_are_refused(
    registry: FakeRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.breaker.FIRST_HOLD", 0.01)
    await unplug(registry, upstream)
    await registry.start()
    fault = registry.fault("/v2/", StallBeforeHeaders())
    breaker = upstream._breakers[upstream._home]
    await until(lambda: reactor.seconds() > breaker.until)
    probe = Deferred.fromCoroutine(read(upstream))
    assert isinstance(await failure(read(upstream)), Unreachable)
    registry.heal(fault)
    registry.release()
    assert (await probe).status == 200
    assert (await read(upstream)).status == 200
    assert len(registry.requests) == 2


async def test_who_probes_waits_for_a_while_only_and_the_probe_goes_on(
    registry: FakeRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that drops what it is sent is found out by nobody in less than the time that a connection may take."""
    monkeypatch.setattr("regcachd.breaker.FIRST_HOLD", 0.01)
    monkeypatch.setattr("regcachd.upstream.PROBING", 0.02)
    await unplug(registry, upstream)
    await registry.start()
    breaker = upstream._breakers[upstream._home]
    fault = registry.fault("/v2/", StallBeforeHeaders())
    for _ in range(2):  # the one that probes, and one that does not
        await until(lambda: reactor.seconds() > breaker.until)
        assert "has been unreachable for" in str(await failure(read(upstream)))
    await until(lambda: len(registry.requests) > 0)
    registry.heal(fault)
    assert len(registry.requests) == 1
    registry.release()
    await until(lambda: upstream.unreachable_since is None)
    assert (await read(upstream)).status == 200


async def test_a_probe_that_nobody_waits_for_may_fail(
    registry: FakeRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.breaker.FIRST_HOLD", 0.01)
    monkeypatch.setattr("regcachd.upstream.PROBING", 0.02)
    await unplug(registry, upstream)
    await registry.start()
    registry.fault("/v2/", StallBeforeHeaders())
    breaker = upstream._breakers[upstream._home]
    await until(lambda: reactor.seconds() > breaker.until)
    before = breaker.until
    assert "has been unreachable for" in str(await failure(read(upstream)))
    await until(lambda: breaker.until > before)  # the registry's timeout is over
    assert breaker.why == "registry.test did not answer for 0.5 s"
    assert upstream.unreachable_since is not None


async def test_those_who_are_patient_are_let_through(registry: FakeRegistry, upstream: Upstream) -> None:
    await unplug(registry, upstream)
    assert not isinstance(await failure(read(upstream, patient=True)), Unreachable)
    await registry.start()
    assert (await read(upstream, patient=True)).status == 200
    assert (await read(upstream)).status == 200


async def test_silence_counts_and_what_was_kept_is_not_used_again(
    registry: FakeRegistry, upstream: Upstream
) -> None:
    """With the cable out, connections that are already there fall silent."""
    fault = registry.fault("/v2/", StallBeforeHeaders(), times=4)
    asked = [Deferred.fromCoroutine(read(upstream)) for _ in range(4)]
    await registry.until(lambda r: len(r.stalls) == 4)
    registry.heal(fault)
    registry.release()
    for each in asked:
        await each
    assert registry.connections == 4
    registry.fault("/v2/", StallBeforeHeaders())
    for _ in range(2):
        assert (await failure(read(upstream))).status == 504
    assert isinstance(await failure(read(upstream)), Unreachable)
    await until(lambda: registry.connections == 0)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503, 504])
async def test_an_answer_is_an_answer(registry: FakeRegistry, upstream: Upstream, status: int) -> None:
    registry.fault("/v2/", Status(status))
    for _ in range(2 * ENOUGH):
        assert (await read(upstream)).status == status
    assert upstream.unreachable_since is None


async def test_an_answer_that_is_not_http_is_not_unreachable(
    registry: FakeRegistry, upstream: Upstream
) -> None:
    registry.fault("/v2/", GarbageResponse())
    for _ in range(2 * ENOUGH):
        assert not isinstance(await failure(read(upstream)), Unreachable)


async def test_storage_that_is_down_is_no_fault_of_the_registry(
    registry: FakeRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.upstream.never_ours", lambda address: None)
    registry.fault("/v2/", Status(307, {"Location": "http://127.0.0.2:1/"}))
    for _ in range(ENOUGH):
        await failure(read(upstream, follow=True))
    assert upstream.unreachable_since is None
    assert isinstance(await failure(read(upstream, follow=True)), Unreachable)
    assert (await read(upstream)).status == 307


async def test_another_server_is_asked_over_a_connection_of_its_own(
    registry: FakeRegistry, upstream: Upstream
) -> None:
    url = f"http://localhost:{registry.port}/token?a=b"
    for _ in range(2):
        response = await upstream.ask(b"GET", url, [(b"X-Test", b"1")], b"", anywhere)
        await capture(response, 2**20)
    assert [request.connection for request in registry.requests] == [1, 2]
    assert registry.requests[0].line == "GET /token?a=b"
    await until(lambda: registry.connections == 0)
    error = await failure(upstream.ask(b"GET", url, [], b"", never_ours))
    assert f"localhost:{registry.port} (for registry.test) is refused" in str(error)


async def test_hosts_that_are_remembered_are_bounded(
    registry: FakeRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.upstream.MOST_BREAKERS", 2)
    for number in range(5):
        registry.fault("/v2/", Status(307, {"Location": f"http://127.0.0.{number + 1}:1/"}), times=1)
        await failure(read(upstream, follow=True))
    assert len(upstream._breakers) == 2


async def test_a_download_under_way_goes_on_when_upstream_is_back(tmp_path: Path) -> None:
    """Clients that ask for something new are told at once meanwhile."""
    lines = 'timeout = "5s"\nretry_delay = "50ms"'
    async with running(tmp_path, settings=lines, retries=1000) as here:
        size = 4_000_000
        data = bytes(range(250)) * (size // 250)
        digest = here.registry.add_blob("team/app", data)
        other = here.registry.add_blob("team/app", b"other")
        here.registry.fault(digest, StallAfter(size // 2), times=1)
        download = await Download(here, blob_path(digest)).begin()
        await download.read(size // 4)
        await here.registry.stop()
        upstream = here.service.edition.registries["registry.test"].upstream
        await until(lambda: upstream.unreachable_since is not None)
        reply = await here.client().get(blob_path(other))
        assert reply.status == 502
        assert b"registry.test has been unreachable for" in reply.body
        await here.registry.start()
        assert await download.rest() == data
        assert upstream.unreachable_since is None
        assert (await here.client().get(blob_path(other))).body == b"other"
