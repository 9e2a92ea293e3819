"""Extents: which bytes of a file are there, or taken. Pure."""

from attrs import define, field


@define
class Extents:
    """A set of byte offsets, kept as sorted stretches [start, stop) that do not touch."""

    stretches: list[tuple[int, int]] = field(factory=list)

    @property
    def size(self) -> int:
        """How many offsets are in it."""
        return sum(stop - start for start, stop in self.stretches)

    def add(self, start: int, stop: int) -> tuple[int, int]:
        """Add a stretch that is not empty; returns the stretch it is part of now."""
        whole = (start, stop)
        kept = []
        for stretch in self.stretches:
            if stretch[1] < whole[0] or stretch[0] > whole[1]:
                kept.append(stretch)
            else:
                whole = (min(stretch[0], whole[0]), max(stretch[1], whole[1]))
        kept.append(whole)
        kept.sort()
        self.stretches = kept
        return whole

    def reach(self, offset: int) -> int:
        """How far one gets from `offset` without leaving the set: `offset` itself when it is not in it."""
        return next((stop for start, stop in self.stretches if start <= offset < stop), offset)

    def hole(self, offset: int) -> tuple[int, int | None]:
        """The first hole at or after `offset`: where it starts and where it stops, None for no end."""
        for start, stop in self.stretches:
            if offset < start:
                return offset, start
            offset = max(offset, stop)
        return offset, None
