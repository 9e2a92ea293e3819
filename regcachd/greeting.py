"""What the log says when a daemon has started: what it is, and what to do next."""

from collections.abc import Sequence
from platform import node
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.logger import Logger

from . import __version__
from .config import Config
from .listening import where
from .pki import CA
from .safekeeping import report

log = Logger()

_SETUP = "regcachd-client setup --head {url} --fingerprint {fingerprint}"


def serving(config: Config, ports: Sequence[Any]) -> str:
    """What it does, in one line."""
    front, mirrors = ports[: len(config.listen)], ports[len(config.listen) :]
    over_tls = f", as a mirror over TLS on {where(mirrors)}" if mirrors else ""
    return f"listens on {where(front)}{over_tls} and caches {', '.join(sorted(config.registries))}"


def greet(config: Config, ca: CA, ports: Sequence[Any], workers: int) -> None:
    """Say it, and what is wrong with the secrets."""
    report(config)
    log.info("regcachd {version} {serving}", version=__version__, serving=serving(config, ports))
    if workers > 1:
        log.info("{workers} workers share the port and the store", workers=workers)
    log.info("its certificate authority is {path}", path=str(ca.root_path))
    log.info("with the SHA-256 fingerprint {fingerprint}", fingerprint=ca.fingerprint)
    addresses = [port.getHost() for port in ports]
    numbers = [address.port for address in addresses if not isinstance(address, UNIXAddress)]
    if numbers:
        url = f"http://{node()}:{numbers[0]}"
        log.info("on each node, as root:   {line}", line=_SETUP.format(url=url, fingerprint=ca.fingerprint))
        log.info("or, without the package: {line}", line=f"curl {url}/setup/all | sh")
        log.info("or, for one shell:       {line}", line=f"export HTTPS_PROXY={url}")
