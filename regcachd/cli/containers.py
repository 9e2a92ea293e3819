"""Containers: the variables of one, as docker inspect, docker compose or the docker command have them."""

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve

from regcachd.cli.predecessor import DEFAULTS
from regcachd.cli.variables import NotVariables, Variables

PORT = "3128"
"""Where a docker-registry-proxy listens in its container."""

COMMAND = re.compile(r"\b(?:docker|podman|nerdctl)\s+(?:container\s+)?(?:run|create)\b")
_IMAGE = "docker-registry-proxy"


def the_one(candidates: list[tuple[bool, Variables]], what: str) -> Variables:
    """The one that is a docker-registry-proxy: by its image, or by its variables."""
    chosen = [found for is_named, found in candidates if is_named]
    chosen = chosen or [found for _, found in candidates if set(found.values) & set(DEFAULTS)]
    if len(chosen) != 1:
        how_many = "none" if not chosen else f"{len(chosen)}"
        raise NotVariables(
            f"of {len(candidates)} {what}, {how_many} could be the docker-registry-proxy; give that one"
        )
    return chosen[0]


def of_container(container: Mapping[str, Any]) -> tuple[bool, Variables]:
    """One of `docker inspect`."""
    config = _table(container.get("Config"))
    host = _table(container.get("HostConfig"))
    mounts = {
        str(mount.get("Destination")): str(mount.get("Source"))
        for mount in _list(container.get("Mounts"))
        if isinstance(mount, Mapping)
    }
    bindings = _list(_table(host.get("PortBindings")).get(f"{PORT}/tcp"))
    ports = [f"{_table(b).get('HostIp') or ''}:{_table(b).get('HostPort')}:{PORT}" for b in bindings]
    found = Variables(_pairs(config.get("Env")), mounts, _listen(ports))
    return _IMAGE in str(config.get("Image")), _without_image(found)


_OF_IMAGES = (
    "PATH",
    "HOME",
    "HOSTNAME",
    "LANG",
    "TERM",
    "NGINX_VERSION",
    "NJS_VERSION",
    "PKG_RELEASE",
    "DO_DEBUG_BUILD",
)


def _without_image(found: Variables) -> Variables:
    """Without what is the image's own business."""
    return evolve(found, values={name: v for name, v in found.values.items() if name not in _OF_IMAGES})


def of_service(service: Mapping[str, Any]) -> tuple[bool, Variables]:
    """One of docker compose."""
    env_files = service.get("env_file")
    paths = [env_files] if isinstance(env_files, str) else _list(env_files)
    named = tuple(str(_table(path).get("path") if isinstance(path, Mapping) else path) for path in paths)
    mounts, ports = {}, []
    for volume in _list(service.get("volumes")):
        if isinstance(volume, Mapping):
            mounts[str(volume.get("target"))] = str(volume.get("source"))
        else:
            mounts |= _mount(str(volume))
    for port in _list(service.get("ports")):
        if isinstance(port, Mapping):
            ports.append(f"{port.get('host_ip') or ''}:{port.get('published')}:{port.get('target')}")
        else:
            ports.append(str(port))
    values = {name: value.replace("$$", "$") for name, value in _pairs(service.get("environment")).items()}
    return _IMAGE in str(service.get("image")), Variables(values, mounts, _listen(ports), named)


def of_command(text: str) -> Variables:
    """`docker run ...`. Raises NotVariables."""
    match = COMMAND.search(text)
    assert match is not None
    try:
        words = shlex.split(text[match.end() :].replace("\\\n", " "))
    except ValueError:
        raise NotVariables("the quotes of the command are not balanced") from None
    options: dict[str, list[str]] = {name: [] for name in ("env", "volume", "publish", "env-file")}
    short = {"-e": "env", "-v": "volume", "-p": "publish"}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in options:
            options[name].append(value if equals else next(rest, ""))
        elif word[:2] in short:
            options[short[word[:2]]].append(word[2:].removeprefix("=") or next(rest, ""))
        elif _IMAGE in word:
            break
    mounts: dict[str, str] = {}
    for volume in options["volume"]:
        mounts |= _mount(volume)
    return Variables(_pairs(options["env"]), mounts, _listen(options["publish"]), tuple(options["env-file"]))


def _pairs(environment: Any) -> dict[str, str]:
    """NAME=VALUE texts, or a table; a name alone has its value from elsewhere."""
    if isinstance(environment, Mapping):
        return {str(name): text_of(value) for name, value in environment.items() if value is not None}
    pairs = (str(entry).partition("=") for entry in _list(environment))
    return {name: value for name, equals, value in pairs if equals}


def _mount(written: str) -> dict[str, str]:
    """SOURCE:TARGET[:OPTIONS]"""
    parts = written.split(":")
    return {parts[1]: parts[0]} if len(parts) > 1 else {}


def _listen(ports: Iterable[str]) -> str | None:
    """What [IP:]PORT:3128 means for `listen`; None for the default."""
    for written in ports:
        host, _, target = written.removesuffix("/tcp").rpartition(":")
        address, _, port = host.rpartition(":")
        address = address.strip("[]")
        if target == PORT and port.isdigit() and 0 < int(port) < 65536:
            if address in ("", "0.0.0.0", "::"):
                return None if port == PORT else f"dual:{int(port)}"
            escaped = address.replace(":", "\\:")
            return (
                f"tcp:{int(port)}:interface={escaped}" if re.fullmatch(r"[0-9A-Fa-f.:]+", address) else None
            )
    return None


def text_of(value: Any) -> str:
    """A value as the variable has it: YAML's and JSON's true is \"true\"."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
