"""The variables of a docker-registry-proxy: what can be known of one, and env files."""

import re
from collections.abc import Mapping

from attrs import field, frozen

from regcachd.cli.predecessor import DEFAULTS, WITHOUT
from regcachd.errors import RegcachdError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNRESOLVED = re.compile(r"\$\{|\$\(|\$[A-Za-z_]|`|\{\{")


class NotVariables(RegcachdError):
    """The text has no variables of a docker-registry-proxy, or none that can be read; the message says what to give."""


@frozen
class Variables:
    """What was found. `env_files` are named in the text and still to be read, for what `values` does not say."""

    values: Mapping[str, str] = field(repr=False)
    mounts: Mapping[str, str] = field(factory=dict)
    """Directories of the host by where they are in the container."""
    listen: str | None = None
    """Where it listens, if that is not the default, as `listen` says it."""
    env_files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def of_environment(environment: Mapping[str, str]) -> Variables:
    """Those of its variables that a process has."""
    mine = [*DEFAULTS, *WITHOUT]
    return Variables(
        {name: environment[name] for name in mine if name in environment and not name.endswith("_PROXY")}
    )


def env_file(text: str) -> dict[str, str]:
    """NAME=VALUE lines; `export`, comments and quotes around a value are understood. Raises NotVariables."""
    values = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip().removeprefix("export ").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not _NAME.fullmatch(name):
            raise NotVariables(f"line {number} is not NAME=VALUE: is this an env file?")
        if equals:  # a name alone is taken from the environment by those who read such files
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            values[name] = value[1:-1] if quoted else value
    return values


def check(found: Variables) -> Variables:
    """Are there any of its variables, and can all be read as they stand? Raises NotVariables."""
    mine = {name: value for name, value in found.values.items() if name in DEFAULTS or name in WITHOUT}
    if not mine and not found.mounts:
        raise NotVariables(
            "no variable of docker-registry-proxy is set there, such as REGISTRIES or CACHE_MAX_SIZE: give the env "
            "file, the docker-compose.yml, the output of `docker inspect`, or DeepOps' variables"
        )
    for name, value in mine.items():
        if any("\ud800" <= each <= "\udfff" or each == "\0" for each in value):
            raise NotVariables(f"{name} is not a text in UTF-8")
        if not name.startswith("AUTH_") and _UNRESOLVED.search(value) and not name.endswith("_REGEX"):
            raise NotVariables(
                f"{name} refers to something else, which only its own program knows: give the output of "
                "`docker inspect` or `docker compose config`, or the value itself"
            )
    return found
