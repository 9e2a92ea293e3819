"""Small programs, run to their end: input, bounded output, a time limit; none is left behind."""

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from regcachd.errors import RegcachdError

SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for; what a user put before these on PATH is not meant."""


class ProgramFailed(RegcachdError):
    """A program was ended, or could not be started."""


@frozen
class Ended:
    """How a program ended; `output` is what it printed on standard output, and is not shown."""

    good: bool
    output: bytes = field(repr=False)


class _Run(ProcessProtocol):
    """One run. What the program says on standard error is dropped: nobody knows what is in it."""

    transport: Any

    def __init__(self, reactor: Any, given: bytes, limit: int, timeout: float) -> None:
        self.ended: Deferred[Ended] = Deferred()
        self._given = given
        self._limit = limit
        self._output = bytearray()
        self._problem: str | None = None
        self._reactor = reactor
        self._timeout = timeout

    def connectionMade(self) -> None:
        late = f"did not end within {self._timeout:g} s"
        self._timer = self._reactor.callLater(self._timeout, self._end, late)
        self.transport.write(self._given)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._output += data
        if len(self._output) > self._limit:
            self._output.clear()
            self._end(f"printed more than {self._limit} bytes")

    def _end(self, problem: str) -> None:
        """Kill it, with what it has started, and do not wait for pipes that others may still hold."""
        if self._problem is not None:
            return
        self._problem = problem
        if self.transport.pid is not None:  # it is None once the process has been waited for
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.transport.pid, signal.SIGKILL)
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")  # were it not the leader of its group
        self.transport.loseConnection()

    def processEnded(self, reason: Failure) -> None:
        if self._timer.active():
            self._timer.cancel()
        if self._problem is not None:
            self.ended.errback(ProgramFailed(self._problem))
        else:
            self.ended.callback(Ended(reason.check(ProcessDone) is not None, bytes(self._output)))


async def run_program(
    reactor: Any,
    command: Sequence[str],
    environment: Mapping[str, str],
    given: bytes,
    *,
    limit: int,
    timeout: float,
) -> Ended:
    """
    Run `command`, whose first word is a path, with `given` as its input and nothing but `environment`.

    It leads a process group of its own. One that prints more than `limit` bytes or takes more than `timeout` seconds is
    killed. Raises ProgramFailed.
    """
    setsid = shutil.which("setsid", path=SEARCHED)  # of util-linux; replaces itself by the command
    words = [*([setsid] if setsid else []), *command]
    running = _Run(reactor, given, limit, timeout)
    try:
        reactor.spawnProcess(running, words[0], words, env=dict(environment), path="/")
    except OSError as error:
        raise ProgramFailed(f"cannot be started: {error.strerror}") from None
    return await running.ended
