"""Following a fill: two views of one partial in one process, since locks and watches belong to open files."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor

from regcachd import follow
from regcachd.follow import Follower, Watches
from regcachd.growing import FillFailed, StoreFailed
from regcachd.partial import Partial, Phase, state_path, unlock
from regcachd.reference import Digest
from tests.through import logged
from tests.world import until

reactor: Any = _reactor

DATA = random.Random(3).randbytes(300_000)
DIGEST = Digest.of(DATA)


class Scene:
    """A filler and a follower."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / DIGEST.hex
        self.watches = Watches(reactor)
        self.others: list[Watches] = []
        self.ended: list[Follower] = []
        self.orphans: list[int] = []
        self.followers: list[Follower] = []
        self.partials: list[Partial] = []

    def fill(self, total: int | None = len(DATA)) -> Partial:
        partial = Partial.acquire(self.path, DIGEST)
        assert partial is not None
        self.partials.append(partial)
        partial.resume()
        partial.expect(total)
        return partial

    def follow(self, watches: Watches | None = None) -> Follower:
        follower = Follower.open(
            self.path,
            DIGEST,
            watches=watches or self.watches,
            clock=reactor,
            ended=self.ended.append,
            orphaned=lambda follower, lock_fd: self.orphans.append(lock_fd),
        )
        assert follower is not None
        self.followers.append(follower)
        follower.begin()
        return follower

    def clean(self) -> None:
        for follower in self.followers:
            follower.stop()
            follower.growing.close()
        for lock_fd in self.orphans:
            os.close(lock_fd)
        for partial in self.partials:
            partial.close()
        for watches in (self.watches, *self.others):
            watches.stop()

    def follow_elsewhere(self) -> Follower:
        """As another process would, with watches of its own."""
        self.others.append(Watches(reactor))
        return self.follow(self.others[-1])


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """All that comes is heard of: what has not been heard would be noticed an hour later."""
    monkeypatch.setattr(follow, "CHECK", 3600.0)
    scene = Scene(tmp_path)
    yield scene
    scene.clean()


async def test_every_step_of_the_filler_is_seen(scene: Scene) -> None:
    partial = scene.fill()
    growing = scene.follow().growing
    assert growing.total == len(DATA)
    for start in range(0, len(DATA), 100_000):
        partial.write(start, DATA[start : start + 100_000])
        await until(lambda: growing.watermark == partial.committed)
    partial.verified()
    await until(lambda: growing.is_verified)
    assert scene.ended == [], "it is followed until it is stored, too"
    partial.forget_state()
    os.rename(scene.path, scene.path.with_name("stored"))
    partial.close()
    await until(lambda: len(scene.ended) == 1)
    assert growing.error is None


async def test_one_that_comes_late_sees_all_that_is_there(scene: Scene) -> None:
    partial = scene.fill()
    partial.write(0, DATA[:1000])
    assert scene.follow().growing.watermark == 1000
    partial.write(1000, DATA[1000:])
    partial.verified()
    follower = scene.follow()
    assert follower.growing.is_verified
    assert follower.growing.size == len(DATA)
    follower.stop()
    assert follower.growing.error is None


async def test_there_is_no_news_before_upstream_has_said_yes(scene: Scene) -> None:
    partial = scene.fill(total=None)
    follower = scene.follow()
    assert not follower.news.called
    partial.expect(len(DATA))
    await until(lambda: bool(follower.news.called))
    assert follower.growing.has_begun


@pytest.mark.parametrize(
    ("phase", "error"), [(Phase.GIVEN_UP, FillFailed), (Phase.STORE_FAILED, StoreFailed)]
)
async def test_giving_up_is_heard_and_why(scene: Scene, phase: Phase, error: type[FillFailed]) -> None:
    partial = scene.fill()
    follower = scene.follow()
    partial.write(0, DATA[:1000])
    partial.give_up(phase)
    await until(lambda: len(scene.ended) == 1)
    assert type(follower.growing.error) is error
    assert follower.growing.watermark == 1000
    assert scene.orphans == []


async def test_a_filler_that_goes_without_a_word_leaves_an_orphan_with_its_lock(scene: Scene) -> None:
    partial = scene.fill()
    follower = scene.follow()
    partial.write(0, DATA[:1000])
    partial.close()
    await until(lambda: len(scene.orphans) == 1)
    assert Partial.acquire(scene.path, DIGEST) is None
    assert follower.growing.error is None
    assert follower.growing.watermark == 1000
    assert scene.ended == []
    heir = Partial(scene.path, DIGEST, scene.orphans.pop())
    scene.partials.append(heir)
    assert heir.resume() == 1000


async def test_of_many_followers_one_takes_over_and_the_others_follow_it(scene: Scene) -> None:
    partial = scene.fill()
    followers = [scene.follow_elsewhere() for _ in range(4)]
    partial.write(0, DATA[:1000])
    partial.close()
    await until(lambda: len(scene.orphans) == 1)
    heir = Partial(scene.path, DIGEST, scene.orphans.pop())
    scene.partials.append(heir)
    heir.resume()
    heir.write(1000, DATA[1000:])
    heir.verified()
    await until(lambda: sum(each.growing.is_verified for each in followers) == 3)
    assert scene.orphans == []


async def test_a_killed_process_may_let_go_of_the_lock_after_the_file(scene: Scene) -> None:
    partial = scene.fill()
    lock = os.dup(partial.lock_fd)
    follower = scene.follow()
    partial.write(0, DATA[:1000])
    os.close(partial.fd)  # as the kernel does for a process that is killed: no unlocking, in any order
    partial.fd = os.open(scene.path, os.O_RDONLY)
    await until(lambda: bool(follower._soon))
    unlock(lock)
    os.close(lock)
    await until(lambda: len(scene.orphans) == 1)


async def test_wrong_bytes_that_are_removed_end_it(scene: Scene) -> None:
    partial = scene.fill()
    follower = scene.follow()
    partial.write(0, DATA[:1000])
    partial.discard()
    partial.close()
    await until(lambda: len(scene.ended) == 1)
    assert follower.growing.error is not None
    assert "was removed" in str(follower.growing.error)
    assert scene.orphans == []


async def test_the_lock_is_not_kept_by_the_readers_of_one_that_was_given_up(scene: Scene) -> None:
    """A slow client may hold the file for long, and the next fill must not wait for it."""
    partial = scene.fill()
    reader = scene.follow().growing.reader(0)
    partial.write(0, DATA[:1000])
    partial.give_up(Phase.GIVEN_UP)
    partial.close()
    await until(lambda: len(scene.ended) == 1)
    scene.fill().close()
    reader.close()


async def test_nothing_to_follow_is_none(scene: Scene) -> None:
    def opened() -> Any:
        return Follower.open(
            scene.path,
            DIGEST,
            watches=scene.watches,
            clock=reactor,
            ended=scene.ended.append,
            orphaned=lambda *_: None,
        )

    before = len(os.listdir("/proc/self/fd"))
    assert opened() is None
    scene.path.write_bytes(b"")
    assert opened() is None, "its state is not there yet"
    assert len(os.listdir("/proc/self/fd")) == before


async def test_the_state_of_the_next_fill_is_not_taken_for_that_of_the_last(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening of the two files the first fill ends and another begins under the name."""
    first = scene.fill()
    first.write(0, b"wrong bytes")
    really_open = os.open

    def slow(path: Any, flags: int, *rest: Any) -> int:
        if str(path).endswith(".state") and first.fd >= 0:
            monkeypatch.undo()
            first.discard()
            first.close()
            scene.fill()
        return really_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", slow)
    follower = Follower.open(
        scene.path,
        DIGEST,
        watches=scene.watches,
        clock=reactor,
        ended=scene.ended.append,
        orphaned=lambda *_: None,
    )
    assert follower is None
    assert len(scene.partials) == 2


async def test_a_state_that_is_damaged_under_us_changes_nothing(scene: Scene) -> None:
    partial = scene.fill()
    follower = scene.follow()
    partial.write(0, DATA[:1000])
    await until(lambda: follower.growing.watermark == 1000)
    os.truncate(state_path(scene.path), 3)
    follower.look()
    assert follower.growing.watermark == 1000
    assert not follower.growing.is_over


async def test_without_inotify_it_is_looked_at(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: Any) -> None:
        raise OSError(24, "too many watches")

    monkeypatch.setattr(follow, "INotify", none)
    partial = scene.fill()
    with logged() as lines:
        follower = scene.follow()
    assert "too many watches" in lines[0]
    partial.write(0, DATA[:1000])
    await until(lambda: follower.growing.watermark == 1000)
    partial.close()
    await until(lambda: len(scene.orphans) == 1)


async def test_what_inotify_has_missed_is_seen_all_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "CHECK", 0.05)
    monkeypatch.setattr(Watches, "watch", lambda *_: True)
    partial = scene.fill()
    follower = scene.follow()
    partial.write(0, DATA[:1000])
    await until(lambda: follower.growing.watermark == 1000)
    partial.close()
    await until(lambda: len(scene.orphans) == 1)


async def test_nothing_is_left_when_it_stops(scene: Scene) -> None:
    before = len(os.listdir("/proc/self/fd"))
    scene.fill()
    follower = scene.follow()
    follower.stop()
    follower.stop()
    assert scene.ended == [follower]
    follower.growing.close()
    scene.followers.clear()
    scene.partials.pop().close()
    scene.watches.stop()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_one_blob_after_another_under_one_name(scene: Scene) -> None:
    """The watches of one fill must not be taken for those of the next."""
    for _ in range(3):
        partial = scene.fill()
        follower = scene.follow()
        partial.write(0, DATA[:1000])
        await until(lambda follower=follower: follower.growing.watermark == 1000)  # type: ignore[misc]
        partial.discard()
        partial.close()
        await until(lambda follower=follower: follower.growing.is_over)  # type: ignore[misc]
