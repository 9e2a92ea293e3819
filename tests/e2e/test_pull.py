"""Real clients pull a whole image through the daemon, twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.clients import Client, buildah_pull, podman_pull, skopeo_copy
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import Image
from tests.e2e.regcache import Daemon

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(skopeo_copy, id="skopeo"),
        pytest.param(podman_pull, id="podman"),
        pytest.param(buildah_pull, id="buildah"),
    ],
)
def test_second_pull_takes_no_blob_from_upstream(
    client: Client, daemon: Daemon, registry: DockerRegistry, image: Image, room: Path
) -> None:
    """The first pull takes every blob from the registry once, the second none; both give the right image."""
    before = registry.requests()
    client(daemon, image, room / "first")
    taken = [request.path for request in registry.requests_since(before) if request.is_for_blob]
    blobs = [f"/v2/{image.repository}/blobs/{blob.digest}" for blob in image.blobs]
    gets = [
        request.path
        for request in registry.requests_since(before)
        if request.is_for_blob and request.method == "GET"
    ]
    assert sorted(gets) == sorted(blobs)
    assert set(taken) == set(blobs)

    before = registry.requests()
    client(daemon, image, room / "second")
    assert [request for request in registry.requests_since(before) if request.is_for_blob] == []


def test_clients_share_one_store(
    daemon: Daemon, registry: DockerRegistry, small_image: Image, room: Path
) -> None:
    """What one program pulled, another program gets without a blob from upstream."""
    skopeo_copy(daemon, small_image, room / "first")
    before = registry.requests()
    buildah_pull(daemon, small_image, room / "second")
    assert [request for request in registry.requests_since(before) if request.is_for_blob] == []
