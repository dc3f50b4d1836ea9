"""The scheduler's own work for a request: counted, so that no machine is too slow for the test."""

from __future__ import annotations

import pytest

from benchmarks.scheduler.core_cost import BACKLOG, calls_per_request
from lanewise.simulator.policies import POLICIES

MAX_CALLS = 150
"""Function calls a request from arrival to end; at some 120 ns each, 17 us."""

FEW = BACKLOG // 8


def calls(policy: str, backlog: int) -> float:
    return calls_per_request(POLICIES[policy], backlog, requests=1000)


def test_a_request_costs_few_calls_while_256_others_wait():
    assert calls("cost-aware", BACKLOG) <= MAX_CALLS


def test_what_a_request_costs_hardly_grows_with_the_backlog():
    assert calls("cost-aware", BACKLOG) <= 1.5 * calls("cost-aware", FEW)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_count_is_the_same_every_time(policy):
    # But for what the interpreter calls by itself, such as when it frees memory.
    assert calls(policy, FEW) == pytest.approx(calls(policy, FEW), rel=1e-3)
