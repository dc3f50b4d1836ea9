"""The rules of other programs, as the policies for comparison follow them."""

from __future__ import annotations

import random

import pytest

from helpers.sim import Simulation, mission_model, model, profile
from lanewise.clock import NS_PER_MS
from lanewise.simulator.policies import POLICIES
from lanewise.simulator.rivals.tf_serving import TfServingPolicy
from lanewise.simulator.rivals.triton import TritonPolicy, distance

TEN_MS = {"exec_ms": lambda _p, _rows: 10.0}


def launches(sim: Simulation) -> list[str]:
    """When which requests were launched where, without the reason."""
    return [line.rsplit(" ", 1)[0] for line in sim.log if " launch " in line]


def triton(delay_ms: float = 0, preferred: tuple[int, ...] = (), *, as_coded: bool = False):
    return lambda _costs: TritonPolicy(
        max_queue_delay_ns=int(delay_ms * NS_PER_MS), preferred_rows=preferred, as_coded=as_coded
    )


def tf_serving(timeout_ms: float = 0, threads: int = 1, max_rows: int = 0):
    return lambda _costs: TfServingPolicy(
        batch_timeout_ns=int(timeout_ms * NS_PER_MS),
        num_batch_threads=threads,
        max_batch_rows=max_rows,
    )


def test_first_fit_takes_the_first_profile_that_admits_the_rows():
    wide_first = model(profile(0, (1, 64, 128)), profile(1, (1, 4, 32)), profile(2, (1, 1, 1)))
    sim = Simulation(wide_first, policy=POLICIES["first-fit"])
    for i, rows in enumerate((1, 4, 128)):
        sim.arrive(100 * i, rows)

    sim.run()

    assert [launch.lane.lane_id for launch in sim.launches] == [0, 0, 0]


def test_first_fit_waits_for_the_lane_that_fits_first_and_lets_the_same_shape_join():
    spec = model(profile(0, (1, 4, 4), [(1, 8, 8)]), profile(1, (1, 4, 8), [(1, 8, 8)]))
    sim = Simulation(spec, **TEN_MS, policy=POLICIES["first-fit"])
    for item in (4, 4, 4, 8, 4):
        sim.arrive(0, 2, (item,))

    sim.run()

    assert launches(sim) == [
        "0.000 launch p0 rows=2 padded=2 requests=0",
        "10.000 launch p0 rows=4 padded=4 requests=1,2",
        "20.000 launch p0 rows=2 padded=2 requests=3",
        "30.000 launch p0 rows=2 padded=2 requests=4",
    ]


def test_one_context_runs_one_launch_at_a_time_in_order_of_arrival():
    sim = Simulation(mission_model(), **TEN_MS, policy=POLICIES["one-context"])
    for rows in (1, 128, 4):
        sim.arrive(0, rows)

    sim.run()

    assert launches(sim) == [
        "0.000 launch online rows=1 padded=1 requests=0",
        "10.000 launch offline rows=128 padded=128 requests=1",
        "20.000 launch dynamic rows=4 padded=4 requests=2",
    ]


def test_triton_runs_one_batch_at_a_time_closed_by_the_first_request_of_another_shape():
    sim = Simulation(model(profile(0, (1, 8, 8), [(1, 8, 8)])), **TEN_MS, policy=triton())
    for item in (4, 4, 8, 4, 4):
        sim.arrive(0, 1, (item,))

    sim.run()

    assert launches(sim) == [
        "0.000 launch p0 rows=1 padded=1 requests=0",
        "10.000 launch p0 rows=1 padded=1 requests=1",
        "20.000 launch p0 rows=1 padded=1 requests=2",
        "30.000 launch p0 rows=2 padded=2 requests=3,4",
    ]


@pytest.mark.parametrize("shapes", [2, 4, 8])
def test_triton_gathers_no_more_than_shapes_over_shapes_minus_one_requests(shapes):
    draw = random.Random(shapes)
    sim = Simulation(
        model(profile(0, (1, 32, 32), [(1, 8, 8)])), max_queue_requests=3000, policy=triton(5)
    )
    for _ in range(2000):
        sim.arrive(0, 1, (draw.randint(1, shapes),))

    sim.run()

    assert sim.mean_batch == pytest.approx(shapes / (shapes - 1), rel=0.05)


def test_triton_launches_a_preferred_size_at_once_and_the_rest_after_the_delay_of_its_oldest():
    sim = Simulation(
        model(profile(0, (1, 8, 8))), exec_ms=lambda _p, _rows: 1.0, policy=triton(5, (4,))
    )
    for at_ms in (0, 1, 2, 3, 4, 6):
        sim.arrive(at_ms, 1)

    sim.run()

    assert launches(sim) == [
        "3.000 launch p0 rows=4 padded=4 requests=0,1,2,3",
        "9.000 launch p0 rows=2 padded=2 requests=4,5",
    ]


def test_triton_prefers_the_largest_preferred_size_that_waits():
    sim = Simulation(model(profile(0, (1, 8, 8))), **TEN_MS, policy=triton(50, (2, 4)))
    for at_ms in (0, 0, 1, 2, 3, 4, 5):
        sim.arrive(at_ms, 1)

    sim.run()

    assert launches(sim) == [
        "0.000 launch p0 rows=2 padded=2 requests=0,1",
        "10.000 launch p0 rows=4 padded=4 requests=2,3,4,5",
        "55.000 launch p0 rows=1 padded=1 requests=6",
    ]


def test_a_batch_that_no_profile_admits_is_cut_back_to_what_one_admits():
    sim = Simulation(mission_model(), **TEN_MS, policy=triton())
    sim.arrive(0, 1)
    for _ in range(4):
        sim.arrive(1, 16)  # 64 rows: between the profiles

    sim.run()

    assert launches(sim) == [
        "0.000 launch online rows=1 padded=1 requests=0",
        "10.000 launch dynamic rows=32 padded=32 requests=1,2",
        "20.000 launch dynamic rows=32 padded=32 requests=3,4",
    ]


def test_triton_serves_what_it_would_refuse_padded_or_split():
    sim = Simulation(mission_model(), **TEN_MS, policy=triton())
    sim.arrive(0, 60)
    sim.arrive(1, 160)

    sim.run()

    assert launches(sim) == [
        "0.000 launch offline rows=60 padded=128 requests=0",
        "10.000 launch offline rows=128 padded=128 requests=1",
        "20.000 launch dynamic rows=32 padded=32 requests=1",
    ]


def test_the_distance_as_documented_counts_every_dimension_and_as_coded_never_the_last():
    short, long = profile(0, (1, 4, 32), [(1, 32, 512)]), profile(1, (1, 4, 32), [(1, 256, 512)])

    assert distance(short, 4, [(256,)]) == 224
    assert distance(long, 4, [(256,)]) == 0
    assert distance(short, 4, [(256,)], as_coded=True) == 28
    assert distance(long, 4, [(256,)], as_coded=True) == 252


@pytest.mark.parametrize(("as_coded", "lane"), [(False, 1), (True, 0)])
def test_triton_takes_the_profile_of_least_distance(as_coded, lane):
    spec = model(profile(0, (1, 4, 32), [(1, 32, 512)]), profile(1, (1, 4, 32), [(1, 256, 512)]))
    sim = Simulation(spec, policy=triton(as_coded=as_coded))
    sim.arrive(0, 4, (256,))

    sim.run()

    assert [launch.lane.lane_id for launch in sim.launches] == [lane]


def test_tf_serving_has_a_queue_for_each_shape_and_serves_them_in_turn():
    sim = Simulation(model(profile(0, (1, 2, 2), [(1, 8, 8)])), **TEN_MS, policy=tf_serving())
    for item in (4, 4, 4, 4, 4, 8, 8):
        sim.arrive(0, 1, (item,))

    sim.run()

    assert launches(sim) == [
        "0.000 launch p0 rows=1 padded=1 requests=0",
        "10.000 launch p0 rows=2 padded=2 requests=5,6",
        "20.000 launch p0 rows=2 padded=2 requests=1,2",
        "30.000 launch p0 rows=2 padded=2 requests=3,4",
    ]


def test_tf_serving_waits_for_a_full_batch_no_longer_than_the_timeout_and_splits_the_last():
    sim = Simulation(
        model(profile(0, (1, 4, 4))), exec_ms=lambda _p, _rows: 1.0, policy=tf_serving(5)
    )
    sim.arrive(0, 3)
    sim.arrive(1, 2)
    sim.arrive(3, 2)

    sim.run()

    assert launches(sim) == [
        "1.000 launch p0 rows=4 padded=4 requests=0,1",
        "6.000 launch p0 rows=3 padded=3 requests=1,2",
    ]


def test_tf_serving_pads_to_the_lowest_size_allowed_and_waits_for_a_lane_of_it():
    sim = Simulation(mission_model(), **TEN_MS, row_counts=(1, 4, 32), policy=tf_serving(threads=2))
    sim.arrive(0, 3)
    sim.arrive(1, 2)
    sim.arrive(2, 33)

    sim.run()

    assert launches(sim) == [
        "0.000 launch dynamic rows=3 padded=4 requests=0",
        "2.000 launch offline rows=35 padded=128 requests=1,2",
    ]


def test_tf_serving_has_no_more_batches_in_flight_than_threads():
    sim = Simulation(mission_model(), **TEN_MS, policy=tf_serving(threads=2, max_rows=32))
    for rows in (1, 4, 2, 1):
        sim.arrive(0, rows)

    sim.run()

    assert launches(sim) == [
        "0.000 launch online rows=1 padded=1 requests=0",
        "0.000 launch dynamic rows=4 padded=4 requests=1",
        "10.000 launch dynamic rows=3 padded=3 requests=2,3",
    ]
