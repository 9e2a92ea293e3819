"""Where variables stand: finding out what a text is.

    NAME=VALUE lines            an env file, or what `docker exec NAME env` prints
    JSON                        docker inspect, docker compose config --format json
    YAML                        docker-compose.yml, or DeepOps' nginx_docker_cache_* variables
    docker run ...              the command, as it was typed or stands in a script

No error repeats a line: it might hold a password.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from regcachd.cli.containers import COMMAND, of_command, of_container, of_service, the_one
from regcachd.cli.deepops import DEEPOPS, of_deepops
from regcachd.cli.variables import NotVariables, Variables, env_file


def read_variables(text: str, suffix: str = "") -> Variables:
    """Find out what a text is, and read it; `suffix` is that of its file's name. Raises NotVariables."""
    if text.lstrip()[:1] in ("{", "["):
        return _of_document(_json(text))
    if COMMAND.search(text):
        return of_command(text)
    if suffix.lower() in (".yml", ".yaml") or (suffix.lower() != ".env" and _looks_like_yaml(text)):
        return _of_document(_yaml(text))
    return Variables(env_file(text))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise NotVariables("it begins like JSON and is none") from None


def _looks_like_yaml(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) and (
        lines[0].startswith("---") or re.match(r"[A-Za-z_.-]+:(\s|$)", lines[0]) is not None
    )


def _yaml(text: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise NotVariables(
            "YAML needs the Python package PyYAML (Debian: apt install python3-yaml); without it, give the output of "
            "`docker inspect`"
        ) from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        raise NotVariables(f"not YAML that can be read{where}") from None


def _of_document(document: Any) -> Variables:
    if isinstance(document, Mapping) and any(str(name).startswith(DEEPOPS) for name in document):
        return of_deepops(document)
    if isinstance(document, Mapping) and isinstance(document.get("services"), Mapping):
        return the_one(
            [of_service(s) for s in document["services"].values() if isinstance(s, Mapping)], "services"
        )
    containers = document if isinstance(document, list) else [document]
    found = [of_container(each) for each in containers if isinstance(each, Mapping) and "Config" in each]
    if found:
        return the_one(found, "containers")
    if isinstance(document, Mapping) and document and all(isinstance(v, str) for v in document.values()):
        return Variables({str(name): value for name, value in document.items()})
    raise NotVariables(
        "neither docker compose's services, nor a container as `docker inspect` shows it, nor DeepOps' "
        f"{DEEPOPS}... variables are in it"
    )
