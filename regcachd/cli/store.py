"""`regcachctl store`: what is in the store, and how it is."""

from rich.console import Console
from rich.text import Text

from regcachd.cli.client import Document
from regcachd.cli.words import ago, counted, share, size

_SHORT = 19
"""Characters of a digest that are shown: its algorithm and twelve digits."""


def show(console: Console, store: Document) -> None:
    """Print the answer to GET /store."""
    for name, value in _lines(store):
        console.print(Text(f"{name:<12}{value}"), soft_wrap=True)
    for line in _aligned([_partial(partial, store["now"]) for partial in store["partials"]]):
        console.print(Text("  " + line), soft_wrap=True)
    if store["trouble"]:
        console.print(Text(store["trouble"], style="bold red"))


def _lines(store: Document) -> list[tuple[str, str]]:
    now, filesystem = store["now"], store["filesystem"]
    stored, limit = store["bytes"], store["max_size"]
    oldest = store["oldest_use"]
    return [
        ("store", store["path"]),
        ("blobs", f"{store['blobs']:,}" + (", being counted" if store["recovering"] else "")),
        ("size", f"{size(stored)} of {size(limit)} ({share(stored, limit)})"),
        (
            "disk",
            f"{size(filesystem['free'])} of {size(filesystem['size'])} free, "
            f"{size(store['min_free'])} are kept free",
        ),
        ("oldest use", "-" if oldest is None else ago(now - oldest)),
        ("last scrub", _last_scrub(store["scrub"], now)),
        ("scrub now", _scrub_now(store["scrub"])),
        ("partials", f"{len(store['partials']):,}"),
    ]


def _last_scrub(scrub: Document, now: float) -> str:
    if not scrub["finished"]:
        return "never"
    last = scrub["finished"][0]
    found = f"{last['rotten']:,} rotten" if last["rotten"] else "nothing rotten"
    return f"{ago(now - last['finished'])}: {counted(last['blobs'], 'blob')}, {size(last['bytes'])}, {found}"


def _scrub_now(scrub: Document) -> str:
    current = scrub["current"]
    if current is None:
        return "no" if scrub["rate"] else "no; it is off"
    speed = "at full speed" if current["full_speed"] else f"at {size(scrub['rate'])} per second"
    return f"{share(min(current['bytes'], scrub['bytes']), scrub['bytes'])}, {speed}"


def _partial(partial: Document, now: float) -> tuple[str, ...]:
    here, total = partial["bytes"], partial["total"]
    return (
        partial["digest"][:_SHORT],
        size(here) if total is None else f"{size(here)} of {size(total)}",
        "" if total is None else share(here, total),
        f"last byte {ago(now - partial['changed'])}",
    )


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
