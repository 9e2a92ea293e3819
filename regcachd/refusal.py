"""How a daemon ends that cannot start: one line on standard error, and a status that service managers understand."""

import sys

from twisted.python.usage import UsageError

from . import journal

TO_MEND = 78
"""The exit status EX_CONFIG of sysexits.h: until somebody has mended the configuration, another try is in vain."""
FAILED = 1
"""The exit status where another try may succeed: a port in use, a disk that is not there yet."""


def refusal(error: Exception) -> SystemExit:
    """The end of a daemon for this reason, to be raised; the reason has been printed."""
    priority = journal.ERROR if journal.is_journal(sys.stderr) else ""
    message = f"regcachd does not start: {error}"
    print(f"{priority}{message}", file=sys.stderr)
    end = SystemExit(message)
    end.code = TO_MEND if isinstance(error, UsageError) else FAILED
    return end
