"""The figures of a simulation: by lane, by kind of request, and in all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lanewise.clock import NS_PER_MS, NS_PER_S
from lanewise.scheduler.lane import Lane
from lanewise.simulator.outcomes import KindOutcome
from lanewise.simulator.simulation import Result

QUANTILES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class LaneReport:
    """What ran on a lane.

    Attributes:
        rows: that were sent.
        padding_waste: the share of the rows executed that nobody sent.
        busy_share: of the time, how much it executed something.
    """

    lane: int
    profile: str
    launches: int
    rows: int
    padding_waste: float
    busy_share: float


@dataclass(frozen=True, slots=True)
class KindReport:
    """What became of the requests of one kind.

    Attributes:
        met: completed by their deadline; all that completed of those without one.
        late: completed after it.
        refused: turned away on arrival.
        expired: given up while they waited.
        p50_ms, p90_ms, p99_ms, p999_ms: quantiles of the latency of those that completed;
            None if none did.
    """

    kind: str
    requests: int
    met: int
    late: int
    refused: int
    expired: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What a policy made of some traffic.

    Attributes:
        duration_s: from the first arrival until all was over.
        goodput: requests a second that met their deadline; of those without one, that completed.
        attainment: the share of all requests that did.
    """

    policy: str
    duration_s: float
    requests: int
    goodput: float
    attainment: float
    kinds: tuple[KindReport, ...]
    lanes: tuple[LaneReport, ...]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def summarize(policy: str, result: Result) -> Report:
    """Make the report of a simulation under the policy of that name."""
    duration_s = max(1, result.ended_ns - result.began_ns) / NS_PER_S
    outcomes = result.outcomes.kinds
    requests = sum(outcome.requests for outcome in outcomes.values())
    met = sum(outcome.met for outcome in outcomes.values())
    return Report(
        policy=policy,
        duration_s=duration_s,
        requests=requests,
        goodput=met / duration_s,
        attainment=met / requests if requests else 1.0,
        kinds=tuple(_of_kind(name, outcomes[name]) for name in sorted(outcomes)),
        lanes=tuple(
            _of_lane(lane, busy, duration_s)
            for lane, busy in zip(result.lanes, result.busy, strict=True)
        ),
    )


def _of_kind(name: str, outcome: KindOutcome) -> KindReport:
    quantiles: list[float | None] = [None] * len(QUANTILES)
    if outcome.latencies_ns:
        quantiles = [float(q) / NS_PER_MS for q in np.quantile(outcome.latencies_ns, QUANTILES)]
    return KindReport(
        name,
        outcome.requests,
        outcome.met,
        outcome.late,
        outcome.refused,
        outcome.expired,
        *quantiles,
    )


def _of_lane(lane: Lane, busy: Sequence[int], duration_s: float) -> LaneReport:
    counters = lane.counters
    executed = counters.padded_rows
    return LaneReport(
        lane=lane.lane_id,
        profile=lane.profile.name,
        launches=counters.launches,
        rows=counters.rows,
        padding_waste=1 - counters.rows / executed if executed else 0.0,
        busy_share=(sum(busy[1::2]) - sum(busy[::2])) / NS_PER_S / duration_s,
    )
