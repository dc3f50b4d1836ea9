"""The traffic that the policies are compared on: seeded, and the same for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.scheduler import devices
from lanewise.model.tensors import Shape
from lanewise.scheduler.costs.file import MeasuredModel
from lanewise.scheduler.costs.table import CostTable
from lanewise.simulator.traffic import Arrival, RequestKind, Traffic

SHARES = {"interactive": 0.60, "dynamic": 0.35, "bulk": 0.05}
"""Of all requests. By rows, bulk work is more than half of it."""

ROWS = {"interactive": (1, 1, 1), "dynamic": (1, 4, 32), "bulk": (128, 128, 128)}
"""Least, most frequent and most rows of a request."""

DEADLINES_MS = {
    "tight": {"interactive": 10, "dynamic": 25, "bulk": 60},
    "loose": {"interactive": 30, "dynamic": 75, "bulk": 200},
}

BURST = 10.0
"""How many times the rate between bursts there is in a burst."""

BURST_NS, PERIOD_NS = 10_000_000, 100_000_000
"""How long a burst is, and from the beginning of one to the next: the same for every rate, so that
rates can be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """A model and the traffic it gets.

    Attributes:
        shapes: equally likely shapes of a request, without rows.
        is_bursty: whether requests come in bursts; or else as a Poisson process.
        deadlines: a key of DEADLINES_MS.
        believed: what launches cost, as policies see it; None for the truth.
    """

    name: str
    model: MeasuredModel
    shapes: tuple[Shape, ...]
    is_bursty: bool
    deadlines: str
    believed: CostTable | None = None

    def kinds(self, rate: float, names: Sequence[str] = tuple(SHARES)) -> list[RequestKind]:
        """Get the kinds of requests at `rate` requests a second in all, or some of them."""
        return [
            RequestKind(
                name,
                ROWS[name],
                rate * SHARES[name],
                timeout_ns=round(DEADLINES_MS[self.deadlines][name] * 1e6),
                items=tuple((shape,) for shape in self.shapes),
            )
            for name in names
        ]

    def traffic(self, rate: float, duration_s: float, seed: int) -> list[Arrival]:
        """Draw what arrives at `rate` requests a second on average."""
        steady = Traffic(self.model.spec, self.kinds(rate), duration_s, seed)
        if not self.is_bursty:
            return list(steady)
        return [arrival._replace(at_ns=_into_bursts(arrival.at_ns)) for arrival in steady]

    @property
    def capacity(self) -> float:
        """Requests of this mix a second that one launch after the other can serve at most.

        1 / sum over the kinds of (share x mean rows x least time of a row in any launch), by
        the cost table. Lanes side by side can do more; requests that cannot wait for a full
        launch make it less.
        """
        row_ns = sum(self._least_row_ns(shape) for shape in self.shapes) / len(self.shapes)
        rows = sum(share * _mean_rows(ROWS[name]) for name, share in SHARES.items())
        return 1e9 / (rows * row_ns)

    def _least_row_ns(self, shape: Shape) -> float:
        return min(
            took_ns / rows
            for rows in devices.ROW_COUNTS
            if (took_ns := devices.launch_ns(self.model, rows, [shape])) is not None
        )


def all_scenarios() -> Iterator[Scenario]:
    """Get every scenario: the three kinds at once on ResNet-50, and on BERT in K lengths."""
    resnet, bert = devices.resnet(), devices.bert()
    patterns = list(itertools.product((("poisson", False), ("bursts", True)), DEADLINES_MS))
    for (arrivals, is_bursty), deadlines in patterns:
        name = f"mission, {arrivals}, {deadlines}"
        yield Scenario(name, resnet, ((3, 224, 224),), is_bursty, deadlines)
    for count in (1, 2, 4, 8):
        shapes = tuple((128 * (i + 1) // count,) for i in range(count))
        for (arrivals, is_bursty), deadlines in patterns:
            name = f"K = {count}, {arrivals}, {deadlines}"
            yield Scenario(name, bert, shapes, is_bursty, deadlines)


def _into_bursts(at_ns: int) -> int:
    """Move a time of a steady stream to where as much of a bursty one of that rate has come."""
    periods, within_ns = divmod(at_ns, PERIOD_NS)
    gap_ns = PERIOD_NS - BURST_NS
    quiet = PERIOD_NS / (BURST * BURST_NS + gap_ns)  # rate between bursts, of the mean
    steady_ns = BURST * quiet * BURST_NS  # during which as many come as in a burst
    if within_ns < steady_ns:
        moved_ns = within_ns / (BURST * quiet)
    else:
        moved_ns = BURST_NS + (within_ns - steady_ns) / quiet
    return periods * PERIOD_NS + int(moved_ns)


def _mean_rows(rows: tuple[int, int, int]) -> float:
    """Get the mean of a triangular distribution."""
    return sum(rows) / 3
