"""Many clients ask at once for one blob that the store has not got."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import selectors
import shutil
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from attrs import define, field

from tests.e2e.clients import connect
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import Image
from tests.e2e.regcache import Daemon
from tests.e2e.throttle import SlowLine

pytestmark = pytest.mark.e2e

CLIENTS = 32
RATES = (12e6, 6e6, 3e6)
"""
Bytes per second of the line to the registry.

One download takes 17 s, so that the machine's noise is small beside it, and so that two cores have time to
spare for 6.4 GB of encryption, decryption and hashing. Where they have none, because of other work, a slower line
is tried, with an empty store; what is right has to be right at each.
"""


@define
class Download:
    """One client's download; times are of time.monotonic."""

    _response: http.client.HTTPResponse
    first_byte: float | None = None
    finished: float | None = None
    sha256: hashlib._Hash = field(factory=hashlib.sha256)

    def take(self) -> bool:
        """Read and hash what has come, until more would have to be waited for; true when that was all."""
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self._response.read1(16 * 1024):
                self.first_byte = self.first_byte or time.monotonic()
                self.sha256.update(piece)
            self.finished = time.monotonic()
        return self.finished is not None


def download(connections: Sequence[http.client.HTTPSConnection], path: str) -> list[Download]:
    """
    Get `path` on all `connections` at once.

    One thread does it all: as many threads as clients cost so much that they would be what is measured.
    """
    with contextlib.ExitStack() as cleanup, selectors.DefaultSelector() as selector:
        for connection in connections:
            cleanup.callback(connection.close)
            connection.connect()
        for connection in connections:
            connection.request("GET", path)
        downloads = []
        for connection in connections:
            sock = connection.sock
            response = cleanup.enter_context(connection.getresponse())
            assert response.status == 200
            sock.setblocking(False)
            downloads.append(Download(response))
            if not downloads[-1].take():  # the first bytes may have come with the head
                selector.register(sock, selectors.EVENT_READ, downloads[-1])
        while selector.get_map():
            ready = selector.select(30)
            assert ready, "no byte for 30 s"
            for key, _ in ready:
                if key.data.take():
                    selector.unregister(key.fileobj)
    return downloads


def test_many_clients_cost_upstream_one_download(
    start_daemon: Callable[..., Daemon], registry: DockerRegistry, image: Image, room: Path
) -> None:
    """32 clients of an uncached blob are all served by one download, as it comes and as fast as it comes."""
    blob = image.largest
    path = f"/v2/{image.repository}/blobs/{blob.digest}"
    for rate in RATES:
        with SlowLine(registry.port, rate).running() as line:
            started = time.monotonic()
            [alone] = download([registry.connect(line.port)], path)
            assert alone.finished is not None
            alone_took = alone.finished - started
        assert alone.sha256.hexdigest() == blob.hex

        with SlowLine(registry.port, rate).running() as line:
            daemon = start_daemon(registry, f"https://localhost:{line.port}")
            before = registry.requests()
            started = time.monotonic()
            downloads = download([connect(daemon) for _ in range(CLIENTS)], path)
            requests = registry.requests_since(before)
            upstream_first_byte = line.first_bulk

        got = [request.status for request in requests if request.is_for_blob and request.method == "GET"]
        assert got == [200]
        assert {each.sha256.hexdigest() for each in downloads} == {blob.hex}
        assert upstream_first_byte is not None
        waited = max(each.first_byte or 0.0 for each in downloads) - upstream_first_byte
        took = max(each.finished or 0.0 for each in downloads) - started
        if rate == RATES[-1] or (waited < 1.0 and took / alone_took < 1.2):
            break
        daemon.stop()
        shutil.rmtree(room / "regcachd")
    assert waited < 1.0, "seconds from upstream's first bytes to the last client's"
    assert took / alone_took < 1.2, "the last client's time over that of one download without the daemon"
