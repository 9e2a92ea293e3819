"""A node to set up, for tests of regcachd-client: a directory, and what would be on the machine."""

import contextlib
import hashlib
import http.server
import importlib.machinery
import importlib.util
import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import define, field, frozen

from regcachd.pki import open_ca

TOOL = Path(__file__).parents[1] / "client/regcachd-client"


def load_tool() -> ModuleType:
    """The tool as a module: it has no .py in its name."""
    loader = importlib.machinery.SourceFileLoader("regcachd_client", str(TOOL))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look there
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = bytecode
    return module


tool = load_tool()

Tree = dict[str, tuple[str, int, bytes]]


def _entry(path: Path) -> tuple[str, int, bytes]:
    mode = path.lstat().st_mode
    if path.is_symlink():
        return "link", mode, os.readlink(path).encode()
    return ("directory", mode, b"") if path.is_dir() else ("file", mode, path.read_bytes())


@frozen
class Said:
    """What the tool printed, and its exit code."""

    code: int
    out: str
    err: str = ""


@define(eq=False)
class Node:
    """An image of a node."""

    root: Path

    def write(self, name: str, text: str = "", mode: int = 0o644) -> Path:
        """A file on it."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def install(self, *names: str) -> "Node":
        """Programs (or units, by their suffix) that are on it."""
        for name in names:
            if name.endswith(".service"):
                self.write(f"/usr/lib/systemd/system/{name}", "[Service]\nExecStart=/bin/true\n")
            else:
                self.write(f"/usr/bin/{name}", "#!/bin/sh\n", 0o755)
        return self

    def path(self, name: str) -> Path:
        """Where a file of it is."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """A text on it."""
        return self.path(name).read_text(encoding="utf-8")

    def tree(self) -> Tree:
        """All that is on it."""
        return {str(path.relative_to(self.root)): _entry(path) for path in sorted(self.root.rglob("*"))}

    def run(self, command: str, *words: str) -> Said:
        """Run a command of the tool in this process."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = tool.main([command, "--root", str(self.root), *words])
            except SystemExit as end:  # argparse
                code = end.code
        return Said(int(code), out.getvalue(), err.getvalue())


@define(eq=False)
class Head:
    """The pages of a head that the tool asks, on a port of its own, in a thread."""

    pages: dict[str, bytes]
    fingerprint: str
    port: int = 0
    _server: Any = field(default=None, init=False)

    @classmethod
    def make(cls, directory: Path, registries: tuple[str, ...] = ("docker.io", "quay.io")) -> "Head":
        """With a new CA."""
        pem = open_ca(directory, {"quay.io"}, datetime.now(UTC)).root_pem
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
        facts = json.dumps({"registries": list(registries)}).encode()
        return cls({"/ca.crt": pem, "/setup/head.json": facts, "/healthz": b"ok\n"}, f"sha256:{digest}")

    def __enter__(self) -> "Head":
        pages = self.pages

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = pages.get(self.path)
                self.send_response(404 if body is None else 200)
                self.end_headers()
                self.wfile.write(body or b"no such page\n")

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *what: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def words(self) -> tuple[str, ...]:
        """The options of setup that it takes."""
        return "--head", self.url, "--fingerprint", self.fingerprint


# -- a node that runs: a root of its own over this machine's programs


LIVE = shutil.which("unshare") is not None and shutil.which("update-ca-certificates") is not None
"""Can there be one? It wants root, too, which `can_unshare` tries."""

_ENTER = """
set -e
mount --make-rprivate /
mount --bind /usr "$1/usr"
mount --bind "$1.local" "$1/usr/local"
mount --bind /dev "$1/dev"
mount -t proc proc "$1/proc"
root=$1; shift
exec chroot "$root" "$@"
"""


def can_unshare() -> bool:
    """May this process mount things for itself?"""
    words = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"]
    return LIVE and subprocess.run(words, capture_output=True, check=False).returncode == 0


def live_node(directory: Path) -> Node:
    """A node with this machine's programs and trust, whose /etc, /var and /usr/local are its own."""
    root = directory / "node"
    for name in ("usr", "dev", "proc", "tmp", "etc", "var/lib", "run"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/ca-certificates/update.d").mkdir(parents=True)  # without hooks, such as that of Java
    for name in ("ssl", "alternatives"):
        shutil.copytree(f"/etc/{name}", root / "etc" / name, symlinks=True)
    for name in ("ca-certificates.conf", "ld.so.cache", "passwd", "group"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    for name in ("share/ca-certificates", "sbin", "bin"):
        (directory / "node.local" / name).mkdir(parents=True)
    shutil.copy(TOOL, directory / "node.local/bin/tool")
    return Node(root)


def run_live(node: Node, *command: str, stdin: bytes = b"") -> Said:
    """Run a command on it, as root. Blocking."""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", _ENTER, "enter", str(node.root), *command],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp"},
    )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())
