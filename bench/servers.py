"""The servers of a run: an upstream registry, and regcachd and nginx before it, each with the image cached."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from attrs import frozen

from bench.processes import BenchError, accepts, command_line, family, free_port, program, running, wait_until

REGISTRY = "registry.test"
"""The name by which clients know the registry, whichever server answers for it."""

BLOB_SIZE = 256 * 1024 * 1024


@frozen
class Upstream:
    """The registry that both servers cache."""

    url: str
    authority: Path
    manifest: str
    blob: str
    """Paths of what is measured, by digest."""


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
    """The processes whose CPU time counts."""
    upstream: Upstream


@contextmanager
def upstream(directory: Path) -> Iterator[Upstream]:
    """A registry over TLS with one image of one layer."""
    command = [sys.executable, "-m", "regcachd.testing", "--tls", str(directory)]
    command += ["--blob-size", str(BLOB_SIZE)]
    log = directory / "upstream.log"
    with running("the upstream registry", command, log, lambda: log.read_text().endswith("}\n")):
        about = json.loads(log.read_text().splitlines()[-1])
        path = f"/v2/{about['repository']}"
        yield Upstream(
            about["url"],
            Path(about["ca"]),
            manifest=f"{path}/manifests/{about['manifest']}",
            blob=f"{path}/blobs/{about['layers'][0]}",
        )


@contextmanager
def regcachd(directory: Path, origin: Upstream, profile: Path | None = None) -> Iterator[Target]:
    """The daemon as people run it; with `profile` under cProfile, whose figures go there when it ends."""
    port = free_port()
    authority = directory / "regcachd-ca.crt"
    configuration = directory / "regcachd.toml"
    configuration.write_text(
        f"listen = [{json.dumps(f'tcp:{port}:interface=127.0.0.1')}]\n"
        f"state = {json.dumps(str(directory / 'state'))}\n"
        "workers = 1\n"
        "[store]\n"
        f"path = {json.dumps(str(directory / 'store'))}\n"
        'scrub_rate = "off"\n'
        f"[registries.{json.dumps(REGISTRY)}]\n"
        f"upstream = {json.dumps(origin.url)}\n"
        f"ca = {json.dumps(str(origin.authority))}\n"
    )
    twistd = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()",
    ]
    profiling = ["--profiler", "cprofile", "--savestats", "--profile", str(profile)] if profile else []
    command = [*twistd, "-n", "--pidfile=", *profiling, "regcache", "--config", str(configuration)]
    with running("regcachd", command, directory / "regcachd.log", lambda: accepts(port)) as pid:
        # No proxy of the user's: this goes to the daemon itself.
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/ca.crt") as page:
            authority.write_bytes(page.read())
        yield Target(
            "regcachd", port, True, authority, ("cache-status", "regcachd; hit"), family(pid), origin
        )


@contextmanager
def nginx(directory: Path, origin: Upstream, cipher: str) -> Iterator[Target]:
    """nginx with one worker and proxy_cache, as cheap as it can be set up, that speaks TLS 1.3 with `cipher` alone."""
    path = program("nginx", "nginx-light")
    port = free_port()
    certificate, key = directory / "nginx.crt", directory / "nginx.key"
    _make_certificate(certificate, key)
    configuration = directory / "nginx.conf"
    configuration.write_text(_nginx_conf(directory, port, certificate, key, cipher, origin))
    command = [path, "-c", str(configuration), "-p", str(directory), "-e", str(directory / "nginx.log")]
    with running("nginx", command, directory / "nginx.log", lambda: accepts(port)) as pid:
        # The master listens before it has a worker. The worker does all the work, so its CPU time alone counts.
        wait_until(lambda: bool(_workers(pid)), "nginx to have a worker")
        version = subprocess.run([path, "-v"], capture_output=True, text=True, check=True).stderr
        name = version.rpartition(": ")[2].strip().replace("/", " ")
        yield Target(name, port, False, certificate, ("x-cache-status", "HIT"), _workers(pid), origin)


def _workers(master: int) -> tuple[int, ...]:
    return tuple(pid for pid in family(master) if "worker process" in command_line(pid))


def _make_certificate(certificate: Path, key: Path) -> None:
    """One self-signed ECDSA P-256 certificate: a shorter chain than ours, so cheaper to send."""
    command = [program("openssl", "openssl"), *["req", "-x509", "-nodes", "-days", "30", "-newkey", "ec"]]
    command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", f"/CN={REGISTRY}"]
    command += ["-addext", f"subjectAltName=DNS:{REGISTRY}", "-out", str(certificate), "-keyout", str(key)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise BenchError(f"openssl made no certificate:\n{made.stderr}")


def _nginx_conf(
    directory: Path, port: int, certificate: Path, key: Path, cipher: str, origin: Upstream
) -> str:
    user = "user root;" if os.getuid() == 0 else ""  # else the worker could not write to its cache
    temporary = "\n".join(
        f"    {kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    output_buffers 2 256k;
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
        location / {{
            proxy_pass {origin.url};
            proxy_http_version 1.1;
            proxy_cache cache;
            proxy_cache_key $uri;
            proxy_cache_valid 200 206 60d;
            proxy_cache_lock on;
            add_header X-Cache-Status $upstream_cache_status;
        }}
    }}
}}
"""
