"""What all this ran on, in a few lines: figures from two machines cannot be compared without it."""

import os
import platform
import ssl
import subprocess
from pathlib import Path

from OpenSSL import SSL, version

import twisted
from bench.processes import program


def describe() -> str:
    """Processor, system and versions."""
    load = os.getloadavg()[0]
    regcachd = (
        f"Twisted {twisted.__version__}, pyOpenSSL {version.__version__}, {SSL.SSLeay_version(0).decode()}"
    )
    nginx = subprocess.run(
        [program("nginx", "nginx-light"), "-V"], capture_output=True, text=True, check=True
    ).stderr
    built = next((line for line in nginx.splitlines() if "OpenSSL" in line), "without OpenSSL")
    return "\n".join(
        (
            f"machine   {_processor()}, {os.cpu_count()} processors; load average {load:.1f} at the start",
            f"system    Linux {platform.release()}, Python {platform.python_version()}",
            f"regcachd  {regcachd}",
            f"nginx     {nginx.splitlines()[0].rpartition('/')[2]}, {built}",
            f"clients   {_curl()}; Python's ssl with {ssl.OPENSSL_VERSION}",
        )
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _curl() -> str:
    said = subprocess.run(
        [program("curl", "curl"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return " ".join(said.split()[:2])
