"""`regcachctl check-upstream`: have the daemon look at a registry, and show what it found."""

from rich.console import Console
from rich.text import Text

from regcachd.cli.client import Client, Document

PATIENCE = 90.0
"""Seconds that the daemon may take; it gives up after fewer."""

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "failure": ("FAILURE", "bold red")}
_WIDTH = 9
"""Columns of a mark, and of a step's name with the space behind it."""


def check(client: Client, console: Console, registry: str, image: str | None) -> Document:
    """The daemon's findings. Raises Unreachable."""
    question = {"registry": registry, "image": image}
    if not console.is_terminal:
        return client.ask("POST", "/check-upstream", question, PATIENCE)
    with console.status(Text(f"{registry} is looked at")):
        return client.ask("POST", "/check-upstream", question, PATIENCE)


def show(console: Console, answer: Document) -> None:
    """Print them, a line for each step, and below it what to do."""
    for finding in answer["findings"]:
        word, style = _MARKS[finding["outcome"]]
        line = Text(f"{word:<{_WIDTH}}", style=style)
        line.append(f"{finding['step']:<{_WIDTH + 1}} ", style="none")
        line.append(finding["says"], style="none")
        console.print(line, soft_wrap=True)
        if finding["advice"]:
            console.print(Text(" " * (2 * _WIDTH + 2) + finding["advice"]), soft_wrap=True)
    console.print(Text(_conclusion(answer)), soft_wrap=True)


def _conclusion(answer: Document) -> str:
    what = answer["image"] or answer["registry"]
    return {
        "ok": f"all is well with {what}",
        "warning": f"{what} works, but see the warnings",
        "failure": f"{what} does not work",
    }[answer["outcome"]]
