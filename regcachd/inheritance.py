"""What a worker gets from its parent, in one line of JSON over a pipe: never in argv or in the environment, which
others on the machine can read. It gets another line, of the next edition, whenever the daemon takes up another
configuration or another CA."""

import json
import os
from typing import Any

import attrs
from attrs import field, frozen

from .config import Config, Kinds, Sources
from .pki import CA
from .reload import decide

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
    began: Sources | None = None
    """What the daemon began with, where that is another: what waits for a restart is as it was then."""
    edition: int = 0
    """Counts what the parent has handed down."""
    ca: CA | None = field(default=None, eq=False, repr=False)
    """None: the worker opens it by itself."""

    def config(self, kinds: Kinds) -> Config:
        """The configuration that the daemon has. Raises ConfigError."""
        config = self.sources.config(kinds)
        return config if self.began is None else decide(self.began.config(kinds), config).config

    def line(self) -> bytes:
        """As it is sent."""
        value = attrs.asdict(attrs.evolve(self, ca=None))
        value["ca"] = None if self.ca is None else self.ca.handed_over()
        value["secrets"] = {name: secret.hex() for name, secret in value["secrets"].items()}
        return json.dumps(value).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> "Inheritance":
        """As it has come."""
        value = json.loads(line)
        sources, began = value.pop("sources"), value.pop("began")
        secrets, ca = value.pop("secrets"), value.pop("ca")
        return cls(
            **value,
            sources=_sources(sources),
            began=None if began is None else _sources(began),
            secrets=Secrets(**{name: bytes.fromhex(secret) for name, secret in secrets.items()}),
            ca=None if ca is None else CA.taken_over(ca),
        )


def _sources(value: Any) -> Sources:
    return Sources(tuple((name, toml) for name, toml in value["documents"]), value["options"])
