"""logpipe.py: events of a worker's log arrive in the parent's as they were, whatever is in them."""

import io
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogEvent, Logger, LogLevel, LogPublisher, textFileLogObserver
from twisted.python.failure import Failure

from regcachd.logpipe import LONGEST_LINE, LONGEST_TEXT, Lines, PipeObserver, decode, encode, heartbeat


def logged(event: LogEvent) -> str:
    """How a log file shows it."""
    file = io.StringIO()
    textFileLogObserver(file, timeFormat=None)(event)
    return file.getvalue()


def event(text: str, level: LogLevel = LogLevel.info, **more: object) -> LogEvent:
    return {
        "log_level": level,
        "log_namespace": "regcachd.fill",
        "log_time": 1000.5,
        "log_format": "{it}",
        "it": text,
        **more,
    }


def test_an_event_keeps_time_level_namespace_and_text_and_gets_its_worker() -> None:
    read = decode(encode(event("stored {it}", LogLevel.error)), 2)
    assert (read["log_time"], read["log_level"], read["worker"]) == (1000.5, LogLevel.error, 2)
    assert logged(read) == "- [worker 2 regcachd.fill#error] stored {it}\n"


def test_a_failure_comes_with_its_traceback() -> None:
    try:
        raise ValueError("bad luck")
    except ValueError:
        failure = Failure()
    text = logged(decode(encode(event("it failed", LogLevel.critical, log_failure=failure)), 1))
    assert "worker 1" in text
    assert "it failed" in text
    assert "Traceback" in text
    assert "bad luck" in text


def test_an_event_of_the_old_log_module_has_no_format() -> None:
    assert logged(decode(encode({"log_time": 1.0, "log_text": "plain", "log_format": "{log_text}"}), 1)) == (
        "- [worker 1 -#info] plain\n"
    )


@pytest.mark.parametrize(
    "line", [b"Fatal Python error: Aborted", b"\xff\xfe", b"{}", b"[1]", b'{"level": "loud"}', b"null"]
)
def test_what_is_no_event_is_a_warning_with_that_text(line: bytes) -> None:
    read = decode(line, 3)
    assert read["log_level"] is LogLevel.warn
    assert logged(read) == f"- [worker 3 stderr#warn] {line.decode(errors='replace')}\n"


@given(st.text())
def test_any_text_is_one_line_and_comes_back(text: str) -> None:
    line = encode(event(f"x{text}"))
    assert line.count(b"\n") == 1
    assert decode(line, 1)["text"] == f"x{text}"


@given(st.integers(0, 0x10FFFF).filter(lambda code: not 0xD800 <= code < 0xE000))
def test_a_longest_text_fits_a_longest_line(code: int) -> None:
    line = encode(event(chr(code) * (LONGEST_TEXT + 1)))
    assert len(line) < LONGEST_LINE
    assert decode(line, 1)["text"].endswith(f"... ({LONGEST_TEXT + 1} characters)")


@given(st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line)), st.integers(1, 20))
def test_lines_are_whole_however_they_are_cut(lines: list[bytes], size: int) -> None:
    found: list[bytes] = []
    cutter = Lines(found.append)
    stream = b"".join(line + b"\n" for line in lines) + b"last words"
    for start in range(0, len(stream), size):
        cutter.feed(stream[start : start + size])
    assert found == lines
    cutter.end()
    cutter.end()
    assert found == [*lines, b"last words"]


def test_an_endless_line_is_cut() -> None:
    """Whatever a worker prints, the parent holds no more than one longest line of it."""
    found: list[bytes] = []
    cutter = Lines(found.append)
    for _ in range(100):
        cutter.feed(b"x" * 10_000)
        assert len(cutter._rest) <= LONGEST_LINE
    cutter.end()
    assert sum(map(len, found)) == 1_000_000


def test_threads_do_not_mix_their_lines() -> None:
    """Events of several threads, longer than what a pipe takes at once, arrive whole."""
    there, here = os.pipe()
    found: list[bytes] = []
    publisher = LogPublisher(PipeObserver(here))

    def write(number: int) -> None:
        log = Logger(namespace=f"thread{number}", observer=publisher)
        for _ in range(50):
            log.info("{text}", text=str(number) * 9000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    cutter = Lines(found.append)
    while len(found) < 200:
        cutter.feed(os.read(there, 8192))
    for thread in threads:
        thread.join()
    os.close(there)
    os.close(here)
    for line in found:
        read = decode(line, 1)
        assert read["text"] == read["log_namespace"][-1] * 9000


def test_a_parent_that_is_gone_is_no_error() -> None:
    there, here = os.pipe()
    os.close(there)
    PipeObserver(here)(event("nobody hears"))
    os.close(here)


def test_a_heartbeat_tells_the_edition_and_is_no_event() -> None:
    reading, writing = os.pipe()
    PipeObserver(writing).beat(7)
    os.close(writing)
    with open(reading, "rb") as pipe:
        (line,) = pipe.read().splitlines()
    assert heartbeat(line) == 7


@pytest.mark.parametrize("line", [b"", b"{}", b'{"serves": ', b'{"serves": null}', encode(event("x"))])
def test_nothing_else_is_a_heartbeat(line: bytes) -> None:
    assert heartbeat(line) is None
