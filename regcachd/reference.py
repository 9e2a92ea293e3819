"""What a client asks for: repositories, tags and digests, parsed once into types.

The grammars are those of the OCI distribution specification ("Pulling manifests") and, for digests,
of the OCI image specification ("Digests", registered algorithms). Everything here is checked in
``parse``; the constructors trust their caller.
"""

from __future__ import annotations

import hashlib
import re
from typing import TypeAlias

from attrs import frozen

from regcachd.errors import RegcachdError

_LONGEST_NAME = 255
_SHOWN = 100
"""Characters of a bad input that an error repeats: enough to recognise it, too few to flood a log."""

_HASHERS = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


class InvalidReference(RegcachdError):
    """A digest, tag or repository name that the OCI grammar does not allow."""


@frozen
class Digest:
    """The address of content by its hash: ``algorithm`` is sha256 or sha512, ``hex`` is lowercase."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:<64 hex>`` or ``sha512:<128 hex>``, in lowercase, or raise InvalidReference."""
        found = _DIGEST.fullmatch(text)
        if found is None:
            raise InvalidReference(
                f"{_shown(text)} is not a digest: write sha256: and 64, or sha512: and 128,"
                " lowercase hexadecimal digits"
            )
        return cls(found[1] or found[3], found[2] or found[4])

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``data``; KeyError for an algorithm other than sha256 and sha512."""
        return cls(algorithm, _HASHERS[algorithm](data).hexdigest())

    def hasher(self) -> hashlib._Hash:
        """A fresh hashlib object of this digest's algorithm."""
        return _HASHERS[self.algorithm]()

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@frozen
class Tag:
    """A name that the registry may move from one manifest to another."""

    name: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Check ``text`` against the OCI grammar, or raise InvalidReference."""
        if _TAG.fullmatch(text) is None:
            raise InvalidReference(
                f"{_shown(text)} is not a tag: use at most 128 letters, digits, '_', '.' and '-',"
                " not beginning with '.' or '-'"
            )
        return cls(text)

    def __str__(self) -> str:
        return self.name


Target: TypeAlias = Tag | Digest
"""What names a manifest within its repository."""


def parse_target(text: str) -> Target:
    """Read a tag or a digest: only a digest has a colon. Raises InvalidReference."""
    return Digest.parse(text) if ":" in text else Tag.parse(text)


@frozen
class Repository:
    """A repository of a registry, such as ``library/alpine`` of ``docker.io``."""

    registry: str
    name: str

    @classmethod
    def parse(cls, registry: str, name: str) -> Repository:
        """Check ``name`` against the OCI grammar, or raise InvalidReference.

        ``registry`` is a name from the configuration and is taken as it is.
        """
        if len(name) > _LONGEST_NAME or _NAME.fullmatch(name) is None:
            raise InvalidReference(
                f"{_shown(name)} is not a repository name: use at most {_LONGEST_NAME} lowercase letters and"
                " digits, with '.', '_', '__' or '-' between them and '/' between components"
            )
        return cls(registry, name)

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"


@frozen
class Reference:
    """One manifest, by tag or by digest."""

    repository: Repository
    target: Target

    def __str__(self) -> str:
        separator = "@" if isinstance(self.target, Digest) else ":"
        return f"{self.repository}{separator}{self.target}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
