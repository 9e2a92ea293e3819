"""mirror_door.py: mirrors over TLS, by one process and by several; for whom the certificates are, and for whom not."""

import http.client
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel

from regcachd.config import ConfigError, parse_config
from regcachd.preparation import vet
from regcachd.reload import decide
from regcachd.testing import FakeRegistry, Image
from tests.e2e.certificates import make_server_certificate
from tests.e2e.programs import free_port, wait_until
from tests.e2e.regcache import Daemon
from tests.through import limits, logged, running
from tests.wire import TIMEOUT, Talk, connect_through, trusting
from tests.world import NAME, Reply, World, raw, until

reactor: Any = _reactor

NAMES = ["head.cluster", "head", "127.0.0.1"]
TOP = f'mirror_tls = ["tcp:0:interface=127.0.0.1"]\nmirror_names = {NAMES}'
WITHOUT_ADDRESS = TOP.replace(", '127.0.0.1'", "")


@asynccontextmanager
async def door(directory: Path, top: str = TOP, **settings: Any) -> AsyncIterator[tuple[World, Image]]:
    registry = FakeRegistry(reactor)
    image = registry.add_image("team/app", "1", [b"layer" * 1000])
    async with running(directory, registry, top=top, **settings) as world:
        yield world, image


def mirror_port(world: World) -> int:
    return int(world.service.ports[1].getHost().port)


def ask(world: World, name: str, *lines: str) -> Reply:
    """One request over TLS with this server name."""
    context = trusting(world.service.ca.root_pem.decode())
    plain = socket.create_connection(("127.0.0.1", mirror_port(world)), timeout=TIMEOUT)
    talk = Talk(context.wrap_socket(plain, server_hostname=name))
    talk.send("\r\n".join((*lines, "Host: x", "Connection: close", "", "")).encode())
    reply = talk.reply()
    talk.close()
    return reply


@pytest.mark.parametrize("name", ["head.cluster", "HEAD.cluster", "head", "127.0.0.1"])
async def test_a_pull_over_tls(tmp_path: Path, name: str) -> None:
    """By each of the names, with nothing trusted but the root; clients check the CA's name constraints."""
    async with door(tmp_path) as (world, image):
        target = f"/v2/{NAME}/team/app/manifests/1"
        reply = await deferToThread(ask, world, name, f"GET {target} HTTP/1.1")
        assert reply.headers["docker-content-digest"] == str(image.manifest)
        assert (await deferToThread(ask, world, name, "GET /healthz HTTP/1.1")).body == b"ok\n"


@pytest.mark.parametrize("name", [NAME, "quay.io", "www.head.cluster", "other"])
async def test_no_other_name_gets_a_certificate(tmp_path: Path, name: str) -> None:
    """Not even that of a registry: this door is none's."""
    async with door(tmp_path, WITHOUT_ADDRESS) as (world, _):
        with pytest.raises(ssl.SSLError):
            await deferToThread(ask, world, name, "GET /v2/ HTTP/1.1")


async def test_who_says_no_name_gets_the_addresss_certificate(tmp_path: Path) -> None:
    """Or the first name's, where the address is none of the names."""
    async with door(tmp_path) as (world, _):
        assert _subject(await deferToThread(_certificate, world)) == ["127.0.0.1"]
    (tmp_path / "other").mkdir()
    async with door(tmp_path / "other", WITHOUT_ADDRESS) as (world, _):
        assert _subject(await deferToThread(_certificate, world)) == ["head.cluster"]


async def test_a_reload_changes_the_names(tmp_path: Path) -> None:
    """The socket stays; without a name there is nobody to be there, and the restart that closes it is due."""
    async with door(tmp_path, WITHOUT_ADDRESS) as (world, _):
        for names, known, unknown in (("['new.test']", "new.test", "head"), (NAMES, "head", "new.test")):
            world.top = f"mirror_names = {names}"
            _reload(world)
            assert (await deferToThread(ask, world, known, "GET /v2/ HTTP/1.1")).status == 200
            with pytest.raises(ssl.SSLError):
                await deferToThread(ask, world, unknown, "GET /v2/ HTTP/1.1")
        world.top = ""
        _reload(world)
        with logged(LogLevel.info) as said, pytest.raises((ssl.SSLError, ConnectionError)):
            await deferToThread(ask, world, "head", "GET /v2/ HTTP/1.1")
        assert [each for each in said if "mirror_tls has been taken out" in each]
        assert (await world.client().get("/v2/")).status == 200


def _reload(world: World) -> None:
    """What of the configuration can be had without a restart."""
    config = decide(world.service.config, world.config()).config
    world.service.take_up(config, vet(config))


def _certificate(world: World) -> bytes:
    context = trusting(world.service.ca.root_pem.decode())
    context.check_hostname = False
    plain = socket.create_connection(("127.0.0.1", mirror_port(world)), timeout=TIMEOUT)
    with context.wrap_socket(plain) as tls:
        found = tls.getpeercert(binary_form=True)
    assert found is not None
    return found


def _subject(der: bytes) -> list[str]:
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return [str(name.value) for name in names.value]


def _permitted(world: World) -> set[str]:
    certificate = x509.load_pem_x509_certificate((world.directory / "state/ca/issuing.crt").read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    return {str(name.value) for name in found or []}


async def test_the_ca_may_sign_for_these_names_only_where_they_are_served(tmp_path: Path) -> None:
    async with door(tmp_path) as (world, _):
        assert _permitted(world) >= {"head.cluster", "head", "127.0.0.1/32", NAME}
    (tmp_path / "other").mkdir()
    async with door(tmp_path / "other", f"mirror_names = {NAMES}") as (world, _):
        assert not _permitted(world) & {"head.cluster", "head"}
        assert len(world.service.ports) == 1


async def test_a_connect_is_still_for_its_registry_alone(tmp_path: Path) -> None:
    """The daemon's own names are no names of a registry."""

    def shake(world: World) -> None:
        plain = connect_through(world.port, f"{NAME}:443")
        with plain:
            trusting(world.service.ca.root_pem.decode()).wrap_socket(plain, server_hostname="head.cluster")

    async with door(tmp_path) as (world, _):
        with pytest.raises(ssl.SSLError):
            await deferToThread(shake, world)


@pytest.mark.parametrize("line", [f"CONNECT {NAME}:443 HTTP/1.1", f"GET https://{NAME}/v2/ HTTP/1.1"])
async def test_it_is_no_proxys_port(tmp_path: Path, line: str) -> None:
    async with door(tmp_path) as (world, _):
        assert (await deferToThread(ask, world, "head", line)).status in (400, 403)


async def test_plain_http_there_is_closed_and_said_in_the_log(tmp_path: Path) -> None:
    async with door(tmp_path) as (world, _):
        with logged(LogLevel.info) as lines:
            assert b"HTTP/1.1 200" not in await deferToThread(
                raw, mirror_port(world), b"GET /v2/ HTTP/1.1\r\n\r\n"
            )
        assert any("the client speaks plain HTTP where TLS is expected" in line for line in lines)


async def test_clients_from_elsewhere_are_not_admitted(tmp_path: Path) -> None:
    async with door(tmp_path, TOP + '\nclients = ["10.0.0.0/8"]') as (world, _):
        assert await deferToThread(_is_dropped, mirror_port(world))


async def test_who_does_not_begin_is_not_waited_for(tmp_path: Path) -> None:
    """The limits are those of the front door, for both together."""
    async with door(tmp_path, tables=limits(head_timeout="100ms")) as (world, _):
        with socket.create_connection(("127.0.0.1", mirror_port(world)), timeout=TIMEOUT):
            await until(lambda: world.service.door.connections == 1)
            await until(lambda: world.service.door.connections == 0, 20)


def _is_dropped(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
            return client.recv(10) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            'mirror_tls = ["tcp:3129"]',
            "mirror_tls: its certificates need names: set mirror_names",
        ),
        ('mirror_names = ["head:3129"]', "without a port"),
        ('mirror_names = ["https://head"]', "host name"),
        ('mirror_names = ["*.cluster"]', "host name"),
        ('mirror_names = ["head_1.cluster/x"]', "host name"),
        ('mirror_names = "head"', "list"),
        ('mirror_tls = ["dual:99999"]', "dual:PORT"),
        ('[store]\nmirror_tls = ["tcp:1"]', "it belongs to the top, before the first table"),
    ],
)
def test_what_cannot_be_configured(lines: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config([("a.toml", lines)])
    assert says in str(caught.value)


def test_names_in_their_one_form() -> None:
    names = '["HEAD.cluster.", "fd00::1", "[fd00::2]", "10.0.0.1"]'
    config = parse_config([("a.toml", f"mirror_names = {names}")])
    assert config.mirror_names == ("head.cluster", "fd00::1", "fd00::2", "10.0.0.1")


def test_several_workers(tmp_path: Path) -> None:
    """All answer at both doors."""
    port = free_port()
    top = f'workers = 2\nmirror_tls = ["tcp:{port}:interface=127.0.0.1"]\nmirror_names = ["head.cluster", "127.0.0.1"]'
    unused = make_server_certificate(tmp_path / "tls").authority
    daemon = Daemon.start(tmp_path, "http://127.0.0.1:9", unused, top)
    try:
        wait_until(lambda: daemon.server.output().count("serves as process") == 2, "both workers")
        context = ssl.create_default_context(cafile=str(daemon.authority))
        for _ in range(10):
            connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=TIMEOUT)
            connection.request("GET", "/v2/")
            assert connection.getresponse().status == 200
            connection.close()
            assert daemon.page("/v2/")[0].status == 200
        assert f"as a mirror over TLS on 127.0.0.1:{port} and caches" in daemon.server.output()
    finally:
        daemon.stop()
