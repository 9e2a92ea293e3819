"""What a service manager hears, on a real socket."""

import os
import socket
from pathlib import Path

import pytest

from regcachd.notify import ServiceManager


def listen(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(address)
    made.setblocking(False)
    return made


def test_a_message_has_a_line_for_each_state(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listen(path) as ear:
        manager = ServiceManager.of({"NOTIFY_SOCKET": path})
        assert manager is not None
        manager.tell(READY=1, STATUS="two\nlines")
        assert ear.recv(1000) == b"READY=1\nSTATUS=two lines"
        manager.tell()
        with pytest.raises(BlockingIOError):
            ear.recv(1000)
        manager.close()


def test_an_address_with_an_at_sign_is_in_the_abstract_namespace() -> None:
    name = f"regcachd-test-{os.getpid()}"
    with listen(f"\0{name}") as ear:
        manager = ServiceManager.of({"NOTIFY_SOCKET": f"@{name}"})
        assert manager is not None
        manager.tell(STOPPING=1)
        assert ear.recv(1000) == b"STOPPING=1"
        manager.close()


def test_a_manager_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": str(tmp_path / "absent")})
    assert manager is not None
    manager.tell(READY=1)
    manager.close()


@pytest.mark.parametrize(
    ("environment", "watchdog"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_unless_it_is_another_process_s(
    environment: dict[str, str], watchdog: float | None
) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": "/absent", **environment})
    assert manager is not None
    assert manager.watchdog == watchdog
    manager.close()


def test_processes_we_start_find_nothing_of_it_in_their_environment() -> None:
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    manager = ServiceManager.of(environment)
    assert manager is not None
    assert environment == {"HOME": "/"}
    manager.close()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_unix_socket_there_is_nobody_to_tell(environment: dict[str, str]) -> None:
    assert ServiceManager.of(environment) is None
