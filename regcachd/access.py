"""Who may read what is stored: the rule, as a pure function.

Two facts are needed, and only upstream can state them: that the repository has the digest (a link; a manifest that
merely names the digest proves nothing, for whoever can push a manifest could name a stranger's layer), and that
the client's credential is good for the repository (a proof, which ages). Where one is missing, upstream is
asked with the client's own credential, and its yes or no is the answer.
"""

from enum import Enum


class Access(Enum):
    """What to do with a request for something stored."""

    SERVE = "serve"
    ASK = "ask upstream with the client's own credential"


def decide_access(linked: bool, proved_at: float | None, now: float, access_ttl: float) -> Access:
    """`proved_at` is when upstream last accepted this credential for this repository; times are in seconds."""
    if linked and proved_at is not None and 0 <= now - proved_at < access_ttl:
        return Access.SERVE
    return Access.ASK
