"""The machine of the tests: commands, the service's state, registries, and a client.

The registries are Debian's docker-registry, in a network namespace of its own, under the names of docker.io and
quay.io; lines that count lead there from loopback addresses, and that of quay.io is slow.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

CA = Path("/var/lib/regcachd/ca")
STORE = Path("/var/cache/regcachd")
CONFIGURATION = Path("/etc/regcachd/conf.d/test.toml")
DROP_IN = Path("/etc/systemd/system/regcachd.service.d/test.conf")
SERVICE = "regcachd.service"
PROXY = "http://127.0.0.1:3128"
MIB = 1024 * 1024
SMALL, LARGE = 8 * MIB, 48 * MIB
"""Bytes of a layer; the kernel takes several MiB for a client that does not read."""
SLOW = 4 * MIB
"""Bytes per second of quay.io's line."""
HOSTS = {"registry-1.docker.io": "127.0.0.11", "quay.io": "127.0.0.12"}
REGISTRY = ("198.18.0.2", 443)
"""RFC 2544: no network has these addresses."""
NAMESPACE = "registry"


def run(*command: object, check: bool = True, **environment: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=180,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def shown(name: str, unit: str = SERVICE) -> str:
    """A property of a unit."""
    return run("systemctl", "show", "--value", "--property", name, unit).strip()


def wait(what: str, condition: Callable[[], object], seconds: float = 10.0) -> float:
    """Wait until something is so; how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s\n{journal(20)}"
        time.sleep(0.05)
    return time.monotonic() - began


def journal(lines: int) -> str:
    return run("journalctl", "--unit", SERVICE, "--no-pager", "--lines", lines)


def is_active() -> bool:
    return shown("ActiveState") == "active"


def main_process() -> int:
    return int(shown("MainPID"))


def workers() -> list[int]:
    """The processes below the main one."""
    found = run("ps", "-o", "pid=", "--ppid", main_process(), check=False)
    return [int(number) for number in found.split()]


def told(what: str) -> None:
    """Say that something has been shown."""
    print(f"ok: {what}", flush=True)


# -- the other machines


class Line:
    """A relay to the registry that counts the bytes it brings, at a set rate or at once."""

    def __init__(self, address: str, rate: int | None) -> None:
        self.bytes = 0
        self._rate = rate
        self._listening = socket.create_server((address, 443))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            server = socket.create_connection(REGISTRY)
            threading.Thread(target=self._copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(64 * 1024):
                target.sendall(data)
                if is_answer:
                    self.bytes += len(data)
                    time.sleep(len(data) / self._rate if self._rate else 0)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Registry:
    """docker-registry with images, certificates that the system trusts, and the names of well-known registries."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._certificate()
        self._namespace()
        self._hosts = Path("/etc/hosts").read_text()
        names = "".join(f"{address} {name}\n" for name, address in HOSTS.items())
        Path("/etc/hosts").write_text(self._hosts + names)
        configuration = directory / "registry.yml"
        configuration.write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/registry}}}}\n"
            f"http:\n  addr: {REGISTRY[0]}:{REGISTRY[1]}\n"
            f"  tls: {{certificate: {directory}/server.crt, key: {directory}/server.key}}\n"
        )
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", NAMESPACE, "docker-registry", "serve", configuration],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait("the registry", lambda: socket.socket().connect_ex(REGISTRY) == 0)
        self.fast, self.slow = Line(HOSTS["registry-1.docker.io"], None), Line(HOSTS["quay.io"], SLOW)

    def _namespace(self) -> None:
        run("ip", "netns", "delete", NAMESPACE, check=False)
        run("ip", "netns", "add", NAMESPACE)
        run(*f"ip link add to-registry type veth peer name to-clients netns {NAMESPACE}".split())
        inside = ("ip", "-n", NAMESPACE)
        for command, name, address in (
            (("ip",), "to-registry", "198.18.0.1"),
            (inside, "to-clients", REGISTRY[0]),
        ):
            run(*command, "address", "add", f"{address}/30", "dev", name)
            run(*command, "link", "set", "dev", name, "up")

    def _certificate(self) -> None:
        here = self._directory
        names = ",".join(f"DNS:{name}" for name in HOSTS)
        (here / "names").write_text(f"subjectAltName={names},IP:{REGISTRY[0]}\n")
        new = ("openssl", "req", "-newkey", "rsa:2048", "-nodes")
        run(
            *new,
            "-x509",
            "-days",
            2,
            "-subj",
            "/CN=test",
            "-keyout",
            here / "ca.key",
            "-out",
            here / "ca.crt",
        )
        run(*new, "-subj", "/CN=server", "-keyout", here / "server.key", "-out", here / "server.csr")
        sign = ("openssl", "x509", "-req", "-days", 2, "-CA", here / "ca.crt", "-CAkey", here / "ca.key")
        extra = ("-CAcreateserial", "-extfile", here / "names")
        run(*sign, *extra, "-in", here / "server.csr", "-out", here / "server.crt")
        shutil.copy(here / "ca.crt", "/usr/local/share/ca-certificates/regcachd-test.crt")
        run("update-ca-certificates")

    def push(self, repository: str, size: int) -> str:
        """An image of one layer of random bytes; the layer's digest."""
        layout, layer = self._directory / repository.replace("/", "-"), self._directory / "layer"
        layer.mkdir()
        (layer / "data").write_bytes(os.urandom(size))
        run("tar", "-C", layer, "-cf", self._directory / "layer.tar", "data")
        shutil.rmtree(layer)
        run("umoci", "init", "--layout", layout)
        run("umoci", "new", "--image", f"{layout}:1")
        run("umoci", "raw", "add-layer", "--image", f"{layout}:1", self._directory / "layer.tar")
        target = f"docker://{REGISTRY[0]}:{REGISTRY[1]}/{repository}:1"
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:1", target)
        blobs = sorted((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
        return f"sha256:{blobs[-1].name}"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        run("ip", "netns", "delete", NAMESPACE)
        Path("/etc/hosts").write_text(self._hosts)


def pull(image: str, directory: Path, retries: int = 0) -> None:
    """As a node does it, which trusts regcachd's root and nothing else."""
    target = tempfile.mkdtemp(dir=directory)
    run(
        *("skopeo", "copy", f"--retry-times={retries}", f"docker://{image}", f"dir:{target}"),
        HTTPS_PROXY=PROXY,
        SSL_CERT_FILE=str(CA / "root.crt"),
    )


class Client:
    """curl, which reads one layer in the background."""

    def __init__(self, host: str, repository: str, digest: str, directory: Path, rate: str | None) -> None:
        self._path = Path(tempfile.mkdtemp(dir=directory)) / "layer"
        self._digest = digest
        slowly = () if rate is None else ("--limit-rate", rate)
        url = f"https://{host}/v2/{repository}/blobs/{digest}"
        command = ("curl", "-sSf", "-x", PROXY, "--cacert", CA / "root.crt", *slowly, "-o", self._path, url)
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def has(self) -> int:
        """Bytes so far."""
        return self._path.stat().st_size if self._path.exists() else 0

    def is_whole(self) -> bool:
        """Wait for the end: is it what was asked for?"""
        if self._process.wait(timeout=60) != 0:
            return False
        return f"sha256:{hashlib.sha256(self._path.read_bytes()).hexdigest()}" == self._digest

    def end(self) -> str:
        """Wait for the end, and say what went wrong."""
        return self._process.communicate(timeout=60)[1]


def apt(*arguments: object) -> None:
    run("apt-get", "--yes", "--quiet", *arguments, DEBIAN_FRONTEND="noninteractive")


def install(package: Path) -> None:
    apt("install", "--no-install-recommends", package)


def guard(main: Callable[[], None]) -> None:
    """Run a test; where it fails, say why, with the journal."""
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    for preset in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        os.environ.pop(preset, None)
    try:
        main()
    except Exception:
        print(f"not ok:\n{traceback.format_exc()}\n{journal(40)}", flush=True)
        sys.exit(1)
