"""Anonymity: which Bearer tokens are nobody's, because we handed them out ourselves to whoever asked.

A thousand nodes have a thousand tokens for one public repository. They were asked for without any credential, so all
that were asked for in the same way can do the same, and count as one credential wherever credentials are told
apart. What is kept of a token is its keyed hash, until the token ends, where all workers see it.
"""

from collections import OrderedDict
from collections.abc import Callable

from attrs import frozen

from .bulletin import Bulletin
from .evidence import Credential, Proofs

MOST_REMEMBERED = 1_000
"""Tokens of which a process remembers that it has written them down, or could not."""


@frozen
class Standing:
    """What an Authorization header stands for."""

    credential: Credential
    """One for all tokens that anybody gets alike.

    It is none that a client could write itself, nor that of clients without a token: these are refused where a
    token is needed, and a refusal of theirs must not be taken for one of the token.
    """
    is_anonymous: bool
    """Does it say nothing about who the client is? So none at all."""


class Anonymity:
    """The tokens that are nobody's. `now` is in seconds since the epoch."""

    def __init__(self, bulletin: Bulletin, proofs: Proofs, now: Callable[[], float]) -> None:
        self._bulletin = bulletin
        self._proofs = proofs
        self._now = now
        self._noted: OrderedDict[Credential, tuple[str, float]] = OrderedDict()

    def note(self, token: str, wanted: str, ends: float) -> None:
        """This token has been given to nobody in particular, who wanted this: a key of the commons."""
        credential = self._hash(token)
        if self._noted.get(credential) == (wanted, ends):
            return
        self._noted[credential] = (wanted, ends)
        if len(self._noted) > MOST_REMEMBERED:
            self._noted.popitem(last=False)
        self._bulletin.add_anonymous(credential, wanted, ends)

    def wanted(self, authorization: str | None) -> str | None:
        """What the token in an Authorization header was asked for; None if it is not nobody's."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        credential = self._hash(token.strip(" "))
        found = self._noted.get(credential) or self._bulletin.anonymous(credential)
        return found[0] if found is not None and self._now() < found[1] else None

    def standing(self, authorization: str | None) -> Standing:
        """What an Authorization header, or none, stands for."""
        wanted = self.wanted(authorization)
        if wanted is not None:
            return Standing(self._proofs.common(wanted), True)
        return Standing(self._proofs.credential(authorization), authorization is None)

    def _hash(self, token: str) -> Credential:
        return self._proofs.credential("Bearer " + token)
