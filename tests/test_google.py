"""google.py and plugins/google.py: access tokens for keys and machines, and whom they are shown to."""

from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.task import Clock

from regcachd.challenge import Challenge
from regcachd.google import ServiceAccount, ask_metadata
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, Scope
from regcachd.leases import YOUNG
from regcachd.plugins.google import Keys, google
from regcachd.secret import Secret
from tests.canned_web import CannedWeb, answer
from tests.cloud import Said, Seen, real_web, serve

HOME = Home("europe-docker.pkg.dev", "https", "europe-docker.pkg.dev", 443)
REALM = "https://europe-docker.pkg.dev/v2/token"
CHALLENGE = Challenge("bearer", {"realm": REALM})
TEAM = Scope("team/app")
TOKEN_URI = "https://oauth2.googleapis.com/token"
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
NOW = 1_780_000_000.0

KEY = rsa.generate_private_key(65537, 2048)


def pem(key: Any = KEY) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


def key_file(**more: object) -> dict[str, object]:
    return {
        "type": "service_account",
        "project_id": "team",
        "private_key_id": "key-7",
        "private_key": pem(),
        "client_email": "puller@team.iam.gserviceaccount.com",
        "token_uri": TOKEN_URI,
        **more,
    }


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(NOW)
    return clock


@pytest.fixture
def account(tmp_path: Path) -> Secret:
    (tmp_path / "key.json").write_text(json.dumps(key_file()))
    return Secret(f"file:{tmp_path}/key.json")


def machine() -> CannedWeb:
    """A machine whose metadata service gives out google-1, then google-2; the realm takes either."""
    flavor = {"metadata-flavor": "Google"}
    return (
        CannedWeb()
        .at(
            METADATA,
            answer(200, flavor, access_token="google-1", expires_in=3599, token_type="Bearer"),
            answer(200, flavor, access_token="google-2", expires_in=3599, token_type="Bearer"),
        )
        .at(REALM, answer(token="registry-1", expires_in=300))
    )


def basic(header: str) -> str:
    scheme, _, encoded = header.partition(" ")
    assert scheme == "Basic"
    return b64decode(encoded).decode()


async def header(made: IAuthenticator) -> str | None:
    return await made.authorization([CHALLENGE], TEAM)


async def test_a_key_becomes_an_access_token_and_that_a_registry_token(clock: Clock, account: Secret) -> None:
    web = (
        CannedWeb()
        .at(TOKEN_URI, answer(access_token="google-1", expires_in=3599))
        .at(REALM, answer(token="r-1"))
    )
    assert await header(google.authenticator(Keys(account), HOME, web, clock)) == "Bearer r-1"
    asked, told = web.asked
    assert (asked.method, asked.url, asked.local) == ("POST", TOKEN_URI, False)
    assert asked.form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert basic(told.headers["Authorization"]) == "oauth2accesstoken:google-1"
    assert "team/app" in told.url


def test_the_assertion_is_a_jwt_that_the_accounts_public_key_verifies() -> None:
    account = ServiceAccount.read(json.dumps(key_file()))
    signed, _, signature = account.assertion(NOW).rpartition(".")
    KEY.public_key().verify(decode(signature), signed.encode(), PKCS1v15(), SHA256())
    head, claims = (json.loads(decode(part)) for part in signed.split("."))
    assert head == {"alg": "RS256", "typ": "JWT", "kid": "key-7"}
    assert claims == {
        "iss": "puller@team.iam.gserviceaccount.com",
        "aud": TOKEN_URI,
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "iat": 1_780_000_000,
        "exp": 1_780_003_600,
    }


def decode(part: str) -> bytes:
    assert "=" not in part
    return urlsafe_b64decode(part + "==")


async def test_without_a_key_the_machines_own_account_is_asked_for(clock: Clock) -> None:
    web = machine()
    assert await header(google.authenticator(Keys(), HOME, web, clock)) == "Bearer registry-1"
    asked, told = web.asked
    assert (asked.method, asked.url, asked.local) == ("GET", METADATA, True)
    assert asked.headers == {"Metadata-Flavor": "Google"}
    assert basic(told.headers["Authorization"]) == "oauth2accesstoken:google-1"


async def test_an_access_token_is_renewed_before_it_ends(clock: Clock) -> None:
    web = machine()
    made = google.authenticator(Keys(), HOME, web, clock)
    await header(made)
    clock.advance(3599 * 0.81)
    await header(made)
    clock.advance(400)
    await header(made)
    assert [a.url for a in web.asked].count(METADATA) == 2
    assert basic(web.asked[-1].headers["Authorization"]) == "oauth2accesstoken:google-2"


async def test_an_access_token_that_the_realm_refuses_is_replaced_once(clock: Clock) -> None:
    web = machine()
    made = google.authenticator(Keys(), HOME, web, clock)
    await header(made)
    clock.advance(1000)
    assert YOUNG < 1000
    web.at(REALM, answer(401), answer(token="registry-2", expires_in=300))
    assert await header(made) == "Bearer registry-2"
    clock.advance(1000)
    web.at(REALM, answer(401))
    with pytest.raises(AuthFailed) as caught:
        await header(made)
    assert caught.value.refused


async def test_a_key_is_sent_itself_only_where_that_is_configured(clock: Clock, account: Secret) -> None:
    web = CannedWeb().at(REALM, answer(token="r-1"))
    assert await header(google.authenticator(Keys(account, send_key=True), HOME, web, clock)) == "Bearer r-1"
    (told,) = web.asked
    user, _, key = basic(told.headers["Authorization"]).partition(":")
    assert user == "_json_key"
    assert json.loads(key) == key_file()


def test_there_is_no_key_to_send(clock: Clock) -> None:
    with pytest.raises(AuthFailed, match="service_account, which is not set"):
        google.authenticator(Keys(send_key=True), HOME, CannedWeb(), clock)


@pytest.mark.parametrize("send_key", [False, True])
async def test_a_credential_goes_to_no_strangers_realm(clock: Clock, account: Secret, send_key: bool) -> None:
    web = CannedWeb().at(TOKEN_URI, answer(access_token="google-1"))
    made = google.authenticator(Keys(account, send_key), HOME, web, clock)
    with pytest.raises(AuthFailed):
        await made.authorization([Challenge("bearer", {"realm": "https://evil.example/token"})], TEAM)
    assert [a.url for a in web.asked if "evil" in a.url] == []


@pytest.mark.parametrize(
    ("uri", "hosts"),
    [
        (TOKEN_URI, ()),
        ("https://oauth2.googleapis.com:443/token", ()),
        ("https://accounts.google.com/o/oauth2/token", ()),
        ("https://www.googleapis.com/oauth2/v4/token", ()),
        ("https://oauth2.lab.example/token", ("oauth2.lab.example",)),
        ("https://oauth2.lab.example:8443/token", ("oauth2.lab.example:8443",)),
    ],
)
def test_a_token_uri_that_is_trusted(uri: str, hosts: tuple[str, ...]) -> None:
    assert ServiceAccount.read(json.dumps(key_file(token_uri=uri)), hosts).token_uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "http://oauth2.googleapis.com/token",
        "https://evil.example/token",
        "https://oauth2.googleapis.com.evil.example/token",
        "https://evil.example/oauth2.googleapis.com",
        "https://oauth2.googleapis.com@evil.example/token",
        "https://ada@oauth2.googleapis.com/token",
        "https://oauth2.googleapis.com:8443/token",
        "https://oauth2.googleapis.com\\@evil.example/token",
        "https://169.254.169.254/token",
        "https://oauth2.googleapis.com:99999/token",
        "https://[::1/token",
        "file:///etc/passwd",
        "",
    ],
)
def test_a_token_uri_that_is_not(uri: str) -> None:
    with pytest.raises(AuthFailed, match="realm_hosts"):
        ServiceAccount.read(json.dumps(key_file(token_uri=uri)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hunter2", "not the key file"),
        ('["hunter2"]', "not the key file"),
        ("[" * 100_000, "not the key file"),
        (json.dumps(key_file(type="authorized_user")), "not the key file"),
        (json.dumps(key_file(private_key=None, client_email=7)), "lacks client_email, private_key"),
    ],
)
def test_a_file_that_is_no_key_file(text: str, problem: str) -> None:
    with pytest.raises(AuthFailed, match=problem) as caught:
        ServiceAccount.read(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "hunter2",
        "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
        pem(ec.generate_private_key(ec.SECP256R1())),
        "",
    ],
)
def test_a_key_that_is_none(key: str) -> None:
    account = ServiceAccount.read(json.dumps(key_file(private_key=key)))
    with pytest.raises(AuthFailed, match="no RSA key in PEM") as caught:
        account.assertion(NOW)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "found", "refused", "said"),
    [
        (
            400,
            {"error": "invalid_grant", "error_description": "hunter2"},
            True,
            "400 (invalid_grant): is the key",
        ),
        (401, {"error": "hunter2 hunter2"}, True, "answers 401: is the key"),
        (503, {}, False, "answers 503: try again later"),
        (200, {}, False, "no access_token"),
        (200, {"access_token": "two words"}, False, "no access_token"),
    ],
)
async def test_what_google_says_no_with(
    clock: Clock, account: Secret, status: int, found: dict[str, Any], refused: bool, said: str
) -> None:
    web = CannedWeb().at(TOKEN_URI, answer(status, **found))
    with pytest.raises(AuthFailed) as caught:
        await header(google.authenticator(Keys(account), HOME, web, clock))
    assert said in str(caught.value)
    assert caught.value.refused is refused
    assert "hunter2" not in str(caught.value)
    assert len(web.asked) == 1


async def test_a_machine_that_is_not_googles(clock: Clock) -> None:
    web = CannedWeb().at(METADATA, answer(200, access_token="somebody's"))
    with pytest.raises(AuthFailed, match="not Google's metadata service"):
        await header(google.authenticator(Keys(), HOME, web, clock))


def compute_engine(seen: Seen) -> Said:
    """Its metadata service: nothing without the header that no browser sends."""
    if seen.headers.get("metadata-flavor") != "Google":
        return Said(b"Missing Metadata-Flavor:Google header.", 403)
    if not seen.path.endswith("/default/token"):
        return Said(b"", 404)
    body = {"access_token": "google-1", "expires_in": 3599, "token_type": "Bearer"}
    return Said(json.dumps(body).encode(), headers={"Metadata-Flavor": "Google"})


async def test_a_metadata_service_on_a_real_socket() -> None:
    async with serve(compute_engine) as service, real_web() as web:
        lease = await ask_metadata(web, service.url)
    assert (lease.value, lease.life) == ("google-1", 3599.0)


async def test_something_else_on_that_socket() -> None:
    async with serve(lambda seen: Said(b"hello", 404)) as service, real_web() as web:
        with pytest.raises(AuthFailed, match="not Google's metadata service"):
            await ask_metadata(web, service.url)


def test_accounts_are_shown_without_their_key() -> None:
    assert "PRIVATE" not in repr(ServiceAccount.read(json.dumps(key_file())))
