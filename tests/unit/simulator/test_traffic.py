"""Made-up traffic has the rates, rows and shapes that were asked for."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from helpers.sim import mission_model, model, profile
from lanewise.clock import NS_PER_MS, NS_PER_S
from lanewise.errors import ConfigError
from lanewise.simulator.mix import default_mix, parse_kind, require_admitted, scale
from lanewise.simulator.traffic import RequestKind, Traffic

SPEC = mission_model()
ONE = RequestKind("one", (1, 1, 1), 100.0)


def times_s(traffic):
    return np.array([arrival.at_ns for arrival in traffic]) / NS_PER_S


def test_the_same_seed_gives_the_same_requests():
    first, again, other = (Traffic(SPEC, [ONE], 10.0, seed=seed) for seed in (1, 1, 2))

    assert list(first) == list(first) == list(again)
    assert list(first) != list(other)


@pytest.mark.parametrize("burst", [1.0, 10.0])
def test_requests_come_in_order_and_at_the_mean_rate(burst):
    times = times_s(Traffic(SPEC, [dataclasses.replace(ONE, rate=20)], 5000.0, burst=burst))

    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 5000.0
    assert len(times) / 5000.0 == pytest.approx(20.0, rel=0.05)


def test_a_steady_stream_is_poisson():
    counts = np.histogram(times_s(Traffic(SPEC, [ONE], 1000.0)), 1000, (0, 1000))[0]

    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.15)


def test_in_a_burst_requests_come_at_so_many_times_the_rate():
    gaps = np.diff(times_s(Traffic(SPEC, [ONE], 1000.0, burst=10.0)))

    # Half of the gaps of a Poisson process of 1000/s are shorter than ln(2) ms.
    assert np.median(gaps) == pytest.approx(np.log(2) / 1000, rel=0.1)


def test_kinds_share_the_traffic_by_their_rates_and_keep_their_attributes():
    bulk = RequestKind(
        "bulk", (128, 128, 128), 25.0, timeout_ns=9, target_ns=8, priority=2, pin="offline"
    )

    arrivals = list(Traffic(SPEC, [ONE, bulk], 200.0))

    counts = Counter(arrival.kind for arrival in arrivals)
    assert counts["one"] / counts["bulk"] == pytest.approx(4.0, rel=0.1)
    seen = {arrival[1:] for arrival in arrivals}
    assert seen == {
        (((1,),), None, None, 1, None, "one"),
        (((128,),), 9, 8, 2, "offline", "bulk"),
    }


def test_rows_are_most_often_the_most_frequent_and_never_outside():
    kind = RequestKind("dynamic", (1, 4, 32), 100.0)

    rows = Counter(arrival.shapes[0][0] for arrival in Traffic(SPEC, [kind], 1000.0))

    assert set(rows) == set(range(1, 33))
    assert abs(rows.most_common(1)[0][0] - 4) <= 1
    assert rows[4] > 1.5 * rows[16] > 1.5 * rows[30]


def test_item_shapes_are_equally_likely():
    spec = model(profile(0, (1, 4, 8), [(1, 16, 64)]))
    kind = RequestKind("k", (2, 2, 2), 100.0, items=(((8,),), ((16,),), ((32,),), ((64,),)))

    shapes = Counter(arrival.shapes for arrival in Traffic(spec, [kind], 100.0))

    assert set(shapes) == {((2, size),) for size in (8, 16, 32, 64)}
    assert min(shapes.values()) / max(shapes.values()) > 0.85


def test_without_item_shapes_the_first_profile_tells_them():
    spec = model(profile(0, (1, 4, 8), [(1, 16, 64)]))

    assert {arrival.shapes for arrival in Traffic(spec, [ONE], 1.0)} == {((1, 16),)}


def test_a_kind_is_read_as_it_is_written():
    text = (
        "name=users,rows=1-4-32,rate=2.5,timeout-ms=20,target-ms=5,priority=2,pin=p1,items=3x8|3x9"
    )

    assert parse_kind(text, SPEC) == RequestKind(
        name="users",
        rows=(1, 4, 32),
        rate=2.5,
        timeout_ns=20 * NS_PER_MS,
        target_ns=5 * NS_PER_MS,
        priority=2,
        pin="p1",
        items=(((3, 8),), ((3, 9),)),
    )
    assert parse_kind("rows=8", SPEC) == RequestKind("rows=8", (8, 8, 8), 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows", "'rows' is not KEY=VALUE"),
        ("rows=1,speed=3", "unknown key 'speed'; allowed are name, rows, rate, timeout-ms"),
        ("rate=3", "rows=... is missing"),
        ("rows=1,rows=2", "rows is given twice"),
        ("rows=1-2", "rows is '1-2', but must be N or LEAST-FREQUENT-MOST"),
        ("rows=4-1-8", "rows must be 1 <= least <= frequent <= most"),
        ("rows=one", "rows is 'one', but must be N or LEAST-FREQUENT-MOST"),
        ("rows=1,rate=0", "rate is '0', but must be a positive number of requests a second"),
        ("rows=1,rate=nan", "rate is 'nan', but must be a positive number"),
        ("rows=1,rate=fast", "rate is 'fast', but must be a positive number"),
        ("rows=1,timeout-ms=abc", "timeout-ms is 'abc', but must be a positive number of milli"),
        ("rows=1,target-ms=inf", "target-ms is 'inf', but must be a positive number of milli"),
        ("rows=1,priority=0", "priority is '0', but must be an integer of 1 or more"),
        ("rows=1,items=3xa", "items is '3xa', but must be shapes without rows, such as 3x224x224"),
    ],
)
def test_a_kind_that_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_kind(text, SPEC)

    assert message in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name=k,rows=1,pin=night", "mix 'k': model 'm' has no profile 'night'; it has: 'online'"),
        ("name=k,rows=1,items=8", "mix 'k': model 'm', input 'X': shape [1, 8] does not match"),
        ("name=k,rows=1-1-200000", "mix 'k': model 'm': 200000 rows would be split over more"),
    ],
)
def test_a_kind_that_the_model_could_never_run_is_refused_with_the_reason(text, message):
    with pytest.raises(ConfigError) as caught:
        require_admitted([parse_kind(text, SPEC)], SPEC)

    assert str(caught.value).startswith(message)


def test_every_one_of_a_kinds_shapes_must_be_admitted():
    spec = model(profile(0, (1, 4, 8), [(1, 16, 64)]))

    require_admitted([parse_kind("rows=1,items=1|64", spec)], spec)
    with pytest.raises(ConfigError, match="dimension 1 of 'X' is 65, admitted are 1 to 64"):
        require_admitted([parse_kind("rows=1,items=1|65", spec)], spec)


def test_the_default_mix_has_what_each_profile_is_for_and_scales():
    mix = scale(default_mix(SPEC), 300.0)

    assert [(kind.name, kind.rows, kind.rate) for kind in mix] == [
        ("online", (1, 1, 1), 100.0),
        ("dynamic", (1, 4, 32), 100.0),
        ("offline", (128, 128, 128), 100.0),
    ]


@pytest.mark.parametrize("rows", ["2", "1-1-2"])
def test_a_model_that_runs_requests_alone_has_no_requests_of_several_rows(rows):
    spec = dataclasses.replace(SPEC, batching=False, rowwise=frozenset())
    kind = parse_kind(f"rows={rows},items=1x64", spec)

    with pytest.raises(ConfigError, match="rows must be 1: model"):
        require_admitted([kind], spec)
