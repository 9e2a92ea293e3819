"""Child processes of the end-to-end tests: found, started in a clean environment, watched, ended by pid."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define

DEBIAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where Debian's programs are; nothing that a user put before them on PATH is meant here."""

NEEDED = (
    "docker-registry",
    "skopeo",
    "podman",
    "buildah",
    "runc",
    "containerd",
    "ctr",
    "curl",
    "openssl",
    "htpasswd",
    "docker-credential-pass",
    "pass",
    "gpg",
)


class ProgramError(AssertionError):
    """A program did not do what the test needs; the message holds what it printed."""


def missing_programs() -> list[str]:
    """The programs that these tests need and this machine lacks."""
    return [name for name in NEEDED if shutil.which(name, path=DEBIAN_PATH) is None]


def environment(home: Path, **more: str) -> dict[str, str]:
    """
    A child's whole environment: Debian's PATH, every directory of the user's moved under `home`, and `more`.

    It is built from nothing, because SSL_CERT_FILE, CURL_CA_BUNDLE, proxies and the like are preset on
    some machines and would decide the outcome of a test.
    """
    directories = {
        "HOME": home,
        "XDG_CONFIG_HOME": home / "config",
        "XDG_DATA_HOME": home / "data",
        "XDG_CACHE_HOME": home / "cache",
        "XDG_RUNTIME_DIR": home / "run",
        "TMPDIR": home / "tmp",
    }
    for path in directories.values():
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return {
        "PATH": DEBIAN_PATH,
        "LC_ALL": "C.UTF-8",
        **{name: str(path) for name, path in directories.items()},
        **more,
    }


def free_port() -> int:
    """
    A TCP port of 127.0.0.1 that nobody listens on just now.

    It is not one of those that the kernel gives away by itself, to tests that run at the same time.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(lowest // 2, lowest)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Look at `condition` until it holds; ProgramError says `what` was waited for when `seconds` are over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ProgramError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.02)


def run(environ: dict[str, str], *command: str | Path, seconds: float = 120.0) -> str:
    """Run a program to its end and give its standard output; ProgramError unless it ends with status 0."""
    done = subprocess.run(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode != 0:
        words = " ".join(str(word) for word in command)
        raise ProgramError(f"{words}\nended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@define
class Server:
    """A running child whose output goes to the file `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    _told_to_stop: bool = False

    @classmethod
    def start(cls, name: str, command: Sequence[str | Path], environ: dict[str, str], log: Path) -> Server:
        """Start `command` in the directory of its log, appending to the log if it exists."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, env=environ, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return cls(name, process, log)

    def output(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_until_ready(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait for `condition`; ProgramError with the log when the process ends first or takes too long."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise ProgramError(
                    f"{self.name} ended with status {self.process.returncode}:\n{self.output()}"
                )
            return condition()

        try:
            wait_until(ready, f"{self.name} to be ready", seconds)
        except ProgramError:
            self.stop(patience=1.0)
            raise

    def tell_to_stop(self) -> None:
        """SIGTERM, once however often this is called."""
        if not self._told_to_stop and self.process.poll() is None:
            self.process.terminate()
        self._told_to_stop = True

    def stop(self, patience: float = 60.0) -> int:
        """
        Tell it to stop, wait at most `patience` seconds, then SIGKILL; gives the exit status.

        The status is negative where a signal ended the process (see subprocess.Popen.returncode).
        """
        self.tell_to_stop()
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def kill_pid_in(file: Path) -> None:
    """
    End the process whose number is in `file`, if there is such a file (rootless podman leaves one
    behind).
    """
    try:
        os.kill(int(file.read_text()), 9)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return
