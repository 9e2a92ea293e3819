"""A worker: `python -m regcachd.worker`, started by `workers.Workers` and by nobody else.

0   one line, its inheritance, and later another for each further edition; the end of the pipe is the order to stop:
    the parent closes it to stop a worker, and the kernel does when the parent dies
1   its log and its heartbeats (logpipe.py)
2   whatever else it prints
3   and so on: the listening sockets
"""

import faulthandler
import os
import signal
from collections.abc import Callable
from importlib import import_module
from typing import Any

from attrs import evolve
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from .config import Config
from .inheritance import Inheritance
from .logpipe import Lines, PipeObserver

log = Logger(namespace="regcachd.worker")

PARENT, LOG = 0, 1
BEAT = 1.0
"""Seconds between heartbeats, less than a third of what any parent waits for."""


@implementer(IReadDescriptor)
class Lifeline:
    """The pipe from the parent: what it hands down goes to `follow`, and `stop` is called at its end."""

    def __init__(self, follow: Callable[[bytes], None], stop: Callable[[], None]) -> None:
        self._lines = Lines(follow, longest=None)
        self._stop = stop

    def fileno(self) -> int:
        return PARENT

    def logPrefix(self) -> str:
        return "lifeline"

    def doRead(self) -> Any:
        data = os.read(PARENT, 65536)
        self._lines.feed(data)
        return None if data else CONNECTION_DONE

    def connectionLost(self, reason: Failure) -> None:
        self._stop()


def share(config: Config, workers: int) -> Config:
    """The configuration of one of so many workers: limits that hold for a daemon are shared out."""
    connections = -(-config.limits.connections // workers)
    return evolve(config, limits=evolve(config.limits, connections=connections))


def run(inheritance: Inheritance, pipe: PipeObserver) -> None:
    """Serve until the parent goes away or SIGTERM comes; running responses get `limits.stop_timeout`."""
    import_module(inheritance.reactor).install()
    from twisted.internet import reactor as _reactor

    from .authentication import find_plugins, kinds_of
    from .service import RegcacheService

    reactor: Any = _reactor
    kinds = kinds_of(find_plugins())
    config = share(inheritance.config(kinds), inheritance.of)
    service = RegcacheService(reactor, config, inheritance=inheritance)
    edition = inheritance.edition
    stopping = False

    def stop() -> None:
        """At the first of all reasons; Twisted's own answer to a second one would be a traceback."""
        nonlocal stopping
        if not stopping:
            stopping = True
            reactor.stop()

    def beat() -> None:
        pipe.beat(edition)

    def follow(line: bytes) -> None:
        """Serve by what the parent hands down; where that fails, another is to take this place."""
        nonlocal edition
        try:
            later = Inheritance.read(line)
            service.take_up(share(later.config(kinds), later.of), later.ca or service.ca)
        except Exception:
            log.failure("the worker cannot follow its parent")
            stop()
        else:
            edition = later.edition
            beat()

    def running() -> None:
        # a service manager may tell all processes at once, while the parent tells us too
        signal.signal(signal.SIGTERM, lambda number, frame: reactor.callFromThread(stop))
        reactor.addReader(Lifeline(follow, stop))
        log.info(
            "worker {number} of {of} serves as process {pid}",
            number=inheritance.number,
            of=inheritance.of,
            pid=os.getpid(),
        )
        LoopingCall(beat).start(BEAT)

    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    service.startService()
    reactor.callWhenRunning(running)
    reactor.run()


def main() -> None:
    """Read the inheritance and run; exit status 1, with the reason in the log, when that fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops us
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a parent that reloads hands down what is new
    faulthandler.enable()  # SIGABRT comes from a parent that believes us to hang: it logs where
    # without a buffer, which would keep what comes after the line
    with open(PARENT, "rb", buffering=0, closefd=False) as pipe:
        line = pipe.readline()
    if not line.endswith(b"\n"):
        return  # the parent is gone already
    observer = PipeObserver(LOG)
    globalLogBeginner.beginLoggingTo([observer])
    try:
        run(Inheritance.read(line), observer)
    except SystemExit as refusal:
        log.critical("{why}", why=str(refusal))
        raise SystemExit(1) from None
    except Exception:
        log.failure("the worker cannot go on")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
