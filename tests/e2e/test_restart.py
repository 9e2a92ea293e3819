"""What a stop and a new start of the daemon keep, and what a stop does to a pull that is under way."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.clients import connect, skopeo_copy
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import MIB, Image
from tests.e2e.regcache import Daemon
from tests.e2e.throttle import SlowLine

pytestmark = pytest.mark.e2e


def test_restart_keeps_store_and_authority(
    start_daemon: Callable[[DockerRegistry], Daemon], registry: DockerRegistry, small_image: Image, room: Path
) -> None:
    """After a restart, clients that trust the daemon still do, and no blob is taken from upstream again."""
    first = start_daemon(registry)
    skopeo_copy(first, small_image, room / "first")
    root = first.authority.read_bytes()
    first.stop()

    second = start_daemon(registry)
    assert second.authority.read_bytes() == root
    before = registry.requests()
    skopeo_copy(second, small_image, room / "second")
    assert [request for request in registry.requests_since(before) if request.is_for_blob] == []


def test_stop_lets_a_running_response_finish(
    start_daemon: Callable[..., Daemon], registry: DockerRegistry, image: Image
) -> None:
    """
    SIGTERM in the middle of a download from upstream: the client still gets all of it, then the daemon
    ends.
    """
    layer = sorted(image.layers, key=lambda blob: blob.size)[-2]
    with SlowLine(registry.port, rate=layer.size / 3).running() as line:
        daemon = start_daemon(registry, f"https://localhost:{line.port}")
        connection = connect(daemon, seconds=20)
        try:
            connection.request("GET", f"/v2/{image.repository}/blobs/{layer.digest}")
            response = connection.getresponse()
            received = response.read(2 * MIB)
            daemon.server.tell_to_stop()
            received += response.read()
        finally:
            connection.close()
        done = time.monotonic()
        daemon.stop()
    assert hashlib.sha256(received).hexdigest() == layer.hex
    assert time.monotonic() - done < 10, "the daemon ends soon after its last response"
