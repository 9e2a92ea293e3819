"""azure.py and plugins/acr.py: from an identity in the directory to a token of the registry."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from twisted.internet.task import Clock

from regcachd.azure import authority, exchange, machine_token
from regcachd.challenge import Challenge
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, Scope
from regcachd.plugins.acr import Keys, acr, tenant
from regcachd.secret import Secret
from regcachd.units import BadValue
from tests.canned_web import CannedWeb, answer
from tests.cloud import Said, Seen, real_web, serve

HOME = Home("team.azurecr.io", "https", "team.azurecr.io", 443)
REALM = "https://team.azurecr.io/oauth2/token"
EXCHANGE = "https://team.azurecr.io/oauth2/exchange"
DIRECTORY = "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token"
MACHINE = "http://169.254.169.254/metadata/identity/oauth2/token"
CHALLENGE = Challenge("bearer", {"realm": REALM, "service": "team.azurecr.io"})
TEAM = Scope("team/app")


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    (tmp_path / "secret").write_text("the-secret\n")
    return Secret(f"file:{tmp_path}/secret")


@pytest.fixture
def web() -> CannedWeb:
    """Everybody says yes."""
    return (
        CannedWeb()
        .at(DIRECTORY, answer(access_token="directory-1", expires_in=3599))
        .at(MACHINE, answer(access_token="directory-1", expires_in="86399"))  # as a text, as Azure writes it
        .at(EXCHANGE, answer(refresh_token="refresh-1"))
        .at(REALM, answer(access_token="registry-1"))
    )


def made(keys: Keys, web: CannedWeb, clock: Clock | None = None, home: Home = HOME) -> IAuthenticator:
    return acr.authenticator(keys, home, web, clock or Clock())


async def test_id_and_secret_are_name_and_password(web: CannedWeb, secret: Secret) -> None:
    assert await made(Keys("the-id", secret), web).authorization([CHALLENGE], TEAM) == "Bearer registry-1"
    (told,) = web.asked
    assert b64decode(told.headers["Authorization"].removeprefix("Basic ")) == b"the-id:the-secret"


async def test_with_a_tenant_only_the_directory_is_told_the_secret(web: CannedWeb, secret: Secret) -> None:
    keys = Keys("the-id", secret, "contoso.example")
    assert await made(keys, web).authorization([CHALLENGE], TEAM) == "Bearer registry-1"
    directory, exchange, token = web.asked
    assert directory.url == DIRECTORY
    assert directory.form == {
        "grant_type": "client_credentials",
        "client_id": "the-id",
        "client_secret": "the-secret",
        "scope": "https://containerregistry.azure.net/.default",
    }
    assert (exchange.method, exchange.url) == ("POST", EXCHANGE)
    assert exchange.form == {
        "grant_type": "access_token",
        "service": "team.azurecr.io",
        "tenant": "contoso.example",
        "access_token": "directory-1",
    }
    assert (token.method, token.url) == ("POST", REALM)
    assert token.form["grant_type"] == "refresh_token"
    assert token.form["refresh_token"] == "refresh-1"
    assert token.form["service"] == "team.azurecr.io"
    assert token.form["scope"] == "repository:team/app:pull"


@pytest.mark.parametrize("client", [None, "identity-2"])
async def test_a_managed_identity_needs_no_secret(web: CannedWeb, client: str | None) -> None:
    keys = Keys(client, managed_identity=True)
    assert await made(keys, web).authorization([CHALLENGE], TEAM) == "Bearer registry-1"
    machine, exchange, _ = web.asked
    assert (machine.method, machine.headers, machine.local) == ("GET", {"Metadata": "true"}, True)
    assert parse_qs(urlsplit(machine.url).query) == {
        "api-version": ["2018-02-01"],
        "resource": ["https://containerregistry.azure.net"],
        **({"client_id": [client]} if client else {}),
    }
    assert "tenant" not in exchange.form


async def test_a_refresh_token_serves_all_repositories_and_is_renewed_within_the_hour(web: CannedWeb) -> None:
    clock = Clock()
    one = made(Keys(managed_identity=True), web, clock)
    for repository in ("a", "b"):
        await one.authorization([CHALLENGE], Scope(repository))
    assert [a.url for a in web.asked].count(EXCHANGE) == 1
    clock.advance(3000)
    await one.authorization([CHALLENGE], TEAM)
    assert [a.url for a in web.asked].count(EXCHANGE) == 2


@pytest.mark.parametrize(
    ("host", "directory"),
    [
        ("team.azurecr.io", "https://login.microsoftonline.com"),
        ("team.azurecr.us", "https://login.microsoftonline.us"),
        ("team.azurecr.cn", "https://login.chinacloudapi.cn"),
        ("registry.lab.example", "https://login.microsoftonline.com"),
    ],
)
def test_each_of_azures_clouds_has_its_directory(host: str, directory: str) -> None:
    assert authority(host) == directory


async def test_directory_and_metadata_may_be_elsewhere(web: CannedWeb, secret: Secret) -> None:
    web.at("http://127.0.0.1:1/contoso.example/oauth2/v2.0/token", answer(access_token="d"))
    web.at("http://127.0.0.1:2/metadata/identity/oauth2/token", answer(access_token="d"))
    for keys in (
        Keys("the-id", secret, "contoso.example", authority="http://127.0.0.1:1"),
        Keys(managed_identity=True, metadata="http://127.0.0.1:2"),
    ):
        assert await made(keys, web).authorization([CHALLENGE], TEAM) == "Bearer registry-1"


async def test_the_exchange_is_at_the_registry_that_is_configured(web: CannedWeb) -> None:
    web.at("https://registry.lab.example:5000/oauth2/exchange", answer(refresh_token="refresh-1"))
    home = Home("lab", "https", "registry.lab.example", 5000)
    one = made(Keys(managed_identity=True), web, home=home)
    with pytest.raises(AuthFailed):  # the realm is another registry's
        await one.authorization([CHALLENGE], TEAM)
    assert web.asked[-1].url == "https://registry.lab.example:5000/oauth2/exchange"


@pytest.mark.parametrize(
    ("url", "status", "found", "refused", "said"),
    [
        (
            DIRECTORY,
            401,
            {"error": "invalid_client", "error_description": "AADSTS7000215: hunter2 is wrong"},
            True,
            "401 (invalid_client, AADSTS7000215): are tenant",
        ),
        (DIRECTORY, 200, {}, False, "no access_token"),
        (
            EXCHANGE,
            401,
            {"errors": ["hunter2"]},
            True,
            "answers 401: does the identity have the role AcrPull",
        ),
        (EXCHANGE, 429, {}, False, "answers 429: try again later"),
        (EXCHANGE, 200, {"access_token": "hunter2"}, False, "no refresh_token"),
    ],
)
async def test_what_azure_says_no_with(
    web: CannedWeb, secret: Secret, url: str, status: int, found: dict[str, Any], refused: bool, said: str
) -> None:
    web.at(url, answer(status, **found))
    with pytest.raises(AuthFailed) as caught:
        await made(Keys("the-id", secret, "contoso.example"), web).authorization([CHALLENGE], TEAM)
    assert said in str(caught.value)
    assert caught.value.refused is refused
    assert not {"hunter2", "the-secret", "directory-1"} & {*str(caught.value).split()}


async def test_a_machine_without_an_identity(web: CannedWeb) -> None:
    web.at(MACHINE, answer(400, error="invalid_request", error_description="Identity not found"))
    with pytest.raises(AuthFailed, match="does this machine have a managed identity"):
        await made(Keys(managed_identity=True), web).authorization([CHALLENGE], TEAM)


def azure(seen: Seen) -> Said:
    """The metadata service and the registry, on one socket."""
    if seen.method == "GET" and seen.headers.get("metadata") == "true":
        return Said(b'{"access_token": "directory-1", "expires_in": "3599"}')
    if seen.path == "/oauth2/exchange" and b"access_token=directory-1" in seen.body:
        return Said(b'{"refresh_token": "refresh-1"}')
    return Said(b"", 400)


async def test_metadata_service_and_registry_on_a_real_socket() -> None:
    async with serve(azure) as service, real_web() as web:
        access = await machine_token(web, service.url, None)
        home = Home("lab", "http", "127.0.0.1", int(service.url.rpartition(":")[2]))
        refresh = await exchange(web, home, None, access.value)
    assert (access.value, access.life) == ("directory-1", 3599.0)
    assert (refresh.value, refresh.life) == ("refresh-1", 3600.0)


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        (Keys(), "set client_id and client_secret, or managed_identity = true"),
        (Keys("the-id"), "set client_id and client_secret"),
        (Keys(client_secret=Secret("file:/x")), "set client_id and client_secret"),
        (Keys("the-id", Secret("file:/x"), managed_identity=True), "set one of the two"),
    ],
)
def test_keys_that_do_not_go_together(keys: Keys, advice: str, web: CannedWeb) -> None:
    with pytest.raises(AuthFailed, match=advice):
        made(keys, web)


@pytest.mark.parametrize("value", ["11111111-2222-3333-4444-555555555555", "contoso.onmicrosoft.com"])
def test_a_tenant(value: str) -> None:
    assert tenant(value) == value


@pytest.mark.parametrize("value", ["", "a/b", "..", "a?b", "a#b", "ü", 7, "a b"])
def test_a_tenant_is_a_part_of_a_path_and_no_more(value: object) -> None:
    with pytest.raises(BadValue):
        tenant(value)
