"""Registries that want a login, real ones with a real token server: who may read what, whatever is cached."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from ssl import create_default_context
from urllib.parse import urlencode, urlsplit

import pytest
from attrs import frozen

from tests.e2e.certificates import ServerCertificate
from tests.e2e.clients import Client, User, ask, curl, podman_pull, skopeo_copy
from tests.e2e.conftest import USERS
from tests.e2e.docker_registry import DockerRegistry
from tests.e2e.images import MANIFEST_TYPE, MIB, Image, make_image
from tests.e2e.programs import ProgramError, environment, run
from tests.e2e.regcache import Daemon
from tests.e2e.token_server import SERVICE, Grants, TokenServer

pytestmark = pytest.mark.e2e

ADA, GRACE = USERS
PULL = frozenset({"pull"})
GRANTS = Grants(
    {user.name: user.password for user in USERS},
    {"ada": {"ada/app": PULL}, "grace": {"grace/app": PULL}, "": {"team/tool": PULL}},
)

StartDaemon = Callable[..., Daemon]


@frozen
class Guarded:
    """A registry, who hands out its tokens, and two private images that share a layer."""

    registry: DockerRegistry
    tokens: TokenServer
    adas: Image
    graces: Image

    @property
    def tunnel(self) -> str:
        """A table that lets clients reach the token server, which is not on the port of https."""
        return f"\n[tunnel]\nports = [443, {urlsplit(self.tokens.realm).port}]\n"

    def token(self, repository: str, user: User | None = None) -> str:
        """A token to pull with, fetched as docker does it; for nothing, if nothing is granted."""
        realm = urlsplit(self.tokens.realm)
        context = create_default_context(cafile=str(self.registry.certificate.authority))
        connection = HTTPSConnection(realm.hostname or "", realm.port, context=context, timeout=20)
        query = urlencode({"service": SERVICE, "scope": f"repository:{repository}:pull"})
        headers = {"Authorization": user.authorization} if user else {}
        try:
            connection.request("GET", f"{realm.path}?{query}", headers=headers)
            return str(json.loads(connection.getresponse().read())["token"])
        finally:
            connection.close()


@pytest.fixture(scope="module")
def images(shared: Path, registry: DockerRegistry) -> tuple[Image, Image]:
    """The private images, in the storage of all registries."""
    adas = make_image(shared / "adas", "ada/app", "1", (MIB, 20_000))
    graces = make_image(shared / "graces", "grace/app", "1", (30_000,), base=adas)
    for image in (adas, graces):
        registry.push(image)
    return adas, graces


@pytest.fixture(scope="module", params=["RS256", "ES256"])
def guarded(
    request: pytest.FixtureRequest,
    shared: Path,
    certificate: ServerCertificate,
    registry: DockerRegistry,
    images: tuple[Image, Image],
) -> Iterator[Guarded]:
    """A registry that wants tokens of a server that signs in one way or the other."""
    tokens = TokenServer.start(shared / request.param, certificate, GRANTS, request.param)
    guarding = DockerRegistry.start(
        shared / f"guarded-{request.param}", certificate, registry.storage, tokens=tokens
    )
    yield Guarded(guarding, tokens, *images)
    guarding.stop()
    tokens.stop()


@pytest.fixture
def daemon(start_daemon: StartDaemon, guarded: Guarded) -> Daemon:
    """A daemon without a credential; clients trust the token server as they do the daemon."""
    return trusting(start_daemon(guarded.registry), guarded)


def trusting(daemon: Daemon, guarded: Guarded) -> Daemon:
    realm = guarded.registry.certificate.authority.read_bytes()
    (daemon.authority.parent / "realm.crt").write_bytes(realm)
    return daemon


def own_credential(room: Path, user: User, *more: str) -> str:
    """Lines of the registry's table."""
    password = room / "password"
    password.write_text(user.password)
    password.chmod(0o600)
    return "\n".join(
        [f"username = {json.dumps(user.name)}", f"password = {json.dumps(f'file:{password}')}", *more]
    )


def downloads(registry: DockerRegistry) -> int:
    """Blobs that the registry has sent so far."""
    return sum(r.is_for_blob and r.method == "GET" and r.status == 200 for r in registry.requests())


@pytest.mark.parametrize("client", [skopeo_copy, podman_pull])
def test_each_user_pulls_her_own_image_and_not_the_others(
    client: Client, daemon: Daemon, guarded: Guarded, room: Path
) -> None:
    """Not before it is cached, and not after; and who brings no credential pulls neither."""
    for step, (user, own, other) in enumerate(
        [(ADA, guarded.adas, guarded.graces), (GRACE, guarded.graces, guarded.adas)]
    ):
        client(daemon, own, room / f"{step}-own", user)
        with pytest.raises(ProgramError, match=r"(?i)unauthorized|denied|authentication required|401"):
            client(daemon, other, room / f"{step}-other", user)
    before = downloads(guarded.registry)
    client(daemon, guarded.adas, room / "again", ADA)
    assert downloads(guarded.registry) == before
    for image in (guarded.adas, guarded.graces):
        with pytest.raises(ProgramError):
            client(daemon, image, room / f"stranger-{image.repository.replace('/', '-')}")


def test_no_way_to_ask_leads_to_the_others_image(daemon: Daemon, guarded: Guarded) -> None:
    """All is cached; whichever token is shown that is not for ada's repository, the registry's 401 comes back."""
    for image, user in ((guarded.adas, ADA), (guarded.graces, GRACE)):
        bearer = {"Authorization": f"Bearer {guarded.token(image.repository, user)}"}
        paths = [f"manifests/{image.tag}", *(f"blobs/{blob.digest}" for blob in image.blobs)]
        for path in paths * 2:
            assert ask(daemon, "GET", f"/v2/{image.repository}/{path}", None, bearer).status == 200

    image = guarded.adas
    tokens = {
        "none at all": None,
        "anybody's": guarded.token("ada/app"),
        "grace's for ada's": guarded.token("ada/app", GRACE),
        "grace's for her own": guarded.token("grace/app", GRACE),
        "made up": "abc.def.ghi",
    }
    paths = [f"manifests/{image.tag}", f"manifests/{image.manifest.digest}"]
    paths += [f"blobs/{blob.digest}" for blob in image.blobs]
    for whose, token in tokens.items():
        shown = {} if token is None else {"Authorization": f"Bearer {token}"}
        for path in paths:
            for method, more in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-9"})):
                answer = ask(daemon, method, f"/v2/ada/app/{path}", None, {**shown, **more})
                assert answer.status == 401, (whose, method, path)
                assert f'realm="{guarded.tokens.realm}"' in answer.headers["www-authenticate"]

    # What she may not have under ada's name she may have under her own, if it is there, and only then.
    hers = {"Authorization": f"Bearer {guarded.token('grace/app', GRACE)}"}
    shared_layer, adas_alone = image.layers[0].digest, image.config.digest
    assert ask(daemon, "GET", f"/v2/grace/app/blobs/{shared_layer}", None, hers).status == 200
    assert ask(daemon, "GET", f"/v2/grace/app/blobs/{adas_alone}", None, hers).status == 404
    assert ask(daemon, "GET", f"/v2/grace/app/manifests/{image.manifest.digest}", None, hers).status == 404


def test_curl_as_docker_does_it(daemon: Daemon, guarded: Guarded, room: Path) -> None:
    """Ping, token, HEAD, GET: challenges come through word for word, and the second time nothing is downloaded."""
    ping = ask(daemon, "GET", "/v2/")
    assert ping.status == 401
    assert ping.headers["www-authenticate"] == f'Bearer realm="{guarded.tokens.realm}",service="{SERVICE}"'
    environ = environment(room / "home", CURL_CA_BUNDLE=str(guarded.registry.certificate.authority))
    query = f"service={SERVICE}&scope=repository:ada/app:pull"
    said = run(environ, "curl", "--silent", "--user", ADA.pair, f"{guarded.tokens.realm}?{query}")
    bearer = ("--header", f"Authorization: Bearer {json.loads(said)['token']}")
    accept = ("--header", f"Accept: {MANIFEST_TYPE}")
    image, before = guarded.adas, downloads(guarded.registry)
    for turn in range(2):
        assert curl(daemon, "/v2/", room, *bearer).status == 200
        manifest = f"/v2/ada/app/manifests/{image.tag}"
        head = ask(daemon, "HEAD", manifest, None, {"Authorization": bearer[1].partition(": ")[2]})
        assert head.headers["docker-content-digest"] == image.manifest.digest
        by_digest = f"/v2/ada/app/manifests/{head.headers['docker-content-digest']}"
        assert curl(daemon, by_digest, room, *bearer, *accept).sha256 == image.manifest.hex
        for blob in image.blobs:
            got = curl(daemon, f"/v2/ada/app/blobs/{blob.digest}", room, *bearer)
            assert (got.status, got.sha256) == (200, blob.hex)
        assert downloads(guarded.registry) - before == len(image.blobs), turn


@pytest.mark.parametrize("client", [skopeo_copy, podman_pull])
def test_shared_images_are_pulled_without_a_credential(
    client: Client, start_daemon: StartDaemon, guarded: Guarded, room: Path
) -> None:
    """regcachd has ada's credential and shares what that can read, and nothing else."""
    lines = own_credential(room, ADA, "share = true")
    daemon = trusting(start_daemon(guarded.registry, table=lines), guarded)
    for turn in range(2):
        client(daemon, guarded.adas, room / f"{turn}")
    with pytest.raises(ProgramError):
        client(daemon, guarded.graces, room / "graces")


def test_podman_brings_its_password_for_a_htpasswd_registry(
    start_daemon: StartDaemon, private_registry: DockerRegistry, small_image: Image, room: Path
) -> None:
    daemon = start_daemon(private_registry)
    podman_pull(daemon, small_image, room / "ada", ADA)
    with pytest.raises(ProgramError):
        podman_pull(daemon, small_image, room / "wrong", User(ADA.name, "guessed"))


# -- check-upstream


def test_check_upstream_of_a_registry_with_tokens(
    start_daemon: StartDaemon, guarded: Guarded, room: Path
) -> None:
    """Says of each image whether the credential can read it, and who else; and never what the credential is."""
    lines = own_credential(room, ADA, "share = true") + guarded.tunnel
    daemon = start_daemon(guarded.registry, table=lines)
    status, text = daemon.ctl("check-upstream", "registry.test:5443", "ada/app:1")
    assert (status, text.splitlines()[-1]) == (0, "all is well with ada/app:1"), text
    assert "ok       token" in text
    assert "ok       clock" in text
    assert "every client may have it" in text
    status, text = daemon.ctl("check-upstream", "registry.test:5443", "grace/app:1")
    assert status == 1
    assert "says no to the credential" in text
    (room / "password").write_text("wrong horse")
    status, text = daemon.ctl("check-upstream", "registry.test:5443")
    assert status == 1
    assert "FAILURE  token" in text
    assert "horse" not in text + daemon.server.output()


def test_check_upstream_of_a_htpasswd_registry(
    start_daemon: StartDaemon, private_registry: DockerRegistry, small_image: Image, room: Path
) -> None:
    daemon = start_daemon(private_registry, table=own_credential(room, GRACE, "share = true"))
    status, text = daemon.ctl("check-upstream", "registry.test:5443", small_image.reference)
    assert status == 0, text
    assert "the registry asks for Basic" in text


def test_check_upstream_without_a_credential(
    start_daemon: StartDaemon, guarded: Guarded, small_image: Image
) -> None:
    """As anybody: what is public is, and what is not is the clients' business."""
    daemon = start_daemon(guarded.registry, table=guarded.tunnel)
    status, text = daemon.ctl("check-upstream", "registry.test:5443", small_image.reference)
    assert status == 0, text
    status, text = daemon.ctl("check-upstream", "registry.test:5443", "ada/app:1")
    assert (status, text.splitlines()[-1]) == (1, "ada/app:1 works, but see the warnings")
