"""`python -m bench`: measure, print the table and write var/bench.json."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import blobs, machine, manifests, profile
from bench.clients import agreed_cipher
from bench.processes import ROOT, BenchError
from bench.rounds import Case, compare, prepare
from bench.row import Row, table, write_json
from bench.servers import Upstream, nginx, regcachd, upstream

RESULTS = ROOT / "var" / "bench.json"

ROUNDS = 5
QUICK_ROUNDS = 3


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure regcachd next to nginx.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}")
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
def chosen_cases(words: str) -> Iterator[list[Case]]:
    """The cases whose rows have these words in their name."""
    with manifests.client_processes() as pool:
        cases = [case for case in (*blobs.cases(), *manifests.cases(pool)) if case.is_named(words)]
        if not cases:
            raise BenchError(f"no row has {words!r} in its name")
        yield cases


def measure(directory: Path, origin: Upstream, cases: Sequence[Case], rounds: int) -> list[Row]:
    """Every case on both servers. The rows are printed when all are there, progress meanwhile."""
    with regcachd(directory, origin) as ours:
        cipher = agreed_cipher(ours)
        print(f"cipher    {cipher}, both", flush=True)
        with nginx(directory, origin, cipher) as peer:
            if agreed_cipher(peer) != cipher:
                raise BenchError(f"{peer.name} chose another cipher: {agreed_cipher(peer)}")
            prepare(cases, (ours, peer))
            rows: list[Row] = []
            for case in cases:
                print(f"... {case.figures[0][0]}", file=sys.stderr, flush=True)
                rows += compare(case, ours, peer, rounds)
    return rows


def take_profile(directory: Path, origin: Upstream, cases: Sequence[Case], path: Path) -> None:
    """Every case once on regcachd, then its profile."""
    with regcachd(directory, origin, path.resolve()) as ours:
        prepare(cases, (ours,))
        for case in cases:
            case.load(ours)
    profile.report(path)


def main() -> None:
    """Run from the command line."""
    options = parse(sys.argv[1:])
    try:
        print(machine.describe(), flush=True)
        with (
            tempfile.TemporaryDirectory(prefix="regcachd-bench-") as name,
            upstream(Path(name)) as origin,
            chosen_cases(options.only) as cases,
        ):
            if options.profile:
                take_profile(Path(name), origin, cases, options.profile)
                return
            rows = measure(Path(name), origin, cases, QUICK_ROUNDS if options.quick else ROUNDS)
    except BenchError as error:
        raise SystemExit("\n".join((f"bench: {error}", *getattr(error, "__notes__", ())))) from None
    print(f"\n{table(rows)}")
    if not options.only:
        write_json(rows, RESULTS)
        print(f"\nwritten to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
