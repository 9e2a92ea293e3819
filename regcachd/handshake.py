"""The handshake with a client that is to be spoken to over TLS, and what to do where clients break it off."""

from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionClosed
from twisted.logger import Logger

from .tls_socket import HandshakeFailed
from .transport import name_of

log = Logger()


async def shaken(transport: Any, context: SSL.Context, host: str) -> bool:
    """Switch a connection to TLS, as `host`; False if the client does not take part, and the connection has ended."""
    peer = transport.getPeer()
    try:
        await transport.start_tls(context)
    except HandshakeFailed as error:
        log.info(
            "no TLS with client {peer} for {host}: {why}",
            peer=name_of(peer),
            host=host,
            why=_explained(error),
        )
        return False
    except ConnectionClosed:
        return False
    return True


_ADVICE = {
    "unknown ca": "the client does not trust this proxy's CA; install /ca.crt there",
    "bad certificate": "the client does not trust this proxy's CA; install /ca.crt there",
    "certificate unknown": "the client does not trust this proxy's CA; install /ca.crt there",
    "unsupported protocol": "the client speaks no TLS newer than 1.1; this proxy speaks 1.2 and 1.3",
    "http request": "the client speaks plain HTTP where TLS is expected; it must ask for https:// addresses",
}
"""What to do about OpenSSL's reasons, as far as operators meet them."""


def _explained(error: HandshakeFailed) -> str:
    """OpenSSL's reason, and what to do about it."""
    text = str(error)
    advice = next((advice for reason, advice in _ADVICE.items() if reason in text), None)
    return text if advice is None else f"{text}: {advice}"
