"""How long a simulated execution takes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from lanewise.clock import NS_PER_MS


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Execution times measured at some row counts, and a line through each two neighbours.

    Attributes:
        rows: ascending, at least one.
        ns: the execution time at each of `rows`.
    """

    rows: tuple[int, ...]
    ns: tuple[int, ...]

    @classmethod
    def from_ms(cls, rows: Sequence[int], ms: Sequence[float]) -> LatencyTable:
        """Make a table of times in milliseconds."""
        return cls(tuple(rows), tuple(round(each * NS_PER_MS) for each in ms))

    def execution_ns(self, rows: int) -> int:
        """Tell how long `rows` rows take.

        Before the first point it takes as long as there; after the last, the line through
        the last two goes on, but never below zero.
        """
        if rows <= self.rows[0] or len(self.rows) == 1:
            return self.ns[0]
        right = min(bisect_right(self.rows, rows), len(self.rows) - 1)
        left = right - 1
        slope = (self.ns[right] - self.ns[left]) / (self.rows[right] - self.rows[left])
        return max(0, round(self.ns[left] + slope * (rows - self.rows[left])))
