"""What a worker gets from its parent, in one line of JSON over a pipe: never in argv or in the environment, which
others on the machine can read."""

import json
import os

import attrs
from attrs import field, frozen

from .config import Sources

FIRST_SOCKET = 3
"""The descriptor of a worker's first listening socket; 0 is this line's pipe, 1 its log, 2 what else it prints."""


def _random() -> bytes:
    return os.urandom(32)


@frozen
class Secrets:
    """What all workers of a daemon know."""

    tickets: bytes = field(factory=_random, repr=False)
    """What TLS tickets are encrypted with (tls.py): made at each start, never written down."""
    proofs: bytes = field(factory=_random, repr=False)
    """What credentials are hashed with (evidence.py)."""


@frozen
class Inheritance:
    """One worker's part in the daemon."""

    number: int
    """From 1 to `of`."""
    of: int
    """How many workers there are."""
    sockets: int
    """How many listening sockets it has, from FIRST_SOCKET on."""
    reactor: str
    """The module whose `install` makes the parent's kind of reactor."""
    sources: Sources
    secrets: Secrets

    def line(self) -> bytes:
        """As it is sent."""
        value = attrs.asdict(self)
        value["secrets"] = {name: secret.hex() for name, secret in value["secrets"].items()}
        return json.dumps(value).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> "Inheritance":
        """As it has come."""
        value = json.loads(line)
        sources, secrets = value.pop("sources"), value.pop("secrets")
        documents = tuple((name, toml) for name, toml in sources["documents"])
        return cls(
            **value,
            sources=Sources(documents, sources["options"]),
            secrets=Secrets(**{name: bytes.fromhex(secret) for name, secret in secrets.items()}),
        )
