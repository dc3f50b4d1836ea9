"""Rows of launches that failed with several requests in them, to be run again apart."""

from __future__ import annotations

from collections.abc import Sequence

from lanewise.scheduler.lane import Lane
from lanewise.scheduler.request import Part


class Repeats:
    """What is left of launches that failed, in groups that are launched on the same lane again.

    One request that the model cannot run fails the whole launch it shares. Each half of the
    launch is tried again, and each half of those that fail, until a lone request fails: k such
    requests among n cost at most about 2 k log2(n) launches, where running each alone would cost
    n, and the sound ones share launches most of the time. Groups go in the order they came: so
    the larger, with more requests that wait, go first.
    """

    def __init__(self) -> None:
        self._groups: list[tuple[Lane, Sequence[Part]]] = []

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, lane: Lane, parts: Sequence[Part]) -> None:
        """Have the requests of a launch that failed run again, each half apart."""
        middle = len(parts) // 2
        self._groups += [(lane, half) for half in (parts[:middle], parts[middle:]) if half]

    def take(self) -> tuple[Lane, Sequence[Part]] | None:
        """Take out the first group whose lane has room; None if there is none."""
        for index, (lane, _) in enumerate(self._groups):
            if lane.has_room:
                return self._groups.pop(index)
        return None

    def give_up(self, lane: Lane | None = None) -> list[Part]:
        """Take out the parts that wait for `lane`, or for any."""
        given_up = [group for group in self._groups if lane in (None, group[0])]
        self._groups = [group for group in self._groups if lane not in (None, group[0])]
        return [part for _, parts in given_up for part in parts]
