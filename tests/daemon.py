"""One daemon as a process of its own, to be killed: `python -m tests.daemon CONFIG`; it prints its port."""

import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.logger import globalLogBeginner, textFileLogObserver

from regcachd.config import parse_config
from regcachd.guard import anywhere
from regcachd.service import RegcacheService

reactor: Any = _reactor


def main(config: str) -> None:
    """Serve until killed."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    service = RegcacheService(reactor, parse_config([("daemon.toml", config)]), tunnel_rule=anywhere)
    service.startService()
    print(service.ports[0].getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
