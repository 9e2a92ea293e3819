"""Real clients take the daemon for a mirror: over plain HTTP and over TLS, and in requests with addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import image_of_directory
from tests.e2e.conftest import USERS
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import Image
from tests.e2e.mirrors import PREFIX, Endpoint, MirrorClient, buildah, containerd, podman, skopeo
from tests.e2e.programs import ProgramError, Server, environment, free_port, run
from tests.e2e.regcache import REGISTRY, Daemon

pytestmark = pytest.mark.e2e

CLIENTS = [pytest.param(client, id=client.__name__) for client in (containerd, podman, buildah, skopeo)]
HOSTS = f'hosts = ["{PREFIX}"]'


@pytest.fixture(params=["http", "https"])
def endpoint(
    request: pytest.FixtureRequest,
    start_daemon: Callable[..., Daemon],
    registry: DockerRegistry,
) -> Endpoint:
    """A daemon for the registry, as a mirror is asked."""
    port = free_port()
    names = f'mirror_tls = ["tcp:{port}:interface=127.0.0.1"]\nmirror_names = ["localhost"]'
    daemon = start_daemon(registry, settings=f"{names}\n[defaults]\nconnections = 1", table=HOSTS)
    if request.param == "http":
        return Endpoint(daemon.url)
    return Endpoint(f"https://localhost:{port}", daemon.authority)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_second_pull_takes_no_blob_from_upstream(
    client: MirrorClient, endpoint: Endpoint, registry: DockerRegistry, small_image: Image, room: Path
) -> None:
    """Nor does the first take one twice; both give the right image, and nothing goes past the mirror."""
    before = registry.requests()
    client(endpoint, small_image, room / "first")
    taken = [each.path for each in registry.requests_since(before) if each.is_for_blob]
    assert sorted(taken) == sorted(
        f"/v2/{small_image.repository}/blobs/{b.digest}" for b in small_image.blobs
    )
    before = registry.requests()
    client(endpoint, small_image, room / "second")
    assert not [each for each in registry.requests_since(before) if each.is_for_blob]


def test_a_private_image_is_for_who_has_the_password(
    start_daemon: Callable[..., Daemon], private_registry: DockerRegistry, small_image: Image, room: Path
) -> None:
    """containerd answers the registry's challenge; a stranger gets nothing, though all is stored."""
    daemon = start_daemon(private_registry, table=HOSTS)
    endpoint = Endpoint(daemon.url)
    with pytest.raises(ProgramError, match=r"401|[Uu]nauthorized"):
        containerd(endpoint, small_image, room / "stranger")
    containerd(endpoint, small_image, room / "ada", USERS[0])
    before = private_registry.requests()
    containerd(endpoint, small_image, room / "grace", USERS[1])
    assert not [r for r in private_registry.requests_since(before) if r.is_for_blob and r.method == "GET"]
    for client in (containerd, podman, skopeo):
        with pytest.raises(ProgramError):
            client(endpoint, small_image, room / f"{client.__name__}-stranger")


@pytest.fixture
def plain_registry(registry: DockerRegistry, room: Path) -> Iterator[str]:
    """The address of a registry without TLS, with what the other one has."""
    port, configuration = free_port(), room / "plain.yml"
    configuration.write_text(
        "version: 0.1\nlog: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: '{registry.storage}'}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: end-to-end}}\n"
    )
    server = Server.start(
        "docker-registry",
        ["docker-registry", "serve", configuration],
        environment(room / "home"),
        room / "plain.log",
    )
    server.wait_until_ready(lambda: _listens(port))
    yield f"http://127.0.0.1:{port}"
    server.stop(patience=5.0)


def _listens(port: int) -> bool:
    return f"0100007F:{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()


def test_a_plain_registry_by_its_address(
    plain_registry: str,
    start_daemon: Callable[..., Daemon],
    registry: DockerRegistry,
    small_image: Image,
    room: Path,
) -> None:
    """skopeo with http_proxy asks for http://NAME/..., a name that only the daemon knows: it pushes, and pulls."""
    daemon = start_daemon(registry, upstream=plain_registry, table="allow_push = true")
    environ = environment(room / "home", http_proxy=daemon.url)  # with https_proxy it would CONNECT
    source = f"docker://{REGISTRY}/plain/tool:1"
    layout = f"oci:{small_image.layout}:{small_image.tag}"
    run(environ, "skopeo", "copy", "--quiet", "--dest-tls-verify=false", layout, source)
    for turn in ("first", "second"):
        target = room / turn
        run(environ, "skopeo", "copy", "--quiet", "--src-tls-verify=false", source, f"dir:{target}")
        image_of_directory(target, small_image)
