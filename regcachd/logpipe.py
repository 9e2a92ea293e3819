"""One log for all workers: each writes its events into a pipe, the parent gives them to its own log.

An event crosses as one line of JSON with what any log shows: time, level, namespace and text. A worker that writes
faster than the parent reads waits, as it would for a slow disk under its log, so no line is lost and the parent
holds no more than one line of each worker.

Between these are the worker's heartbeats, `{"serves": 3}`: it is alive, and serves by edition 3 (inheritance.py).
"""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, formatEvent
from zope.interface import implementer

LONGEST_TEXT = 16 * 1024
"""Characters of one event's text; what is more is cut."""
LONGEST_LINE = 256 * 1024
"""Bytes of one line; JSON needs up to 12 for a character. Longer ones are cut into several."""


@implementer(ILogObserver)
class PipeObserver:
    """In a worker: writes events to a descriptor, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def __call__(self, event: LogEvent) -> None:
        self._write(encode(event))

    def beat(self, edition: int) -> None:
        """Say that the worker is alive, and what it serves by."""
        self._write(json.dumps({"serves": edition}).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        with self._lock, suppress(OSError):  # the parent has gone: there is nobody to tell, and we end too
            while data:
                data = data[os.write(self._descriptor, data) :]


def encode(event: LogEvent) -> bytes:
    """An event as a line."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=False) or formatEvent(event)
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}... ({len(text)} characters)"
    level = event.get("log_level") or LogLevel.info
    line = {
        "time": event.get("log_time", time.time()),
        "level": level.name,
        "namespace": event.get("log_namespace") or "-",
        "text": text,
    }
    return json.dumps(line).encode() + b"\n"


def heartbeat(line: bytes) -> int | None:
    """The edition that a heartbeat tells; None if the line is none."""
    if not line.startswith(b'{"serves": '):
        return None
    try:
        return int(json.loads(line)["serves"])
    except (ValueError, KeyError, TypeError):
        return None


def decode(line: bytes, worker: int) -> LogEvent:
    """A line as an event of the parent's log, under the worker's number.

    What is no event, such as the last words of a dying interpreter, becomes a warning with that text.
    """
    try:
        found = json.loads(line)
        level, namespace = LogLevel.levelWithName(found["level"]), str(found["namespace"])
        text, moment = str(found["text"]), float(found["time"])
    except Exception:  # whatever a worker gone wrong may send
        level, namespace, text, moment = LogLevel.warn, "stderr", line.decode(errors="replace"), time.time()
    return {
        "log_time": moment,
        "log_level": level,
        "log_namespace": namespace,
        "log_system": f"worker {worker} {namespace}#{level.name}",
        "log_format": "{text}",
        "text": text,
        "worker": worker,
    }


class Lines:
    """Cuts what comes through a pipe into lines; what is longer than `longest` bytes into several."""

    def __init__(self, line: Callable[[bytes], None], longest: int | None = LONGEST_LINE) -> None:
        self._line = line
        self._longest = longest
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """More has come."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line:
                self._line(line)
        if self._longest is not None and len(self._rest) > self._longest:
            self.end()

    def end(self) -> None:
        """Nothing more will come for this line."""
        rest, self._rest = self._rest, b""
        if rest:
            self._line(rest)
