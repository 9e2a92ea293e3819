"""Pushes pass through the daemon where the configuration says so, and what was pushed is what is pulled after that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.clients import User, podman_push, skopeo_copy, skopeo_push
from tests.e2e.conftest import LAYER_SIZES, USERS
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import MIB, Image, make_image
from tests.e2e.programs import ProgramError
from tests.e2e.regcache import Daemon

pytestmark = pytest.mark.e2e

ADA, GRACE = USERS
ONE_PROCESS = "workers = 1"
ALLOWED = "allow_push = true"
MOST_GROWTH = 40 * MIB
"""Bytes of memory that a push may cost: a fifth of the largest layer."""

Start = Callable[..., Daemon]


def test_a_large_image_is_pushed_in_bounded_memory(
    start_daemon: Start, registry: DockerRegistry, small_image: Image, room: Path
) -> None:
    """And pulled again: its layers come from upstream once, since nothing of a push is kept."""
    # of layers of its own: skopeo, as root, remembers where it has seen one, and asks the registry to mount that
    pushed = make_image(room / "made", "team/pushed", "1", LAYER_SIZES)
    daemon = start_daemon(registry, settings=ONE_PROCESS, table=ALLOWED)
    skopeo_copy(daemon, small_image, room / "small")  # all that a first exchange costs
    before = daemon.most_memory()
    earlier = registry.requests()
    skopeo_push(daemon, pushed, room / "push")
    assert daemon.most_memory() - before < MOST_GROWTH
    writes = [each for each in registry.requests_since(earlier) if each.method in ("POST", "PATCH", "PUT")]
    assert {each.status for each in writes} <= {201, 202}
    assert sum(each.method == "PATCH" for each in writes) >= len(pushed.layers)
    skopeo_copy(daemon, pushed, room / "pull")


@pytest.mark.parametrize("push", [skopeo_push, podman_push])
def test_a_push_with_a_password(
    push: Callable[..., None], start_daemon: Start, private_registry: DockerRegistry, room: Path
) -> None:
    """The registry judges it; who may not is told so, and the daemon goes on."""
    daemon = start_daemon(private_registry, settings=ONE_PROCESS, table=ALLOWED)
    image = make_image(room / "made", f"team/{push.__name__}", "1", (2 * MIB, 1000))
    for number, stranger in enumerate((None, User(ADA.name, "guessed"))):
        with pytest.raises(ProgramError, match=r"(?i)unauthorized|authentication required"):
            push(daemon, image, room / f"s{number}", stranger)
    push(daemon, image, room / "ada", ADA)
    if push is skopeo_push:  # podman packs layers anew
        skopeo_copy(daemon, image, room / "grace", GRACE)


def test_what_was_pushed_last_is_pulled(start_daemon: Start, registry: DockerRegistry, room: Path) -> None:
    """Though the tag's older image is stored."""
    daemon = start_daemon(registry, settings=ONE_PROCESS, table=ALLOWED)
    for number in range(3):
        image = make_image(room / f"made-{number}", "team/moving", "latest", (MIB, 500))
        skopeo_push(daemon, image, room / f"push-{number}")
        for turn in range(2):
            skopeo_copy(daemon, image, room / f"pull-{number}-{turn}")


@pytest.mark.parametrize("push", [skopeo_push, podman_push])
def test_a_push_that_is_not_allowed(
    push: Callable[..., None], daemon: Daemon, registry: DockerRegistry, room: Path
) -> None:
    """The client prints why; upstream hears nothing of it."""
    image = make_image(room / "made", "team/forbidden", "1", (MIB,))
    before = registry.requests()
    with pytest.raises(ProgramError, match=r"regcachd is read-only for registry\.test.*allow_push"):
        push(daemon, image, room / "push")
    assert {each.method for each in registry.requests_since(before)} <= {"GET", "HEAD"}
