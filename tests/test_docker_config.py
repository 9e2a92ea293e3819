"""plugins/docker_config.py: the file as it is now, and credential programs of every temper."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import define, evolve
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from regcachd.challenge import Challenge
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, Scope
from regcachd.leases import YOUNG
from regcachd.plugins.docker_config import LIFE, Keys, docker_config
from regcachd.secret import Secret
from tests.canned_web import CannedWeb, answer

reactor: Any = _reactor

HOME = Home("ghcr.io", "https", "ghcr.io", 443)
REALM = "https://ghcr.io/token"
BEARER = [Challenge("bearer", {"realm": REALM, "service": "ghcr.io"})]
BASIC = [Challenge("basic", {"realm": "x"})]
TEAM = Scope("team/app")

PLANTED = "hunter2"
"""What no error and no log may say."""


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


class LateClock:
    """The reactor, on a clock that the test can put forward; processes and their time limits are real."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def seconds(self) -> float:
        return float(reactor.seconds()) + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


@define
class Login:
    """A directory with a config.json, its programs, and the authenticator that is made of them."""

    directory: Path
    clock: LateClock
    web: CannedWeb
    keys: Keys
    _made: IAuthenticator | None = None

    def config(self, **config: Any) -> Login:
        self.keys.config.path.write_text(json.dumps(config))
        return self

    def program(self, name: str, *lines: str) -> Login:
        """docker-credential-NAME, which notes each run in a file called runs."""
        path = self.directory / f"docker-credential-{name}"
        path.write_text("\n".join(["#!/bin/sh", f"echo {name} $1 >> {self.directory}/runs", *lines, ""]))
        path.chmod(0o700)
        return self

    @property
    def runs(self) -> list[str]:
        file = self.directory / "runs"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def made(self) -> IAuthenticator:
        if self._made is None:
            self._made = docker_config.authenticator(self.keys, HOME, self.web, self.clock)
        return self._made

    async def header(self, challenges: list[Challenge] = BASIC) -> str | None:
        return await self.made.authorization(challenges, TEAM)

    async def refusal(self) -> AuthFailed:
        with pytest.raises(AuthFailed) as caught:
            await self.header()
        assert PLANTED not in str(caught.value)
        return caught.value


@pytest.fixture
def login(tmp_path: Path) -> Login:
    keys = Keys(Secret(f"file:{tmp_path}/config.json"), (str(tmp_path),), str(tmp_path))
    return Login(tmp_path, LateClock(), CannedWeb(), keys)


def says(user: str, secret: str) -> str:
    return f"""echo '{{"ServerURL":"ghcr.io","Username":"{user}","Secret":"{secret}"}}'"""


# -- what the file holds


async def test_name_and_password_go_to_the_realm_or_the_registry_as_it_asks(login: Login) -> None:
    login.config(auths={"ghcr.io": {"auth": b64encode(b"ada:p").decode()}})
    login.web.at(REALM, answer(token="t-1"))
    assert await login.header(BASIC) == basic("ada:p")
    assert await login.header(BEARER) == "Bearer t-1"
    assert login.web.asked[0].headers == {"Authorization": basic("ada:p")}


async def test_an_identity_token_is_posted_to_the_realm(login: Login) -> None:
    login.config(auths={"ghcr.io": {"identitytoken": "i-1"}})
    login.web.at(REALM, answer(access_token="t-1"))
    assert await login.header(BEARER) == "Bearer t-1"
    (asked,) = login.web.asked
    assert asked.method == "POST"
    assert asked.form["grant_type"] == "refresh_token"
    assert asked.form["refresh_token"] == "i-1"


async def test_a_registry_token_is_for_the_registry_itself(login: Login) -> None:
    login.config(auths={"ghcr.io": {"registrytoken": "r-1"}})
    assert await login.header(BEARER) == "Bearer r-1"
    assert login.web.asked == []


async def test_a_changed_file_counts_from_then_on(login: Login) -> None:
    for password in ("one", "two"):
        login.config(auths={"ghcr.io": {"username": "ada", "password": password}})
        assert await login.header() == basic(f"ada:{password}")


async def test_a_registry_without_a_credential_is_said_to_have_none(login: Login) -> None:
    login.config(auths={"quay.io": {"username": "ada", "password": PLANTED}})
    error = await login.refusal()
    assert error.refused
    assert "use docker login ghcr.io" in str(error)


async def test_a_file_that_is_missing_or_garbage(login: Login) -> None:
    with pytest.raises(Exception, match="cannot be read"):
        await login.header()
    login.keys.config.path.write_text(PLANTED)
    assert "not a config.json" in str(await login.refusal())


# -- what programs say


async def test_a_program_is_asked_for_the_registry(login: Login) -> None:
    line = """read server; echo "{\\"Username\\":\\"ada\\",\\"Secret\\":\\"for $server\\"}" """
    login.config(credHelpers={"ghcr.io": "lab"}).program("lab", line)
    assert await login.header() == basic("ada:for ghcr.io")
    assert login.runs == ["lab get"]


async def test_it_is_asked_once_for_many_and_again_when_its_answer_is_old(login: Login) -> None:
    login.config(credsStore="lab").program("lab", says("ada", "one"))
    many = [Deferred.fromCoroutine(login.header()) for _ in range(5)]
    assert await gatherResults(many) == [basic("ada:one")] * 5
    assert await login.header() == basic("ada:one")
    assert login.runs == ["lab get"]
    login.program("lab", says("ada", "two"))
    login.clock.ahead += LIFE
    assert await login.header() == basic("ada:two")
    assert login.runs == ["lab get"] * 2


async def test_it_is_asked_again_when_the_registry_refuses_its_answer(login: Login) -> None:
    login.config(credsStore="lab").program("lab", says("ada", "one"))
    await login.header()
    login.program("lab", says("ada", "two"))
    login.made.refused(basic("ada:one"))
    assert await login.header() == basic("ada:one"), "another one so soon would be the same"
    login.clock.ahead += YOUNG
    login.made.refused(basic("ada:one"))
    assert await login.header() == basic("ada:two")


async def test_it_is_asked_again_when_the_realm_refuses_its_answer(login: Login) -> None:
    login.config(credsStore="lab").program("lab", says("ada", "one"))
    await login.header()
    login.program("lab", says("ada", "two"))
    login.clock.ahead += YOUNG
    login.web.at(REALM, answer(401), answer(token="t-2"))
    assert await login.header(BEARER) == "Bearer t-2"
    assert login.web.asked[-1].headers == {"Authorization": basic("ada:two")}


async def test_a_program_may_have_an_identity_token(login: Login) -> None:
    login.config(credsStore="lab").program("lab", says("<token>", "i-1"))
    login.web.at(REALM, answer(access_token="t-1"))
    assert await login.header(BEARER) == "Bearer t-1"
    assert login.web.asked[0].form["refresh_token"] == "i-1"


async def test_a_program_that_has_nothing_leaves_it_to_the_next_and_to_the_file(login: Login) -> None:
    nothing = "echo credentials not found in native keychain; exit 1"
    login.config(
        credHelpers={"ghcr.io": "one"},
        credsStore="two",
        auths={"ghcr.io": {"username": "ada", "password": "in the file"}},
    )
    login.program("one", nothing).program("two", nothing)
    assert await login.header() == basic("ada:in the file")
    assert login.runs == ["one get", "two get"]
    login.config(credHelpers={"ghcr.io": "one"}, credsStore="two")
    assert "neither has a program" in str(await login.refusal())


async def test_a_program_that_the_file_names_no_more_is_not_asked(login: Login) -> None:
    login.config(credsStore="lab").program("lab", says("ada", "one"))
    await login.header()
    login.config(auths={"ghcr.io": {"username": "ada", "password": "two"}})
    assert await login.header() == basic("ada:two")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            [f"echo {PLANTED}"],
            "docker-credential-lab, asked for ghcr.io: it printed something else than JSON",
        ),
        (["exit 0"], "it printed something else than JSON"),
        ([f"echo {PLANTED}; exit 1"], "docker-credential-lab fails for ghcr.io; as the daemon's user"),
        ([f"echo {PLANTED} >&2; kill -9 $$"], "docker-credential-lab fails for ghcr.io"),
        (["sleep 1000"], "did not end within 0.4 s"),
        ([f"while :; do echo {PLANTED}; done"], "printed more than 65536 bytes"),
    ],
    ids=["garbage", "nothing", "exits 1", "dies", "hangs", "huge"],
)
async def test_a_program_that_does_not_do_its_work(login: Login, lines: list[str], problem: str) -> None:
    login.keys = evolve(login.keys, helper_timeout=0.4 if "sleep 1000" in lines else 30.0)
    login.config(credsStore="lab").program("lab", *lines)
    error = await login.refusal()
    assert problem in str(error)
    assert not error.refused


async def test_a_program_that_is_not_there(login: Login) -> None:
    login.config(credsStore="lab")
    assert "docker-credential-lab, which file:" in str(await login.refusal())


async def test_a_program_elsewhere_on_path_is_not_run(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    login.config(credsStore="lab").program("lab", says("ada", "one"))
    monkeypatch.setenv("PATH", str(login.directory))
    login.keys = evolve(login.keys, helpers=("/usr/bin",))
    assert "is in no directory of helpers" in str(await login.refusal())
    assert login.runs == []


async def test_a_name_that_leads_elsewhere_is_not_run(login: Login) -> None:
    (login.directory / "docker-credential-x").mkdir()
    (login.directory / "evil").write_text(f"#!/bin/sh\ntouch {login.directory}/runs\n")
    (login.directory / "evil").chmod(0o700)
    login.config(credsStore="x/../evil")
    assert "program that cannot be one" in str(await login.refusal())
    assert login.runs == []


async def test_a_program_gets_little_of_the_environment(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    monkeypatch.setenv("GNUPGHOME", "/g")
    login.config(credsStore="lab").program("lab", f"env > {login.directory}/environment", says("ada", "p"))
    await login.header()
    names = dict(line.split("=", 1) for line in (login.directory / "environment").read_text().splitlines())
    assert names["HOME"] == str(login.directory)
    assert names["GNUPGHOME"] == "/g"
    assert not {"AWS_SECRET_ACCESS_KEY", "CREDENTIALS_DIRECTORY"} & {*names}


async def test_nothing_secret_is_shown_or_logged(login: Login) -> None:
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        login.config(
            credHelpers={"ghcr.io": "lab"}, auths={"ghcr.io": {"username": "ada", "password": PLANTED}}
        )
        login.program("lab", says("ada", PLANTED))
        assert PLANTED not in str(await login.header(BEARER[:0]))
        login.program("lab", f"echo {PLANTED}; echo {PLANTED} >&2; exit 2")
        login.clock.ahead += LIFE * 0.9
        assert await login.header() == basic(f"ada:{PLANTED}")
        login.clock.ahead += LIFE
        await login.refusal()
    finally:
        globalLogPublisher.removeObserver(observer)
    assert PLANTED not in "".join(map(str, events))
    assert PLANTED not in repr(login.made)
