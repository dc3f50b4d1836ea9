"""Goodput: at given loads, and at the highest rate at which nearly all deadlines are met."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.scheduler.contenders import Settings
from benchmarks.scheduler.scenarios import Scenario
from lanewise.simulator.simulation import MakePolicy, Options, simulate
from lanewise.simulator.traffic import Arrival

ATTAINMENT = 0.99
"""Share of all requests that must meet their deadlines."""

LOADS = (0.5, 0.7, 0.9, 1.0, 1.15, 1.3)
"""Of capacity."""

LOWEST_LOAD, STEP, MAX_STEPS = 0.01, 1.03, 180
"""Rates that are tried: from 1 % of capacity up in steps of 3 % to twice the capacity."""


@dataclass(frozen=True, slots=True)
class Length:
    """How much traffic is played.

    Attributes:
        most_requests: a trace is shorter than `duration_s` if it would have more.
        least_requests: it is longer if it would have fewer.
    """

    duration_s: float
    least_requests: int
    most_requests: int
    seed: int = 1

    def of(self, rate: float) -> float:
        """Get the duration of a trace at `rate`."""
        return min(max(self.duration_s, self.least_requests / rate), self.most_requests / rate)


@dataclass(frozen=True, slots=True)
class Score:
    """What came of one trace.

    Attributes:
        load: of capacity.
        goodput: requests a second that met their deadlines.
        attainment: their share of all requests.
    """

    load: float
    goodput: float
    attainment: float


@dataclass(frozen=True, slots=True)
class Best:
    """The highest rate that is sustained, with the settings that sustain it."""

    settings: Settings
    score: Score
    step: int


def play(scenario: Scenario, load: float, make_policy: MakePolicy, length: Length) -> Score:
    """Serve a trace of `load` times the capacity."""
    rate = load * scenario.capacity
    trace = _trace(scenario, rate, length)
    options = Options(believed=scenario.believed)
    kinds = simulate(scenario.model, trace, make_policy, options).outcomes.kinds.values()
    met = sum(kind.met for kind in kinds)
    return Score(load, met / length.of(rate), met / len(trace))


def sustained(scenario: Scenario, settings: Sequence[Settings], length: Length) -> Best:
    """Find the settings with the highest rate at ATTAINMENT, and that rate, by bisection.

    Settings that do not sustain the next higher rate than the best before are not looked at
    more closely.
    """
    best = Best(settings[0], Score(0.0, 0.0, 0.0), -1)
    for one in settings:
        low, high = best.step, MAX_STEPS
        tried = best.step + 1
        while high - low > 1:
            score = play(scenario, LOWEST_LOAD * STEP**tried, one[1], length)
            if score.attainment >= ATTAINMENT:
                low, best = tried, Best(one, score, tried)
            else:
                high = tried
            tried = (low + high) // 2
    return best


@functools.lru_cache(32)
def _trace(scenario: Scenario, rate: float, length: Length) -> list[Arrival]:
    return scenario.traffic(rate, length.of(rate), length.seed)
