"""A worker as a process of its own, to be killed: `python -m tests.daemon CONFIG`; it prints its port.

It listens for itself, so that a test can choose among several; nobody takes care of their store but the test.
"""

import ctypes
import signal
import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.logger import globalLogBeginner, textFileLogObserver

from regcachd.authentication import find_plugins, kinds_of
from regcachd.config import Sources, parse_config
from regcachd.guard import anywhere
from regcachd.inheritance import Inheritance, Secrets
from regcachd.listening import bind
from regcachd.service import RegcacheService

reactor: Any = _reactor

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def main(config: str) -> None:
    """Serve until killed, by the test or by its end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    parsed = parse_config([("daemon.toml", config)], kinds_of(find_plugins()))
    inheritance = Inheritance(2, of=3, sockets=0, reactor="", sources=Sources(), secrets=Secrets())
    service = RegcacheService(reactor, parsed, tunnel_rule=anywhere, inheritance=inheritance)
    service.privilegedStartService()
    service.attend(bind(reactor, parsed.listen, service.door))
    service.startService()
    print(service.ports[0].getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
