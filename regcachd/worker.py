"""A worker: `python -m regcachd.worker`, started by `workers.Workers` and by nobody else.

0   one line, its inheritance; after that the pipe stays open, and its end is the order to stop: the parent
    closes it to stop a worker, and the kernel does when the parent dies
1   its log (logpipe.py)
2   whatever else it prints
3   and so on: the listening sockets
"""

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from attrs import evolve
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.logger import Logger, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from .config import Config
from .inheritance import Inheritance
from .logpipe import PipeObserver

log = Logger(namespace="regcachd.worker")

PARENT, LOG = 0, 1


@implementer(IReadDescriptor)
class Lifeline:
    """The pipe from the parent. Its end is what it is for."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def fileno(self) -> int:
        return PARENT

    def logPrefix(self) -> str:
        return "lifeline"

    def doRead(self) -> Any:
        return None if os.read(PARENT, 4096) else CONNECTION_DONE

    def connectionLost(self, reason: Failure) -> None:
        self._stop()


def share(config: Config, workers: int) -> Config:
    """The configuration of one of so many workers: limits that hold for a daemon are shared out."""
    connections = -(-config.limits.connections // workers)
    return evolve(config, limits=evolve(config.limits, connections=connections))


def run(inheritance: Inheritance) -> None:
    """Serve until the parent goes away or SIGTERM comes; running responses get `limits.stop_timeout`."""
    import_module(inheritance.reactor).install()
    from twisted.internet import reactor as _reactor

    from .authentication import find_plugins, kinds_of
    from .service import RegcacheService

    reactor: Any = _reactor
    config = share(inheritance.sources.config(kinds_of(find_plugins())), inheritance.of)
    service = RegcacheService(reactor, config, inheritance=inheritance)
    stopping = False

    def stop() -> None:
        """At the first of all reasons; Twisted's own answer to a second one would be a traceback."""
        nonlocal stopping
        if not stopping:
            stopping = True
            reactor.stop()

    def running() -> None:
        # a service manager may tell all processes at once, while the parent tells us too
        signal.signal(signal.SIGTERM, lambda number, frame: reactor.callFromThread(stop))
        reactor.addReader(Lifeline(stop))
        log.info(
            "worker {number} of {of} serves as process {pid}",
            number=inheritance.number,
            of=inheritance.of,
            pid=os.getpid(),
            serves=True,
        )

    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    service.startService()
    reactor.callWhenRunning(running)
    reactor.run()


def main() -> None:
    """Read the inheritance and run; exit status 1, with the reason in the log, when that fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops us
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # the parent is gone already
    globalLogBeginner.beginLoggingTo([PipeObserver(LOG)])
    try:
        run(Inheritance.read(line))
    except SystemExit as refusal:
        log.critical("{why}", why=str(refusal))
        raise SystemExit(1) from None
    except Exception:
        log.failure("the worker cannot go on")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
