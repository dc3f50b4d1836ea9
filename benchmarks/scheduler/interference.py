"""What interactive and bulk work cost each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.scheduler import devices
from lanewise.simulator.outcomes import KindOutcome
from lanewise.simulator.simulation import MakePolicy, simulate
from lanewise.simulator.traffic import RequestKind, Traffic

INTERACTIVE = RequestKind("interactive", (1, 1, 1), 200, timeout_ns=10_000_000)
"""Single rows, 200 a second: a sixth of the device's time if each runs alone."""

BULK = RequestKind("bulk", (128, 128, 128), 222, timeout_ns=500_000_000)
"""128 rows, 222 a second: a fifth more than the device can do."""


@dataclass(frozen=True, slots=True)
class Interference:
    """The p99 latency of interactive requests and the goodput of bulk work, alone and together."""

    alone_p99_ms: float
    beside_p99_ms: float
    alone_bulk: float
    beside_bulk: float

    @property
    def slowdown(self) -> float:
        return self.beside_p99_ms / self.alone_p99_ms

    @property
    def bulk_share(self) -> float:
        return self.beside_bulk / self.alone_bulk


def measure_interference(make_policy: MakePolicy, duration_s: float) -> Interference:
    """Serve both kinds alone, then together."""
    model = devices.resnet()

    def serve(kinds: Sequence[RequestKind]) -> dict[str, KindOutcome]:
        traffic = Traffic(model.spec, kinds, duration_s, seed=1)
        return simulate(model, traffic, make_policy).outcomes.kinds

    interactive = serve([INTERACTIVE])["interactive"]
    bulk = serve([BULK])["bulk"]
    together = serve([INTERACTIVE, BULK])
    return Interference(
        _p99_ms(interactive),
        _p99_ms(together["interactive"]),
        bulk.met / duration_s,
        together["bulk"].met / duration_s,
    )


def _p99_ms(outcome: KindOutcome) -> float:
    return float(np.quantile(outcome.latencies_ns, 0.99, method="lower")) / 1e6
