"""The caches that are measured, regcachd and nginx, as their clients see them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from attrs import field, frozen

from bench.origin import NAME, Origin
from bench.processes import (
    accepts,
    command_line,
    family,
    free_port,
    make_certificate,
    program,
    running,
    wait_until,
)

REGISTRY = NAME
"""The name by which clients know the registry, whichever server answers for it."""


@frozen
class Target:
    """A server to be measured, as its clients see it: 127.0.0.1:`port` answers for REGISTRY, port 443."""

    name: str
    port: int
    by_connect: bool
    """Is it a proxy, to be asked with a CONNECT first?"""
    authority: Path
    hit: tuple[str, str]
    """The response header, in lowercase, and the beginning of its value that mean: this came from the cache."""
    pids: tuple[int, ...]
    """All its processes: their CPU time counts."""
    origin: Origin = field(eq=False)


@frozen
class Settings:
    """What differs from one family of cases to another."""

    workers: int = 1
    connections: int | None = None
    """regcachd: connections that one download may use; None for its default."""
    nginx: str = ""
    """nginx: further lines of its location."""
    passed: str = ""
    """nginx: a path whose answers are not cached."""
    output_buffers: str = "2 256k"
    """nginx: what a response may hold in memory; the default is `2 32k`."""


@contextmanager
def regcachd(
    directory: Path,
    origin: Origin,
    settings: Settings,
    profile: Path | None = None,
    name: str = "regcachd",
) -> Iterator[Target]:
    """The daemon as people run it; with `profile` under cProfile, whose figures go there when it ends."""
    port = free_port()
    directory = directory / name.replace(" ", "-")
    directory.mkdir()
    authority = directory / "ca.crt"
    configuration = directory / "regcachd.toml"
    connections = "" if settings.connections is None else f"connections = {settings.connections}\n"
    configuration.write_text(
        f"listen = [{json.dumps(f'tcp:{port}:interface=127.0.0.1')}]\n"
        f"state = {json.dumps(str(directory / 'state'))}\n"
        f"workers = {settings.workers}\n"
        "[store]\n"
        f"path = {json.dumps(str(directory / 'store'))}\n"
        'scrub_rate = "off"\n'
        f"[registries.{json.dumps(REGISTRY)}]\n"
        f"upstream = {json.dumps(origin.url)}\n"
        f"ca = {json.dumps(str(origin.authority))}\n"
        f"{connections}"
    )
    twistd = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()",
    ]
    profiling = ["--profiler", "cprofile", "--savestats", "--profile", str(profile)] if profile else []
    command = [*twistd, "-n", "--pidfile=", *profiling, "regcache", "--config", str(configuration)]
    with running(name, command, directory / "log", lambda: accepts(port)) as pid:
        # No proxy of the user's: this goes to the daemon itself.
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/ca.crt") as page:
            authority.write_bytes(page.read())
        if settings.workers > 1:  # the parent answers as soon as one of them is there
            log = directory / "log"
            wait_until(
                lambda: log.read_text().count(" serves as process ") == settings.workers,
                f"{name} to have its workers",
            )
        yield Target(name, port, True, authority, ("cache-status", "regcachd; hit"), family(pid), origin)


@contextmanager
def nginx(directory: Path, origin: Origin, settings: Settings, cipher: str) -> Iterator[Target]:
    """nginx with proxy_cache, as cheap as it can be set up, that speaks TLS 1.3 with `cipher` alone."""
    path = program("nginx", "nginx-light")
    port = free_port()
    directory = directory / "nginx"
    directory.mkdir()
    certificate, key = make_certificate(directory / "tls", REGISTRY)
    configuration = directory / "nginx.conf"
    configuration.write_text(_nginx_conf(directory, port, certificate, key, cipher, origin, settings))
    command = [path, "-c", str(configuration), "-p", str(directory), "-e", str(directory / "log")]
    with running("nginx", command, directory / "log", lambda: accepts(port)) as pid:
        # The master listens before it has workers. They do all the work, so their CPU time alone counts.
        wait_until(lambda: len(_workers(pid)) == settings.workers, "nginx to have its workers")
        version = subprocess.run([path, "-v"], capture_output=True, text=True, check=True).stderr
        name = version.rpartition(": ")[2].strip().replace("/", " ")
        yield Target(name, port, False, certificate, ("x-cache-status", "HIT"), _workers(pid), origin)


def _workers(master: int) -> tuple[int, ...]:
    return tuple(pid for pid in family(master) if "worker process" in command_line(pid))


def _nginx_conf(
    directory: Path,
    port: int,
    certificate: Path,
    key: Path,
    cipher: str,
    origin: Origin,
    settings: Settings,
) -> str:
    user = "user root;" if os.getuid() == 0 else ""  # else the worker could not write to its cache
    temporary = "\n".join(
        f"    {kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    passed = f"location = {settings.passed} {{ proxy_pass {origin.url}; }}" if settings.passed else ""
    return f"""{user}
daemon off;
worker_processes {settings.workers};
pid {directory}/nginx.pid;
error_log {directory}/log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    output_buffers {settings.output_buffers};
    keepalive_timeout 300s;
    keepalive_requests 100000;
    open_file_cache max=1000 inactive=1h;
    gzip off;
{temporary}
    proxy_cache_path {directory}/cache levels=1:2 keys_zone=cache:10m max_size=10g inactive=60d use_temp_path=off;
    server {{
        listen 127.0.0.1:{port} ssl backlog=1024;
        server_name {REGISTRY};
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites {cipher};
        {passed}
        location / {{
            proxy_pass {origin.url};
            proxy_http_version 1.1;
            proxy_cache cache;
            proxy_cache_key $uri;
            proxy_cache_valid 200 206 60d;
            proxy_cache_lock on;
            {settings.nginx}
            add_header X-Cache-Status $upstream_cache_status;
        }}
    }}
}}
"""
