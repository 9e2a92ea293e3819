"""One daemon as a process of its own, to be killed: `python -m tests.daemon CONFIG`; it prints its port."""

import ctypes
import signal
import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.logger import globalLogBeginner, textFileLogObserver

from regcachd.authentication import find_plugins, kinds_of
from regcachd.config import parse_config
from regcachd.guard import anywhere
from regcachd.service import RegcacheService

reactor: Any = _reactor

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def main(config: str) -> None:
    """Serve until killed, by the test or by its end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    parsed = parse_config([("daemon.toml", config)], kinds_of(find_plugins()))
    service = RegcacheService(reactor, parsed, tunnel_rule=anywhere)
    service.startService()
    print(service.ports[0].getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
