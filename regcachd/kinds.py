"""Kinds of authentication in the configuration: whose keys are in a registry's table, and what they say.

Which kinds there are is up to the plugins that are installed, so they are handed in: each kind's name with the class of
its keys, as `IRegistryAuth` has them. No message repeats a value: whatever stands here might be a secret in the
wrong place.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import attrs

from regcachd.errors import RegcachdError
from regcachd.schema import Auth
from regcachd.units import BadValue
from regcachd.values import keys_of

Kinds = Mapping[str, type]
"""The classes of keys, by the names that `auth` may say."""

IMPLIED = "bearer"
"""The kind of a registry that has the keys of this kind and does not say which it is."""


class BadKey(RegcachdError):
    """A key of a registry's table that cannot be used, and why."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


def all_keys(kinds: Kinds) -> frozenset[str]:
    """The keys of all kinds."""
    return frozenset(name for keys in kinds.values() for name in keys_of(keys))


def read_auth(kind: str | None, given: Mapping[str, object], kinds: Kinds) -> Auth | None:
    """What a registry's table says of authentication: its `auth`, and its keys that may be a plugin's.

    Raises BadKey.
    """
    if kind is None:
        implied = keys_of(kinds[IMPLIED]) if IMPLIED in kinds else {}
        for name in given:
            if name not in implied:
                raise BadKey(name, f"it needs {_homes(name, kinds)} beside it")
        if not given:
            return None
        kind = IMPLIED
    if kind not in kinds:
        raise BadKey("auth", f"no such kind of authentication; {_advice(kind, kinds)}")
    known = keys_of(kinds[kind])
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise BadKey(
                name,
                f'not a key of auth = "{kind}"; it belongs to {_homes(name, kinds)}; allowed here: {allowed}',
            )
        try:
            found[name] = known[name]["read"](value)
        except BadValue as error:
            raise BadKey(name, str(error)) from None
    for name, made in attrs.fields_dict(kinds[kind]).items():
        if name in known and name not in found and made.default is attrs.NOTHING:
            raise BadKey(name, f'missing: auth = "{kind}" needs it')
    return Auth(kind, kinds[kind](**found))


def _homes(name: str, kinds: Kinds) -> str:
    return " or ".join(f'auth = "{kind}"' for kind, keys in kinds.items() if name in keys_of(keys))


def _advice(kind: str, kinds: Kinds) -> str:
    close = difflib.get_close_matches(kind, kinds, n=1)
    return (f'did you mean "{close[0]}"? ' if close else "") + f"allowed: {', '.join(sorted(kinds))}"
