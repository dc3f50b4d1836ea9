"""What the launches of a model cost, for people and their tools: plain data."""

from __future__ import annotations

from dataclasses import dataclass

from lanewise.model.spec import ModelSpec, Profile
from lanewise.scheduler.costs.table import Bucket, CostTable


@dataclass(frozen=True, slots=True)
class LaunchCost:
    """The time of launches of one kind that run alone, from launch to readable outputs.

    Attributes:
        rows: executed, padding included.
        bucket: log2 of the elements of all inputs without rows, rounded.
        typical_ns: half of the latest that waited for no other took no longer.
        safe_ns: 95 % of those took no longer.
        samples: how many of those are kept.
        behind_ns: half of the latest that waited for the one before them in their lane took no
            longer once that was over; 0 if too few did.
    """

    profile: Profile
    rows: int
    bucket: Bucket
    typical_ns: int
    safe_ns: int
    samples: int
    behind_ns: int


@dataclass(frozen=True, slots=True)
class PairCost:
    """How many times longer launches of `profile` take while `other` runs `rows`, too."""

    profile: Profile
    other: Profile
    rows: int
    slowdown: float


@dataclass(frozen=True, slots=True)
class CostReport:
    """The cost table of a model as it was when asked for.

    Attributes:
        launches: by profile, then bucket, then rows.
        pairs: those that were measured.
    """

    launches: tuple[LaunchCost, ...]
    pairs: tuple[PairCost, ...]


def report_costs(spec: ModelSpec, costs: CostTable) -> CostReport:
    """Copy what is known of the launches of the model `spec`."""
    known = sorted(costs.kinds(), key=lambda each: (each[0].profile, each[0].bucket, each[0].rows))
    return CostReport(
        launches=tuple(
            LaunchCost(
                spec.profiles[kind.profile],
                kind.rows,
                kind.bucket,
                estimate.typical_ns,
                estimate.safe_ns,
                len(estimate.samples_ns),
                estimate.behind_ns or 0,
            )
            for kind, estimate in known
        ),
        pairs=tuple(
            PairCost(spec.profiles[one.profile], spec.profiles[one.other], one.rows, one.slowdown)
            for one in sorted(costs.pairs())
        ),
    )
