"""An IWeb in memory: answers by URL, and a record of what was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import parse_qs

from attrs import define, field, frozen
from zope.interface import implementer

from regcachd.interfaces import AuthFailed, Fetched, IWeb


@frozen
class Asked:
    """A request."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    local: bool

    @property
    def form(self) -> dict[str, str]:
        """The body's fields, each of which is given once."""
        return {name: value for name, (value,) in parse_qs(self.body.decode(), strict_parsing=True).items()}


def answer(status: int = 200, headers: Mapping[str, str] | None = None, **found: object) -> Fetched:
    """JSON with these fields."""
    return Fetched(
        status, {"content-type": "application/json", **(headers or {})}, json.dumps(found).encode()
    )


@implementer(IWeb)
@define
class CannedWeb:
    """`answers` by URL without its query; the last of several is given again and again."""

    answers: dict[str, list[Fetched | AuthFailed]] = field(factory=dict)
    asked: list[Asked] = field(factory=list)

    def at(self, url: str, *answers: Fetched | AuthFailed) -> CannedWeb:
        """From now on these are the answers at `url`."""
        self.answers[url] = list(answers)
        return self

    async def fetch(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, local: bool
    ) -> Fetched:
        self.asked.append(Asked(method, url, headers, body, local))
        answers = self.answers.get(url.partition("?")[0])
        if not answers:
            raise AuthFailed(f"nobody answers at {url}")
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(found, AuthFailed):
            raise found
        return found
