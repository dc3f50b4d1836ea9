"""Everything that is measured, of every policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.scheduler import devices
from benchmarks.scheduler.contenders import OURS, contenders
from benchmarks.scheduler.core_cost import calls_per_request, microseconds_per_request
from benchmarks.scheduler.goodput import LOADS, Length, Score, play, sustained
from benchmarks.scheduler.interference import Interference, measure_interference
from benchmarks.scheduler.optimum import mean_share
from benchmarks.scheduler.scenarios import Scenario, all_scenarios
from lanewise.simulator.policies import POLICIES

MISTAKEN = 0.3
"""How far each cost is off, at most, where ours begins with wrong ones."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        scenarios: names; empty for all.
        traces: small ones that are compared with the best schedule.
        interference_s: of traffic.
        is_short: tune coarsely.
    """

    length: Length
    traces: int
    interference_s: float
    scenarios: tuple[str, ...] = ()
    is_short: bool = False


FULL = Plan(Length(1.0, 2000, 6000), traces=1000, interference_s=20.0)

SHORT = Plan(
    Length(0.5, 1000, 2500),
    traces=50,
    interference_s=5.0,
    scenarios=("mission, poisson, tight", "mission, bursts, loose", "K = 8, poisson, tight"),
    is_short=True,
)


@dataclass(frozen=True, slots=True)
class PolicyScores:
    """One policy in one scenario.

    Attributes:
        settings: with which it sustains the most, in words.
        sustained: at the highest rate at which nearly all deadlines are met.
        loads: at each of LOADS, with the same settings.
    """

    settings: str
    sustained: Score
    loads: tuple[Score, ...]

    @property
    def peak(self) -> float:
        """Best goodput at any load."""
        return max(score.goodput for score in (*self.loads, self.sustained))


@dataclass(slots=True)
class Results:
    """What came of a comparison; `scores` by scenario, then by policy.

    Attributes:
        mistaken: by scenario, what ours sustains when it begins with costs that are wrong by up
            to MISTAKEN.
    """

    capacities: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, PolicyScores]] = field(default_factory=dict)
    mistaken: dict[str, Score] = field(default_factory=dict)
    interference: dict[str, Interference] = field(default_factory=dict)
    shares_of_optimum: dict[str, float] = field(default_factory=dict)
    core_us: float = 0.0
    core_calls: float = 0.0


def compare(plan: Plan, log: Callable[[str], None]) -> Results:
    """Measure everything; `log` is called with a line of progress now and then."""
    results = Results()
    for scenario in all_scenarios():
        if plan.scenarios and scenario.name not in plan.scenarios:
            continue
        log(scenario.name)
        results.capacities[scenario.name] = scenario.capacity
        results.scores[scenario.name] = _score(scenario, plan)
        wrong = devices.mistaken(scenario.model.costs, MISTAKEN, plan.length.seed)
        best = sustained(replace(scenario, believed=wrong), contenders()[OURS], plan.length)
        results.mistaken[scenario.name] = best.score
    log("interference, optimum, core")
    for name, make_policy in POLICIES.items():
        results.interference[name] = measure_interference(make_policy, plan.interference_s)
    results.shares_of_optimum = mean_share(POLICIES, plan.traces)
    results.core_us = microseconds_per_request(POLICIES[OURS])
    results.core_calls = calls_per_request(POLICIES[OURS])
    return results


def _score(scenario: Scenario, plan: Plan) -> dict[str, PolicyScores]:
    scores = {}
    for name, settings in contenders(short=plan.is_short).items():
        best = sustained(scenario, settings, plan.length)
        label, make_policy = best.settings
        loads = tuple(play(scenario, load, make_policy, plan.length) for load in LOADS)
        scores[name] = PolicyScores(label, best.score, loads)
    return scores


def best_rival(scores: Mapping[str, PolicyScores]) -> tuple[str, PolicyScores]:
    """Get the rival with the highest sustained goodput."""
    rivals: Sequence[str] = [name for name in scores if name != OURS]
    name = max(rivals, key=lambda one: scores[one].sustained.goodput)
    return name, scores[name]
