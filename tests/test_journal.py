"""Lines for systemd's journal."""

import io
import os
from pathlib import Path

import pytest
from twisted.logger import LogEvent, LogLevel
from twisted.python.failure import Failure

from regcachd.journal import JournalObserver, entry, is_journal, observer


def event(level: LogLevel = LogLevel.info, **fields: object) -> LogEvent:
    return {
        "log_level": level,
        "log_time": 0.0,
        "log_namespace": "regcachd.x",
        "log_format": "{text}",
        **fields,
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", 7), ("info", 6), ("warn", 4), ("error", 3), ("critical", 2)],
)
def test_each_level_has_its_priority(level: str, priority: int) -> None:
    assert entry(event(LogLevel.levelWithName(level), text="it is so")) == f"<{priority}>it is so\n"


def test_a_line_says_which_worker_it_is_from() -> None:
    assert entry(event(text="it is so", worker=2)) == "<6>worker 2: it is so\n"


def test_each_line_of_a_traceback_has_the_priority() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        lines = entry(event(LogLevel.critical, text="it fails", log_failure=Failure())).splitlines()
    assert lines[0] == "<2>it fails"
    assert lines[-1] == "<2>builtins.ValueError: no"
    assert all(line.startswith("<2>") for line in lines)


def test_an_event_of_the_old_kind_is_information() -> None:
    assert entry({"log_format": "old", "log_time": 0.0}) == "<6>old\n"


def test_the_stream_is_the_journal_s_when_the_environment_says_so(tmp_path: Path) -> None:
    with open(tmp_path / "stream", "w") as stream:
        found = os.fstat(stream.fileno())
        assert is_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not is_journal(stream, {})
    assert not is_journal(stream, {"JOURNAL_STREAM": "1:1"})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})
    assert not is_journal(None, {})


def test_elsewhere_the_log_is_twisted_s() -> None:
    """As with `make run`: with the time, for a terminal or a file."""
    assert not isinstance(observer(), JournalObserver)


def test_what_is_written_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    with open(path, "w") as stream:
        JournalObserver(stream)(event(text="it is so"))
        assert path.read_text() == "<6>it is so\n"


def test_a_notice_is_between_a_warning_and_information() -> None:
    assert entry(event(text="it is so", notice=True)) == "<5>it is so\n"
