"""Restraint: what one registry says of its limits, heard in all its answers, and in those to the other workers.

The `governor` decides; what it is told here, it tells the others by the bulletin, as far as it is a limit that is
respected just now: of one that a worker has met, the next worker need not be told by the registry.
"""

from collections.abc import Callable
from typing import Protocol

from attrs import define, field

from .bulletin import Bulletin, Notice
from .evidence import Credential
from .governor import Governor, Header, Hold, Kind, is_limit


class Heard(Protocol):
    """An answer of the registry."""

    @property
    def status(self) -> int: ...
    @property
    def header(self) -> Header: ...


@define(eq=False)
class Restraint:
    """The limits of one registry, by whose right is asked. `now` is in seconds since the epoch."""

    _registry: str
    _bulletin: Bulletin
    _now: Callable[[], float]
    governor: Governor = field(factory=Governor, init=False)

    def heard(self, who: Credential, method: bytes, answer: Heard, body: bytes = b"") -> None:
        """The registry has answered a request for a manifest, or a list."""
        before, now = self.governor.hold_of(who), self._now()
        self.governor.heard(who, method, answer.status, answer.header, body, now)
        after = self.governor.hold_of(who)
        if after is not None and after != before:
            notice = Notice(f"{after.kind.name} {after.times}", now, after.until, after.until)
            self._bulletin.post(self._key(who), notice)
        elif after is None and before is not None:
            self._bulletin.take_down(self._key(who), now)

    def heard_elsewhere(self, who: Credential, answer: Heard, body: bytes = b"") -> None:
        """The registry has answered another request: what that is granted says nothing of the limits."""
        if is_limit(answer.status, answer.header, self._now()):
            self.heard(who, b"GET", answer, body)

    def hold(self, who: Credential, method: bytes) -> float | None:
        """For how many seconds a request is better not made; None if it may be."""
        now = self._now()
        if self.governor.hold(who, method, now) is None:
            notice = self._bulletin.read(self._key(who))
            if notice is not None and notice.came <= now < notice.ends:
                kind, _, times = notice.answer.partition(" ")
                self.governor.respect(who, Hold(Kind[kind], notice.ends, int(times)))
        return self.governor.hold(who, method, now)

    def spares(self, who: Credential, method: bytes) -> bool:
        """Is a request better not made, where something else will do?"""
        return self.hold(who, method) is not None or self.governor.spares(who, method, self._now())

    def _key(self, who: Credential) -> str:
        return f"hold {self._registry} {who.hex()}"
