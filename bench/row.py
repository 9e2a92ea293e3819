"""What comes out: rows, the table that people read and the file that programs read."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from attrs import frozen


@frozen
class Row:
    """One figure of both servers, one pair for each round, measured one right after the other."""

    name: str
    unit: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    peer_name: str

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours by the peer's, round for round: whatever slowed a round down slowed down both."""
        return tuple(ours / peer for ours, peer in zip(self.ours, self.peer, strict=True))


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text: medians, each with the least and the greatest of its rounds."""
    lines = [("what", "unit", "regcachd", "peer", "peer is", "regcachd / peer")]
    lines += [
        (row.name, row.unit, _spread(row.ours), _spread(row.peer), row.peer_name, _spread(row.ratios))
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def write_json(rows: Sequence[Row], path: Path) -> None:
    """The medians, as a list of {name, unit, ours, peer, peer_name, ratio}."""
    document = [
        {
            "name": row.name,
            "unit": row.unit,
            "ours": _rounded(median(row.ours)),
            "peer": _rounded(median(row.peer)),
            "peer_name": row.peer_name,
            "ratio": _rounded(median(row.ratios)),
        }
        for row in rows
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _spread(figures: Sequence[float]) -> str:
    return f"{_text(median(figures))} ({_text(min(figures))}..{_text(max(figures))})"


def _text(figure: float) -> str:
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def _rounded(figure: float) -> float:
    return float(f"{figure:.4g}")
