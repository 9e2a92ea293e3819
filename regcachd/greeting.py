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

_TRUST = "curl -o /usr/local/share/ca-certificates/regcachd.crt {url}/ca.crt && update-ca-certificates"
_DROP_IN = "Environment=HTTPS_PROXY={url} under [Service] with `systemctl edit docker`, then restart it"


def greet(config: Config, ca: CA, ports: Sequence[Any], workers: int) -> None:
    """Say it, and what is wrong with the secrets."""
    report(config)
    ports, mirrors = ports[: len(config.listen)], ports[len(config.listen) :]
    log.info(
        "regcachd {version} listens on {where} and caches {names}",
        version=__version__,
        where=where(ports),
        names=", ".join(sorted(config.registries)),
    )
    if mirrors:
        log.info(
            "it is asked as a mirror over TLS at {where}, as {names}",
            where=where(mirrors),
            names=", ".join(config.mirror_names),
        )
    if workers > 1:
        log.info("{workers} workers share the port and the store", workers=workers)
    log.info("its certificate authority is {path}", path=str(ca.root_path))
    log.info("with the SHA-256 fingerprint {fingerprint}", fingerprint=ca.fingerprint)
    addresses = [port.getHost() for port in ports]
    numbers = [address.port for address in addresses if not isinstance(address, UNIXAddress)]
    if numbers:
        url = f"http://{node()}:{numbers[0]}"
        log.info("on each node, trust it:  {line}", line=_TRUST.format(url=url))
        log.info("podman, skopeo, buildah: {line}", line=f"export HTTPS_PROXY={url}")
        log.info("docker, containerd:      {line}", line=_DROP_IN.format(url=url))
