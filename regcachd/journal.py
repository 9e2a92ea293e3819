"""The log for systemd's journal: a priority before each line, as sd-daemon(3) has it, and no time, which it adds.

twistd3 --nodaemon --logger regcachd.journal.observer regcache
"""

import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from attrs import frozen
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, textFileLogObserver
from zope.interface import implementer

ERROR = "<3>"
NOTICE = "<5>"
"""Of events with a true field `notice`: between warnings and information, where Twisted has no level."""
_PRIORITIES = {
    LogLevel.debug: "<7>",
    LogLevel.info: "<6>",
    LogLevel.warn: "<4>",
    LogLevel.error: ERROR,
    LogLevel.critical: "<2>",
}


def is_journal(stream: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """Does what is written to this stream get into the journal? See JOURNAL_STREAM in systemd.exec(5)."""
    try:
        status = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):  # what stands for a stream and has no file below
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def observer() -> ILogObserver:
    """What twistd's --logger asks for: the journal's lines where standard output leads there, else Twisted's."""
    if is_journal(sys.stdout):
        return JournalObserver(sys.stdout)
    plain: ILogObserver = textFileLogObserver(sys.stdout)
    return plain


@implementer(ILogObserver)
@frozen
class JournalObserver:
    """Writes events to a stream that leads to the journal."""

    _stream: TextIO

    def __call__(self, event: LogEvent) -> None:
        self._stream.write(entry(event))
        self._stream.flush()


def entry(event: LogEvent) -> str:
    """An event as the lines of the journal; each is one entry there, so each has the priority."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    if "worker" in event:
        text = f"worker {event['worker']}: {text}"
    priority = NOTICE if event.get("notice") else _PRIORITIES[event.get("log_level") or LogLevel.info]
    return "".join(f"{priority}{line}\n" for line in text.splitlines() if line.strip())
