"""The pages below /setup/, and what comes of them on a node: `curl http://head:3128/setup/docker | sh`."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from regcachd import setup
from regcachd.connect import HeadError
from regcachd.testing import FakeRegistry
from tests import node as nodes
from tests.node import TOOL, Node, Said
from tests.test_pages import ask
from tests.world import NAME, World, reactor

FINGERPRINT = "sha256:" + "ab" * 32
DASH = shutil.which("dash") or shutil.which("sh")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, FakeRegistry(reactor))
    pytest_twisted.blockon(Deferred.fromCoroutine(world.start()))
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.stop()))


# -- the script


@pytest.mark.parametrize("client", [*setup.CLIENTS, "all"])
def test_each_client_has_a_script(client: str) -> None:
    """That a POSIX shell can read, and that says what it runs."""
    text = setup.script(client, "head:3128", FINGERPRINT)
    assert DASH is not None
    subprocess.run([DASH, "-n"], input=text, check=True)
    assert b"head='http://head:3128'" in text
    assert FINGERPRINT.encode() in text
    assert hashlib.sha256(TOOL.read_bytes()).hexdigest().encode() in text
    assert (f"--only {client}".encode() in text) == (client != "all")


def test_clients_are_those_of_the_tool() -> None:
    assert {*setup.CLIENTS} == {*nodes.tool.CLIENTS}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("head:3128", "http://head:3128"),
        ("HEAD.example", "http://head.example:80"),
        ("[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("10.0.0.1:3128", "http://10.0.0.1:3128"),
    ],
)
def test_the_head_is_called_as_it_was_asked_for(host: str, url: str) -> None:
    """So that the node can reach it; the tool takes every such name."""
    assert f"\nhead='{url}'\n".encode() in setup.script("all", host, FINGERPRINT)
    assert nodes.tool.Address.parse(url).url == url


@pytest.mark.parametrize(
    "host",
    [
        "",
        "head'; reboot; '",
        "$(reboot):3128",
        "`reboot`",
        "head:3128, other",
        "a b",
        "head\nreboot",
        "head/x",
        "é",
    ],
)
def test_a_host_that_would_mean_something_to_a_shell(host: str) -> None:
    with pytest.raises(HeadError):
        setup.script("docker", host, FINGERPRINT)


@given(st.text(st.characters(max_codepoint=255)))
def test_nothing_of_a_host_gets_into_the_script_but_a_name(host: str) -> None:
    try:
        text = setup.script("docker", host, FINGERPRINT).decode()
    except HeadError:
        return
    (line,) = [line for line in text.splitlines() if line.startswith("head=")]
    assert not set(line.removeprefix("head='http://").removesuffix("'")) - set(
        "abcdefghijklmnopqrstuvwxyz0123456789.:_-[]"
    )


def test_half_a_script_does_nothing(tmp_path: Path) -> None:
    """A connection may be cut while sh reads."""
    text = setup.script("docker", "127.0.0.1:1", FINGERPRINT)
    assert DASH is not None
    last = text.index(b'{ main "$@"; }')
    for end in [*range(0, last, 97), *range(last, last + len(b'{ main "$@"; '))]:
        done = subprocess.run(
            [DASH, "-s"], input=text[:end], capture_output=True, cwd=tmp_path, env={"PATH": ""}, check=False
        )
        assert done.stdout == b""
        assert b"regcachd:" not in done.stderr
    done = subprocess.run([DASH, "-s"], input=text, capture_output=True, env={"PATH": ""}, check=False)
    assert b"regcachd: python3 is not on this node" in done.stderr


# -- over a daemon


async def test_pages(world: World) -> None:
    script = await ask(world, "GET /setup/docker", "Host: head:3128")
    assert script.status == 200
    assert script.headers["content-type"] == "text/x-shellscript; charset=us-ascii"
    assert world.service.ca.fingerprint.encode() in script.body
    tool = await ask(world, "GET /setup/regcachd-client", "Host: head:3128")
    assert tool.body == TOOL.read_bytes()
    facts = json.loads((await ask(world, "GET /setup/head.json", "Host: head:3128")).body)
    assert facts == {"registries": [NAME], "fingerprint": world.service.ca.fingerprint}


@pytest.mark.parametrize(
    ("line", "host", "status", "says"),
    [
        ("GET /setup/vim", "head", 404, "no setup for this client; there is one for docker"),
        ("GET /setup/", "head", 404, "no setup for this client"),
        ("GET /setup/../ca.crt", "head", 404, "no setup for this client"),
        ("GET /setup/docker", "$(reboot)", 400, "is not a host and port"),
        ("POST /setup/docker", "head", 405, "only GET and HEAD here"),
    ],
)
async def test_what_there_is_no_page_for(world: World, line: str, host: str, status: int, says: str) -> None:
    reply = await ask(world, line, f"Host: {host}")
    assert reply.status == status
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert says in reply.body.decode()


async def pipe(world: World, client: str, *words: str) -> Said:
    """`curl .../setup/CLIENT | sh -s -- WORDS`."""
    script = (await ask(world, f"GET /setup/{client}", f"Host: 127.0.0.1:{world.port}")).body

    def run() -> Said:
        done = subprocess.run(
            [DASH or "sh", "-s", "--", *words], input=script, capture_output=True, check=False
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    said: Said = await deferToThread(run)
    return said


async def test_it_does_what_the_tool_does(world: World, tmp_path: Path) -> None:
    """On an image that can run nothing, the trust store is left to be updated; that is exit code 4."""
    node = Node(tmp_path / "image").install("dockerd", "enroot")
    said = await pipe(world, "docker", "--root", str(node.root), "--no-proxy", "10.0.0.0/8")
    assert (said.code, said.err) == (4, "")
    url = f"http://127.0.0.1:{world.port}"
    assert said.out.startswith(
        f"regcachd: fetching {url}/setup/regcachd-client\nregcachd: running regcachd-client setup"
    )
    assert f'"HTTPS_PROXY={url}"' in node.read("/etc/systemd/system/docker.service.d/regcachd.conf")
    assert node.path(nodes.tool.TOOL).read_bytes() == TOOL.read_bytes()
    assert not node.path("/etc/enroot").exists()
    said = await pipe(world, "all", "--root", str(node.root))
    assert node.path("/etc/enroot/enroot.conf.d/regcachd.conf").exists()
    again = await pipe(world, "all", "--root", str(node.root))
    assert "no change" in again.out


async def test_a_fingerprint_from_elsewhere_is_believed(world: World, tmp_path: Path) -> None:
    """Rather than the one that came with the script."""
    node = Node(tmp_path / "image").install("dockerd")
    said = await pipe(world, "all", "--root", str(node.root), "--fingerprint", FINGERPRINT)
    assert said.code == 3
    assert "Nothing was changed" in said.err
    assert not node.path("/etc").exists()


async def test_another_tool_is_not_run(world: World, tmp_path: Path) -> None:
    """What the head hands out must be what the script is for."""
    script = (await ask(world, "GET /setup/docker", f"Host: 127.0.0.1:{world.port}")).body
    other = script.replace(hashlib.sha256(TOOL.read_bytes()).hexdigest().encode(), b"0" * 64)

    def run() -> Said:
        done = subprocess.run([DASH or "sh"], input=other, capture_output=True, check=False, cwd=tmp_path)
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    said = await deferToThread(run)
    assert said.code == 3
    assert "is not what this script is for" in said.err


# -- on a node that runs


@pytest.mark.e2e
@pytest.mark.skipif(
    not nodes.can_unshare(), reason="needs root, unshare, and Debian's update-ca-certificates"
)
async def test_a_node_from_the_first_line_to_the_last(world: World, tmp_path: Path) -> None:
    """One line sets it up, with Debian's own trust store; doctor goes through the proxy; remove leaves no trace."""
    node = nodes.live_node(tmp_path)
    script = (await ask(world, "GET /setup/enroot", f"Host: 127.0.0.1:{world.port}")).body

    async def run(*command: str, stdin: bytes = b"") -> Said:
        said: Said = await deferToThread(nodes.run_live, node, *command, stdin=stdin)
        return said

    await run("update-ca-certificates", "--fresh")
    before = node.tree()
    said = await run("tool", "doctor")
    assert said.code == 1
    assert "has not been set up here" in said.out

    said = await run("sh", stdin=script)
    assert (said.code, said.err) == (0, "")
    assert "ran update-ca-certificates" in said.out
    assert world.service.ca.root_pem.decode() in node.read("/etc/ssl/certs/ca-certificates.crt")

    said = await run("regcachd-client", "doctor")
    assert (
        f"ok  {NAME}:443 goes through the cache, and its certificate is trusted here (HTTP/1.1 200"
        in said.out
    )
    assert "ok  the head has the CA that was set up" in said.out
    assert f"ok  enroot goes through http://127.0.0.1:{world.port}" in said.out

    said = await run("sh", stdin=script)
    assert "no change" in said.out

    bundle = node.read("/etc/ssl/certs/ca-certificates.crt")
    node.write("/etc/ssl/certs/ca-certificates.crt", bundle.replace(world.service.ca.root_pem.decode(), ""))
    said = await run("regcachd-client", "doctor")
    assert said.code == 1
    assert "NO  the CA is not in /etc/ssl/certs/ca-certificates.crt" in said.out
    assert "has a certificate that this system does not trust" in said.out
    node.write("/etc/ssl/certs/ca-certificates.crt", bundle)

    said = await run("regcachd-client", "remove")
    assert (said.code, said.err) == (0, "")
    assert "ran update-ca-certificates --fresh" in said.out
    assert node.tree() == before
    assert not (tmp_path / "node.local/sbin/regcachd-client").exists()
