"""`python -m tests.load`: load for some time, print the table, and exit with 1 when something is wrong."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.load.soak import Soak, is_well, report


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description="Random load on a daemon.")
    parser.add_argument("--seconds", type=float, default=120.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a random one")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit("stopped")
    )  # so that what runs is ended, too
    directory = Path(tempfile.mkdtemp(prefix="regcachd-load-"))
    soak = Soak(options.seconds, options.seed, directory)
    soak.run()
    well = is_well(soak)
    print(report(soak))
    if not well:
        raise SystemExit(f"what there was is in {directory}")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
