"""Requests of different shapes at one model: who stacks, and how well."""

from __future__ import annotations

import itertools
import random

from helpers.sim import Simulation, model, profile


def test_a_shape_that_one_profile_alone_admits_is_served_by_it_however_many_come():
    a = profile(0, (1, 16, 64), [(1, 64, 128)], name="A")
    b = profile(1, (1, 4, 8), [(1, 256, 512)], name="B")
    sim = Simulation(model(a, b))
    for _ in range(16):
        sim.arrive(0, 1, (512,))

    sim.run()

    assert len(sim.ends_of("complete")) == 16
    assert {launch.lane.lane_id for launch in sim.launches} == {1}
    assert all(launch.rows <= 8 for launch in sim.launches)


def test_among_profiles_that_admit_it_a_shape_takes_the_one_tuned_nearest():
    a = profile(0, (1, 4, 64), [(1, 64, 512)], name="A")
    b = profile(1, (1, 4, 64), [(1, 256, 512)], name="B")
    sim = Simulation(model(a, b))
    sim.arrive(0, 4, (60,))
    sim.arrive(100, 4, (300,))

    sim.run()

    assert [launch.lane.lane_id for launch in sim.launches] == [0, 1]


def test_seven_profiles_are_all_used():
    rows = (1, 2, 4, 8, 16, 32, 64)
    sim = Simulation(model(*(profile(i, (1, n, n)) for i, n in enumerate(rows))))
    for i, n in enumerate(rows):
        sim.arrive(i * 1000, n)

    sim.run()

    assert [launch.lane.lane_id for launch in sim.launches] == list(range(7))


def mean_batch_of_first_in_first_out(shapes: list[int]) -> float:
    """Mean batch where a request of another shape than the last closes the batch."""
    changes = sum(a != b for a, b in itertools.pairwise(shapes))
    return len(shapes) / (changes + 1)


def test_eight_shapes_interleaved_on_a_busy_server_still_batch():
    draw = random.Random(7)
    lengths = [draw.choice(range(16, 144, 16)) for _ in range(2000)]
    spec = model(profile(0, (1, 8, 32), [(1, 64, 512)], delay_ms=5))
    sim = Simulation(spec, exec_ms=lambda _p, _rows: 4.0, max_queue_requests=2000)
    at_ms = 0.0
    for length in lengths:
        at_ms += draw.expovariate(2.0)  # 2 requests a millisecond: 8 times what runs one by one
        sim.arrive(at_ms, 1, (length,))

    sim.run()

    assert len(sim.ends_of("complete")) == 2000
    assert 1.1 < mean_batch_of_first_in_first_out(lengths) < 1.2
    assert sim.mean_batch >= 4


def test_no_shape_is_starved_by_a_popular_one():
    spec = model(profile(0, (1, 8, 32), [(1, 64, 512)]))
    sim = Simulation(spec, exec_ms=lambda _p, _rows: 4.0)
    for i in range(400):
        sim.arrive(i * 0.5, 1, (64,))
    rare = sim.arrive(50, 1, (128,))

    sim.run()

    started = next(
        at_ns
        for at_ns, launch in zip(sim.launched_at_ns, sim.launches, strict=True)
        if launch.parts[0][0].payload == rare
    )
    assert started <= 58e6, "it waits for at most the launches that were due before it"
