"""regcachd-client on images of nodes: what it writes, what it leaves alone, and that it can be undone."""

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node import TOOL, Head, Node, tool

ALL = ("dockerd", "containerd", "podman", "crio", "enroot", "k3s", "buildkitd", "apptainer")
PROGRAMS = dict(zip(("docker", *ALL[1:6], "buildkit", "apptainer"), ALL, strict=True))
"""The program of each client."""
ANCHOR = "/usr/local/share/ca-certificates/regcachd.crt"
DROP_IN = "/etc/systemd/system/docker.service.d/regcachd.conf"
STATE = "/var/lib/regcachd-client/state.json"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with Head.make(tmp_path_factory.mktemp("ca")) as head:
        yield head


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A bare Debian, with directories that any system has; its programs cannot be run."""
    for name in ("etc/systemd/system", "var/lib", "usr/local/share/ca-certificates", "usr/local/sbin"):
        (tmp_path / "node" / name).mkdir(parents=True)
    return Node(tmp_path / "node")


def trust(node: Node) -> None:
    """What update-ca-certificates would have done."""
    node.write("/etc/ssl/certs/ca-certificates.crt", "others\n" + node.read(ANCHOR))


# -- words


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://head:3128", "http://head:3128"),
        ("http://head:3128/", "http://head:3128"),
        ("HEAD.Example", "http://head.example:3128"),
        ("head:80", "http://head:80"),
        ("10.0.0.1", "http://10.0.0.1:3128"),
        ("http://[fe80::1]:3128", "http://[fe80::1]:3128"),
        ("[::1]", "http://[::1]:3128"),
    ],
)
def test_an_address_is_read(text: str, url: str) -> None:
    assert tool.Address.parse(text).url == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://head:3128",
        "http://head:3128/setup",
        "http://user:secret@head:3128",
        "head:0",
        "head:65536",
        "head:x",
        "he ad",
        "head;reboot",
        "$(reboot)",
        'head"',
        "head%i",
        "head\n",
        "-head",
        "::1",
        "[::1",
        "[x]",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not the address of a proxy|ports are"):
        tool.Address.parse(text)


@given(st.text())
def test_an_address_means_nothing_to_shells_units_or_toml(text: str) -> None:
    try:
        url = tool.Address.parse(text).url
    except ValueError:
        return
    assert not set(url) - set("abcdefghijklmnopqrstuvwxyz0123456789.:/_-[]")
    assert tool.Address.parse(url).url == url


@pytest.mark.parametrize(
    "text", ["sha256:" + "ab" * 32, "AB" * 32, ":".join(["Ab"] * 32), "SHA256=" + "ab" * 32]
)
def test_a_fingerprint_is_read_in_all_its_spellings(text: str) -> None:
    assert tool.parse_fingerprint(text) == "sha256:" + "ab" * 32


@pytest.mark.parametrize("text", ["", "sha256:", "ab" * 20, "sha1:" + "ab" * 32, "g" * 64])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256 fingerprint"):
        tool.parse_fingerprint(text)


def test_no_proxy_takes_hosts_domains_and_ranges() -> None:
    assert tool.parse_no_proxy("10.0.0.0/8, .svc,fd00::/8 a:5000") == [
        "10.0.0.0/8",
        ".svc",
        "fd00::/8",
        "a:5000",
    ]


@pytest.mark.parametrize("text", ["*.example.com", "a;b", '"', "$HOME", "a%b"])
def test_no_proxy_refuses_what_could_mean_more(text: str) -> None:
    with pytest.raises(ValueError, match="NO_PROXY"):
        tool.parse_no_proxy(text)


@pytest.mark.parametrize("text", ["../etc", "a/b", "-a", "A b", "a..b", "a]", "https://quay.io"])
def test_a_registry_is_a_file_name(text: str) -> None:
    with pytest.raises(ValueError, match="name of a registry"):
        tool.parse_registries(text)


def test_no_proxy_has_this_machine_and_the_head() -> None:
    settings = tool.Settings(tool.Address.parse("[fd00::1]:3128"), ("10.0.0.0/8", "localhost"))
    assert settings.no_proxy_value == "localhost,127.0.0.1,::1,.local,fd00::1,10.0.0.0/8"


def test_it_is_python_39() -> None:
    """RHEL 9 has no newer one, and nothing but the standard library."""
    tree = ast.parse(TOOL.read_text(encoding="utf-8"), feature_version=(3, 9))
    imports = {
        name.name.partition(".")[0]
        for each in ast.walk(tree)
        if isinstance(each, ast.Import)
        for name in each.names
    }
    imports |= {
        (each.module or "").partition(".")[0] for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)
    }
    assert imports <= sys.stdlib_module_names
    old = shutil.which("python3.9")
    if old and subprocess.run([old, "-c", ""], capture_output=True, check=False).returncode == 0:
        subprocess.run([old, "-W", "error", str(TOOL), "--version"], check=True, capture_output=True)


# -- the head


def test_without_a_fingerprint_nothing_is_done(node: Node, head: Head) -> None:
    """It says what the fingerprint would be, to be compared."""
    before = node.install("dockerd").tree()
    said = node.run("setup", "--head", head.url)
    assert said.code == tool.USAGE
    assert head.fingerprint in said.err
    assert "Compare" in said.err
    assert node.tree() == before


def test_another_ca_is_refused(node: Node, head: Head) -> None:
    before = node.install("dockerd").tree()
    said = node.run("setup", "--head", head.url, "--fingerprint", "ab" * 32)
    assert said.code == tool.HEAD
    assert head.fingerprint in said.err
    assert "Nothing was changed" in said.err
    assert node.tree() == before


def test_trust_on_first_use_must_be_spelled_out(node: Node, head: Head) -> None:
    said = node.install("dockerd").run("setup", "--head", head.url, tool.INSECURE)
    assert said.code == tool.LEFT
    assert node.path(ANCHOR).exists()


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (None, "answers 404"),
        (b"<html>", "is that a regcachd"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "0 cert"),
    ],
)
def test_what_is_no_head(node: Node, head: Head, page: bytes | None, says: str) -> None:
    pages = {**head.pages, "/ca.crt": page} if page else {}
    with Head(pages, head.fingerprint) as other:
        said = node.run("setup", *other.words)
    assert said.code == tool.HEAD
    assert says in said.err


def test_two_certificates_are_no_ca(node: Node, head: Head) -> None:
    """Only what the fingerprint is of may be trusted."""
    with Head({"/ca.crt": head.pages["/ca.crt"] * 2}, head.fingerprint) as other:
        said = node.run("setup", *other.words)
    assert said.code == tool.HEAD
    assert "2 certificates" in said.err


def test_a_head_that_is_down(node: Node, head: Head) -> None:
    with Head({}, head.fingerprint) as gone:
        pass
    said = node.run("setup", *gone.words)
    assert said.code == tool.HEAD
    assert "does not answer" in said.err


# -- setup


def test_docker(node: Node, head: Head) -> None:
    """A drop-in for the service and the CA; in an image whose programs cannot run, the rest is said."""
    said = node.install("dockerd", "docker.service").run(
        "setup", *head.words, "--no-proxy", "10.0.0.0/8,.svc"
    )
    assert node.read(DROP_IN).splitlines()[1:] == [
        "[Service]",
        f'Environment="HTTPS_PROXY={head.url}"',
        'Environment="NO_PROXY=localhost,127.0.0.1,::1,.local,10.0.0.0/8,.svc"',
    ]
    assert node.read(ANCHOR).encode() == head.pages["/ca.crt"]
    assert f"wrote {DROP_IN}" in said.out
    assert "left to you: run update-ca-certificates in" in said.out
    assert node.path(DROP_IN).stat().st_mode & 0o777 == 0o644
    assert node.path(STATE).stat().st_mode & 0o777 == 0o600


def test_trust_is_asked_for_until_it_is_there(node: Node, head: Head) -> None:
    """A run that was cut off, or an image whose programs did not run, is completed later."""
    node.run("setup", *head.words, "--only", "enroot")
    said = node.run("setup", *head.words, "--only", "enroot")
    assert said.code == tool.LEFT
    assert "left to you: run update-ca-certificates" in said.out
    trust(node)
    assert node.run("setup", *head.words, "--only", "enroot").code == tool.DONE


def test_the_second_time_nothing_changes(node: Node, head: Head) -> None:
    node.install(*ALL, "docker.service")
    node.run("setup", *head.words, "--only", ",".join(PROGRAMS))
    trust(node)
    before = node.tree()
    said = node.run("setup", *head.words, "--only", ",".join(PROGRAMS))
    assert (said.code, said.out) == (tool.DONE, "no change\n")
    assert node.tree() == before


@pytest.mark.parametrize(
    ("name", "path", "line"),
    [
        ("docker", DROP_IN, 'Environment="HTTPS_PROXY={}"'),
        (
            "containerd",
            "/etc/systemd/system/containerd.service.d/regcachd.conf",
            'Environment="HTTPS_PROXY={}"',
        ),
        ("crio", "/etc/systemd/system/crio.service.d/regcachd.conf", 'Environment="HTTPS_PROXY={}"'),
        (
            "k3s",
            "/etc/systemd/system/k3s-agent.service.d/regcachd.conf",
            'Environment="CONTAINERD_HTTPS_PROXY={}"',
        ),
        ("buildkit", "/etc/systemd/system/buildkit.service.d/regcachd.conf", 'Environment="HTTPS_PROXY={}"'),
        (
            "podman",
            "/etc/containers/containers.conf.d/50-regcachd.conf",
            'env = ["HTTPS_PROXY={}", "NO_PROXY=',
        ),
        ("enroot", "/etc/enroot/enroot.conf.d/regcachd.conf", "https_proxy  {}\n"),
        ("apptainer", "/etc/profile.d/regcachd.sh", "export https_proxy={}\n"),
    ],
)
def test_each_client_is_told(node: Node, head: Head, name: str, path: str, line: str) -> None:
    """Also one that is not installed yet, when it is named: images are made in any order."""
    said = node.run("setup", *head.words, "--only", name)
    assert line.format(head.url) in node.read(path)
    assert f"{name} is not installed here" in said.out
    assert "NO_PROXY" in node.read(path).upper()
    assert "HTTP_PROXY=" not in node.read(path)


@pytest.mark.parametrize(
    ("name", "path", "line"),
    [
        ("docker", "/etc/docker/daemon.json", '"registry-mirrors": [\n    "{}"'),
        (
            "containerd",
            "/etc/containerd/certs.d/docker.io/hosts.toml",
            'server = "https://registry-1.docker.io"',
        ),
        ("containerd", "/etc/containerd/certs.d/quay.io/hosts.toml", '[host."{}"]'),
        ("podman", "/etc/containers/registries.conf.d/50-regcachd.conf", "{host}/quay.io"),
        ("crio", "/etc/containers/registries.conf.d/50-regcachd.conf", "{host}/docker.io"),
        ("apptainer", "/etc/containers/registries.conf.d/50-regcachd.conf", "{host}/docker.io"),
        ("k3s", "/etc/rancher/k3s/registries.yaml", '  "quay.io":\n    endpoint:\n      - "{}"\n'),
    ],
)
def test_mirrors_need_no_ca(node: Node, head: Head, name: str, path: str, line: str) -> None:
    node.run("setup", *head.words, "--only", name, "--mirror")
    assert line.format(head.url, host=head.url.removeprefix("http://")) in node.read(path)
    assert not node.path(ANCHOR).exists()


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_written_is_in_the_document(node: Node, name: str) -> None:
    """docs/clients.md is for those who write it by hand."""
    text = (TOOL.parents[1] / "docs/clients.md").read_text()
    settings = tool.Settings(tool.Address("head", 3128), registries=("quay.io",))
    client = tool.CLIENTS[name]
    for tell in filter(None, (client.proxy, client.mirror)):
        found = list(tell(tool.Node(str(node.root)), settings, tool.State()))
        path = next(each.path for each in found if isinstance(each, tool.File))
        assert f"`{path}`" in text


def test_enroot_knows_no_mirrors(node: Node, head: Head) -> None:
    said = node.run("setup", *head.words, "--only", "enroot", "--mirror")
    assert "enroot knows no mirrors" in said.out
    assert node.path(ANCHOR).exists()


def test_what_is_installed_is_configured(node: Node, head: Head) -> None:
    """And Apptainer only when it is named, since that takes all login shells through the proxy."""
    node.install("enroot", "apptainer", "docker.service")
    said = node.run("setup", *head.words)
    assert node.path(DROP_IN).exists()
    assert node.path("/etc/enroot/enroot.conf.d/regcachd.conf").exists()
    assert not node.path("/etc/profile.d").exists()
    assert not node.path("/etc/containers").exists()
    assert "--only apptainer" in said.out


def test_what_is_excepted_is_not(node: Node, head: Head) -> None:
    node.install("enroot", "dockerd").run("setup", *head.words, "--except", "docker")
    assert node.path("/etc/enroot/enroot.conf.d/regcachd.conf").exists()
    assert not node.path(DROP_IN).exists()


def test_no_client_at_all(node: Node, head: Head) -> None:
    """The CA is installed: what comes later needs it."""
    said = node.run("setup", *head.words)
    assert node.path(ANCHOR).exists()
    assert "no client is installed here" in said.out
    trust(node)
    assert node.run("setup", *head.words).code == tool.DONE
    node.run("remove")
    assert not node.path(ANCHOR).exists()


def test_plain_http_is_asked_for(node: Node, head: Head) -> None:
    node.run("setup", *head.words, "--only", "docker", "--plain-http")
    assert f'"HTTP_PROXY={head.url}"' in node.read(DROP_IN)


def test_red_hat(node: Node, head: Head) -> None:
    """Another trust store."""
    node.path("/etc/pki/ca-trust/source/anchors").mkdir(parents=True)
    said = node.run("setup", *head.words, "--only", "podman")
    assert node.path("/etc/pki/ca-trust/source/anchors/regcachd.crt").exists()
    assert "update-ca-trust extract" in said.out


def test_a_dry_run_shows_all_and_does_nothing(node: Node, head: Head) -> None:
    node.write("/etc/docker/daemon.json", '{"debug": true}\n')
    before = node.install("dockerd", "enroot").tree()
    said = node.run("setup", *head.words, "--docker-json", "--dry-run")
    assert said.code == tool.DONE
    assert node.tree() == before
    assert "--- /etc/docker/daemon.json\n+++ /etc/docker/daemon.json\n" in said.out
    assert '-{"debug": true}\n' in said.out
    assert f"+https_proxy  {head.url}\n" in said.out
    assert f"--- /dev/null\n+++ {ANCHOR}\n" in said.out
    assert "would run: update-ca-certificates" in said.out


def test_the_tool_stays_when_told(node: Node, head: Head) -> None:
    """For a node that has it from the head; a package's own is not hidden by it. It removes itself, too."""
    node.run("setup", *head.words, "--keep-tool", "--only", "docker")
    assert node.path(tool.TOOL).read_bytes() == TOOL.read_bytes()
    assert os.access(node.path(tool.TOOL), os.X_OK)
    node.run("remove")
    assert not node.path(tool.TOOL).exists()
    node.install("regcachd-client").run("setup", *head.words, "--keep-tool", "--only", "docker")
    assert not node.path(tool.TOOL).exists()


def test_another_head(node: Node, head: Head, tmp_path: Path) -> None:
    """All clients move together, or none does."""
    node.install("enroot").run("setup", *head.words, "--only", "docker,enroot")
    with Head.make(tmp_path / "other") as other:
        said = node.run("setup", *other.words, "--only", "docker")
        assert said.code == tool.USAGE
        assert f"enroot here use {head.url}" in said.err
        node.run("setup", *other.words)
        assert other.url in node.read(DROP_IN)
        assert node.read(ANCHOR).encode() == other.pages["/ca.crt"]
    node.run("remove")
    assert not node.path(ANCHOR).exists()


def test_from_mirror_to_proxy_and_back(node: Node, head: Head) -> None:
    """What one way needed goes when the other way is taken."""
    node.run("setup", *head.words, "--only", "containerd", "--mirror")
    mirror = node.tree()
    node.run("setup", *head.words, "--only", "containerd")
    assert not node.path("/etc/containerd/certs.d/quay.io/hosts.toml").exists()
    assert node.path("/etc/systemd/system/containerd.service.d/regcachd.conf").exists()
    node.run("setup", *head.words, "--only", "containerd", "--mirror")
    assert {*mirror} <= {*node.tree()}
    assert not node.path("/etc/systemd/system/containerd.service.d/regcachd.conf").exists()


@pytest.mark.parametrize("up", ["", "../../../../../../../../../.."])
def test_a_link_out_of_the_root_is_not_followed(node: Node, head: Head, tmp_path: Path, up: str) -> None:
    (tmp_path / "outside").mkdir()
    node.path("/etc/docker").symlink_to(f"{up}{tmp_path / 'outside'}")
    said = node.run("setup", *head.words, "--only", "docker", "--docker-json")
    assert said.code == tool.FAILED
    assert "cannot write /etc/docker/daemon.json" in said.err
    assert not list((tmp_path / "outside").iterdir())


def test_a_link_in_an_image_leads_to_the_image(node: Node, head: Head) -> None:
    """As on the node that it is an image of: what begins with / is not this machine's."""
    node.path("/opt/docker").mkdir(parents=True)
    node.path("/etc/docker").symlink_to("/opt/docker")
    node.path("/etc/systemd/system/containerd.service").symlink_to("/dev/null")
    node.install("dockerd")
    assert node.run("setup", *head.words, "--docker-json").code == tool.LEFT  # update-ca-certificates
    assert "proxies" in json.loads(node.read("/opt/docker/daemon.json"))
    node.run("remove")
    assert not node.path("/opt/docker/daemon.json").exists()


def test_a_link_to_itself(node: Node, head: Head) -> None:
    node.path("/etc/docker").symlink_to("docker")
    said = node.run("setup", *head.words, "--only", "docker", "--docker-json")
    assert said.code == tool.FAILED
    assert "leads back to itself" in said.err


def test_what_was_interrupted_goes_on(node: Node, head: Head) -> None:
    """A file that cannot be written stops it; the next run does the rest, and all of it can be undone."""
    node.write("/etc/ssl/certs/ca-certificates.crt")
    before = node.install("dockerd", "enroot").tree()
    node.write("/etc/systemd/system/docker.service.d", "in the way")
    said = node.run("setup", *head.words)
    trust(node)
    assert said.code == tool.FAILED
    assert "run this as root, then again: it goes on" in said.err
    node.path("/etc/systemd/system/docker.service.d").unlink()
    assert node.run("setup", *head.words).code == tool.DONE
    assert node.path(DROP_IN).exists()
    assert node.path("/etc/enroot/enroot.conf.d/regcachd.conf").exists()
    node.run("remove")
    node.write("/etc/ssl/certs/ca-certificates.crt")
    assert node.tree() == before


def test_setup_goes_on_before_a_file_that_was_there(node: Node, head: Head) -> None:
    """The state is written before the files: what is as it was before setup has not been changed since."""
    node.write(DROP_IN, "[Service]\n")
    node.run("setup", *head.words, "--only", "docker")
    node.write(DROP_IN, "[Service]\n")  # as if it had been ended before it wrote this
    node.run("setup", *head.words, "--only", "docker")
    assert "HTTPS_PROXY" in node.read(DROP_IN)
    node.run("remove")
    assert node.read(DROP_IN) == "[Service]\n"


@pytest.mark.parametrize("only", [(), ("--only", "docker")])
def test_a_removal_that_was_interrupted_goes_on(
    node: Node, head: Head, monkeypatch: pytest.MonkeyPatch, only: tuple[str, ...]
) -> None:
    """Nothing is forgotten before it is undone, and the CA not before the trust store has been made anew."""
    before = node.install("dockerd", "containerd").tree()
    node.run("setup", *head.words)
    unlink = os.unlink
    monkeypatch.setattr(tool.os, "unlink", lambda path: unlink(path) if "nothing" in path else _fail(path))
    assert node.run("remove", *only).code == tool.FAILED
    assert node.path(DROP_IN).exists()
    monkeypatch.undo()
    assert "removed" in node.run("remove", *only).out
    assert not node.path(DROP_IN).exists()
    said = node.run("remove")
    assert "update-ca-certificates --fresh" in said.out or not only
    assert node.tree() == before


def test_trust_is_taken_back_though_the_file_is_gone(node: Node, head: Head) -> None:
    node.run("setup", *head.words, "--only", "docker")
    node.path(ANCHOR).unlink()
    assert "update-ca-certificates --fresh" in node.run("remove").out


def _fail(path: str) -> None:
    raise PermissionError(1, "Operation not permitted", path)


# -- what is somebody else's


DAEMON_JSON = (
    '{\n    "log-driver": "journald",\n    "registry-mirrors": ["https://old.example"],\n    "ä": 1\n}'
)


def test_daemon_json_is_merged_into(node: Node, head: Head) -> None:
    """What is there stays, with its order, indentation, mode and owner; removing gives the very bytes back."""
    path = node.write("/etc/docker/daemon.json", DAEMON_JSON, 0o640)
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    node.run("setup", *head.words, "--only", "docker", "--docker-json")
    said = json.loads(path.read_text())
    assert list(said) == ["log-driver", "registry-mirrors", "ä", "proxies"]
    assert said["proxies"] == {"https-proxy": head.url, "no-proxy": "localhost,127.0.0.1,::1,.local"}
    assert '\n    "ä": 1' in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    if os.geteuid() == 0:
        assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)
    assert "no change" in node.run("setup", *head.words, "--only", "docker", "--docker-json").out
    node.run("remove")
    assert path.read_text() == DAEMON_JSON


def test_a_mirror_comes_before_those_that_are_there(node: Node, head: Head) -> None:
    path = node.write("/etc/docker/daemon.json", DAEMON_JSON)
    node.run("setup", *head.words, "--only", "docker", "--mirror")
    assert json.loads(path.read_text())["registry-mirrors"] == [head.url, "https://old.example"]


def test_daemon_json_changed_since(node: Node, head: Head) -> None:
    """Only what is ours goes."""
    path = node.write("/etc/docker/daemon.json", DAEMON_JSON)
    node.run("setup", *head.words, "--only", "docker", "--mirror")
    path.write_text(json.dumps({**json.loads(path.read_text()), "debug": True}))
    assert node.run("setup", *head.words, "--only", "docker", "--mirror").out.startswith("no change")
    said = node.run("remove")
    assert said.code == tool.DONE
    assert json.loads(path.read_text()) == {**json.loads(DAEMON_JSON), "debug": True}


@pytest.mark.parametrize("text", ['{"proxies": {"https-proxy": "http://other:8080"}}', "[]", "{", "nonsense"])
def test_daemon_json_that_cannot_be_merged_into(node: Node, head: Head, text: str) -> None:
    node.write("/etc/docker/daemon.json", text)
    said = node.run("setup", *head.words, "--only", "docker", "--docker-json")
    assert said.code == tool.LEFT
    assert "left to you: docker: /etc/docker/daemon.json" in said.out
    assert node.read("/etc/docker/daemon.json") == text


@pytest.mark.parametrize(
    ("name", "path", "text", "says"),
    [
        (
            "docker",
            "/etc/docker/daemon.json",
            '{"proxies": {"https-proxy": "http://x"}}',
            "win over the service",
        ),
        (
            "docker",
            "/etc/systemd/system/docker.service.d/z.conf",
            "[Service]\nEnvironment=HTTPS_PROXY=x",
            "z.conf sets",
        ),
        (
            "docker",
            "/lib/systemd/system/docker.service",
            "[Service]\nEnvironmentFile=-/etc/default/docker",
            "",
        ),
        ("podman", "/etc/containers/containers.conf", '[engine]\nenv = ["A=b"]\n', "only one file can"),
        ("podman", "/etc/environment", "https_proxy=http://x\n", "/etc/environment sets"),
        ("enroot", "/etc/enroot/enroot.conf.d/a.conf", "https_proxy http://x\n", "takes the first"),
        ("enroot", "/etc/enroot/enroot.conf", "#https_proxy\n", "no enroot.conf.d"),
    ],
)
def test_what_is_in_the_way_is_said(
    node: Node, head: Head, name: str, path: str, text: str, says: str
) -> None:
    """And left alone."""
    node.write("/etc/default/docker", "export HTTPS_PROXY=http://x\n")
    node.write(path, text)
    said = node.run("setup", *head.words, "--only", name)
    assert said.code == tool.LEFT
    assert f"left to you: {name}: " in said.out
    assert says or "/etc/default/docker sets HTTPS_PROXY" in said.out
    assert says in said.out
    assert node.read(path) == text
    assert node.run("status").code == tool.NOT_THROUGH


def test_an_earlier_drop_in_is_overruled(node: Node, head: Head) -> None:
    """Such as that of the system this replaces."""
    node.write(
        "/etc/systemd/system/docker.service.d/http-proxy.conf", '[Service]\nEnvironment="HTTPS_PROXY=x"\n'
    )
    node.run("setup", *head.words, "--only", "docker")
    trust(node)
    assert node.run("setup", *head.words, "--only", "docker").code == tool.DONE


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("containerd", "/etc/containerd/certs.d/quay.io/hosts.toml"),
        ("k3s", "/etc/rancher/k3s/registries.yaml"),
    ],
)
def test_a_file_of_the_administrator_is_left(node: Node, head: Head, name: str, path: str) -> None:
    """With what it should say."""
    node.write(path, "mine\n")
    said = node.run("setup", *head.words, "--only", name, "--mirror")
    assert said.code == tool.LEFT
    assert f"{path} is there already" in said.out
    assert head.url in said.out
    node.run("remove")
    assert node.read(path) == "mine\n"


def test_a_registry_that_is_configured_already(node: Node, head: Head) -> None:
    """containers/image takes one [[registry]] for a prefix."""
    node.write("/etc/containers/registries.conf", '[[registry]]\nprefix = "quay.io"\nlocation = "quay.io"\n')
    said = node.run("setup", *head.words, "--only", "podman", "--mirror")
    assert "/etc/containers/registries.conf has a [[registry]] quay.io of its own" in said.out
    assert "quay.io" not in node.read("/etc/containers/registries.conf.d/50-regcachd.conf")


def test_what_comes_after_a_value_is_no_part_of_it(node: Node, head: Head) -> None:
    """Two [[registry]] for one name: the last would count, and what the administrator's says would be lost."""
    theirs = '[[registry]] # ours\nprefix = \'quay.io\' # "theirs"\nlocation = "proxy.site/quay"\n'
    node.write("/etc/containers/registries.conf", theirs)
    said = node.run("setup", *head.words, "--only", "podman", "--mirror")
    assert "/etc/containers/registries.conf has a [[registry]] quay.io of its own" in said.out


def test_a_registry_with_a_port_gets_no_mirror_in_registries_conf(node: Node, head: Head) -> None:
    """containers/image makes no reference of head:3128/registry.site:5443, and then no pull of it works."""
    words = ("--mirror", "--registries", "quay.io,registry.site:5443")
    said = node.run("setup", *head.words, "--only", "podman,containerd", *words)
    assert "mirrors cannot be named for registry.site:5443" in said.out
    assert "5443" not in node.read("/etc/containers/registries.conf.d/50-regcachd.conf")
    assert node.path("/etc/containerd/certs.d/registry.site:5443/hosts.toml").exists()


def test_any_bytes_can_be_shown(node: Node, head: Head) -> None:
    """A file that is not UTF-8 is shown in a diff, in a program of its own, as from a shell."""
    node.path("/etc/docker").mkdir()
    node.path("/etc/docker/daemon.json").write_bytes(b'{"label": "caf\xe9"}\n')
    words = [
        sys.executable,
        str(TOOL),
        "setup",
        *head.words,
        "--only",
        "docker",
        "--docker-json",
        "--dry-run",
    ]
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [*words, "--root", str(node.root)], capture_output=True, text=True, env=environ, check=False
    )
    assert done.returncode == tool.DONE, done.stderr
    assert "caf\\udce9" in done.stdout


@pytest.mark.parametrize(
    ("config", "is_left"),
    [
        ("", True),
        ('[plugins.x.registry]\nconfig_path = "/etc/containerd/certs.d" # hosts\n', False),
        (
            '[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "/etc/containerd/certs.d"\n',
            False,
        ),
        ("version = 3\n[plugins.'x'.registry]\nconfig_path = '/a:/etc/containerd/certs.d'\n", False),
        ('#config_path = "/etc/containerd/certs.d"\n', True),
    ],
)
def test_containerd_must_read_its_hosts(node: Node, head: Head, config: str, is_left: bool) -> None:
    node.write("/etc/containerd/config.toml", config)
    said = node.run("setup", *head.words, "--only", "containerd", "--mirror")
    assert ("config_path" in said.out) == is_left


def test_containers_proxy_setting_is_respected(node: Node, head: Head) -> None:
    """Containers do not inherit the proxy, unless the administrator has decided on that."""
    path = "/etc/containers/containers.conf.d/50-regcachd.conf"
    node.run("setup", *head.words, "--only", "podman")
    assert "http_proxy = false" in node.read(path)
    node.write("/etc/containers/containers.conf", "[containers]\nhttp_proxy = true\n")
    node.run("setup", *head.words, "--only", "podman")
    assert "http_proxy" not in node.read(path)


# -- remove


@pytest.mark.parametrize("mode", [(), ("--mirror",), ("--docker-json", "--plain-http")])
def test_remove_undoes_all(node: Node, head: Head, mode: tuple[str, ...]) -> None:
    """To the byte, the mode, and the directory."""
    node.write("/etc/docker/daemon.json", DAEMON_JSON, 0o600)
    node.write(ANCHOR, "an earlier one\n")
    before = node.install(*ALL, "crio.service", "rke2-agent.service").tree()
    node.run("setup", *head.words, "--only", ",".join(PROGRAMS), "--keep-tool", *mode)
    assert node.tree() != before
    node.run("remove", "--dry-run")
    assert node.path(STATE).exists()
    node.run("remove")
    assert node.tree() == before
    assert node.run("remove").out == "no change: nothing here is from regcachd-client\n"


def test_remove_one(node: Node, head: Head) -> None:
    """The others go on, and keep the CA."""
    node.run("setup", *head.words, "--only", "podman,crio", "--mirror")
    node.run("setup", *head.words, "--only", "docker")
    node.run("remove", "--only", "podman")
    assert node.path("/etc/containers/registries.conf.d/50-regcachd.conf").exists()
    node.run("remove", "--only", "crio")
    assert not node.path("/etc/containers").exists()
    assert node.path(ANCHOR).exists()
    node.run("remove", "--only", "docker")
    assert not node.path(ANCHOR).exists()
    assert not node.path(STATE).exists()


def test_remove_leaves_what_was_changed(node: Node, head: Head) -> None:
    """And says so; setup does, too."""
    node.install("dockerd").run("setup", *head.words)
    node.write(DROP_IN, "[Service]\nEnvironment=A=b\n")
    said = node.run("setup", *head.words)
    assert said.code == tool.LEFT
    assert f"{DROP_IN} was changed since setup" in said.out
    said = node.run("remove")
    assert said.code == tool.LEFT
    assert f"{DROP_IN} was changed since setup: left as it is" in said.out
    assert node.read(DROP_IN) == "[Service]\nEnvironment=A=b\n"
    assert not node.path(ANCHOR).exists()


def test_what_was_right_before_stays(node: Node, head: Head) -> None:
    """A file that said the same already is not ours to take away."""
    node.write(ANCHOR, head.pages["/ca.crt"].decode())
    before = node.tree()
    node.run("setup", *head.words, "--only", "docker")
    node.run("remove")
    assert node.tree() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "x": 1}'])
def test_a_state_that_cannot_be_read(node: Node, text: str) -> None:
    node.write(STATE, text)
    said = node.run("remove")
    assert said.code == tool.FAILED
    assert "run setup again" in said.err


# -- status


def test_status_before_setup(node: Node) -> None:
    said = node.run("status")
    assert said.code == tool.NOT_THROUGH
    assert "has not been set up" in said.out


def test_status_says_what_is_missing(node: Node, head: Head) -> None:
    """The bundle without the CA, a client that came later, a file that has gone."""
    node.install("dockerd", "apptainer").run("setup", *head.words)
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    assert f"the CA is not in {bundle}" in node.run("status").out
    node.write(bundle, "others\n" + head.pages["/ca.crt"].decode())
    said = node.run("status")
    assert said.code == tool.DONE
    assert f"ok  docker goes through {head.url}" in said.out
    assert "??  apptainer is installed, but not configured" in said.out
    node.install("enroot")
    assert "??  enroot is installed, but not configured" in node.run("status").out
    node.path(DROP_IN).unlink()
    assert f"NO  docker: {DROP_IN} is gone or changed" in node.run("status").out
    node.path(ANCHOR).unlink()
    assert f"NO  the CA is not in {ANCHOR}" in node.run("status").out


def test_status_changes_nothing(node: Node, head: Head) -> None:
    node.install(*ALL).run("setup", *head.words)
    before = node.tree()
    node.run("status")
    assert node.tree() == before


# -- processes, which an image has none of


def test_a_process_is_looked_at() -> None:
    """When it began, and what its environment says."""
    began = time.time()
    with subprocess.Popen(["sleep", "60"], env={"HTTPS_PROXY": "http://head:3128"}) as process:
        while b"sleep" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            pass  # not execve'd yet
        looked = tool.Running.look(process.pid)
        process.kill()
    assert abs(looked.began - began) < 5
    assert looked.environment == {"HTTPS_PROXY": "http://head:3128"}
    assert tool.Running.look(process.pid) is None


class Live(tool.Node):  # type: ignore[misc, name-defined]
    """An image, as if a service ran in it."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.now = tool.Running(0.0, {})

    def has_systemd(self) -> bool:
        return True

    def running(self, unit: str) -> object:
        return self.now


def test_a_service_must_be_restarted(node: Node, head: Head) -> None:
    """If it began before its configuration, or something sets its environment elsewhere."""
    node.install("docker.service").run("setup", *head.words)
    live, state = Live(str(node.root)), tool.State.load(tool.Node(str(node.root)))
    assert tool.is_stale(live, state, "docker.service")
    (found,) = tool.look_at_client(live, state, "docker")
    assert "systemctl restart docker.service" in found.text
    live.now = tool.Running(time.time() + 1, {"HTTPS_PROXY": "http://other"})
    (found,) = tool.look_at_client(live, state, "docker")
    assert found.text.startswith("docker: docker.service has HTTPS_PROXY=http://other")
    live.now = tool.Running(time.time() + 1, {"HTTPS_PROXY": head.url})
    (found,) = tool.look_at_client(live, state, "docker")
    assert (found.ok, found.text) == (True, f"docker goes through {head.url}")


@pytest.mark.parametrize(("seconds", "is_ok"), [(0, True), (-200, True), (1000, False), (-1000, False)])
def test_clocks_are_compared(seconds: int, is_ok: bool) -> None:
    (found,) = tool.look_at_clock("Tue, 01 Jul 2025 00:00:00 GMT", 1751328000 + seconds)
    assert found.ok == is_ok


def test_a_head_without_a_clock() -> None:
    assert not list(tool.look_at_clock(None, 0))
    assert not list(tool.look_at_clock("nonsense", 0))


@pytest.mark.parametrize(
    "words",
    [
        ("setup",),
        ("setup", "--head", "https://x"),
        ("setup", "--head", "x", "--only", "vim"),
        ("setup", "--head", "x", "--only", ""),
        ("setup", "--head", "x", "--fingerprint", "1"),
        ("setup", "--head", "x", "--no-proxy", "*"),
        ("status", "--root", "/nowhere/at/all"),
        ("explode",),
    ],
)
def test_a_wrong_command_line(node: Node, words: tuple[str, ...]) -> None:
    assert node.run(*words).code == tool.USAGE
