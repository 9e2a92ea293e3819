"""Evidence for the access rule: which credential upstream has accepted for which repository, and when.

A credential is the client's Authorization header; it is remembered as a keyed hash under a key that lives only as
long as the daemon, so neither memory dumps, nor files, nor logs hold what could be replayed. No credential is one,
too. The hashes are kept in the index, where every worker sees at once what one of them has heard.
"""

import hashlib
from typing import NewType

from attrs import field, frozen

from .index import Index
from .reference import Repository

Credential = NewType("Credential", bytes)
"""A keyed hash of an Authorization header."""

RENEWAL = 0.25
"""The fraction of a proof's life after which a new one is written down. A shorter-lived proof is only asked
for a little earlier, and a client that pulls an image costs one write, not one for each layer."""


@frozen
class Proofs:
    """Upstream's yes per repository and credential. `key`: 32 random bytes."""

    _index: Index
    _key: bytes = field(repr=False)

    def credential(self, authorization: str | None) -> Credential:
        """The hash that stands for this Authorization header."""
        text = b"" if authorization is None else b"A" + authorization.encode()
        return Credential(hashlib.blake2b(text, key=self._key, digest_size=16).digest())

    def accept(self, repository: Repository, credential: Credential, now: float, life: float) -> None:
        """Upstream has just answered this credential with a yes, which counts for `life` seconds."""
        known = self._index.proof(repository, credential)
        if known is None or not 0 <= now - known < life * RENEWAL:
            self._index.set_proof(repository, credential, now)

    def refuse(self, repository: Repository, credential: Credential) -> None:
        """Upstream has just refused this credential."""
        self._index.remove_proof(repository, credential)

    def proved_at(self, repository: Repository, credential: Credential) -> float | None:
        """When upstream said yes, or None; at most a quarter of a proof's life before it last did."""
        return self._index.proof(repository, credential)
