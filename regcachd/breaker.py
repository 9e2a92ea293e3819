"""The circuit breaker of one host: when it has not been reachable, nobody waits for it to be so again.

    closed     everybody is let through; failures in a row are counted, a success forgets them
    open       everybody is refused at once, until the hold is over
    half open  one is let through, the probe: success closes, failure opens for longer

A failure is a connection that did not come about or did not answer; an answer of any status is a success. Those who
have patience of their own, as a download has that was under way, need not ask: they try, and what they find
counts. Pure: times are seconds of whatever clock the caller has.
"""

from enum import Enum

from attrs import define

ENOUGH = 3
"""Failures in a row that open."""
SLOW = 2
"""What a failure counts that took its time: who waits half a minute for three of them has gone."""
LONG = 5.0
"""Seconds after which a failure took its time, even if it was no timeout of ours: a name server's, say."""
FIRST_HOLD = 1.0
"""Seconds that it stays open first; each failed probe doubles them."""
LONGEST_HOLD = 15.0
"""Seconds at most: how late a host's return may be noticed."""


class Admission(Enum):
    """What somebody hears who wants to reach the host."""

    PASS = "pass"
    PROBE = "probe"
    REFUSED = "refused"


@define(eq=False)
class Breaker:
    """The state of one host. `since` is when the failures in a row began, `why` what the latest was."""

    since: float | None = None
    why: str = ""
    status: int = 502
    failed_at: float | None = None
    """When the latest failure was."""
    is_lost: bool = False
    """Was that a connection that did not come about? What does not answer may only not like what it was asked."""
    until: float = 0.0
    """When the hold is over."""
    _failures: int = 0
    _holds: int = 0
    _probing: bool = False
    _succeeded_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Open, or half open."""
        return self._holds > 0

    def admit(self, now: float) -> Admission:
        """May somebody try? A probe must be ended: by `failed`, `succeeded` or `gave_up`."""
        if not self.is_open:
            return Admission.PASS
        if self._probing or now < self.until:
            return Admission.REFUSED
        self._probing = True
        return Admission.PROBE

    def failed(
        self,
        began: float,
        now: float,
        why: str,
        status: int,
        chance: float,
        *,
        probe: bool = False,
        lost: bool = False,
    ) -> bool:
        """A try that began then has failed now; `chance` is from 0 to 1, for jitter. Returns whether this opened it.

        What began before the latest success says nothing of the time after it.
        """
        if self._succeeded_at is not None and began < self._succeeded_at:
            return False
        if self.since is None:
            self.since = now
        self.failed_at, self.why, self.status, self.is_lost = now, why, status, lost
        self._failures += SLOW if status == 504 or now - began >= LONG else 1
        was_open = self.is_open
        if probe:
            self._probing = False
        if probe or (not was_open and self._failures >= ENOUGH):
            hold = min(LONGEST_HOLD, FIRST_HOLD * 2.0 ** min(self._holds, 16))
            self.until = now + hold * (0.5 + chance / 2)
            self._holds += 1
        return self.is_open and not was_open

    def succeeded(self, now: float) -> float | None:
        """The host has answered. Returns how many seconds it had been unreachable, if that had opened it."""
        past = now - self.since if self.is_open and self.since is not None else None
        self.since = self.failed_at = None
        self._failures, self._holds, self._probing = 0, 0, False
        self._succeeded_at = now
        return past

    def gave_up(self) -> None:
        """The probe has found nothing out, one way or the other: the next may be one."""
        self._probing = False
