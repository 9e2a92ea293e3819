"""From docker-registry-proxy's variables to a configuration of regcachd: a pure conversion.

What has an equivalent is written, what has none is told, with the reason. Keys that this regcachd does not know (the
schema says which) are written as comments. Secrets are handed back apart from the configuration, and no note holds one.
"""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType

from attrs import define, field, frozen

from regcachd.cli.nginx import duration_of, globs_of, size_of
from regcachd.cli.predecessor import DEFAULTS, SLICES, TIMES, TOKEN_HOSTS, WITHOUT
from regcachd.cli.variables import Variables
from regcachd.connect import Authority, HeadError
from regcachd.known import KNOWN
from regcachd.schema import REGISTRY_TABLE, SCHEMA
from regcachd.units import BadValue
from regcachd.values import keys_of, registry_name

ALIASES: Mapping[str, str] = MappingProxyType(
    {host: known.name for known in KNOWN.values() for host in known.hosts}
)

KEYS_OF_AUTH = ("username", "password")
"""Keys that the kinds of authentication bring, where there are any."""


@frozen
class Migrated:
    """The configuration as text, the secrets by the name of their file, and what a person should know."""

    toml: str
    secrets: Mapping[str, str] = field(repr=False)
    notes: tuple[str, ...]


@define
class _Draft:
    """A configuration in the making: lines by table, in the order of the tables."""

    tables: dict[str, list[str]] = field(factory=dict)
    notes: list[str] = field(factory=list)
    unknown: dict[str, None] = field(factory=dict)

    def set(self, source: str, table: str, key: str, value: object, remark: str = "") -> None:
        """A key, if its reader takes the value; as a comment, if there is no such key."""
        kind = REGISTRY_TABLE if table.startswith("registries.") else table
        keys = keys_of(SCHEMA[kind])
        known = key in keys or (key in KEYS_OF_AUTH and "auth" in keys)
        if key in keys:
            try:
                keys[key]["read"](value)
            except BadValue as error:
                self.note(source, f"not taken over as {key}: {error}")
                return
        if not known:
            self.unknown[key] = None
        line = f"{'' if known else '#'}{key} = {_toml(value)}"
        self.tables.setdefault(table, []).append(line + (f"  # {remark}" if remark else ""))

    def note(self, source: str, text: str) -> None:
        """Something to be told."""
        self.notes.append(f"{source}: {text}")

    def text(self) -> str:
        """As TOML."""
        written = []
        for table, lines in self.tables.items():
            written += ([f"\n[{table}]"] if table else []) + lines
        return "\n".join(written).lstrip("\n") + "\n"


def migrate(found: Variables, credentials: str) -> Migrated:
    """The equivalent of these variables; secrets will be files in the directory `credentials`, an absolute path."""
    draft = _Draft()
    given = {name: value for name, value in found.values.items() if value != DEFAULTS.get(name)}
    values = {**DEFAULTS, **found.values}
    for note in found.notes:
        draft.note("note", note)
    if found.listen is not None:
        draft.set("published port", "", "listen", [found.listen])
    _size(
        draft,
        values["CACHE_MAX_SIZE"],
        "" if "CACHE_MAX_SIZE" in given else "docker-registry-proxy's default",
    )
    _tags(draft, values)
    for name, table, key in TIMES:
        if name in given:
            _time(draft, name, given[name], table, key)
    logins = {} if "AUTH_REGISTRIES" not in given else _logins(draft, values)
    secrets = _registries(draft, values, logins, credentials)
    for name in found.values:
        if name in WITHOUT and name in given:
            draft.note(name, f"no equivalent: {WITHOUT[name]}")
        elif name.startswith("SLICE"):
            draft.note(name, f"no equivalent: {SLICES}")
        elif name not in DEFAULTS and name not in WITHOUT:
            draft.note(name, "no equivalent: not a variable of docker-registry-proxy that is known here")
    _mounts(draft, found.mounts)
    if draft.unknown:
        keys = ", ".join(draft.unknown)
        draft.note("as comments", f"this regcachd does not know these keys: {keys}")
    return Migrated(draft.text(), secrets, tuple(draft.notes))


def _size(draft: _Draft, value: str, remark: str) -> None:
    size = size_of(value)
    if size is None:
        draft.note(
            "CACHE_MAX_SIZE", "not a size as nginx takes them, such as 32g; store.max_size is left as it is"
        )
    else:
        draft.set("CACHE_MAX_SIZE", "store", "max_size", size, remark)


def _tags(draft: _Draft, values: Mapping[str, str]) -> None:
    if values["ENABLE_MANIFEST_CACHE"].strip().lower() != "true":
        return  # tags are asked for each time, which is `revalidate`
    draft.set("ENABLE_MANIFEST_CACHE", "defaults", "tags", "ttl")
    _time(draft, "MANIFEST_CACHE_DEFAULT_TIME", values["MANIFEST_CACHE_DEFAULT_TIME"], "defaults", "tag_ttl")
    rules = []
    for tier in ("PRIMARY", "SECONDARY"):
        regex, time = f"MANIFEST_CACHE_{tier}_REGEX", f"MANIFEST_CACHE_{tier}_TIME"
        ttl, globs = duration_of(values[time]), globs_of(values[regex])
        if not values[regex]:
            continue
        if ttl is None or globs is None:
            what = "REGEX" if globs is None else "TIME"
            draft.note(
                f"MANIFEST_CACHE_{tier}_{what}",
                'not taken over: what it matches is to be written as {match = "REPOSITORY:TAG", ttl = "10m"} in '
                "tag_rules, with * for any text",
            )
        else:
            rules += [{"match": glob, "ttl": ttl} for glob in globs]
    if rules:
        draft.set("MANIFEST_CACHE_*_REGEX", "defaults", "tag_rules", rules)


def _time(draft: _Draft, name: str, value: str, table: str, key: str) -> None:
    duration = duration_of(value)
    if duration is None:
        draft.note(name, "not a time as nginx takes them, such as 60s; the default is left")
    else:
        draft.set(name, table, key, duration)


def _logins(draft: _Draft, values: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """User and password by registry."""
    between = values["AUTH_REGISTRIES_DELIMITER"] or DEFAULTS["AUTH_REGISTRIES_DELIMITER"]
    within = values["AUTH_REGISTRY_DELIMITER"] or DEFAULTS["AUTH_REGISTRY_DELIMITER"]
    logins: dict[str, tuple[str, str]] = {}
    for number, entry in enumerate(filter(str.strip, values["AUTH_REGISTRIES"].split(between)), start=1):
        source = f"AUTH_REGISTRIES, entry {number}"
        parts = entry.strip("\r\n").split(within)
        if len(parts) < 3 or not all(part.strip() for part in parts[:3]):
            draft.note(source, f"not HOST{within}USER{within}PASSWORD; left out")
            continue
        host, user, password = parts[0].strip(), parts[1], parts[2]
        if len(parts) > 3:
            draft.note(
                source, "more than three parts, of which docker-registry-proxy uses three, as is done here"
            )
        name = _registry(host, TOKEN_HOSTS)
        if name is None:
            draft.note(source, "its host is no host name; left out")
        elif name in logins:
            draft.note(source, f"a second login for {name}; the first is kept")
        else:
            logins[name] = (user, password)
    return logins


def _registry(host: str, others: Mapping[str, str]) -> str | None:
    """What the configuration calls the registry at this host."""
    try:
        written = str(Authority.parse(host, 443)).removesuffix(":443")
        name = others.get(written) or ALIASES.get(written) or written
        return registry_name(name)
    except (HeadError, BadValue):
        return None


def _registries(
    draft: _Draft, values: Mapping[str, str], logins: Mapping[str, tuple[str, str]], credentials: str
) -> dict[str, str]:
    """The tables of the registries. Returns the secrets."""
    names = {"docker.io": None}
    for host in values["REGISTRIES"].split():
        name = _registry(host, {})
        if name is None:
            shown = ascii(host.rpartition("@")[2][:100])  # before it may be a password
            draft.note("REGISTRIES", f"{shown} is not the name of a registry; left out")
        elif name in TOKEN_HOSTS:
            draft.note(
                "REGISTRIES", f"{name} hands out tokens only, and clients reach it by tunnel; left out"
            )
        else:
            names[name] = None
    for name in logins:
        if name not in names:
            draft.note(
                "AUTH_REGISTRIES",
                f"{name} is not among REGISTRIES, and is added; if it only hands out tokens for another registry, "
                "as git.site.example does for a GitLab registry, move its login to that one's table",
            )
            names[name] = None
    is_verified = values["VERIFY_SSL"].strip().lower() == "true"
    pushes = [n for n in ("ALLOW_PUSH", "ALLOW_PUSH_WITH_OWN_AUTH") if values[n].strip().lower() == "true"]
    secrets: dict[str, str] = {}
    for name in names:
        table = f"registries.{json.dumps(name)}"
        draft.tables.setdefault(table, [])
        if name in logins:
            user, password = logins[name]
            file = re.sub(r"[^A-Za-z0-9.-]", "_", name)
            while (
                file in secrets
            ):  # of another registry, whose name differs in what no file's name should have
                file += "_"
            secrets[file] = password
            draft.set("AUTH_REGISTRIES", table, "auth", "bearer")
            draft.set("AUTH_REGISTRIES", table, "username", user)
            draft.set("AUTH_REGISTRIES", table, "password", f"file:{credentials}/{file}")
            draft.set(
                "AUTH_REGISTRIES",
                table,
                "share",
                True,
                "as before: every client may read what this login can",
            )
        if not is_verified and name not in KNOWN:
            draft.set("VERIFY_SSL", table, "insecure", True, "better: ca = the file of its CA")
        for variable in pushes[:1]:
            draft.set(variable, table, "allow_push", True)
    if not is_verified:
        draft.note(
            "VERIFY_SSL",
            "certificates of well-known registries are verified all the same; of the others, `insecure` lets whoever "
            "is on the way read passwords and change images: name their CA as `ca` instead",
        )
    if pushes:
        draft.note(pushes[0], "pushes use the login that the client brings, never the one configured here")
    return secrets


def _mounts(draft: _Draft, mounts: Mapping[str, str]) -> None:
    if cache := mounts.get("/docker_mirror_cache"):
        draft.note(
            "cache",
            f"what is in {cache} cannot be used, and may be deleted; if that is the disk for it, set store.path to a "
            "new directory there",
        )
    if ca := mounts.get("/ca"):
        draft.note(
            "CA",
            "regcachd makes one of its own, limited to the registries, for clients to trust. To keep the old one "
            f"instead: openssl rsa -passin pass:foobar -in {ca}/ca.key -out /etc/regcachd/ca.key, copy {ca}/ca.crt "
            "beside it, and name both in [ca]",
        )


def _toml(value: object) -> str:
    """A value as TOML; JSON's texts, lists and numbers are TOML's, too."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
