"""The daemon under test: `twistd regcache` of the virtual environment that runs the tests."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from attrs import frozen

from tests.e2e.programs import ProgramError, Server, environment, free_port

ROOT = Path(__file__).parents[2]
"""The source tree: what is tested is what lies here, whatever is installed."""

REGISTRY = "registry.test:5443"
"""
The registry's name as clients say it. It exists nowhere: clients only ever CONNECT to it, and the daemon
is told where it really is. (It is not localhost, because clients written in Go use no proxy for
localhost.)
"""

# twistd, when told by SIGTERM, stops everything and then ends itself by that same signal.
CLEAN_ENDS = (0, -signal.SIGTERM)


@frozen
class Daemon:
    """
    A running daemon. Its store and state live in `directory` and serve the next one that is started
    there.
    """

    server: Server
    port: int
    directory: Path

    @classmethod
    def start(
        cls,
        directory: Path,
        upstream: str,
        authority: Path,
        settings: str = "",
        store: str = "",
        registry: str = "",
        hosts: Path | None = None,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> Daemon:
        """
        Start one that takes REGISTRY from the URL `upstream`, trusting the certificates in the file
        `authority`. `settings` are further lines before the first table of the configuration, `store` some of
        its [store], `registry` some of the registry's. `environ` is further environment.
        """
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        configuration = directory / "regcachd.toml"
        configuration.write_text(
            f"listen = [{json.dumps(f'tcp:{port}:interface=127.0.0.1')}]\n"
            f"state = {json.dumps(str(directory / 'state'))}\n"
            f"admin = {json.dumps(str(directory / 'admin.sock'))}\n"
            f"{settings}\n"
            "[store]\n"
            f"path = {json.dumps(str(directory / 'store'))}\n"
            f"{store}\n"
            f"[registries.{json.dumps(REGISTRY)}]\n"
            f"upstream = {json.dumps(upstream)}\n"
            f"ca = {json.dumps(str(authority))}\n"
            f"{registry}\n"
        )
        server = Server.start(
            "twistd regcache",
            [*_with_names_of(hosts), *twistd(), "-n", "--pidfile=", "regcache", "--config", configuration],
            environment(
                directory / "home",
                PYTHONPATH=str(ROOT),
                PYTHONUNBUFFERED="1",
                PYTHONNOUSERSITE="1",
                **environ,
            ),
            directory / "regcachd.log",
        )
        daemon = cls(server, port, directory)
        server.wait_until_ready(lambda: daemon._answers("/healthz"))
        daemon.authority.parent.mkdir(exist_ok=True)
        daemon.authority.write_bytes(daemon.page("/ca.crt")[1])
        return daemon

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """
        The daemon's root certificate as clients got it, alone in its directory so that it serves as
        --cert-dir.
        """
        return self.directory / "trust" / "ca.crt"

    def ctl(self, *arguments: str) -> tuple[int, str]:
        """Ask it with regcachctl: the exit status, and what was printed."""
        done = subprocess.run(
            [sys.executable, "-m", "regcachd.cli", "--socket", self.directory / "admin.sock", *arguments],
            env=environment(self.directory / "home", PYTHONPATH=str(ROOT), PYTHONNOUSERSITE="1"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def page(self, path: str) -> tuple[http.client.HTTPResponse, bytes]:
        """One of the daemon's own pages: the response and its body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def most_memory(self) -> int:
        """The most bytes that its process has had in memory so far (with `workers = 1` it is one process)."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def stop(self, patience: float = 60.0) -> None:
        """
        SIGTERM; ProgramError unless it ends cleanly within `patience` seconds and left no traceback in
        its log.
        """
        status = self.server.stop(patience)
        log = self.server.output()
        if status not in CLEAN_ENDS:
            raise ProgramError(f"the daemon ended with status {status}:\n{log}")
        if "Traceback" in log:
            raise ProgramError(f"the daemon's log has a traceback:\n{log}")

    def _answers(self, path: str) -> bool:
        try:
            return self.page(path)[0].status == 200
        except ConnectionRefusedError:
            return False


def twistd() -> list[str | Path]:
    """
    twistd as this interpreter has it; over Debian's packages the environment holds no script of that
    name.
    """
    script = Path(sys.executable).with_name("twistd")
    if script.exists():
        return [script]
    return [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()",
    ]


def _with_names_of(hosts: Path | None) -> list[str | Path]:
    """Runs a command in a mount namespace where a file is in the place of /etc/hosts, and no name server answers."""
    if hosts is None:
        return []
    nobody = hosts.with_name("resolv.conf")
    nobody.write_text("nameserver 127.0.0.66\n")
    mounted = 'mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", mounted, hosts, nobody]
