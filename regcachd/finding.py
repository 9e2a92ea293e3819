"""Findings: what a look at something came to, step by step, in words for the person who has to do something about it.

Pure. What registries and proxies say is among the words, so what could drive a terminal is taken out of them.
"""

from collections.abc import Iterable
from typing import Any, Literal

from attrs import define, field, frozen

Outcome = Literal["ok", "warning", "failure"]

_ORDER: tuple[Outcome, ...] = ("ok", "warning", "failure")
_LONGEST = 1000
"""Characters of a text that are kept."""


def printable(text: str) -> str:
    """The text without what is not printable, and not endless.

    >>> printable("a\\x1b[31mb\\n")
    'a?[31mb?'
    """
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return "".join(each if each.isprintable() else "?" for each in shown)


@frozen
class Finding:
    """What one step came to; `advice` says what to do, where there is something to do."""

    step: str
    outcome: Outcome
    says: str = field(converter=printable)
    advice: str = field(default="", converter=printable)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"step": self.step, "outcome": self.outcome, "says": self.says, "advice": self.advice}


def ok(step: str, says: str) -> Finding:
    """It works."""
    return Finding(step, "ok", says)


def warning(step: str, says: str, advice: str = "") -> Finding:
    """It works, but."""
    return Finding(step, "warning", says, advice)


def failure(step: str, says: str, advice: str = "") -> Finding:
    """It does not work."""
    return Finding(step, "failure", says, advice)


def worst(findings: Iterable[Finding]) -> Outcome:
    """The worst outcome of all."""
    return max((each.outcome for each in findings), key=_ORDER.index, default="ok")


class Over(Exception):
    """There is no sense in going on."""


@define
class Record:
    """What has been found so far, and the step that is under way."""

    findings: list[Finding] = field(factory=list)
    step: str = "name"

    def add(self, *findings: Finding | None) -> None:
        """Enter what was found. Raises Over after a failure."""
        found = [each for each in findings if each is not None]
        self.findings += found
        if any(each.outcome == "failure" for each in found):
            raise Over

    def end(self, finding: Finding) -> Over:
        """Enter the last finding; to be raised."""
        self.findings.append(finding)
        return Over()
