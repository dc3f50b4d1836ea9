"""What is told of a load, and when the client is told to have been the limit."""

from __future__ import annotations

from collections import Counter

import pytest

from lanewise.bench.buckets import Buckets
from lanewise.bench.figures import figures_of
from lanewise.bench.fleet import Outcome
from lanewise.bench.loads import KindTally, Load, Payload

PAYLOADS = (Payload("1 row", 1, 0.5, b""), Payload("8 rows", 8, 0.5, b""))
MS = 1_000_000


def filled(latencies):
    buckets = Buckets()
    buckets.add(latencies)
    return buckets


def outcome(**changes):
    kinds = [
        KindTally(filled([MS] * 10), 10, Counter()),
        KindTally(filled([3 * MS] * 20), 15, Counter({"UNAVAILABLE": 5})),
    ]
    return Outcome(Load(concurrency=2), 2.0, kinds, **changes)


def test_rates_are_per_second_and_rows_are_those_of_answered_requests():
    total, one, eight = figures_of(outcome(), PAYLOADS).kinds

    assert (total.answered, total.failed, total.failures) == (30, 5, {"UNAVAILABLE": 5})
    assert (one.answered_per_s, eight.answered_per_s) == (5.0, 10.0)
    assert (one.good_per_s, eight.good_per_s) == (5.0, 7.5)
    assert (one.rows_per_s, eight.rows_per_s, total.rows_per_s) == (5.0, 80.0, 85.0)
    assert one.p50_ms == pytest.approx(1.0, rel=0.003)
    assert total.longest_ms == 3.0


def test_a_client_with_time_to_spare_is_not_warned_of():
    assert figures_of(outcome(cpu_shares=[0.5, 0.8], cores=2), PAYLOADS).warnings == ()


def test_one_busy_process_asks_for_more_processes():
    (warning,) = figures_of(outcome(cpu_shares=[0.97], cores=4), PAYLOADS).warnings

    assert "97% of a core" in warning
    assert "more than --processes 1" in warning


def test_busy_cores_ask_for_more_cores():
    (warning,) = figures_of(outcome(cpu_shares=[0.5, 0.46], cores=1), PAYLOADS).warnings

    assert "96% of the 1 cores" in warning


def test_requests_that_were_sent_late_are_told():
    late = figures_of(outcome(delays=filled([20 * MS] * 5)), PAYLOADS)

    assert "sent 20.0 ms or more after they were due" in late.warnings[0]
