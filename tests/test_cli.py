"""regcachctl, as a person and a script see it: a program of its own beside a running daemon."""

import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import frozen
from click.testing import CliRunner
from rich.console import Console
from twisted.internet.threads import deferToThread

from regcachd import __version__
from regcachd.cli import client, scrub, store, words
from regcachd.cli.main import regcachctl
from regcachd.testing import FakeRegistry
from tests.stores import NOW
from tests.world import NAME, World, reactor, until

TREE = Path(__file__).parent.parent


@frozen
class Outcome:
    """What a run came to."""

    status: int
    out: str
    err: str


def run(directory: Path, *arguments: str) -> Outcome:
    """regcachctl as a program, without a terminal, from the directory."""
    done = subprocess.run(
        [sys.executable, "-m", "regcachd.cli", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(TREE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr)


async def ctl(here: World, *arguments: str) -> Outcome:
    """regcachctl against the daemon of a test."""
    outcome: Outcome = await deferToThread(
        run, here.directory, "--socket", str(here.directory / "admin.sock"), *arguments
    )
    return outcome


async def filled(tmp_path: Path) -> World:
    here = await World(tmp_path, FakeRegistry(reactor)).start()
    digest = here.registry.add_blob("team/app", b"x" * 4096)
    await here.client().get(f"/v2/team/app/blobs/{digest}")
    await until(lambda: here.service._index.totals() == (1, 4096))
    await until(lambda: here.care.recovery.running is None)
    return here


async def test_store(tmp_path: Path) -> None:
    """Text for people, JSON for programs."""
    here = await filled(tmp_path)
    shown = await ctl(here, "store")
    assert shown.status == 0
    lines = shown.out.splitlines()
    assert lines[0] == f"store       {tmp_path / 'store'}"
    assert "blobs       1" in lines
    assert "size        4 KiB of 1 TiB (0 %)" in lines
    assert "last scrub  never" in lines
    assert "partials    0" in lines
    assert all(len(line) <= 80 or "/" in line for line in lines)
    assert all(line == line.rstrip() for line in lines)
    document = await ctl(here, "store", "--json")
    assert json.loads(document.out)["bytes"] == 4096
    await here.stop()


async def test_scrub_of_a_sound_store(tmp_path: Path) -> None:
    here = await filled(tmp_path)
    shown = await ctl(here, "scrub")
    assert (shown.status, shown.out, shown.err) == (0, "1 blob read, 4 KiB\nnothing is rotten\n", "")
    shown = await ctl(here, "store")
    assert re.search("last scrub  (just now|.* ago): 1 blob, 4 KiB, nothing rotten", shown.out)
    await here.stop()


async def test_scrub_that_finds_rot(tmp_path: Path) -> None:
    """The exit status says so, and the digest is named."""
    here = await filled(tmp_path)
    for as_json in (False, True):
        digest = here.registry.add_blob("team/app", os.urandom(1000))
        await here.client().get(f"/v2/team/app/blobs/{digest}")
        await until(lambda: here.service._index.totals()[0] == 2)
        path = tmp_path / "store/blobs/sha256" / digest.hex[:2] / digest.hex
        path.chmod(0o640)
        path.write_bytes(b"rot")
        shown = await ctl(here, "scrub", *(["--json"] if as_json else []))
        assert shown.status == 1
        if as_json:
            assert json.loads(shown.out)["rotten_digests"] == [str(digest)]
        else:
            assert (
                f"1 blob was rotten and is removed, to be fetched again on demand:\n  {digest}\n" in shown.out
            )
    await here.stop()


async def test_scrub_without_waiting(tmp_path: Path) -> None:
    here = await filled(tmp_path)
    shown = await ctl(here, "scrub", "--no-wait")
    assert (shown.status, shown.out) == (
        0,
        "the scrub has begun; `regcachctl store` shows how far it is\n",
    )
    assert (await ctl(here, "scrub", "--stop")).status == 0
    await until(lambda: here.care.scrub.current is None)
    await here.stop()


async def test_a_store_in_trouble_is_found(tmp_path: Path) -> None:
    here = await filled(tmp_path)
    os.rename(tmp_path / "store/lock", tmp_path / "store/elsewhere")
    shown = await ctl(here, "store")
    assert shown.status == 1
    assert "was its filesystem unmounted" in " ".join(shown.out.split())
    await here.stop()


async def test_check_upstream(tmp_path: Path) -> None:
    """A line for each step; below it, what to do; the exit status says whether all is well."""
    registry = FakeRegistry(reactor)
    registry.add_image("team/app", "1", [b"layer"])
    here = await World(tmp_path, registry).start()
    shown = await ctl(here, "check-upstream", NAME, "team/app:1")
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].startswith(f"ok       name       {NAME} is cached, from {registry.url}")
    assert lines[-1] == "all is well with team/app:1"
    shown = await ctl(here, "check-upstream", NAME, "team/other")
    assert shown.status == 1
    assert "\nFAILURE  manifest   registry.test/team/other:latest is not there" in shown.out
    assert f"\n{' ' * 20}look whether name and tag are right\n" in shown.out
    assert shown.out.endswith("team/other does not work\n")
    document = await ctl(here, "check-upstream", NAME, "--json")
    assert (document.status, json.loads(document.out)["outcome"]) == (0, "ok")
    await here.stop()


# -- what can go wrong


def test_no_daemon(tmp_path: Path) -> None:
    """Where it was looked for is said, in one line."""
    shown = run(tmp_path, "store")
    assert (shown.status, shown.out) == (3, "")
    assert shown.err.startswith(
        "Error: no regcachd runs here: there is no socket at /run/regcachd/admin.sock"
    )
    assert run(tmp_path, "check-upstream", "quay.io").status == 3
    shown = run(tmp_path, "--socket", "absent", "scrub")
    assert (shown.status, shown.err) == (3, "Error: no regcachd answers at absent: is it running?\n")


def test_a_daemon_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "var/state").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "var/state/admin.sock"))
    shown = run(tmp_path, "store")
    assert (shown.status, shown.err) == (
        3,
        "Error: no regcachd answers at var/state/admin.sock: is it running?\n",
    )


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the connection that is refused, and not the option that is wrong."""
    path = tmp_path / "admin.sock"
    path.touch()

    def refuse(self: client._Connection) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    monkeypatch.setattr(client._Connection, "connect", refuse)
    done = CliRunner().invoke(regcachctl, ["--socket", str(path), "store"])
    assert done.exit_code == 3
    assert f"no permission for {path}: run this as root, or as a member" in done.output


def test_something_else_that_listens(tmp_path: Path) -> None:
    """Answers that are not the daemon's are an error, not a traceback."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with subprocess.Popen(
            [sys.executable, "-m", "regcachd.cli", "--socket", str(path), "store"],
            env={**os.environ, "PYTHONPATH": str(TREE)},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            connection, _ = server.accept()
            connection.sendall(b"220 mail.example ESMTP\r\n")
            connection.close()
            _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "did not answer" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [["stoer"], ["store", "--what"], ["--socket"], ["scrub", "now"], ["check-upstream"]]
)
def test_a_wrong_command_line(arguments: list[str]) -> None:
    assert CliRunner().invoke(regcachctl, arguments).exit_code == 2


@pytest.mark.parametrize("command", [[], ["store"], ["scrub"], ["check-upstream"]])
def test_help_says_the_exit_statuses_in_80_columns(command: list[str]) -> None:
    done = CliRunner().invoke(regcachctl, [*command, "--help"])
    assert done.exit_code == 0
    assert "3 the daemon cannot be reached" in done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_version() -> None:
    assert CliRunner().invoke(regcachctl, ["--version"]).output == f"regcachctl {__version__}\n"


def test_the_installed_configuration_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be used counts as none: the daemon may have begun with another."""
    file = tmp_path / "regcachd.toml"
    file.write_text(f'admin = "{tmp_path}/here.sock"')
    (tmp_path / "here.sock").touch()
    assert client.find(None, file).path == tmp_path / "here.sock"
    file.write_text(f'state = "{tmp_path}/state"')
    (tmp_path / "state").mkdir()
    (tmp_path / "state/admin.sock").touch()
    assert client.find(None, file).path == tmp_path / "state/admin.sock"
    file.write_text("admin = 5")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(client.Unreachable, match=r"var/state/admin\.sock"):
        client.find(None, file)


# -- how it looks


def test_a_busy_store_in_80_columns() -> None:
    """Partials with and without a known size, a scrub under way, large numbers."""
    console = Console(width=80, highlight=False, markup=False)
    document = {
        "path": "/var/cache/regcachd",
        "blobs": 1234567,
        "bytes": 450 * 2**30,
        "max_size": 2**40,
        "min_free": 50 * 2**30,
        "filesystem": {"size": 2**41, "free": 900 * 2**30},
        "oldest_use": NOW - 90 * 86400,
        "partials": [
            {"digest": f"sha256:{'ab' * 32}", "bytes": 3 * 2**30, "total": 10 * 2**30, "changed": NOW - 1},
            {"digest": f"sha512:{'cd' * 64}", "bytes": 1000, "total": None, "changed": NOW - 7200},
        ],
        "recovering": True,
        "scrub": {
            "current": {"bytes": 45 * 2**30, "full_speed": False},
            "finished": [{"finished": NOW - 8 * 86400, "blobs": 1000000, "bytes": 2**38, "rotten": 2}],
            "bytes": 450 * 2**30,
            "rate": 20 * 2**20,
        },
        "trouble": None,
        "now": NOW,
    }
    with console.capture() as capture:
        store.show(console, document)
    assert capture.get() == (
        "store       /var/cache/regcachd\n"
        "blobs       1,234,567, being counted\n"
        "size        450 GiB of 1 TiB (43 %)\n"
        "disk        900 GiB of 2 TiB free, 50 GiB are kept free\n"
        "oldest use  90 days ago\n"
        "last scrub  8 days ago: 1,000,000 blobs, 256 GiB, 2 rotten\n"
        "scrub now   10 %, at 20 MiB per second\n"
        "partials    2\n"
        "  sha256:abababababab  3 GiB of 10 GiB  30 %  last byte 1 second ago\n"
        "  sha512:cdcdcdcdcdcd  1000 B                 last byte 2 hours ago\n"
    )


def test_much_rot_is_counted() -> None:
    console = Console(width=80, highlight=False, markup=False)
    done = {
        "started": NOW,
        "finished": NOW + 10,
        "blobs": 500,
        "bytes": 10 * 2**30,
        "rotten": 3,
        "rotten_digests": ["sha256:a", "sha256:b"],
    }
    with console.capture() as capture:
        scrub.show(console, done)
    assert capture.get() == (
        "500 blobs read, 10 GiB, 1 GiB per second\n"
        "3 blobs were rotten and are removed, to be fetched again on demand:\n"
        "  sha256:a\n  sha256:b\n  and 1 more\n"
    )


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is drawn and wiped away again."""
    answers = [
        {"current": {"started": NOW, "bytes": 50}, "last": None, "bytes": 100},
        {"current": None, "last": {"started": NOW, "finished": NOW + 1}, "bytes": 100},
    ]
    monkeypatch.setattr(client.Client, "ask", lambda *_: answers.pop(0))
    monkeypatch.setattr(scrub, "POLL", 0.0)
    console = Console(width=80, force_terminal=True, file=io.StringIO())
    done = scrub.follow(client.Client(Path("x")), console, {"started": NOW})
    assert done["finished"] == NOW + 1
    assert isinstance(console.file, io.StringIO)
    assert "50/100 bytes" in console.file.getvalue()


def test_a_pass_that_ends_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"current": None, "last": {"started": NOW, "finished": None}, "bytes": 100}
    monkeypatch.setattr(client.Client, "ask", lambda *_: answer)
    with pytest.raises(client.Unreachable, match="the daemon's log says why"):
        scrub.follow(client.Client(Path("x")), Console(file=io.StringIO()), {"started": NOW})


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (2**20 - 1, "1 MiB"),
        (10**9, "954 MiB"),
        (2**63, "8 EiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert words.size(count) == text


# -- gen-ca


def test_gen_ca_makes_a_root_and_says_what_to_do_with_it(tmp_path: Path) -> None:
    done = run(tmp_path, "gen-ca", "new")
    assert done.status == 0, done.err
    fingerprint = re.search("^fingerprint (sha256:[0-9a-f]{64})$", done.out, re.MULTILINE)
    assert fingerprint is not None
    assert f"--fingerprint {fingerprint[1]}" in done.out
    assert (tmp_path / "new/root.key").stat().st_mode & 0o777 == 0o600
    again = run(tmp_path, "gen-ca", "new")
    assert again.status == 1
    assert "new/root.crt is there already, and is left alone: name another directory" in again.err
