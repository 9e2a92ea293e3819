"""`auth = "docker-config"`: what `docker login` has kept, in a config.json or with a docker-credential-* program.

The file is read for each request, and counts as it is then. What a program says is kept for some minutes.
"""

import os
import shutil
from collections.abc import Sequence
from typing import Any, cast

from attrs import define, field, frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from regcachd.answers import Answers
from regcachd.challenge import Challenge
from regcachd.dockerconfig import (
    NOT_FOUND,
    Credential,
    Entry,
    Program,
    RegistryToken,
    find_entry,
    read_program,
)
from regcachd.interfaces import AuthFailed, Home, IAuthenticator, IRegistryAuth, IWeb, Scope
from regcachd.leases import Lease, Leased
from regcachd.programs import SEARCHED, ProgramFailed, run_program
from regcachd.secret import Secret, secret
from regcachd.tokens import Held
from regcachd.units import parse_duration
from regcachd.values import key, list_of, optional, required, text, within

LIFE = 600.0
"""Seconds for which a program is not asked again."""
MOST = 64 * 1024
"""Bytes that a program may print; tokens have a few KiB."""

_PASSED_ON = (
    "DBUS_SESSION_BUS_ADDRESS",
    "GNUPGHOME",
    "HOME",
    "LOGNAME",
    "PASSWORD_STORE_DIR",
    "USER",
    "XDG_RUNTIME_DIR",
)
"""What programs need to find their user's store; nothing else of the daemon's environment is theirs."""


@frozen
class Keys:
    """`helpers` are the directories in which credential programs are, `helper_home` is HOME for them."""

    config: Secret = required(secret)  # noqa: RUF009 - a field
    helpers: tuple[str, ...] = key(SEARCHED.split(":"), list_of(text))
    helper_home: str | None = optional(text)
    helper_timeout: float = key("30s", within(parse_duration, "100ms", "5m"))

    def environment(self) -> dict[str, str]:
        """Of programs."""
        found = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        if self.helper_home is not None:
            found["HOME"] = self.helper_home
        path = ":".join(dict.fromkeys((*self.helpers, *SEARCHED.split(":"))))
        return {**found, "PATH": path, "LC_ALL": "C.UTF-8"}


@implementer(IAuthenticator)
@define(eq=False)
class FromConfig:
    """The credential that the file names at the moment."""

    _keys: Keys
    _home: Home
    _clock: Any
    _answers: Answers = field(init=False, repr=False)
    _asked: dict[Program, Leased[Credential | None]] = field(factory=dict, repr=False)
    _read: tuple[str, Entry] | None = field(default=None, repr=False)

    async def authorization(self, challenges: Sequence[Challenge], scope: Scope) -> str | None:
        """The header; what a program said is asked for again when it is turned down."""
        try:
            return await self._authorization(challenges, scope)
        except AuthFailed as error:
            if not error.refused or not self._drop():
                raise
        return await self._authorization(challenges, scope)

    async def _authorization(self, challenges: Sequence[Challenge], scope: Scope) -> str | None:
        credential = await self._credential()
        if isinstance(credential, RegistryToken):
            return f"Bearer {credential.token}"
        return await self._answers.authorization(challenges, scope)

    def refused(self, authorization: str) -> None:
        """A token is the realm's, and says nothing of the credential that it was made for; Basic is the credential."""
        self._answers.refused(authorization)
        if not authorization.startswith("Bearer "):
            self._drop()

    def _drop(self) -> bool:
        dropped = [leased.drop() for leased in self._asked.values()]
        return any(dropped)

    async def held(self) -> Held:
        """What challenges are answered with."""
        credential = await self._credential()
        return None if isinstance(credential, RegistryToken) else credential

    async def _credential(self) -> Credential:
        entry = self._entry()
        for program in entry.programs:
            credential = await self._asked[program].get()
            if credential is not None:
                return credential
        if entry.held is not None:
            return entry.held
        raise AuthFailed(
            f"{self._keys.config.source} has no credential for {self._home.host}, and neither has a program that it "
            f"names: use docker login {self._home.host}, or anonymous for this registry",
            refused=True,
        )

    def _entry(self) -> Entry:
        """What the file says now. Programs that it names no more are forgotten."""
        written = self._keys.config.read()
        if self._read is None or self._read[0] != written:
            self._read = written, find_entry(written, self._home)
            self._asked = {
                program: self._asked.get(program) or self._leased(program)
                for program in self._read[1].programs
            }
        return self._read[1]

    def _leased(self, program: Program) -> Leased[Credential | None]:
        async def obtain() -> Lease[Credential | None]:
            return Lease(await self._ask(program), LIFE)

        return Leased(self._clock, f"what docker-credential-{program.name} says of {program.server}", obtain)

    async def _ask(self, program: Program) -> Credential | None:
        name = f"docker-credential-{program.name}"
        path = shutil.which(name, path=":".join(self._keys.helpers))
        if path is None:
            raise AuthFailed(f"{name}, which {self._keys.config.source} names, is in no directory of helpers")
        try:
            ended = await run_program(
                self._clock,
                [path, "get"],
                self._keys.environment(),
                program.server.encode(),
                limit=MOST,
                timeout=self._keys.helper_timeout,
            )
            if ended.good:
                return read_program(ended.output)
        except (ProgramFailed, AuthFailed) as error:
            raise AuthFailed(f"{name}, asked for {program.server}: {error}") from None
        if NOT_FOUND.encode() in ended.output:
            return None
        # What it printed may be anything, the secret included.
        raise AuthFailed(
            f"{name} fails for {program.server}; as the daemon's user, with its HOME, try: "
            f"echo {program.server} | {name} get"
        )


@implementer(IPlugin, IRegistryAuth)
@frozen
class DockerConfig:
    """What is kept for docker."""

    name = "docker-config"
    keys = Keys

    def authenticator(self, keys: object, home: Home, web: IWeb, clock: Any) -> IAuthenticator:
        """The authenticator for one registry."""
        made = FromConfig(cast(Keys, keys), home, clock)
        made._answers = Answers(home, web, clock, made.held)
        return made


docker_config = DockerConfig()
