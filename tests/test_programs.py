"""programs.py: a program's output is had, or it is ended with all that it has started."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from regcachd.programs import Ended, ProgramFailed, run_program

reactor: Any = _reactor
LONG = 30.0


def script(path: Path, *lines: str) -> list[str]:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o700)
    return [str(path)]


async def run(
    command: list[str], given: bytes = b"", limit: int = 1000, timeout: float = LONG, **environment: str
) -> Ended:
    return await run_program(reactor, command, environment, given, limit=limit, timeout=timeout)


async def test_a_program_gets_its_input_and_its_end_and_gives_its_output(tmp_path: Path) -> None:
    ended = await run(script(tmp_path / "p", 'read line; echo "got $line"; cat; echo no >&2'), b"a\nb\n")
    assert ended == Ended(True, b"got a\nb\n")


async def test_a_program_that_fails_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    assert await run(script(tmp_path / "p", "echo why; exit 3")) == Ended(False, b"why\n")


async def test_a_program_that_reads_no_input_is_no_trouble(tmp_path: Path) -> None:
    assert await run(script(tmp_path / "p", "exec 0<&-", "echo done"), b"x" * 200_000) == Ended(
        True, b"done\n"
    )


async def test_a_program_sees_nothing_of_the_daemons_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    ended = await run([shutil.which("env", path="/usr/bin:/bin") or ""], HOME="/h")
    assert ended == Ended(True, b"HOME=/h\n")


async def test_a_program_that_hangs_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = script(tmp_path / "p", f"sleep 1000 & echo $! $$ > {pids}.new", f"mv {pids}.new {pids}", "wait")
    running = Deferred.fromCoroutine(run(command, timeout=2.0))
    with pytest.raises(ProgramFailed, match="did not end within 2 s"):
        await running
    for pid in map(int, pids.read_text().split()):
        await gone(pid)


async def gone(pid: int) -> None:
    """Wait until the process is dead; whoever is its parent then may take its time to notice."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
        await deferLater(reactor, 0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"process {pid} is left over")


async def test_a_pipe_that_a_daemon_of_the_program_keeps_open_is_not_waited_for(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = script(tmp_path / "p", f"setsid sleep 1000 & echo $! > {pid}; exit 0")
    with pytest.raises(ProgramFailed, match="did not end"):
        await run(command, timeout=1.5, PATH="/usr/bin:/bin")
    os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_a_program_that_prints_too_much_is_killed(tmp_path: Path) -> None:
    command = script(tmp_path / "p", "while :; do echo hunter2; done")
    with pytest.raises(ProgramFailed, match="printed more than 1000 bytes"):
        await run(command)


async def test_a_program_that_is_none_fails(tmp_path: Path) -> None:
    assert not (await run([str(tmp_path / "missing")])).good


def test_output_is_not_shown() -> None:
    assert "hunter2" not in repr(Ended(True, b"hunter2"))
