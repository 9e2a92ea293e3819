"""Silence: questions about somebody's rights that upstream has not answered, so that an image of twenty layers does not
wait for an answer twenty times.

It is remembered of the one who asked and of the repository that was asked about only. What others ask, and what
this one asks about others, can be such that upstream does not answer it, and nobody keeps a right by that.
"""

from collections import OrderedDict

from attrs import define, field

from .evidence import Credential
from .reference import Repository
from .requester import Requester
from .response import UpstreamFailed

LASTS = 30.0
"""Seconds until the question is asked again."""
MOST = 1_000
"""Silences remembered; the oldest are forgotten, which costs a wait."""


@define
class Silence:
    """The silences of one registry. Times are in seconds since the epoch."""

    _heard: "OrderedDict[tuple[Repository, Credential], tuple[float, UpstreamFailed]]" = field(
        factory=OrderedDict
    )

    def note(self, asker: Requester, repository: Repository, now: float, failure: UpstreamFailed) -> None:
        """There was no answer, and this is why."""
        self._heard[repository, asker.credential] = (now, failure)
        self._heard.move_to_end((repository, asker.credential))
        if len(self._heard) > MOST:
            self._heard.popitem(last=False)

    def heard(self, asker: Requester, repository: Repository, now: float) -> UpstreamFailed | None:
        """Why there was no answer less than LASTS ago."""
        since, failure = self._heard.get((repository, asker.credential), (now - LASTS, None))
        return failure if 0 <= now - since < LASTS else None
