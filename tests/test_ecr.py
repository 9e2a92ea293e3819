"""plugins/ecr.py, with botocore's own requests: to moto, which checks their signatures, and to services on loopback."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from twisted.internet import reactor as _reactor

from regcachd import aws
from regcachd.challenge import Challenge
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, Scope
from regcachd.plugins.ecr import Keys, ecr
from regcachd.secret import Secret
from tests.canned_web import CannedWeb, answer
from tests.cloud import Said, Seen, serve
from tests.e2e.programs import Server, environment, free_port

pytest.importorskip("botocore", reason="botocore is not installed")

reactor: Any = _reactor

HOME = Home("ecr", "https", "123456789012.dkr.ecr.eu-central-1.amazonaws.com", 443)
PUBLIC = Home("public.ecr.aws", "https", "public.ecr.aws", 443)
TEAM = Scope("team/app")
TOKEN = b64encode(b"AWS:the-password").decode()


@pytest.fixture(autouse=True)
def nothing_of_aws_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the credential of whoever runs the tests would be found, or asked for in a cloud."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def keys(directory: Path, endpoint: str, key_id: str = "AKIATEST", key: str = "the-key") -> Keys:
    (directory / "id").write_text(key_id)
    (directory / "key").write_text(key + "\n")
    return Keys(Secret(f"file:{directory}/id"), Secret(f"file:{directory}/key"), None, endpoint)


def authenticator(given: Keys, home: Home = HOME, web: CannedWeb | None = None) -> IAuthenticator:
    return ecr.authenticator(given, home, web or CannedWeb(), reactor)


async def refusal(given: Keys, home: Home = HOME) -> AuthFailed:
    with pytest.raises(AuthFailed) as caught:
        await authenticator(given, home).authorization([], TEAM)
    return caught.value


def api(seen: Seen) -> Said:
    """The ECR API, for everybody."""
    data: Any = {"authorizationToken": TOKEN, "expiresAt": 1.0, "proxyEndpoint": "https://x"}
    public = seen.headers["x-amz-target"].startswith("Spencer")
    body = json.dumps({"authorizationData": data if public else [data]}).encode()
    return Said(body, headers={"Content-Type": "application/x-amz-json-1.1"})


# -- moto


@frozen
class Moto:
    """A cloud with one user, who may do nothing but GetAuthorizationToken."""

    url: str
    key_id: str
    key: str


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    if find_spec("moto") is None or find_spec("flask") is None:
        pytest.skip("moto, which is not in Debian, is not installed: pip install regcachd[test-aws]")
    from botocore.session import Session

    directory = tmp_path_factory.mktemp("moto")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # after these three requests, each must be signed, and allowed
    server = Server.start(
        "moto", command, environment(directory, INITIAL_NO_AUTH_ACTION_COUNT="3"), directory / "log"
    )
    server.wait_until_ready(lambda: "Running on" in server.output(), seconds=60)
    session = Session()
    session.set_credentials("AKIAROOT", "root")
    iam = session.create_client("iam", region_name="us-east-1", endpoint_url=url)
    iam.create_user(UserName="node")
    allowed = {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="node", PolicyName="pull", PolicyDocument=policy)
    key = iam.create_access_key(UserName="node")["AccessKey"]
    iam.close()
    yield Moto(url, key["AccessKeyId"], key["SecretAccessKey"])
    server.stop()


async def test_a_signed_request_brings_the_password(tmp_path: Path, moto: Moto) -> None:
    made = authenticator(keys(tmp_path, moto.url, moto.key_id, moto.key))
    expected = "Basic " + b64encode(b"AWS:123456789012-auth-token").decode()
    assert await made.authorization([], TEAM) == expected
    assert await made.authorization([], Scope("other/app")) == expected


async def test_a_wrong_key_is_turned_down(tmp_path: Path, moto: Moto) -> None:
    for key_id, key in ((moto.key_id, "wrong-key"), ("AKIAUNKNOWN", moto.key)):
        error = await refusal(keys(tmp_path, moto.url, key_id, key))
        assert error.refused
        assert "ecr in eu-central-1 of account 123456789012: AWS answers GetAuthorizationToken" in str(error)
        for secret in (key_id, key, "Signature"):
            assert secret not in str(error)


# -- where the credential comes from


async def test_the_request_is_for_the_registrys_region(tmp_path: Path) -> None:
    async with serve(api) as service:
        made = authenticator(keys(tmp_path, service.url))
        assert await made.authorization([], TEAM) == f"Basic {TOKEN}"
    (seen,) = service.seen
    assert seen.headers["x-amz-target"] == "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    assert "Credential=AKIATEST/" in seen.headers["authorization"]
    assert "/eu-central-1/ecr/aws4_request" in seen.headers["authorization"]
    assert "the-key" not in str(seen)


async def test_the_environments_credential_is_used_when_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env-key")
    async with serve(api) as service:
        assert await authenticator(Keys(endpoint=service.url)).authorization([], TEAM) == f"Basic {TOKEN}"
    assert "Credential=AKIAENV/" in service.seen[0].headers["authorization"]


async def test_the_shared_file_of_the_daemons_user(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = AKIAFILE\naws_secret_access_key = file-key\n"
    )
    async with serve(api) as service:
        assert await authenticator(Keys(endpoint=service.url)).authorization([], TEAM) == f"Basic {TOKEN}"
    assert "Credential=AKIAFILE/" in service.seen[0].headers["authorization"]


ROLE = {
    "Code": "Success",
    "Type": "AWS-HMAC",
    "AccessKeyId": "ASIAROLE",
    "SecretAccessKey": "role-key",
    "Token": "role-token",
    "LastUpdated": "2026-01-01T00:00:00Z",
    "Expiration": "2099-01-01T00:00:00Z",
}


def instance(seen: Seen) -> Said:
    """The instance metadata service, version 2: nothing without a session (AWS, "Use IMDSv2")."""
    if seen.method == "PUT" and seen.path == "/latest/api/token":
        assert seen.headers["x-aws-ec2-metadata-token-ttl-seconds"]
        return Said(b"session", headers={"x-aws-ec2-metadata-token-ttl-seconds": "21600"})
    if seen.headers.get("x-aws-ec2-metadata-token") != "session":
        return Said(b"", 401)
    if seen.path == "/latest/meta-data/iam/security-credentials/":
        return Said(b"node-role")
    if seen.path == "/latest/meta-data/iam/security-credentials/node-role":
        return Said(json.dumps(ROLE).encode())
    return api(seen) if "x-amz-target" in seen.headers else Said(b"", 404)


async def test_the_instances_role_is_found_with_imdsv2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    async with serve(instance) as metadata, serve(api) as service:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        assert await authenticator(Keys(endpoint=service.url)).authorization([], TEAM) == f"Basic {TOKEN}"
    assert metadata.seen[0].method == "PUT"
    assert "Credential=ASIAROLE/" in service.seen[0].headers["authorization"]
    assert service.seen[0].headers["x-amz-security-token"] == "role-token"


async def test_the_tasks_role_is_found_in_ecs(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(lambda seen: Said(json.dumps(ROLE).encode())) as metadata, serve(api) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}/task")
        assert await authenticator(Keys(endpoint=service.url)).authorization([], TEAM) == f"Basic {TOKEN}"
    assert [seen.path for seen in metadata.seen] == ["/task"]
    assert "Credential=ASIAROLE/" in service.seen[0].headers["authorization"]


# -- what goes wrong


async def test_no_credential_anywhere() -> None:
    error = await refusal(Keys(endpoint="http://127.0.0.1:9"))
    assert error.refused
    assert "set access_key_id and secret_access_key, or give this machine a role" in str(error)


async def test_nobody_listens_at_the_endpoint(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    error = await refusal(keys(tmp_path, url))
    assert not error.refused
    assert f"AWS cannot be asked: EndpointConnectionError at {url}" in str(error)


@pytest.mark.parametrize(
    ("status", "body", "refused"),
    [
        (400, {"__type": "UnrecognizedClientException", "message": "hunter2"}, True),
        (400, {"__type": "AccessDeniedException", "Message": "hunter2"}, True),
        (400, {"__type": "hunter2 hunter2"}, False),
        (200, {"authorizationData": []}, False),
        (200, ["hunter2"], False),
    ],
)
async def test_what_aws_says_is_not_repeated_but_for_its_code(
    tmp_path: Path, status: int, body: Any, refused: bool
) -> None:
    said = Said(json.dumps(body).encode(), status, {"Content-Type": "application/x-amz-json-1.1"})
    async with serve(lambda seen: said) as service:
        error = await refusal(keys(tmp_path, service.url))
    assert error.refused is refused
    assert "hunter2" not in str(error)
    assert "the-key" not in str(error)


@pytest.mark.parametrize(
    ("given", "home", "advice"),
    [
        (Keys(access_key_id=Secret("file:/id")), HOME, "set together"),
        (Keys(secret_access_key=Secret("file:/key")), HOME, "set together"),
        (Keys(), Home("lab", "https", "registry.lab.example", 443), "set region"),
    ],
)
def test_keys_that_do_not_go_together(given: Keys, home: Home, advice: str) -> None:
    with pytest.raises(AuthFailed, match=advice):
        ecr.authenticator(given, home, CannedWeb(), reactor)


def test_a_missing_botocore_is_named_with_the_package_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "find_spec", lambda name: None)
    with pytest.raises(AuthFailed, match="apt install python3-botocore"):
        ecr.authenticator(Keys(), HOME, CannedWeb(), reactor)


async def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    missing = Secret(f"file:{tmp_path}/missing")
    assert "cannot be read" in str(await refusal(Keys(missing, missing, None, "http://127.0.0.1:9")))


# -- public.ecr.aws

CHALLENGE = Challenge(
    "bearer", {"realm": "https://public.ecr.aws/token/", "service": "public.ecr.aws", "scope": "aws"}
)


async def test_the_public_registry_takes_the_password_where_it_hands_out_tokens(tmp_path: Path) -> None:
    web = CannedWeb().at("https://public.ecr.aws/token/", answer(token="a-token"))
    async with serve(api) as service:
        made = authenticator(keys(tmp_path, service.url), PUBLIC, web)
        assert await made.authorization([CHALLENGE], TEAM) == "Bearer a-token"
    (seen,) = service.seen
    assert seen.headers["x-amz-target"] == "SpencerFrontendService.GetAuthorizationToken"
    assert "/us-east-1/ecr-public/aws4_request" in seen.headers["authorization"]
    (asked,) = web.asked
    assert asked.headers == {"Authorization": f"Basic {TOKEN}"}
    assert "scope=aws" in asked.url
