"""How everything is measured: a load on one server, then on the other, round by round."""

from collections.abc import Callable, Iterator, Sequence

from attrs import frozen

from bench.row import Row
from bench.servers import Target

Load = Callable[[Target], tuple[float, ...]]
"""Puts a load on a server, checks every answer, and gives one figure for each unit of its case."""


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
