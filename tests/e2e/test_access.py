"""Private content reaches those whom the registry itself lets read it, and nobody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.e2e.clients import User, ask, skopeo_copy
from tests.e2e.conftest import USERS
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import Image
from tests.e2e.programs import ProgramError
from tests.e2e.regcache import Daemon

pytestmark = pytest.mark.e2e

ADA, GRACE = USERS


@pytest.fixture
def private_daemon(
    start_daemon: Callable[[DockerRegistry], Daemon], private_registry: DockerRegistry
) -> Daemon:
    return start_daemon(private_registry)


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(None, id="no credentials"),
        pytest.param(User(ADA.name, "guessed"), id="wrong password"),
        pytest.param(User("mallory", ADA.password), id="unknown user"),
    ],
)
def test_cached_private_image_is_kept_from_strangers(
    stranger: User | None, private_daemon: Daemon, small_image: Image, room: Path
) -> None:
    """
    Once a user's pull has filled the store, a stranger still gets the registry's 401, for every way to
    ask.
    """
    skopeo_copy(private_daemon, small_image, room / "first", ADA)

    blob = f"/v2/{small_image.repository}/blobs/{small_image.largest.digest}"
    tagged = f"/v2/{small_image.repository}/manifests/{small_image.tag}"
    by_digest = f"/v2/{small_image.repository}/manifests/{small_image.manifest.digest}"
    attempts: list[tuple[str, str, Mapping[str, str]]] = [
        ("GET", "/v2/", {}),
        ("GET", tagged, {}),
        ("HEAD", tagged, {}),
        ("GET", by_digest, {}),
        ("HEAD", by_digest, {}),
        ("GET", by_digest, {"If-None-Match": f'"{small_image.manifest.digest}"'}),
        ("GET", blob, {}),
        ("HEAD", blob, {}),
        ("GET", blob, {"Range": "bytes=0-99"}),
        ("GET", blob, {"If-None-Match": f'"{small_image.largest.digest}"'}),
    ]
    answers = {
        (method, path, *headers): ask(private_daemon, method, path, stranger, headers)
        for method, path, headers in attempts
    }
    assert {key: answer.status for key, answer in answers.items()} == dict.fromkeys(answers, 401)
    content = small_image.content(small_image.largest)
    for answer in answers.values():
        assert answer.headers["www-authenticate"] == 'Basic realm="private"'
        assert content[:100] not in answer.body

    with pytest.raises(ProgramError, match=r"(?i)unauthorized|authentication required|401"):
        skopeo_copy(private_daemon, small_image, room / "stranger", stranger)


def test_another_user_gets_the_cached_image(
    private_daemon: Daemon, private_registry: DockerRegistry, small_image: Image, room: Path
) -> None:
    """
    A second user with credentials of her own gets the image from the store: no blob is downloaded again.
    """
    skopeo_copy(private_daemon, small_image, room / "ada", ADA)
    before = private_registry.requests()
    skopeo_copy(private_daemon, small_image, room / "grace", GRACE)
    downloads = [
        request
        for request in private_registry.requests_since(before)
        if request.is_for_blob and request.method == "GET" and request.status == 200
    ]
    assert downloads == []


def test_private_ranges_reach_the_user(private_daemon: Daemon, small_image: Image, room: Path) -> None:
    """A user who may read the image gets a part of a cached layer as asked."""
    skopeo_copy(private_daemon, small_image, room / "ada", ADA)
    blob = f"/v2/{small_image.repository}/blobs/{small_image.largest.digest}"
    answer = ask(private_daemon, "GET", blob, ADA, {"Range": "bytes=100-299"})
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes 100-299/{small_image.largest.size}"
    assert answer.body == small_image.content(small_image.largest)[100:300]
