"""The figures of a run, for each load, and whether the client was the limit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lanewise.bench.buckets import Buckets
from lanewise.bench.fleet import Outcome, Point
from lanewise.bench.loads import KindTally, Payload
from lanewise.clock import NS_PER_MS

BUSY_SHARE = 0.9
"""Of its core, from which on a process may have held requests up."""

LATE_MS = 5.0
"""The delay of the latest hundredth of requests from which on the client was too slow."""

QUANTILES = (0.5, 0.9, 0.99, 0.999)
ALL = "all"


@dataclass(frozen=True, slots=True)
class KindFigures:
    """What became of requests of one kind, or of all.

    Attributes:
        answered: successfully; the latencies, from when a request was due, are of these, and
            None without any.
        good_per_s: of these, answered by their deadline; all of them without one.
        failures: how many got what else.
    """

    kind: str
    answered: int
    failed: int
    answered_per_s: float
    good_per_s: float
    rows_per_s: float
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    longest_ms: float | None
    failures: dict[str, int]


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What came of one load.

    Attributes:
        kinds: all requests together first; then each kind, if there are several.
        warnings: why the figures may be the client's and not the server's.
        delay_p99_ms: of open loops, from when requests were due until they were sent.
        cpu_shares: of each process of the client, of one core.
        latencies: for curves.
    """

    load: str
    seconds: float
    kinds: tuple[KindFigures, ...]
    warnings: tuple[str, ...]
    examples: dict[str, str]
    delay_p99_ms: float | None
    cpu_shares: tuple[float, ...]
    course: tuple[Point, ...]
    latencies: Buckets

    @property
    def total(self) -> KindFigures:
        return self.kinds[0]

    def as_json(self) -> dict[str, Any]:
        """Get everything but the buckets, with None where there is no number."""
        names = ("load", "seconds", "warnings", "examples", "delay_p99_ms", "cpu_shares")
        course = [
            {name: _number(value) for name, value in asdict(point).items()} for point in self.course
        ]
        return {
            **{name: getattr(self, name) for name in names},
            "kinds": [asdict(kind) for kind in self.kinds],
            "course": course,
        }


def figures_of(outcome: Outcome, payloads: Sequence[Payload]) -> LoadFigures:
    """Compute the figures of an outcome, which may still be in progress."""
    whole = KindTally()
    for kind in outcome.kinds:
        whole.merge(kind)
    pairs = list(zip(payloads, outcome.kinds, strict=True))
    rows = sum(payload.rows * kind.latencies.count for payload, kind in pairs)
    seconds = outcome.seconds
    kinds = [_figures(ALL, whole, rows, seconds)]
    if len(pairs) > 1:
        kinds += [
            _figures(payload.name, kind, payload.rows * kind.latencies.count, seconds)
            for payload, kind in pairs
        ]
    return LoadFigures(
        load=outcome.load.name,
        seconds=seconds,
        kinds=tuple(kinds),
        warnings=tuple(_warnings(outcome)),
        examples=dict(outcome.examples),
        delay_p99_ms=_ms(outcome.delays.quantile_ns(0.99)),
        cpu_shares=tuple(outcome.cpu_shares),
        course=tuple(outcome.course),
        latencies=whole.latencies,
    )


def _figures(name: str, tally: KindTally, rows: int, seconds: float) -> KindFigures:
    latencies = tally.latencies
    p50, p90, p99, p999 = (_ms(latencies.quantile_ns(share)) for share in QUANTILES)
    return KindFigures(
        kind=name,
        answered=latencies.count,
        failed=tally.failures.total(),
        answered_per_s=latencies.count / seconds,
        good_per_s=tally.good / seconds,
        rows_per_s=rows / seconds,
        mean_ms=_ms(latencies.mean_ns),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        longest_ms=_ms(latencies.longest_ns) if latencies.count else None,
        failures=dict(Counter(tally.failures).most_common()),
    )


def _warnings(outcome: Outcome) -> Iterator[str]:
    shares = outcome.cpu_shares
    if shares:
        together = sum(shares) / min(outcome.cores, len(shares))
        if len(shares) >= outcome.cores and together > BUSY_SHARE:
            yield (
                f"the client was the limit: its {len(shares)} processes used {together:.0%} of "
                f"the {outcome.cores} cores they may run on; run it on more cores or another host"
            )
        elif max(shares) > BUSY_SHARE:
            yield (
                f"the client was the limit: one of its processes used {max(shares):.0%} of a "
                f"core; use more than --processes {len(shares)}"
            )
    late_ms = outcome.delays.quantile_ns(0.99) / NS_PER_MS
    if late_ms > LATE_MS:
        yield (
            f"the client was the limit: 1 % of the requests were sent {late_ms:.1f} ms or more "
            "after they were due, which the latencies include; use more --processes"
        )


def _ms(ns: float) -> float | None:
    return _number(ns / NS_PER_MS)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
