"""Who may read what is stored: the rule, as a pure function.

Two facts are needed, and only upstream can state them: that the repository has the digest (a link; a manifest that
merely names the digest proves nothing, for whoever can push a manifest could name a stranger's layer), and that
somebody in whose name the client may be served can read the repository (a proof, which ages):

    ANONYMOUS   anybody can, for the repository is public: then every client may
    SHARED      regcachd's own credential can, and is marked `share`: then clients without an Authorization may
    OWN         the client's credential can: then this client may

Where a fact is missing upstream is asked, in this order, and its answers come back in here. They are:

    YES     it has given just this blob or manifest
    UNSURE  it has said yes, but not plainly to what we have: let upstream itself serve it
    NO      401, 403, 404 and their like
    BUSY    429: it has not looked
    AWAY    it cannot be reached, does not answer in time, or answers 5xx

No answer is no evidence. An old proof counts for a while longer when upstream, asked about that very proof, is AWAY, so
that nobody keeps a right because upstream does not answer somebody else. A client's own proof does not when
upstream is BUSY: who has lost a right could make upstream busy by asking, and keep it.
"""

from collections.abc import Mapping
from enum import Enum

from attrs import frozen


class Who(Enum):
    """In whose name a client is served."""

    ANONYMOUS = "anybody"
    SHARED = "regcachd's own credential"
    OWN = "the client's own credential"


class Word(Enum):
    """What upstream said when it was asked in somebody's name."""

    YES = "yes"
    UNSURE = "yes, but perhaps to something else"
    NO = "no"
    BUSY = "too many requests"
    AWAY = "nothing"


class Act(Enum):
    """What to do next for a request of something stored."""

    SERVE = "serve"
    SERVE_STALE = "serve on an old proof, since upstream is away"
    ASK = "ask upstream in this name"
    PASS = "have upstream serve it to this client"
    REFUSE = "give the client upstream's own answer"
    FAIL = "say that upstream does not answer"


@frozen
class Terms:
    """How long proofs count, in seconds. See docs/access.md."""

    access_ttl: float
    public_ttl: float
    offline_grace: float
    max_stale: float
    """For how long what was public is served while upstream is away."""


@frozen
class Evidence:
    """What is known: times are when upstream last said yes, None for never, or not since it said no.

    `claim` is the name in which the client itself asks: OWN with an Authorization, SHARED without one where regcachd's
    credential is shared, ANONYMOUS otherwise. `claimed_at` is the proof for that, `public_at` the one for ANONYMOUS.
    """

    linked: bool
    claim: Who
    claimed_at: float | None
    public_at: float | None
    is_private: bool = False
    """Has upstream refused ANONYMOUS a short while ago?"""

    def proved_at(self, who: Who) -> float | None:
        """The latest proof in this name."""
        return self.public_at if who is Who.ANONYMOUS else self.claimed_at


@frozen
class Decision:
    """What to do, in whose name."""

    act: Act
    who: Who


def decide_access(evidence: Evidence, terms: Terms, heard: Mapping[Who, Word], now: float) -> Decision:
    """What to do, when upstream has said what is in `heard` to the questions of this request; `now` is in seconds.

    ASK is never the answer for a name that is in `heard` already. FAIL and REFUSE are in the name of the claim.
    """
    names = (Who.ANONYMOUS,) if evidence.claim is Who.ANONYMOUS else (Who.ANONYMOUS, evidence.claim)
    for act, counts in ((Act.SERVE, _is_good), (Act.SERVE_STALE, _is_good_enough)):
        for who in names:
            if evidence.linked and counts(who, evidence.proved_at(who), terms, heard.get(who), now):
                return Decision(act, who)
    for who in names:
        if who not in heard and not (who is Who.ANONYMOUS and evidence.is_private):
            return Decision(Act.ASK, who)
    match heard.get(evidence.claim):
        case Word.YES | Word.UNSURE:
            return Decision(Act.PASS, evidence.claim)
        case Word.AWAY:
            return Decision(Act.FAIL, evidence.claim)
        case _:
            return Decision(Act.REFUSE, evidence.claim)


def _is_good(who: Who, proved_at: float | None, terms: Terms, word: Word | None, now: float) -> bool:
    if word is not None:
        return word is Word.YES
    life = terms.public_ttl if who is Who.ANONYMOUS else terms.access_ttl
    return proved_at is not None and 0 <= now - proved_at < life


def _is_good_enough(who: Who, proved_at: float | None, terms: Terms, word: Word | None, now: float) -> bool:
    if word is not Word.AWAY and not (word is Word.BUSY and who is not Who.OWN):
        return False
    life = terms.max_stale if who is Who.ANONYMOUS else terms.offline_grace
    return proved_at is not None and 0 <= now - proved_at < max(life, 0.0)


def word_of(status: int) -> Word:
    """What upstream's status means. A 2xx is still to be looked at; a redirect that leads nowhere is no yes."""
    if 200 <= status < 300:
        return Word.YES
    if status == 429:
        return Word.BUSY
    return Word.AWAY if status >= 500 else Word.NO
