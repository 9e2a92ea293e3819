"""Secrets: values the configuration names by where they are kept, and that nothing shows.

    file:/etc/regcachd/credentials/ngc      a file's text, without the end of its last line
    credential:ngc                          systemd's LoadCredential=ngc:... (systemd.exec(5), "Credentials")

A secret is read when it is needed, so that a changed file counts from then on. Environment variables and values
written into the configuration are refused: other processes, backups and error reports see those.
"""

import os
import stat
from pathlib import Path

from attrs import frozen

from regcachd.errors import RegcachdError
from regcachd.units import BadSecret

LARGEST = 64 * 1024
"""Bytes; Google's keys, the largest there are, have 2.4 KiB."""


class SecretUnreadable(RegcachdError):
    """A secret cannot be read; says where it should be, never what it is."""


@frozen
class Secret:
    """Where a secret is kept, as the configuration says it; the secret itself is only ever returned by `read`."""

    source: str

    @property
    def path(self) -> Path:
        """The file. Raises SecretUnreadable for a credential that systemd has not passed on."""
        kind, _, rest = self.source.partition(":")
        if kind == "file":
            return Path(rest)
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if directory is None:
            raise SecretUnreadable(
                f"{self.source}: systemd has passed no credentials on; the unit needs LoadCredential={rest}:/PATH"
            )
        return Path(directory) / rest

    def read(self) -> str:
        """The secret. Raises SecretUnreadable."""
        path = self.path
        try:
            with open(path, "rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise SecretUnreadable(f"{self.source}: cannot be read: {error.strerror}") from None
        if len(data) > LARGEST:
            raise SecretUnreadable(f"{self.source}: larger than {LARGEST} bytes")
        try:
            text = data.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise SecretUnreadable(f"{self.source}: not UTF-8 text") from None
        if not text:
            raise SecretUnreadable(f"{self.source}: empty")
        return text

    def exposed_to(self) -> str | None:
        """Who else than the owner may read the file: "group", "everybody" or None. Raises SecretUnreadable."""
        try:
            mode = self.path.stat().st_mode
        except OSError as error:
            raise SecretUnreadable(f"{self.source}: cannot be read: {error.strerror}") from None
        if mode & stat.S_IROTH:
            return "everybody"
        return "group" if mode & stat.S_IRGRP else None


def secret(value: object) -> Secret:
    """Read a key's value (regcachd.values). Raises BadSecret, which never repeats what might be the secret itself."""
    expected = 'expected "file:/PATH" or "credential:NAME", which name where the secret is kept'
    if not isinstance(value, str):
        raise BadSecret(expected)
    kind, _, rest = value.partition(":")
    if kind == "env":
        raise BadSecret(
            f"environment variables are seen by others; write it to a file of mode 0600; {expected}"
        )
    if kind == "file" and rest.startswith("/") and "\0" not in rest:
        return Secret(value)
    if kind == "credential" and rest and "/" not in rest and rest not in (".", "..") and rest.isprintable():
        return Secret(value)
    raise BadSecret(f"a secret is not written into the configuration; {expected}")
