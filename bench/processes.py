"""Child processes: started in a clean environment, waited for, ended by pid, and their CPU time read."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The source tree; the servers that are ours run from it, whether it is installed or not."""

DEBIAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": DEBIAN_PATH, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
"""All that children inherit: proxies and trust stores that a user has set would decide what is measured."""

PATIENCE = 30.0
"""Seconds a server has to start, and to stop before it is killed."""


class BenchError(Exception):
    """The benchmark cannot go on, or what it measured is not what it claims; the message says why."""


def program(name: str, package: str) -> str:
    """The path of one of Debian's programs; BenchError says which package has it."""
    path = shutil.which(name, path=DEBIAN_PATH)
    if path is None:
        raise BenchError(f"{name} is not installed; on Debian: apt install {package}")
    return path


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Does somebody listen on this port of 127.0.0.1?"""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look at `condition` until it holds; BenchError says `what` was waited for in vain."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.05)


@contextmanager
def running(name: str, command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[int]:
    """A server for the time of a `with`: its pid, once `ready` holds. What it prints goes to the file `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=ENVIRONMENT, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )

    def ready_or_dead() -> bool:
        if process.poll() is not None:
            raise BenchError(f"{name} ended with status {process.returncode}")
        return ready()

    try:
        wait_until(ready_or_dead, f"{name} to answer")
        yield process.pid
    except BenchError as error:
        error.add_note(f"the end of what {name} printed:\n{_last_lines(log)}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def family(pid: int) -> tuple[int, ...]:
    """A process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (pid, *(each for child in children for each in family(int(child))))


def command_line(pid: int) -> str:
    """What a process calls itself."""
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")


def cpu_seconds(pids: Sequence[int]) -> float:
    """The CPU time, user and system, that these processes have used so far (proc(5), utime and stime)."""
    ticks = 0
    for pid in pids:
        # The second field is the command in parentheses and may hold anything, so count from its end.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def most_memory(pids: Sequence[int]) -> float:
    """The resident memory of the largest of these processes in MiB (proc(5), VmRSS)."""
    found = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        found = max(found, int(status.partition("VmRSS:")[2].split()[0]))
    return found / 1024


def make_certificate(path: Path, name: str) -> tuple[Path, Path]:
    """One self-signed ECDSA P-256 certificate, PATH.crt, and its key, PATH.key."""
    certificate, key = path.with_suffix(".crt"), path.with_suffix(".key")
    command = [program("openssl", "openssl"), *["req", "-x509", "-nodes", "-days", "30", "-newkey", "ec"]]
    command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName=DNS:{name}", "-out", str(certificate), "-keyout", str(key)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise BenchError(f"openssl made no certificate:\n{made.stderr}")
    return certificate, key
