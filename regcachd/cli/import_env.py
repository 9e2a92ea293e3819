"""`regcachctl import-env`: read a docker-registry-proxy's variables, write regcachd's configuration."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click
from attrs import evolve

from regcachd.cli.migration import Migrated, migrate
from regcachd.cli.sources import read_variables
from regcachd.cli.variables import NotVariables, Variables, check, env_file, of_environment
from regcachd.config import ConfigError, parse_config

MOST = 1024 * 1024
"""Bytes a source may have."""


class NotImported(click.ClickException):
    """Nothing was written: the reason."""

    exit_code = 2


def import_env(
    source: Path | None, stdin: BinaryIO, environment: Mapping[str, str], credentials: Path
) -> Migrated:
    """What the variables of a source make; "-" is standard input, None the environment. Raises NotImported."""
    name = "the environment" if source is None else "standard input" if source == Path("-") else str(source)
    try:
        if source is None:
            found = of_environment(environment)
        else:
            base = Path() if source == Path("-") else source.parent
            found = _with_files(read_variables(_read(source, stdin), source.suffix), base, stdin)
        migrated = migrate(check(found), str(credentials))
        parse_config([("what was to be written", migrated.toml)])
    except (NotVariables, ConfigError) as error:
        raise NotImported(f"{name}: {error}") from None
    return migrated


def _read(path: Path, stdin: BinaryIO) -> str:
    try:
        if path == Path("-"):
            data = stdin.read(MOST + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MOST + 1)
    except OSError as error:
        raise NotImported(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MOST:
        raise NotImported(f"{path} is larger than {MOST} bytes: is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotImported(f"{path} is not a text in UTF-8: is it the right file?") from None


def _with_files(found: Variables, base: Path, stdin: BinaryIO) -> Variables:
    """With what stands in the env files that it names; `base` is where relative names begin."""
    values: dict[str, str] = {}
    for name in found.env_files:
        text = _read(base / name, stdin)
        try:
            values |= env_file(text)
        except NotVariables as error:
            raise NotVariables(f"{base / name}: {error}") from None
    return evolve(found, values={**values, **found.values}, env_files=())


def write(migrated: Migrated, output: Path | None, credentials: Path) -> None:
    """The secrets into files of mode 0600 in `credentials`, the configuration to `output` or standard output.

    Nothing that exists is overwritten, and what was written is removed again if not all can be. Raises NotImported.
    """
    written: list[Path] = []
    try:
        if migrated.secrets:
            credentials.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, secret in migrated.secrets.items():
            _create(credentials / name, secret + "\n", 0o600, written)
        if output is not None:
            _create(output, migrated.toml, 0o644, written)
    except OSError as error:
        for path in written:
            with suppress(OSError):
                path.unlink()
        if isinstance(error, FileExistsError):
            raise NotImported(
                f"{error.filename} exists, and nothing was written: move it away, or choose another place"
            ) from None
        raise NotImported(f"{error.filename} cannot be written: {error.strerror}") from None
    if output is None:
        click.echo(migrated.toml, nl=False)


def _create(path: Path, text: str, mode: int, written: list[Path]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        written.append(path)
        file.write(text)


def tell(migrated: Migrated, credentials: Path) -> None:
    """What a person should know, to standard error."""
    for note in migrated.notes:
        click.echo(note, err=True)
    for name in migrated.secrets:
        click.echo(f"password: in {credentials / name}; regcachd's user must be able to read it", err=True)
