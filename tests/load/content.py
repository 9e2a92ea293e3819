"""The blobs of a load: always the same for one seed, made anew by the registry and by its clients."""

from __future__ import annotations

import hashlib
import random

from attrs import field, frozen

REPOSITORY = "team/app"
SMALL = 60
LARGE = 2
LARGE_SIZE = 66 * 1024 * 1024
"""Bytes; large enough for several connections."""
POISONED = 4
"""So many blobs are sent wrong now and then."""


@frozen
class Blob:
    """One blob. Clients that are cut off may have got wrong bytes of a poisoned one, and of no other."""

    data: bytes = field(repr=False)
    digest: str
    poisoned: bool

    @property
    def path(self) -> str:
        """Where the registry has it."""
        return f"/v2/{REPOSITORY}/blobs/{self.digest}"


def blobs(seed: int) -> list[Blob]:
    """All of them: sizes from 1 to some million bytes, and two that are larger."""
    source = random.Random(f"content {seed}")
    sizes = [int(10 ** source.uniform(0, 6.7)) for _ in range(SMALL)] + [LARGE_SIZE] * LARGE
    made = []
    for number, size in enumerate(sizes):
        data = source.randbytes(size)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        made.append(Blob(data, digest, poisoned=number < POISONED))
    return made
