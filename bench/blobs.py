"""Cases: a cached layer, sent to 1, 4 and 16 clients at once, by one worker or two."""

import hashlib
import subprocess
import time
from functools import partial
from typing import IO

from bench.origin import MIB, Blob, origin
from bench.processes import ENVIRONMENT, BenchError, cpu_seconds, program, wait_until
from bench.rounds import Case, Family
from bench.servers import REGISTRY, Settings, Target

SIZE = 256 * MIB
CLIENTS = (1, 4, 16)
LEAST = 8
"""Transfers in a load, at least: enough for a hundredth of a second of CPU time to be a hundredth of the figure."""

GIB = 1024**3


def cases() -> list[Case]:
    """The cases of one worker."""
    return [_case(clients) for clients in CLIENTS]


def families() -> list[Family]:
    """The families of several workers."""
    two = _case(CLIENTS[-1], ", 2 workers")
    return [Family((two,), partial(origin, sizes=[SIZE]), Settings(workers=2))]


def _case(clients: int, workers: str = "") -> Case:
    who = f"cached 256 MiB blob, {clients} client{'s' if clients > 1 else ''}{workers}"
    figures = ((who, "CPU s/GiB"), (who, "GiB/s"))
    return Case(figures, fill, partial(_load, clients))


def _load(clients: int, target: Target) -> tuple[float, ...]:
    """Every client gets the blob again and again over one connection; CPU seconds per GiB, and GiB per second."""
    each = max(1, LEAST // clients)
    blob = target.origin.blobs[0]
    cpu, start = cpu_seconds(target.pids), time.monotonic()
    curls = [
        subprocess.Popen(
            _curl(target, blob, "/dev/null", each), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(clients)
    ]
    reports = [curl.communicate()[0] for curl in curls]
    seconds, cpu = time.monotonic() - start, cpu_seconds(target.pids) - cpu
    for curl, report in zip(curls, reports, strict=True):
        if curl.returncode or report.split("\n") != [*[_expected(target, blob)] * each, ""]:
            raise BenchError(
                f"{target.name}: curl ended with status {curl.returncode}, and its transfers were\n{report}"
            )
    gib = clients * each * blob.size / GIB
    return cpu / gib, gib / seconds


def _curl(target: Target, blob: Blob, output: str, times: int) -> list[str]:
    """A curl that gets the blob `times` times over one connection and says of each how it went."""
    if target.by_connect:
        way = ["--proxy", f"http://127.0.0.1:{target.port}"]
    else:
        way = ["--connect-to", f"{REGISTRY}:443:127.0.0.1:{target.port}"]
    report = f"%{{http_code}} %{{size_download}} %header{{{target.hit[0]}}}\n"
    command = [program("curl", "curl"), "--disable", "--silent", "--show-error", "--write-out", report]
    command += [*way, "--cacert", str(target.authority)]
    for _ in range(times):
        command += ["--output", output, f"https://{REGISTRY}{blob.path}"]
    return command


def _expected(target: Target, blob: Blob) -> str:
    return f"200 {blob.size} {target.hit[1]}"


def fill(target: Target) -> None:
    """Get the first blob into the cache, and out of it right."""
    blob = target.origin.blobs[0]
    wait_until(
        lambda: _report(_curl(target, blob, "/dev/null", 1)) == _expected(target, blob),
        f"{target.name} to cache the blob",
    )
    get(target, blob)


def get(target: Target, blob: Blob) -> None:
    """Get a blob, from wherever it comes, and check its digest."""
    # curl's own report goes to standard error here, after the body has left.
    command = [part.replace("%{http_code}", "%{stderr}%{http_code}") for part in _curl(target, blob, "-", 1)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as curl:
        assert curl.stdout is not None
        digest = _sha256(curl.stdout)
    if digest != blob.hex:
        raise BenchError(f"{target.name} sends a blob with the digest {digest}, not {blob.hex}")


def _report(command: list[str]) -> str:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"curl ended with status {done.returncode}: {done.stderr}")
    return done.stdout.strip()


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
