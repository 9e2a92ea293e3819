"""When a fill gets another connection: decisions, and downloads from an upstream that limits each connection."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd import fill, parallel, partial, writer
from regcachd.fill import Fill
from regcachd.growing import Growing
from regcachd.parallel import LARGE, Parallel
from regcachd.reference import Digest
from regcachd.testing import CutAfter, Fault, IgnoreRange, RedirectTo, StallAfter, Status, Throttle
from regcachd.testing.message import Request
from tests.through import blob_path, running, start
from tests.world import World, until

reactor: Any = _reactor

# -- decisions


def run(most: int, speed: Callable[[int], float], seconds: int = 20) -> list[int]:
    """How many streams there are in each second, from an upstream that gives `speed(streams)` bytes a second."""
    decision = Parallel(most)
    received, streams, counts = 0.0, 1, []
    for second in range(seconds):
        received += speed(streams)
        decision.measure(int(received), float(second), streams)
        streams = decision.wanted
        counts.append(streams)
    return counts


def test_while_each_connection_has_its_own_rate_more_are_added_up_to_the_most() -> None:
    counts = run(4, lambda streams: 1e6 * streams)
    assert counts[-1] == 4
    assert counts == sorted(counts)
    assert counts.index(4) <= 8, "and soon"


def test_one_at_most_is_one() -> None:
    assert set(run(1, lambda streams: 1e6 * streams)) == {1}


def test_when_the_second_does_not_help_it_stays_at_one() -> None:
    counts = run(4, lambda streams: 1e6)
    assert max(counts) == 2
    assert counts[-1] == 1


def test_when_more_is_slower_it_goes_back() -> None:
    assert run(4, lambda streams: 1e6 / streams)[-1] == 1


def test_when_the_third_does_not_help_two_stay() -> None:
    counts = run(4, lambda streams: 1e6 * min(streams, 2))
    assert max(counts) == 3
    assert counts[-1] == 2


def test_an_upstream_that_refuses_more_is_not_asked_again() -> None:
    decision = Parallel(4)
    decision.stop()
    for second in range(10):
        decision.measure(second * 10**6, float(second), 1)
    assert decision.wanted == 1
    assert not decision.wants_more(LARGE)


@pytest.mark.parametrize(
    ("most", "total", "wants"),
    [(4, LARGE, True), (4, LARGE - 1, False), (4, None, False), (1, LARGE, False), (2, 2 * LARGE, True)],
)
def test_only_large_blobs_of_known_size_are_worth_it(most: int, total: int | None, wants: bool) -> None:
    assert Parallel(most).wants_more(total) is wants


def test_an_interval_in_which_the_number_changed_says_nothing() -> None:
    decision = Parallel(4)
    decision.measure(0, 0.0, 1)
    decision.measure(10**6, 1.0, 1)
    assert decision.wanted == 2
    decision.measure(10**6, 2.0, 1)  # the second one has not answered yet
    decision.measure(10**6, 3.0, 2)
    assert decision.wanted == 2


# -- downloads

SIZE = 4_000_000
DATA = random.Random(11).randbytes(SIZE)
SPEED = 2_000_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs of 4 MB are large here, and a rate is measured in no time."""
    monkeypatch.setattr(parallel, "LARGE", 1_000_000)
    monkeypatch.setattr(partial, "PIECE", 100_000)
    monkeypatch.setattr(fill, "PIECE", 100_000)
    monkeypatch.setattr(fill, "SPAN", 400_000)
    monkeypatch.setattr(Parallel.__init__, "__defaults__", (0.15,))


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream is added after another up to three, whatever was measured: for tests that are not of the decision."""

    def measure(self: Parallel, received: int, now: float, streams: int) -> None:
        if not self._stopped:
            self.wanted = max(self.wanted, min(3, self.most, streams + 1))

    monkeypatch.setattr(Parallel, "measure", measure)


def even(monkeypatch: pytest.MonkeyPatch, speed: Callable[[int], float]) -> None:
    """The decision sees an upstream that gives just `speed(streams)` in each interval, however busy this machine is."""
    measure = Parallel.measure
    received, intervals = 0.0, 0

    def measured(self: Parallel, _received: int, _now: float, streams: int) -> None:
        nonlocal received, intervals
        received, intervals = received + speed(streams), intervals + 1
        measure(self, int(received), float(intervals), streams)

    monkeypatch.setattr(Parallel, "measure", measured)


def blob(world: World, *faults: Fault) -> Digest:
    digest = world.registry.add_blob("team/app", DATA)
    world.registry.fault(digest, *faults)
    return digest


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many downloads are under way, whenever one begins."""
    counts: list[int] = []
    flow = Fill._flow

    def note(self: Fill, *args: Any) -> None:
        flow(self, *args)
        counts.append(len(self._streams))

    monkeypatch.setattr(Fill, "_flow", note)
    return counts


def is_extra(request: Request) -> bool:
    return request.method == "GET" and "range" in request.headers


downloads = pytest.mark.usefixtures("small")
by_three = pytest.mark.usefixtures("small", "three")


@downloads
async def test_a_throttled_upstream_gets_more_connections_and_the_bytes_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: list[int]
) -> None:
    even(monkeypatch, lambda streams: 1e6 * streams)
    async with running(tmp_path) as world:
        digest = blob(world, Throttle(SPEED / 2))
        assert (await world.client().get(blob_path(digest))).body == DATA
        assert 2 <= max(streams) <= 4
        await until(lambda: world.stored() == [digest.hex])
        assert world.partials() == []


@by_three
async def test_the_watermark_goes_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers see no byte before all those before it are there and hashed."""
    seen: list[int] = []
    grown = Growing.grown

    def note(self: Growing, watermark: int) -> None:
        seen.append(watermark)
        path = tmp_path / "store/partial/sha256" / self.digest.hex
        if path.exists():
            with path.open("rb") as file:
                file.seek(max(0, watermark - 1000))
                assert file.read(min(watermark, 1000)) == DATA[max(0, watermark - 1000) : watermark]
        grown(self, watermark)

    monkeypatch.setattr(Growing, "grown", note)
    async with running(tmp_path) as world:
        digest = blob(world, Throttle(SPEED / 2))
        assert (await world.client().get(blob_path(digest))).body == DATA
        await until(lambda: world.stored() == [digest.hex])
        assert world.registry.requests.count("GET", "/blobs/") >= 3, "not all from one connection"
    assert seen == sorted(seen)
    assert len(seen) > 10


@downloads
async def test_connections_can_be_limited_to_one(tmp_path: Path) -> None:
    async with running(tmp_path, settings="connections = 1") as world:
        digest = blob(world, Throttle(SPEED * 2))
        assert (await world.client().get(blob_path(digest))).body == DATA
        assert world.registry.requests.count() == 1


@downloads
@pytest.mark.parametrize(
    "fault",
    [IgnoreRange(), Status(429), Status(503), Status(416), CutAfter(0), RedirectTo("/nowhere")],
    ids=["range ignored", "429", "503", "416", "cut", "redirect to nothing"],
)
async def test_an_upstream_that_does_not_want_more_is_left_in_peace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """The first connection goes on, one more was tried, and the client notices nothing."""
    monkeypatch.setattr(
        fill, "SPAN", 1_500_000
    )  # what the first connection brings before it would need another
    async with running(tmp_path) as world:
        digest = blob(world, Throttle(SPEED))
        world.registry.fault(is_extra, fault)
        reply = await world.client().get(blob_path(digest))
        assert (reply.body == DATA, reply.broken) == (True, False)
        assert world.registry.requests.count("GET", "/blobs/") == 2
        await until(lambda: world.stored() == [digest.hex])


@downloads
async def test_when_more_are_no_faster_there_are_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: list[int]
) -> None:
    """The extra connections get nothing: what they were to bring is brought by the others in the end."""
    even(monkeypatch, lambda streams: 1e6)
    async with running(tmp_path, settings='timeout = "60s"') as world:
        digest = blob(world, Throttle(SPEED))
        world.registry.fault(is_extra, StallAfter(0, 120), times=1)
        before = reactor.seconds()
        assert (await world.client().get(blob_path(digest))).body == DATA
        assert max(streams) == 2
        assert reactor.seconds() - before < 30, "nobody waits for the silent one"


@by_three
@pytest.mark.parametrize("at", [0, 1000, 150_000])
async def test_extra_connections_that_break_are_made_good(tmp_path: Path, at: int) -> None:
    async with running(tmp_path, settings='retry_delay = "20ms"', retries=8) as world:
        digest = blob(world, Throttle(SPEED))
        world.registry.fault(is_extra, CutAfter(at), times=2, skip=1)
        reply = await world.client().get(blob_path(digest))
        assert (reply.body == DATA, reply.broken) == (True, False)
        assert world.registry.requests.count("GET", "/blobs/") >= 3, "one of them has broken at least"
        await until(lambda: world.stored() == [digest.hex])


@by_three
async def test_the_first_connection_breaks_while_others_go_on(tmp_path: Path, streams: list[int]) -> None:
    async with running(tmp_path, settings='retry_delay = "20ms"', retries=8) as world:
        digest = blob(world, Throttle(SPEED / 2))
        world.registry.fault(lambda request: not is_extra(request), CutAfter(800_000), times=1)
        reply = await world.client().get(blob_path(digest))
        assert (reply.body == DATA, reply.broken) == (True, False)
        assert max(streams) >= 2


@by_three
async def test_pieces_ahead_survive_a_restart(tmp_path: Path) -> None:
    """What other connections had brought is not downloaded again."""
    async with running(tmp_path, tables='[limits]\nstop_timeout = "0s"') as world:
        digest = blob(world, Throttle(SPEED / 8))  # so that what is ahead stays ahead for seconds
        result = start(world.client(), blob_path(digest))
        path = tmp_path / f"store/partial/sha256/{digest.hex}.state"

        def is_ahead() -> bool:
            """Is a piece there beyond the hole that follows the front?"""
            state = path.read_bytes() if path.exists() else b""
            return any(state[24 + int.from_bytes(state[8:16], "little") // partial.PIECE + 2 :])

        await until(is_ahead)
        await world.service.stopService()
        await result
        assert is_ahead()
        world.registry.heal()
        world.registry.requests.clear()
        world.start_daemon()
        assert (await world.client().get(blob_path(digest))).body == DATA
        ranges = [r.headers["range"] for r in world.registry.requests.matching("GET", "/blobs/")]
        assert len(ranges) >= 2, "one for each hole"
        assert ranges[0].startswith("bytes=")


@by_three
async def test_a_slow_disk_pauses_all_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QUEUE_HIGH", 200_000)
    monkeypatch.setattr(writer, "QUEUE_LOW", 50_000)
    async with running(tmp_path) as world:
        digest = blob(world, Throttle(SPEED))
        result = start(world.client(), blob_path(digest))
        held: list[int] = []

        def look() -> bool:
            entry = world.service.fills._entries.get(digest)
            if entry is not None:
                held.append(entry.driver._writer.queued)  # type: ignore[union-attr]
            return bool(result.called)

        await until(look)
        assert (await result).body == DATA
        assert max(held) < 200_000 + 4 * 64 * 1024


# -- what clients ask for in parts


@downloads
async def test_parallel_ranges_of_one_client_cause_one_fill(tmp_path: Path) -> None:
    """As containerd 2 does: each part on a connection of its own, all at once."""
    async with running(tmp_path, settings="connections = 1") as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(digest, Throttle(SPEED * 4))
        parts = [(n, min(SIZE, n + 500_000)) for n in range(0, SIZE, 500_000)]
        replies = [
            start(world.client(), blob_path(digest), Range=f"bytes={first}-{stop - 1}")
            for first, stop in parts
        ]
        for (first, stop), reply in zip(parts, replies, strict=True):
            got = await reply
            assert (got.status, got.body == DATA[first:stop]) == (206, True)
            assert got.headers["content-range"] == f"bytes {first}-{stop - 1}/{SIZE}"
        assert world.registry.requests.count("GET") == 1
        await until(lambda: world.stored() == [digest.hex])


@downloads
async def test_a_range_far_ahead_is_passed_to_upstream_while_the_fill_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regcachd.delivery.FAR", 1_000_000)
    async with running(tmp_path, settings="connections = 1") as world:
        digest = world.registry.add_blob("team/app", DATA)
        world.registry.fault(lambda request: not is_extra(request), StallAfter(500_000))
        whole = start(world.client(), blob_path(digest))
        await until(lambda: (f := world.service.fills.get(digest)) is not None and f.watermark == 500_000)
        ahead = await world.client().get(blob_path(digest), Range="bytes=3000000-3000099")
        assert (ahead.status, ahead.body) == (206, DATA[3_000_000:3_000_100])
        assert ahead.headers["cache-status"] == "regcachd; fwd=partial"
        near = start(world.client(), blob_path(digest), Range="bytes=1000000-1000099")
        world.registry.release()
        assert (await near).body == DATA[1_000_000:1_000_100]
        assert (await whole).body == DATA
        assert world.registry.requests.count("GET", "/blobs/") == 2
        await until(lambda: world.stored() == [digest.hex])
