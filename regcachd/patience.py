"""Patience with an upstream whose downloads break: a pure decision.

The pauses grow, so that an upstream in trouble is left alone, and differ, so that not all come back at once.
"""

from attrs import frozen


@frozen
class Patience:
    """How often a broken download is tried again."""

    retries: int = 8
    """Tries in a row that bring nothing, before the fill is given up."""
    first_delay: float = 0.25
    """Seconds before the second try; each later one waits twice as long."""
    longest_delay: float = 15.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row; `chance` is from 0 to 1, for jitter."""
        return min(self.longest_delay, self.first_delay * 2.0 ** (failures - 1)) * (0.5 + chance / 2)
