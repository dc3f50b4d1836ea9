"""What the comparison of policies rests on: the best schedule, and traffic that can be compared."""

from __future__ import annotations

import itertools
import random

import pytest

from benchmarks.scheduler import devices
from benchmarks.scheduler.optimum import Job, mean_share, most_on_time
from benchmarks.scheduler.scenarios import BURST_NS, PERIOD_NS, all_scenarios
from lanewise.simulator.policies import POLICIES
from lanewise.simulator.simulation import simulate

SCENARIOS = {scenario.name: scenario for scenario in all_scenarios()}


def launch_ns(rows: int, _shape: object) -> int | None:
    """3 ns and 1 ns a row, 8 rows at most."""
    return 3 + rows if rows <= 8 else None


def jobs_of(draw: random.Random, count: int) -> list[Job]:
    jobs = []
    for _ in range(count):
        arrival, rows = draw.randint(0, 12), draw.randint(1, 6)
        deadline = arrival + 3 + rows + draw.randint(0, 12)
        jobs.append(Job(arrival, deadline, rows, (draw.randint(1, 2),)))
    return jobs


def try_everything(jobs: list[Job]) -> int:
    """Count on-time jobs of the best of all orders of all jobs, cut into launches in all ways."""
    best = 0
    for chosen in range(len(jobs) + 1):
        for order in itertools.permutations(jobs, chosen):
            for cuts in itertools.product([False, True], repeat=max(0, chosen - 1)):
                best = max(best, on_time(order, cuts))
    return best


def on_time(order: tuple[Job, ...], cuts: tuple[bool, ...]) -> int:
    batches: list[list[Job]] = []
    for job, starts_anew in zip(order, (True, *cuts), strict=False):
        if starts_anew:
            batches.append([])
        batches[-1].append(job)
    now = met = 0
    for batch in batches:
        took = launch_ns(sum(job.rows for job in batch), ())
        if took is None or len({job.shape for job in batch}) > 1:
            return 0
        now = max(now, *(job.arrival_ns for job in batch)) + took
        met += sum(now <= job.deadline_ns for job in batch)
    return met


@pytest.mark.parametrize("seed", range(60))
def test_the_best_schedule_is_as_good_as_the_best_of_all(seed):
    draw = random.Random(seed)
    jobs = jobs_of(draw, draw.randint(1, 5))

    assert most_on_time(jobs, launch_ns) == try_everything(jobs)


def test_the_best_schedule_waits_for_what_is_worth_it():
    # The first alone would end at 13 and make the other two late, which fit one launch.
    jobs = [Job(0, 20, 6, ()), Job(5, 16, 4, ()), Job(5, 16, 4, ())]

    assert most_on_time(jobs, launch_ns) == 2


def test_no_policy_is_better_than_the_best_schedule():
    assert all(0.5 < share <= 1 for share in mean_share(POLICIES, 30).values())


@pytest.mark.parametrize("load", [0.1, 1.3])
def test_bursts_bring_ten_times_the_rate_between_them_and_the_mean_that_was_asked_for(load):
    scenario = SCENARIOS["mission, bursts, tight"]
    rate = load * scenario.capacity
    trace = scenario.traffic(rate, 20.0, seed=1)
    in_bursts = sum(one.at_ns % PERIOD_NS < BURST_NS for one in trace)
    between = len(trace) - in_bursts

    assert [one.at_ns for one in trace] == sorted(one.at_ns for one in trace)
    assert len(trace) == pytest.approx(20 * rate, rel=0.05)
    assert in_bursts / BURST_NS == pytest.approx(10 * between / (PERIOD_NS - BURST_NS), rel=0.1)


def test_capacity_is_what_launches_at_the_best_rate_one_after_the_other_can_serve():
    scenario = SCENARIOS["mission, poisson, tight"]
    rows = 0.60 * 1 + 0.35 * (1 + 4 + 32) / 3 + 0.05 * 128

    assert scenario.capacity == pytest.approx(128 / 5.42e-3 / rows)


def test_the_model_of_bert_costs_what_was_measured():
    took_ms = {
        (rows, tokens): devices.launch_ns(devices.bert(), rows, [(tokens,)]) / 1e6
        for rows, tokens in ((1, 32), (8, 64), (32, 128), (128, 128))
    }

    assert took_ms == {(1, 32): 0.52, (8, 64): 0.59, (32, 128): 0.70, (128, 128): 2.02}


@pytest.mark.parametrize("rival", ["first-fit", "tf-serving"])
@pytest.mark.parametrize("load", [0.7, 0.9, 1.1])
@pytest.mark.parametrize("name", ["mission, poisson, tight", "mission, bursts, tight"])
def test_on_lanes_that_work_ahead_no_rival_meets_more_deadlines(name, load, rival):
    scenario = SCENARIOS[name]
    model = devices.working_ahead(scenario.model)
    traffic = scenario.traffic(load * scenario.capacity, 2.0, seed=1)

    def met(policy: str) -> int:
        kinds = simulate(model, traffic, POLICIES[policy]).outcomes.kinds
        return sum(kind.met for kind in kinds.values())

    assert met("cost-aware") >= met(rival)
