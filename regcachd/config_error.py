"""What cannot be used of a configuration, said to a person."""

import json
import re

from regcachd.errors import RegcachdError


class ConfigError(RegcachdError):
    """A configuration that cannot be used: file, key, value and what is allowed, in one line.

    The value is shown as JSON and cut where it is long; what could be a user and a password in it is hidden.
    """

    def __init__(self, file: str, key: str, problem: str, value: object = None) -> None:
        shown = "" if value is None else f" = {_show(value)}"
        super().__init__(" ".join(f"{file}: {key}{shown}: {problem}".split()))


def _show(value: object) -> str:
    shown = json.dumps(_mask(value), default=str)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."


def _mask(value: object) -> object:
    match value:
        case str():
            return re.sub(r".*@", "***@", value, flags=re.DOTALL)
        case list():
            return [_mask(item) for item in value]
        case dict():
            return "a table"
        case int() if value.bit_length() > 64:  # Python does not write an integer of 4,301 digits
            return "a very large number"
    return value
