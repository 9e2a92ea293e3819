"""`regcachctl scrub`: begin a pass over everything stored, follow it, and say what it found."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from regcachd.cli.client import Client, Document, Unreachable
from regcachd.cli.words import counted, size

POLL = 0.5
"""Seconds between questions how far it is."""


def begin(client: Client) -> Document:
    """Have a pass begin at full speed, or find one that has. Returns it."""
    scrub = client.ask("POST", "/scrub")
    return dict(scrub["current"] or scrub["last"])


def follow(client: Client, console: Console, began: Document) -> Document:
    """Wait for the end of a pass, with its progress on a terminal. Returns it. Raises Unreachable, also when the pass
    ends before it is through."""
    if not console.is_terminal:
        return _wait(client, began, lambda current, whole: None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("scrub", total=None)
        return _wait(
            client, began, lambda current, whole: progress.update(task, completed=current, total=whole)
        )


def _wait(client: Client, began: Document, tell: Callable[[int, int], None]) -> Document:
    """`tell` is told how many bytes are read, of how many."""
    while True:
        scrub = client.ask("GET", "/scrub")
        current, last = scrub["current"], scrub["last"]
        if current is None or current["started"] != began["started"]:
            break
        tell(current["bytes"], max(scrub["bytes"], current["bytes"]))
        time.sleep(POLL)
    if last is None or last["started"] != began["started"] or last["finished"] is None:
        raise Unreachable("the scrub ended before it was through; the daemon's log says why")
    return dict(last)


def show(console: Console, done: Document) -> None:
    """Print what a pass has found."""
    seconds = done["finished"] - done["started"]
    speed = f", {size(int(done['bytes'] / seconds))} per second" if seconds > 1 else ""
    console.print(Text(f"{counted(done['blobs'], 'blob')} read, {size(done['bytes'])}{speed}"))
    if not done["rotten"]:
        console.print(Text("nothing is rotten"))
        return
    were = "was rotten and is" if done["rotten"] == 1 else "were rotten and are"
    console.print(
        Text(
            f"{counted(done['rotten'], 'blob')} {were} removed, to be fetched again on demand:",
            style="bold red",
        )
    )
    for digest in done["rotten_digests"]:
        console.print(Text(f"  {digest}"), soft_wrap=True)
    if done["rotten"] > len(done["rotten_digests"]):
        console.print(Text(f"  and {done['rotten'] - len(done['rotten_digests']):,} more"))
