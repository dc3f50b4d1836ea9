"""Throughput, goodput and latency of a trace, the same whether it was simulated or served."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lanewise.clock import NS_PER_MS, NS_PER_S
from lanewise.simulator.outcomes import Outcomes

TOLERANCE = 0.15
"""How far the simulator's throughput and p99 may be from what was measured."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a trace.

    Attributes:
        throughput: requests a second that got outputs.
        goodput: those that met their deadlines.
        p50_ms, p99_ms: of the latency of requests that got outputs; NaN if none did.
        p99_ms_by_kind: the same for each kind of request.
    """

    throughput: float
    goodput: float
    p50_ms: float
    p99_ms: float
    p99_ms_by_kind: dict[str, float]


def figures_of(outcomes: Outcomes, duration_ns: int) -> Figures:
    """Sum up what became of a trace that took `duration_ns` from first arrival to last end."""
    kinds = outcomes.kinds
    served = [kind.latencies_ns for kind in kinds.values()]
    seconds = duration_ns / NS_PER_S
    everything = np.concatenate([np.asarray(each, np.int64) for each in served])
    return Figures(
        throughput=len(everything) / seconds,
        goodput=sum(kind.met for kind in kinds.values()) / seconds,
        p50_ms=_quantile_ms(everything, 0.5),
        p99_ms=_quantile_ms(everything, 0.99),
        p99_ms_by_kind={
            name: _quantile_ms(kinds[name].latencies_ns, 0.99) for name in sorted(kinds)
        },
    )


def median_of(repeats: Sequence[Figures]) -> Figures:
    """Take the median of each figure."""
    return Figures(
        throughput=statistics.median(one.throughput for one in repeats),
        goodput=statistics.median(one.goodput for one in repeats),
        p50_ms=statistics.median(one.p50_ms for one in repeats),
        p99_ms=statistics.median(one.p99_ms for one in repeats),
        p99_ms_by_kind={
            name: statistics.median(one.p99_ms_by_kind[name] for one in repeats)
            for name in repeats[0].p99_ms_by_kind
        },
    )


def deviation(predicted: float, measured: float) -> float:
    """Tell how far a prediction is off, as a share of what was measured; above 0 if too high."""
    return predicted / measured - 1


def _quantile_ms(latencies_ns: Sequence[int] | np.ndarray, share: float) -> float:
    if not len(latencies_ns):
        return float("nan")
    return float(np.quantile(latencies_ns, share)) / NS_PER_MS
