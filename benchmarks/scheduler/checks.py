"""What the cost-aware policy promises, and whether it held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.scheduler.comparison import Results, best_rival
from benchmarks.scheduler.contenders import OURS
from benchmarks.scheduler.goodput import STEP

OVER_BEST_RIVAL_ON_MISSION = 1.3
OVER_TRITON_ON_8_SHAPES = 3.0
OVERLOADED_OF_PEAK = 0.95
OF_OPTIMUM = 0.90
INTERACTIVE_SLOWDOWN = 2.0
BULK_SHARE = 0.85
CORE_US = 20.0

_NEVER_BELOW = 1 / STEP
"""The sustained rate is known to one step of the rates that are tried."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A promise and what was measured.

    Attributes:
        is_timed: depends on this machine's speed, so it is reported and does not fail.
    """

    promise: str
    measured: str
    is_met: bool
    is_timed: bool = False

    @property
    def holds(self) -> bool:
        return self.is_met or self.is_timed


def check(results: Results) -> list[Verdict]:
    """Compare the results with every promise."""
    return list(_verdicts(results))


def _verdicts(results: Results) -> Iterator[Verdict]:
    for name, scores in results.scores.items():
        yield from _scenario_verdicts(name, results)
        triton = scores["triton"].sustained.goodput
        if name.startswith("K = 8"):
            yield _at_least(
                f"{name}: goodput at 99 %, of Triton's",
                _ratio(scores[OURS].sustained.goodput, triton),
                OVER_TRITON_ON_8_SHAPES,
            )
    worst, where = min(_at_each_load(results))
    yield Verdict(
        "at each load of each scenario: goodput, of any rival's, at least 1",
        f"{worst:.3f} ({where})",
        worst >= 1,
    )
    share = results.shares_of_optimum[OURS]
    yield _at_least("on time, of the best possible schedule", share, OF_OPTIMUM)
    ours = results.interference[OURS]
    yield _at_most(
        "p99 of interactive work beside bulk, of alone", ours.slowdown, INTERACTIVE_SLOWDOWN
    )
    yield _at_least("bulk work beside interactive, of alone", ours.bulk_share, BULK_SHARE)
    yield Verdict(
        f"core, median us a request, at most {CORE_US:g}",
        f"{results.core_us:.1f}",
        results.core_us <= CORE_US,
        is_timed=True,
    )


def _at_each_load(results: Results) -> Iterator[tuple[float, str]]:
    """Iterate over our goodput as a share of each rival's, at each load, and say where that is."""
    for scenario, scores in results.scores.items():
        for name in scores.keys() - {OURS}:
            for ours, theirs in zip(scores[OURS].loads, scores[name].loads, strict=True):
                where = f"{name} at {ours.load:.0%} of {scenario}"
                yield _ratio(ours.goodput, theirs.goodput), where


def _scenario_verdicts(name: str, results: Results) -> Iterator[Verdict]:
    scores = results.scores[name]
    ours = scores[OURS]
    rival, theirs = best_rival(scores)
    ratio = _ratio(ours.sustained.goodput, theirs.sustained.goodput)
    least = OVER_BEST_RIVAL_ON_MISSION if name.startswith("mission") else _NEVER_BELOW
    yield _at_least(f"{name}: goodput at 99 %, of {rival}'s", ratio, least)
    overloaded = _ratio(ours.loads[-1].goodput, ours.peak)
    yield _at_least(f"{name}: goodput at 130 %, of its peak", overloaded, OVERLOADED_OF_PEAK)


def _ratio(ours: float, theirs: float) -> float:
    if theirs:
        return ours / theirs
    return float("inf") if ours else 0.0


def _at_least(what: str, measured: float, least: float) -> Verdict:
    return Verdict(f"{what}, at least {least:.3g}", f"{measured:.3f}", measured >= least)


def _at_most(what: str, measured: float, most: float) -> Verdict:
    return Verdict(f"{what}, at most {most:.3g}", f"{measured:.3f}", measured <= most)
