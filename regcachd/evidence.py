"""Evidence for the access rule: which credential upstream has accepted for which repository, and when.

A credential is the client's Authorization header; it is remembered as a keyed hash, so neither memory dumps, nor the
index, nor logs hold what could be replayed. The hashes are in the index, where every worker sees at once what one of
them has heard, and stay there as long as they count: for `offline_grace`, over restarts.

So the key has to outlive the daemon too (`kept_key`). Whoever has both key and index could try out passwords, and learn
of each whether it was used here, so the key is kept apart from the store, for its owner only, and not at all where
no registry has an `offline_grace`: then restarts forget all but what is public.
"""

import hashlib
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import NewType

from attrs import define, field
from twisted.logger import Logger

from .errors import RegcachdError
from .index import Index
from .reference import Digest, Repository

log = Logger()

Credential = NewType("Credential", bytes)
"""What proofs are kept for: a keyed hash of an Authorization header, or one of the two below."""

ANONYMOUS = Credential(b"anonymous")
"""No credential, or a token that is handed out to anybody."""

KEY_SIZE = 32

RENEWAL = 0.25
"""The fraction of a proof's life after which a new one is written down. A shorter-lived proof is only asked
for a little earlier, and a client that pulls an image costs one write, not one for each layer."""


MOST_UNWRITTEN = 10_000
"""Answers kept here while the index does not take them, which on a full disk it does not; the oldest go first."""


PRIVATE_FOR = 600.0
"""Seconds until upstream is asked again whether a repository that it has kept from anybody is public now."""
MOST_PRIVATE = 10_000
"""Repositories and digests remembered as not public; the oldest are forgotten, which costs a request."""


class KeyUnusable(RegcachdError):
    """The key that proofs are kept under can neither be read nor written."""


class Proofs:
    """Upstream's yes per repository and credential. `key`: KEY_SIZE random bytes."""

    def __init__(self, index: Index, key: bytes) -> None:
        self._index = index
        self._key = key
        self._unwritten: OrderedDict[tuple[Repository, Credential], float | None] = OrderedDict()

    def credential(self, authorization: str | None) -> Credential:
        """What stands for this Authorization header; None is none."""
        return ANONYMOUS if authorization is None else self._hash(b"A" + authorization.encode())

    def shared_credential(self, described: str) -> Credential:
        """What stands for a credential of regcachd's own, which is `described` without its secrets."""
        return self._hash(b"S" + described.encode())

    def _hash(self, text: bytes) -> Credential:
        return Credential(hashlib.blake2b(text, key=self._key, digest_size=16).digest())

    def common(self, wanted: str) -> Credential:
        """What stands for all tokens that anybody gets who wants this; no Authorization header has it."""
        return self._hash(b"T" + wanted.encode())

    def accept(self, repository: Repository, credential: Credential, asked: float, life: float) -> None:
        """Upstream, asked at this time, has said yes to this credential, which counts for `life` seconds."""
        known = self.proved_at(repository, credential)
        if known is None or not 0 <= asked - known < life * RENEWAL:
            self._write(repository, credential, asked)

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


@define
class Private:
    """What upstream, asked in nobody's name, has refused lately: repositories, or single digests of them.

    Only so that it is not asked all the time; it takes no right away. Each process has its own.
    """

    _until: "OrderedDict[tuple[Repository, Digest | None], float]" = field(factory=OrderedDict)

    def refused(self, repository: Repository, digest: Digest | None, now: float) -> None:
        """It is not for anybody; `digest` is None for the repository as a whole."""
        self._until[repository, digest] = now + PRIVATE_FOR
        self._until.move_to_end((repository, digest))
        if len(self._until) > MOST_PRIVATE:
            self._until.popitem(last=False)

    def is_known(self, repository: Repository, digest: Digest, now: float) -> bool:
        """Was it refused less than PRIVATE_FOR ago?"""
        return any(
            0 < self._until.get((repository, what), now) - now <= PRIVATE_FOR for what in (None, digest)
        )

    def published(self, repository: Repository) -> None:
        """Anybody can read it now."""
        self._until.pop((repository, None), None)


def kept_key(path: Path, keep: bool = True) -> bytes:
    """The key that hashes are made with: the one in the file, or a new one, which is then written there.

    With `keep` false there is a new one each time, and no file. A file that others may read, or of another size, is
    replaced: its proofs are forgotten. Raises KeyUnusable.
    """
    new = os.urandom(KEY_SIZE)
    try:
        if not keep:
            path.unlink(missing_ok=True)
            return new
        with suppress(FileNotFoundError), open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            key = file.read(KEY_SIZE + 1)
            if len(key) == KEY_SIZE and not mode & 0o077:
                return key
            log.warn(
                "{path} is not a key for its owner only (mode {mode}): there is a new one, and clients are asked to "
                "prove their rights again",
                path=str(path),
                mode=f"{mode:04o}",
            )
        _write_whole(path, new)
        return new
    except OSError as error:
        raise KeyUnusable(
            f"{path} cannot be used: {error.strerror or error}; see that `state` can be written to"
        ) from error


def _write_whole(path: Path, data: bytes) -> None:
    """For the owner only, and never in part. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
