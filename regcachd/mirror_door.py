"""The door for mirrors over TLS (`mirror_tls`): inside of it is what the front door has for requests in plain HTTP.

The certificate is for one of `mirror_names`, by the CA that clients trust for the registries, too.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.protocol import Factory
from twisted.logger import Logger

from .config import Config
from .frontdoor import FirstHead, FrontDoor
from .handshake import shaken
from .listening import CannotListen, adopt, bind
from .names import mirror_name
from .pki import PkiError
from .transport import name_of

log = Logger()


class FirstHello(FirstHead):
    """A connection that begins with TLS."""

    def begin(self) -> None:
        self._run(self._shake())

    async def _shake(self) -> None:
        edition = self._edition
        if self._door.full:
            self.refuse(503, "there are as many connections as there may be (limits.connections)")
            return
        if not edition.config.mirror_names:
            self.refuse(503, "mirror_tls has been taken out of the configuration, and ends with a restart")
            return
        host = mirror_name(edition.config, getattr(self.transport.getHost(), "host", ""))
        try:
            context = edition.contexts.for_host(host)
        except PkiError as error:
            self.refuse(500, f"there is no certificate for {host}: {error}")
            return
        if await shaken(self.transport, context, host):
            self.become(edition.web.buildProtocol(self.transport.getPeer()))

    def refuse(self, status: int, reason: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Close: an answer in plain text would not be understood."""
        log.info("refused {peer}: {why}", peer=name_of(self.transport.getPeer()), why=reason)
        self.transport.abortConnection()


class MirrorDoor(Factory):
    """Takes connections at `mirror_tls`; their limits and their end are the front door's matter."""

    noisy = False

    def __init__(self, door: FrontDoor) -> None:
        self._door = door

    def buildProtocol(self, addr: Any) -> Any:
        return FirstHello(self._door)


def bind_doors(reactor: Any, config: Config, front: Factory, mirror: Factory) -> list[Any]:
    """Listen wherever the configuration says. Raises CannotListen; then nothing listens."""
    ports = bind(reactor, config.listen, front)
    try:
        return ports + bind(reactor, config.mirror_tls, mirror, "mirror_tls")
    except CannotListen:
        for port in ports:
            port.stopListening()
        raise


def adopt_doors(
    reactor: Any, config: Config, sockets: Sequence[int], front: Factory, mirror: Factory
) -> list[Any]:
    """Accept on the sockets that a parent has bound so."""
    count = len(config.listen)
    return adopt(reactor, sockets[:count], front) + adopt(reactor, sockets[count:], mirror)
