"""Evidence for the access rule: which credential upstream has accepted for which repository, and when.

A credential is the client's Authorization header; it is remembered as a keyed hash under a key that lives only as
long as the daemon, so neither memory dumps, nor files, nor logs hold what could be replayed. No credential is one,
too. The hashes are kept in the index, where every worker sees at once what one of them has heard.
"""

import hashlib
from collections import OrderedDict
from typing import NewType

from .index import Index
from .reference import Repository

Credential = NewType("Credential", bytes)
"""A keyed hash of an Authorization header."""

RENEWAL = 0.25
"""The fraction of a proof's life after which a new one is written down. A shorter-lived proof is only asked
for a little earlier, and a client that pulls an image costs one write, not one for each layer."""


MOST_UNWRITTEN = 10_000
"""Answers kept here while the index does not take them, which on a full disk it does not; the oldest go first."""


class Proofs:
    """Upstream's yes per repository and credential. `key`: 32 random bytes."""

    def __init__(self, index: Index, key: bytes) -> None:
        self._index = index
        self._key = key
        self._unwritten: OrderedDict[tuple[Repository, Credential], float | None] = OrderedDict()

    def credential(self, authorization: str | None) -> Credential:
        """The hash that stands for this Authorization header."""
        text = b"" if authorization is None else b"A" + authorization.encode()
        return Credential(hashlib.blake2b(text, key=self._key, digest_size=16).digest())

    def common(self, wanted: str) -> Credential:
        """The hash that stands for all tokens that anybody gets who wants this; no Authorization header has it."""
        return Credential(hashlib.blake2b(b"T" + wanted.encode(), key=self._key, digest_size=16).digest())

    def accept(self, repository: Repository, credential: Credential, now: float, life: float) -> None:
        """Upstream has just answered this credential with a yes, which counts for `life` seconds."""
        known = self.proved_at(repository, credential)
        if known is None or not 0 <= now - known < life * RENEWAL:
            self._write(repository, credential, now)

    def refuse(self, repository: Repository, credential: Credential) -> None:
        """Upstream has just refused this credential."""
        self._write(repository, credential, None)

    def proved_at(self, repository: Repository, credential: Credential) -> float | None:
        """When upstream said yes, or None; at most a quarter of a proof's life before it last did."""
        try:
            return self._unwritten[repository, credential]
        except KeyError:
            return self._index.proof(repository, credential)

    def _write(self, repository: Repository, credential: Credential, accepted: float | None) -> None:
        key = (repository, credential)
        if accepted is None:
            written = self._index.remove_proof(repository, credential)
        else:
            written = self._index.set_proof(repository, credential, accepted)
        if written:
            self._unwritten.pop(key, None)
            return
        self._unwritten[key] = accepted
        if len(self._unwritten) > MOST_UNWRITTEN:
            self._unwritten.popitem(last=False)
