"""How everything is measured: a load on one server, then on the other, round by round."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from attrs import frozen

from bench.origin import Origin
from bench.row import Row
from bench.servers import Settings, Target, nginx, regcachd

Load = Callable[[Target], tuple[float, ...]]
"""Puts a load on a server, checks every answer, and gives one figure for each unit of its case."""


NORMAL = Settings()


def nothing(target: Target) -> None:
    """The preparation of a case that wants cold caches."""


@frozen
class Case:
    """Something to measure. Each pair of a name and a unit becomes a row."""

    figures: tuple[tuple[str, str], ...]
    prepare: Callable[[Target], None]
    """Gets into a server's cache what the load asks for; done once for all cases that share it."""
    load: Load

    def is_named(self, words: str) -> bool:
        """Do these words occur in the name of one of the rows?"""
        return any(words.lower() in name.lower() for name, _ in self.figures)


@frozen
class Family:
    """Cases that are measured on the same servers."""

    cases: tuple[Case, ...]
    origin: Callable[[Path], AbstractContextManager[Origin]]
    settings: Settings = NORMAL
    against: Settings | None = None
    """Compares regcachd with itself: the other one's settings, and `called` its name. Else with nginx."""
    called: str = ""
    rounds: int | None = None
    """Rounds at most, where each takes long."""

    def peer(self, directory: Path, origin: Origin, cipher: str) -> AbstractContextManager[Target]:
        """The server to compare with."""
        if self.against is None:
            return nginx(directory, origin, self.settings, cipher)
        return regcachd(directory, origin, self.against, name=self.called)

    def ours(
        self, directory: Path, origin: Origin, profile: Path | None = None
    ) -> AbstractContextManager[Target]:
        """The server that is measured."""
        return regcachd(directory, origin, self.settings, profile)


def prepare(cases: Sequence[Case], targets: Sequence[Target]) -> None:
    """Get everything these cases need into the caches of these servers."""
    for fill in dict.fromkeys(case.prepare for case in cases):
        for target in targets:
            fill(target)


def compare(case: Case, ours: Target, peer: Target, rounds: int) -> Iterator[Row]:
    """Measure both servers in turn, each being the first in every second round."""
    results: dict[Target, list[tuple[float, ...]]] = {ours: [], peer: []}
    for number in range(rounds):
        for target in (ours, peer) if number % 2 == 0 else (peer, ours):
            results[target].append(case.load(target))
    for index, (name, unit) in enumerate(case.figures):
        of_ours, of_peer = (tuple(result[index] for result in results[target]) for target in (ours, peer))
        yield Row(name, unit, of_ours, of_peer, peer.name)
