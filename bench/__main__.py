"""`python -m bench`: measure, print the table and write var/bench.json."""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from attrs import evolve

from bench import blobs, cold, machine, manifests, patience, profile, storm
from bench.clients import agreed_cipher
from bench.origin import origin
from bench.processes import ROOT, BenchError
from bench.rounds import Family, compare, prepare
from bench.row import Row, table, write_json

RESULTS = ROOT / "var" / "bench.json"

ROUNDS = 5
QUICK_ROUNDS = 3


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure regcachd next to nginx.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}, and a storm for {storm.QUICK} MB",
    )
    parser.add_argument(
        "--image",
        type=int,
        metavar="MB",
        help=f"size of the image that the nodes of the storm pull (default: {storm.FULL})",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="WORDS",
        help="only rows with these words in their name; the file stays as it is",
    )
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="regcachd alone, under cProfile; its figures go to FILE"
    )
    return parser.parse_args(arguments)


@contextmanager
def chosen_families(words: str, image: int) -> Iterator[list[Family]]:
    """The families with the cases whose rows have these words in their name."""
    with manifests.client_processes() as pool:
        first = Family((*blobs.cases(), *manifests.cases(pool)), partial(origin, sizes=[blobs.SIZE]))
        every = (
            first,
            *blobs.families(),
            *cold.families(),
            *patience.families(),
            *storm.families(pool, image),
        )
        named = [
            evolve(family, cases=tuple(case for case in family.cases if case.is_named(words)))
            for family in every
        ]
        chosen = [family for family in named if family.cases]
        if not chosen:
            raise BenchError(f"no row has {words!r} in its name")
        yield chosen


def measure(family: Family, directory: Path, rounds: int) -> list[Row]:
    """Every case of a family on both servers."""
    rounds = min(rounds, family.rounds or rounds)
    rows: list[Row] = []
    with family.origin(directory) as origin, family.ours(directory, origin) as ours:
        cipher = agreed_cipher(ours)
        with family.peer(directory, origin, cipher) as peer:
            if agreed_cipher(peer) != cipher:
                raise BenchError(f"{peer.name} chose another cipher: {agreed_cipher(peer)}, not {cipher}")
            prepare(family.cases, (ours, peer))
            for case in family.cases:
                print(f"... {case.figures[0][0]}, {cipher}", file=sys.stderr, flush=True)
                rows += compare(case, ours, peer, rounds)
    return rows


def take_profile(family: Family, directory: Path, path: Path) -> None:
    """Every case of a family once on regcachd, then its profile."""
    with family.origin(directory) as origin, family.ours(directory, origin, path) as ours:
        prepare(family.cases, (ours,))
        for case in family.cases:
            case.load(ours)


def run(options: argparse.Namespace) -> None:
    """Measure what is asked for, each family in a directory of its own, which is gone before the next begins."""
    rows: list[Row] = []
    profiles: list[Path] = []
    image = options.image or (storm.QUICK if options.quick else storm.FULL)
    with (
        tempfile.TemporaryDirectory(prefix="regcachd-bench-") as kept,
        chosen_families(options.only, image) as families,
    ):
        for family in families:
            with tempfile.TemporaryDirectory(prefix="regcachd-bench-") as name:
                if not options.profile:
                    rows += measure(family, Path(name), QUICK_ROUNDS if options.quick else ROUNDS)
                elif family.settings.workers == 1:  # of several, the parent would be profiled
                    profiles.append(Path(kept) / f"{len(profiles)}")
                    take_profile(family, Path(name), profiles[-1])
        if options.profile:
            profile.report(profiles, options.profile)
            return
    print(f"\n{table(rows)}")
    if not options.only:
        write_json(rows, RESULTS)
        print(f"\nwritten to {RESULTS.relative_to(ROOT)}")


def main() -> None:
    """Run from the command line."""
    options = parse(sys.argv[1:])
    try:
        print(machine.describe(), flush=True)
        run(options)
    except BenchError as error:
        raise SystemExit("\n".join((f"bench: {error}", *getattr(error, "__notes__", ())))) from None


if __name__ == "__main__":
    main()
