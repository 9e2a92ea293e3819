"""Evidence for the access rule: which credential upstream has accepted for which repository, and when.

A credential is the client's Authorization header; it is remembered as a keyed hash under a key that lives only as
long as the process, so neither memory dumps nor logs hold what could be replayed. No credential is one, too.
"""

import hashlib
import os
from collections import OrderedDict
from typing import NewType

from .reference import Repository

Credential = NewType("Credential", bytes)
"""A keyed hash of an Authorization header."""

MOST_PROOFS = 200_000
"""Proofs kept; the oldest are forgotten, which costs a request upstream."""


class Proofs:
    """Upstream's yes per repository and credential."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._times: OrderedDict[tuple[Repository, Credential], float] = OrderedDict()

    def credential(self, authorization: str | None) -> Credential:
        """The hash that stands for this Authorization header."""
        text = b"" if authorization is None else b"A" + authorization.encode()
        return Credential(hashlib.blake2b(text, key=self._key, digest_size=16).digest())

    def accept(self, repository: Repository, credential: Credential, now: float) -> None:
        """Upstream has just answered this credential with a yes."""
        self._times[repository, credential] = now
        self._times.move_to_end((repository, credential))
        if len(self._times) > MOST_PROOFS:
            self._times.popitem(last=False)

    def refuse(self, repository: Repository, credential: Credential) -> None:
        """Upstream has just refused this credential."""
        self._times.pop((repository, credential), None)

    def proved_at(self, repository: Repository, credential: Credential) -> float | None:
        """When upstream last said yes, or None."""
        return self._times.get((repository, credential))
