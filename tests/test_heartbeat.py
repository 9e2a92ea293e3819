"""What a service manager hears of a daemon in the course of its life."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, field
from twisted.internet.task import Clock

from regcachd.heartbeat import CALM, PROMPT, Heartbeat
from regcachd.notify import ServiceManager


@define
class Daemon:
    """One whose state is set from outside."""

    serves: bool = False
    is_said: str = "starting"

    def is_serving(self) -> bool:
        return self.serves

    def condition(self) -> str:
        return self.is_said

    def patience(self) -> float:
        return 10.0


@define
class Ear:
    """The service manager's socket."""

    address: str
    _socket: socket.socket = field(factory=lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))

    def __attrs_post_init__(self) -> None:
        self._socket.setblocking(False)
        self._socket.bind(self.address)

    def heard(self) -> list[str]:
        """The messages since the last call."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(1000).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    made = Ear(str(tmp_path / "notify"))
    yield made
    made.close()


def begin(ear: Ear, daemon: Daemon, watchdog: float | None = 30.0) -> tuple[Heartbeat, Clock]:
    clock = Clock()
    heartbeat = Heartbeat(clock, ServiceManager(ear.address, watchdog), daemon)
    heartbeat.startService()
    return heartbeat, clock


def test_readiness_is_told_once_and_not_before_the_daemon_serves(ear: Ear) -> None:
    daemon = Daemon()
    heartbeat, clock = begin(ear, daemon)
    assert ear.heard() == []
    clock.advance(0)
    assert ear.heard() == ["STATUS=starting"]
    clock.advance(PROMPT)
    assert ear.heard() == []
    daemon.serves, daemon.is_said = True, "port 3128"
    clock.advance(PROMPT)
    assert ear.heard() == ["READY=1\nWATCHDOG=1\nSTATUS=port 3128"]
    clock.advance(CALM)
    assert ear.heard() == ["WATCHDOG=1"]
    heartbeat.stopService()


def test_a_daemon_that_serves_nobody_is_silent(ear: Ear) -> None:
    """So the watchdog ends it, and a new one is started."""
    daemon = Daemon(serves=True)
    heartbeat, clock = begin(ear, daemon)
    clock.advance(0)
    ear.heard()
    daemon.serves = False
    clock.pump([CALM] * 5)
    assert ear.heard() == []
    daemon.serves = True
    clock.advance(CALM)
    assert ear.heard() == ["WATCHDOG=1"]
    heartbeat.stopService()


def test_trouble_is_in_the_status_until_it_is_over(ear: Ear) -> None:
    daemon = Daemon(serves=True, is_said="port 3128")
    heartbeat, clock = begin(ear, daemon, watchdog=None)
    clock.advance(0)
    assert ear.heard() == ["READY=1\nSTATUS=port 3128"]
    daemon.is_said = "trouble: no disk"
    clock.advance(CALM)
    assert ear.heard() == ["STATUS=trouble: no disk"]
    daemon.is_said = "port 3128"
    clock.advance(CALM)
    assert ear.heard() == ["STATUS=port 3128"]
    heartbeat.stopService()


@pytest.mark.parametrize("watchdog", [1.0, 30.0, 600.0])
def test_beats_are_frequent_enough_that_one_may_be_late(ear: Ear, watchdog: float) -> None:
    heartbeat, clock = begin(ear, Daemon(serves=True), watchdog)
    clock.advance(0)
    ear.heard()
    for _ in range(100):
        clock.advance(watchdog / 100)
    assert len(ear.heard()) >= 2
    heartbeat.stopService()


def test_the_end_is_told_at_its_beginning_with_the_time_it_takes(ear: Ear) -> None:
    heartbeat, clock = begin(ear, Daemon(serves=True))
    clock.advance(0)
    ear.heard()
    heartbeat.stopService()
    assert ear.heard() == [
        "STOPPING=1\nSTATUS=stopping; running responses get 10 s\nEXTEND_TIMEOUT_USEC=15000000"
    ]
    assert not clock.getDelayedCalls()
