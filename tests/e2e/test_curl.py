"""curl as clients built on it use it (enroot), and what a person finds on the daemon's own pages."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.e2e.clients import ask, curl
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import Image
from tests.e2e.programs import environment, run
from tests.e2e.regcache import REGISTRY, Daemon

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="h2 offered by ALPN"),
        pytest.param(("--http1.1",), id="HTTP/1.1"),
        pytest.param(("--tls-max", "1.2"), id="TLS 1.2"),
    ],
)
def test_curl_gets_a_blob(options: tuple[str, ...], daemon: Daemon, small_image: Image, room: Path) -> None:
    """Whatever curl offers, it gets HTTP/1.1 and the right bytes, from upstream and then from the store."""
    path = f"/v2/{small_image.repository}/blobs/{small_image.largest.digest}"
    for _ in range(2):
        got = curl(daemon, path, room, *options)
        assert (got.version, got.status, got.sha256) == ("1.1", 200, small_image.largest.hex)


def test_curl_connects_with_http_1_0(daemon: Daemon, small_image: Image, room: Path) -> None:
    """A tunnel asked for as `CONNECT ... HTTP/1.0`, as ch-image does, is as good as any other."""
    path = f"/v2/{small_image.repository}/blobs/{small_image.largest.digest}"
    got = curl(daemon, path, room, "--proxy1.0", daemon.url.removeprefix("http://"))
    assert (got.version, got.status, got.sha256) == ("1.1", 200, small_image.largest.hex)


def test_curl_resumes_a_cut_download(
    daemon: Daemon, registry: DockerRegistry, small_image: Image, room: Path
) -> None:
    """
    `curl --continue-at -` completes a file from the store, without another request for the blob upstream.
    """
    blob = small_image.largest
    path = f"/v2/{small_image.repository}/blobs/{blob.digest}"
    curl(daemon, path, room)
    (room / "body").write_bytes(small_image.content(blob)[:100_000])
    before = registry.requests()
    got = curl(daemon, path, room, "--continue-at", "-")
    assert (got.status, got.sha256) == (206, blob.hex)
    assert [request for request in registry.requests_since(before) if request.is_for_blob] == []


def test_writes_are_refused(daemon: Daemon, registry: DockerRegistry, small_image: Image) -> None:
    """A push gets 405 with an OCI error body, and upstream hears nothing of it."""
    before = registry.requests()
    answer = ask(daemon, "POST", f"/v2/{small_image.repository}/blobs/uploads/")
    assert answer.status == 405
    assert b'"errors"' in answer.body
    assert [request for request in registry.requests_since(before) if request.method == "POST"] == []


def test_root_certificate_can_be_fetched(daemon: Daemon, room: Path) -> None:
    """
    /ca.crt is one certificate in PEM, that of an authority, and openssl verifies what the daemon serves
    by it.
    """
    response, body = daemon.page("/ca.crt")
    assert response.status == 200
    assert response.getheader("Content-Type") in ("application/x-pem-file", "application/x-x509-ca-cert")
    assert body.count(b"BEGIN CERTIFICATE") == 1
    assert ssl.create_default_context(cadata=body.decode()).get_ca_certs()
    shown = run(
        environment(room),
        *("openssl", "s_client", "-proxy", f"127.0.0.1:{daemon.port}", "-connect", REGISTRY),
        *("-servername", "registry.test", "-verify_hostname", "registry.test"),
        *("-CAfile", daemon.authority, "-verify_return_error"),
    )
    assert "Verify return code: 0 (ok)" in shown


def test_front_page_says_how_to_use_it(daemon: Daemon) -> None:
    """A browser that comes to the daemon's address reads what it is and where the certificate is."""
    response, body = daemon.page("/")
    assert response.status == 200
    assert b"regcachd" in body
    assert b"/ca.crt" in body
