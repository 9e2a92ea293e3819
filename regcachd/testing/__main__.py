"""Run a registry with one generated image as a process of its own, until SIGTERM.

It prints one line of JSON that says where everything is, and answers ``GET /_log`` with the requests so far.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from regcachd.testing import FakeRegistry, Throttle

PIECE = 1 << 20


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m regcachd.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="TCP port (default: any free one)")
    parser.add_argument("--repository", default="team/app", help="repository (default: %(default)s)")
    parser.add_argument("--tag", default="latest", help="tag (default: %(default)s)")
    parser.add_argument("--blob-size", type=int, default=PIECE, metavar="BYTES", help="size of a layer")
    parser.add_argument("--layers", type=int, default=1, help="number of layers (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other content for other numbers")
    parser.add_argument("--throttle", type=float, metavar="BYTES/S", help="limit of each connection's blobs")
    parser.add_argument("--tls", type=Path, metavar="DIR", help="serve TLS, write the CA to DIR/ca.pem")
    return parser.parse_args(arguments)


def generate(path: Path, size: int, seed: int) -> Path:
    """Write a file of ``size`` bytes that do not compress, always the same for one seed."""
    source = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, size, PIECE):
            file.write(source.randbytes(min(PIECE, size - start)))
    return path


async def serve(reactor: Any, options: argparse.Namespace, directory: Path) -> None:
    """Serve until the reactor stops."""
    registry = FakeRegistry(reactor, tls=options.tls is not None, port=options.port)
    layers = [
        generate(directory / f"layer{number}", options.blob_size, options.seed * 1000 + number)
        for number in range(options.layers)
    ]
    image = registry.add_image(options.repository, options.tag, layers)
    if options.throttle is not None:
        registry.fault("/blobs/", Throttle(options.throttle))
    ca = None
    if options.tls is not None:
        options.tls.mkdir(parents=True, exist_ok=True)
        ca = str(registry.ca_file(options.tls / "ca.pem").resolve())
    await registry.start()
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(registry.stop()))
    about = {
        "url": registry.url,
        "repository": options.repository,
        "tag": options.tag,
        "manifest": str(image.manifest),
        "config": str(image.config),
        "layers": [str(digest) for digest in image.layers],
        "blob_size": options.blob_size,
        "ca": ca,
    }
    print(json.dumps(about), flush=True)
    await Deferred()


def main() -> None:
    """Run from the command line."""
    options = parse(sys.argv[1:])
    with tempfile.TemporaryDirectory() as directory:
        react(lambda reactor: Deferred.fromCoroutine(serve(reactor, options, Path(directory))))


if __name__ == "__main__":
    main()
