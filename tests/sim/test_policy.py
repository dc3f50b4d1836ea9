"""What the policy of the lanes decides, a rule at a time, read off whole logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from helpers.sim import Simulation, by_profile, mission_model, model, profile
from lanewise.clock import NS_PER_MS
from lanewise.scheduler.costs.estimate import KEPT_SAMPLES
from lanewise.scheduler.costs.table import bucket_of
from lanewise.scheduler.policy.cost_aware import REPLAN_NS
from lanewise.scheduler.request import PRIORITY_STEP_NS

MISSION_MS = {
    0: {1: 0.8},
    1: {1: 0.8, 2: 0.9, 4: 0.9, 8: 1.0, 16: 1.3, 32: 2.1},
    2: {128: 5.4},
}
"""Of the lanes online, dynamic and offline, by rows executed."""


def mission_ms(index: int, rows: int) -> float:
    """What a launch takes: as long as the next larger one that is known."""
    known = MISSION_MS[index]
    return known[min(count for count in known if count >= rows)]


def mission(delay_ms: float = 2.0) -> Simulation:
    return Simulation(mission_model(delay_ms), exec_ms=mission_ms, row_counts=(1, 2, 4, 8, 16, 32))


def constant(exec_ms: float) -> Callable[[int, int], float]:
    return lambda _profile, _rows: exec_ms


def one_lane(
    rows: tuple[int, int, int] = (1, 1, 1),
    exec_ms: Callable[[int, int], float] = lambda _profile, _rows: 10.0,
    **options: object,
) -> Simulation:
    return Simulation(model(profile(0, rows, delay_ms=1)), exec_ms=exec_ms, **options)


def narrow_and_wide(exec_ms: Mapping[str, float]) -> Simulation:
    """Two lanes for up to 4 and up to 32 rows, both tuned for 4; `exec_ms` may change."""
    spec = model(profile(0, (1, 4, 4), name="narrow"), profile(1, (1, 4, 32), name="wide"))
    return Simulation(spec, exec_ms=by_profile(exec_ms, spec))


def served(sim: Simulation) -> list[int]:
    """The requests, in the order in which their launches started."""
    return [request.payload for launch in sim.launches for request, _, _ in launch.parts]


# Which lane


def test_an_idle_device_launches_at_once_in_the_lane_that_costs_least():
    sim = Simulation(
        mission_model(),
        exec_ms=lambda index, rows: {0: 1.0, 1: 0.5 + rows / 100, 2: 5.0}[index],
    )
    sim.arrive(0, rows=1)
    sim.arrive(10, rows=32)

    sim.run()

    assert sim.log == [
        "0.000 launch dynamic rows=1 padded=1 requests=0 idle",
        "0.510 complete 0",
        "10.000 launch dynamic rows=32 padded=32 requests=1 idle",
        "10.820 complete 1",
    ]


def test_among_lanes_that_cost_about_the_same_the_narrowest_is_taken():
    spec = mission_model()
    about_equal = by_profile({"online": 1.0, "dynamic": 0.98, "offline": 1.0}, spec)
    sim = Simulation(spec, exec_ms=about_equal)
    for at_ms, rows in ((0, 1), (10, 4), (20, 128)):
        sim.arrive(at_ms, rows)

    sim.run()

    assert sim.starts == [
        "0.000 launch online rows=1 padded=1 requests=0 idle",
        "10.000 launch dynamic rows=4 padded=4 requests=1 idle",
        "20.000 launch offline rows=128 padded=128 requests=2 idle",
    ]


def test_rows_are_padded_to_the_next_count_that_the_lane_executes():
    sim = one_lane((1, 4, 32), lambda _p, rows: 10 + rows / 10, row_counts=(1, 4, 8))
    for at_ms, rows in enumerate((1, 3, 5, 9)):
        sim.arrive(100 * at_ms, rows)

    sim.run()

    assert [launch.padded_rows for launch in sim.launches] == [1, 4, 8, 32]


def test_rows_below_every_minimum_are_padded_up():
    sim = Simulation(model(profile(0, (8, 8, 8)), profile(1, (16, 16, 16))))
    sim.arrive(0, rows=3)

    sim.run()

    assert sim.starts == ["0.000 launch p0 rows=3 padded=8 requests=0 idle"]


def test_a_pinned_request_waits_for_its_lane_while_others_are_idle():
    sim = Simulation(mission_model(delay_ms=1), exec_ms=constant(8.0))
    sim.arrive(0, rows=1, pin="dynamic")
    sim.arrive(1, rows=1, pin=1)

    sim.run()

    assert sim.starts == [
        "0.000 launch dynamic rows=1 padded=1 requests=0 idle",
        "8.000 launch dynamic rows=1 padded=1 requests=1 idle",
    ]


# Split or pad


def test_forty_rows_are_split_into_thirty_two_and_eight_rather_than_padded_to_128():
    sim = mission()
    sim.arrive(0, rows=40)

    sim.run()

    assert sim.log == [
        "0.000 launch dynamic rows=32 padded=32 requests=0 idle",
        "2.100 launch dynamic rows=8 padded=8 requests=0 idle",
        "3.100 complete 0",
    ]


def test_rows_are_split_where_that_costs_less_however_much_the_times_of_the_wide_lane_vary():
    sim = mission()
    for took_ms in (5.4, 20.0, 20.0, 20.0, 5.4, 5.4, 5.4):
        sim.costs.record(2, 128, bucket_of([()]), round(took_ms * NS_PER_MS))
    sim.arrive(0, rows=40)

    sim.run()

    assert [start.partition(" requests")[0] for start in sim.starts] == [
        "0.000 launch dynamic rows=32 padded=32",
        "2.100 launch dynamic rows=8 padded=8",
    ]


def test_a_hundred_rows_are_padded_to_128_rather_than_split():
    sim = mission()
    sim.arrive(0, rows=100)

    sim.run()

    assert sim.log == [
        "0.000 launch offline rows=100 padded=128 requests=0 idle",
        "5.400 complete 0",
    ]


def test_parts_of_a_request_run_side_by_side_if_that_costs_less():
    sim = Simulation(
        model(profile(0, (1, 8, 8)), profile(1, (32, 32, 32))),
        exec_ms=lambda index, rows: {0: 0.5 + rows / 20, 1: 1.0}[index],
        row_counts=(1, 2, 4, 8),
    )
    sim.arrive(0, rows=40)

    sim.run()

    assert sim.log == [
        "0.000 launch p1 rows=32 padded=32 requests=0 idle",
        "0.000 launch p0 rows=8 padded=8 requests=0 full",
        "1.000 complete 0",
    ]


def test_a_request_larger_than_every_profile_is_split_and_ends_once():
    sim = Simulation(mission_model(), exec_ms=constant(1.0))
    big = sim.arrive(0, rows=289)

    sim.run()

    assert sim.log == [
        "0.000 launch offline rows=128 padded=128 requests=0 idle",
        "1.000 launch offline rows=128 padded=128 requests=0 idle",
        "2.000 launch offline rows=33 padded=128 requests=0 idle",
        "3.000 complete 0",
    ]
    assert [launch.parts[0][1:] for launch in sim.launches] == [(0, 128), (128, 128), (256, 33)]
    assert sim.ends[big] == ["complete"]


def test_a_request_is_not_cut_into_single_rows_for_a_narrow_lane_that_is_free():
    sim = mission()
    sim.arrive(0, rows=32)
    sim.arrive(0.1, rows=32)

    sim.run()

    assert sim.starts == [
        "0.000 launch dynamic rows=32 padded=32 requests=0 idle",
        "2.100 launch dynamic rows=32 padded=32 requests=1 idle",
    ]


def test_a_request_is_cut_into_smaller_launches_if_the_largest_cost_too_much_by_the_row():
    sim = one_lane((1, 4, 8), lambda _p, rows: {1: 1, 4: 1, 8: 10}[rows], row_counts=(1, 4, 8))
    sim.arrive(0, rows=10)

    sim.run()

    assert [launch.padded_rows for launch in sim.launches] == [4, 4, 4]


def test_a_request_larger_than_a_launch_is_not_cut_to_fill_another():
    sim = one_lane((1, 4, 4))
    sim.arrive(0, rows=4)
    sim.arrive(1, rows=2)
    sim.arrive(2, rows=6)

    sim.run()

    assert sim.log[2] == "10.000 launch p0 rows=2 padded=2 requests=1 idle"


def test_the_parts_of_a_large_request_take_turns_with_others_that_are_due_with_it():
    sim = one_lane((1, 2, 2))
    sim.arrive(0, rows=8)
    for _ in range(2):
        sim.arrive(0, rows=2)

    sim.run()

    assert served(sim) == [0, 0, 1, 2, 0, 0]


# Now, or when its lane is free


def test_rows_go_to_a_wide_lane_if_waiting_for_the_busy_narrow_one_costs_more():
    sim = narrow_and_wide({"narrow": 8, "wide": 10})
    sim.arrive(0, rows=4)
    sim.arrive(1, rows=4)

    sim.run()

    assert sim.starts == [
        "0.000 launch narrow rows=4 padded=4 requests=0 idle",
        "1.000 launch wide rows=4 padded=4 requests=1 full",
    ]


def test_a_launch_waits_for_a_busy_lane_if_that_costs_less_than_another_lane():
    sim = narrow_and_wide({"narrow": 2, "wide": 10})
    sim.arrive(0, rows=4)
    sim.arrive(1, rows=4)

    sim.run()

    assert sim.starts == [
        "0.000 launch narrow rows=4 padded=4 requests=0 idle",
        "2.000 launch narrow rows=4 padded=4 requests=1 idle",
    ]


def test_bulk_work_that_waits_for_its_lane_keeps_no_other_rows_waiting():
    sim = mission()
    sim.arrive(0, rows=128)
    sim.arrive(0.1, rows=128)
    sim.arrive(0.2, rows=1)
    sim.arrive(0.3, rows=4)

    sim.run()

    assert sim.starts == [
        "0.000 launch offline rows=128 padded=128 requests=0 idle",
        "0.200 launch online rows=1 padded=1 requests=2 full",
        "0.300 launch dynamic rows=4 padded=4 requests=3 full",
        "5.400 launch offline rows=128 padded=128 requests=1 idle",
    ]


def test_bulk_work_that_piles_up_closes_no_other_lane():
    sim = Simulation(mission_model(), exec_ms=constant(10.0), max_queue_requests=2)
    for _ in range(4):
        sim.arrive(0, rows=128)
    single = sim.arrive(1, rows=1)

    sim.run()

    assert sim.log[1] == "0.000 reject 3 QueueFull"
    assert sim.ends[single] == ["complete"]


def test_a_padded_launch_takes_smaller_requests_along():
    sim = Simulation(mission_model(), exec_ms=lambda index, rows: {2: 5}.get(index, 1 + rows))
    sim.arrive(0, rows=128)
    sim.arrive(1, rows=100)
    sim.arrive(1, rows=28)

    sim.run()

    assert sim.starts[-1] == "5.000 launch offline rows=128 padded=128 requests=1,2 idle"


def test_single_rows_leave_together_through_the_bulk_lane_if_that_is_cheapest():
    sim = mission()
    for at_ms in [0.0] + [0.1] * 128:
        sim.arrive(at_ms, rows=1)

    sim.run()

    assert [line.split(" requests=")[0] for line in sim.starts] == [
        "0.000 launch online rows=1 padded=1",
        "0.100 launch dynamic rows=4 padded=4",
        "1.000 launch offline rows=124 padded=128",
    ]


# Beside other lanes: at once or held


def test_beside_others_a_launch_is_held_until_it_has_the_rows_its_profile_is_tuned_for():
    sim = Simulation(mission_model(delay_ms=50), exec_ms=constant(20.0))
    sim.arrive(0, rows=128)
    for at_ms in (1, 2, 3, 4):
        sim.arrive(at_ms, rows=1, pin="dynamic")

    sim.run()

    assert sim.starts[1:] == ["4.000 launch dynamic rows=4 padded=4 requests=1,2,3,4 full"]


def test_beside_others_a_launch_is_held_no_longer_than_the_queue_delay_of_its_profile():
    sim = Simulation(mission_model(delay_ms=2.5), exec_ms=constant(20.0))
    sim.arrive(0, rows=128)
    sim.arrive(1, rows=1, pin="dynamic")
    sim.arrive(2, rows=1, pin="dynamic")

    sim.run()

    assert sim.starts[1:] == ["3.500 launch dynamic rows=2 padded=2 requests=1,2 delay"]


@pytest.mark.parametrize("due", [{"timeout_ms": 30}, {"target_ms": 30}], ids=str)
def test_beside_others_a_launch_is_held_no_longer_than_its_latest_safe_start(due):
    sim = Simulation(mission_model(delay_ms=50), exec_ms=constant(20.0))
    sim.arrive(0, rows=128)
    sim.arrive(1, rows=2, pin="dynamic", **due)

    sim.run()

    assert sim.starts[1:] == ["11.000 launch dynamic rows=2 padded=2 requests=1 deadline"]
    assert sim.log[-1] == "31.000 complete 1"


def test_what_is_held_leaves_as_soon_as_nothing_else_runs():
    sim = Simulation(mission_model(delay_ms=50), exec_ms=constant(20.0))
    sim.arrive(0, rows=128)
    sim.arrive(1, rows=2, pin="dynamic")

    sim.run()

    assert sim.starts[1:] == ["20.000 launch dynamic rows=2 padded=2 requests=1 idle"]


def test_a_second_launch_is_queued_behind_a_busy_lane_only_when_it_cannot_grow():
    sim = one_lane((1, 2, 4), depth=2)
    sim.arrive(0, rows=4)
    sim.arrive(1, rows=3)
    sim.arrive(5, rows=1)
    sim.arrive(6, rows=3)

    sim.run()

    assert sim.starts == [
        "0.000 launch p0 rows=4 padded=4 requests=0 idle",
        "5.000 launch p0 rows=4 padded=4 requests=1,2 full",
        "20.000 launch p0 rows=3 padded=3 requests=3 idle",
    ]


def test_a_lane_that_works_ahead_is_given_a_launch_that_takes_all_that_waits():
    sim = one_lane((1, 2, 4), depth=2)
    sim.costs.ahead = {0: 0.4}
    sim.arrive(0, rows=4)
    sim.arrive(1, rows=3)
    sim.arrive(5, rows=2)

    sim.run()

    assert [start.partition(" requests")[0] for start in sim.starts] == [
        "0.000 launch p0 rows=4 padded=4",
        "1.000 launch p0 rows=3 padded=3",
        "10.000 launch p0 rows=2 padded=2",
    ]


def test_rows_go_to_the_lane_that_is_free_first_rather_than_behind_a_long_launch():
    sim = Simulation(mission_model(delay_ms=0.0), exec_ms=mission_ms, depth=2)
    sim.costs.ahead = {1: 0.4, 2: 0.4}
    sim.arrive(0, rows=128)
    sim.arrive(0, rows=32)
    for at_ms in (0.1, 0.2, 0.3):
        sim.arrive(at_ms, rows=18)

    sim.run()

    assert [start.partition(" requests")[0] for start in sim.starts] == [
        "0.000 launch offline rows=128 padded=128",
        "0.000 launch dynamic rows=32 padded=32",
        "0.100 launch dynamic rows=18 padded=18",
        "4.200 launch dynamic rows=18 padded=18",
        "4.200 launch dynamic rows=18 padded=18",
    ]


def test_a_drain_launches_what_is_held_and_rejects_the_rest():
    sim = Simulation(mission_model(delay_ms=1000), exec_ms=constant(5.0))
    sim.arrive(0, rows=128)
    sim.arrive(1, rows=2)
    sim.at(2, lambda: sim.core.drain(sim.now_ns))
    sim.arrive(3, rows=1)

    sim.run()

    assert sim.log == [
        "0.000 launch offline rows=128 padded=128 requests=0 idle",
        "2.000 launch dynamic rows=2 padded=2 requests=1 drain",
        "3.000 reject 2 Draining",
        "5.000 complete 0",
        "7.000 complete 1",
    ]


# Deadlines


def test_a_deadline_that_cannot_be_met_even_alone_is_refused_at_arrival_with_what_it_takes():
    sim = mission()
    sim.arrive(0, rows=1)
    sim.arrive(0.1, rows=128, timeout_ms=5.4)
    sim.arrive(10, rows=128, timeout_ms=5.5)

    sim.run()

    assert "0.100 expire 1 needs 5.400 ms" in sim.log
    assert sim.log[-2:] == [
        "10.000 launch offline rows=128 padded=128 requests=2 idle",
        "15.400 complete 2",
    ]


def test_an_idle_server_tries_what_it_thinks_too_long_now_and_then_and_so_learns_better():
    sim = one_lane(exec_ms=lambda _p, rows: 1.0)
    for _ in range(KEPT_SAMPLES):
        sim.costs.record(0, 1, 0, 50 * NS_PER_MS)  # measured while the machine was busy, say
    for i in range(400):
        sim.arrive(100 + i * 20, rows=1, timeout_ms=10)

    sim.run()

    ends = [sim.ends[i] for i in range(400)]
    assert ends[:5] == [["complete"], ["expire"], ["expire"], ["expire"], ["expire"]]
    assert ends[200:] == [["complete"]] * 200


def test_a_request_that_has_become_hopeless_is_given_up_before_it_wastes_a_launch():
    sim = one_lane()
    sim.arrive(0, rows=1)
    sim.arrive(1, rows=1, timeout_ms=15)
    sim.arrive(2, rows=1)

    sim.run()

    assert sim.log == [
        "0.000 launch p0 rows=1 padded=1 requests=0 idle",
        "10.000 complete 0",
        "10.000 expire 1 needs 10.000 ms",
        "10.000 launch p0 rows=1 padded=1 requests=2 idle",
        "20.000 complete 2",
    ]


def test_a_smaller_launch_is_made_if_its_requests_would_be_late_in_a_larger_one():
    def run(timeout_ms: float) -> list[str]:
        sim = one_lane((1, 8, 8), lambda _p, rows: 1.0 + rows, row_counts=(1, 2, 4, 8))
        sim.arrive(0, rows=1)
        for _ in range(4):
            sim.arrive(1, rows=2, timeout_ms=timeout_ms)
        sim.run()
        return sim.log[2:]

    assert run(10)[0] == "2.000 launch p0 rows=8 padded=8 requests=1,2,3,4 idle"
    # The last would be late, but nothing else could run: it is tried.
    assert run(9.5) == [
        "2.000 launch p0 rows=4 padded=4 requests=1,2 idle",
        "7.000 complete 1",
        "7.000 complete 2",
        "7.000 launch p0 rows=2 padded=2 requests=3 idle",
        "10.000 complete 3",
        "10.000 launch p0 rows=2 padded=2 requests=4 idle",
        "13.000 complete 4",
    ]


def test_a_request_whose_deadline_passes_while_its_lane_is_busy_never_runs():
    sim = one_lane((1, 4, 4), lambda _p, rows: 2.0 * rows)
    sim.arrive(0, rows=4)
    sim.arrive(1, rows=1, timeout_ms=3)

    sim.run()

    assert sim.log[1:] == ["4.000 expire 1", "8.000 complete 0"]


def test_what_expired_is_told_before_what_waits_is_launched():
    sim = one_lane((1, 4, 4), lambda _p, rows: 2.0 * rows)
    sim.arrive(0, rows=2)
    sim.arrive(1, rows=1, timeout_ms=3)
    sim.arrive(2, rows=1)

    sim.run()

    assert sim.log[1:4] == [
        "4.000 complete 0",
        "4.000 expire 1",
        "4.000 launch p0 rows=1 padded=1 requests=2 idle",
    ]


# Priorities and classes


def test_bulk_launches_are_kept_short_for_requests_that_have_no_other_lane():
    def run(interactive: dict[str, float]) -> list[int]:
        sim = one_lane((1, 8, 32), lambda _p, rows: float(rows), row_counts=(1, 4, 8, 16, 32))
        sim.arrive(0, rows=1, **interactive)
        sim.arrive(10, rows=32)
        sim.run()
        return [launch.rows for launch in sim.launches[1:]]

    assert run({}) == [32]
    assert run({"timeout_ms": 10}) == [8, 8, 8, 8]
    assert run({"target_ms": 20}) == [16, 16]


def test_requests_go_by_priority_and_among_equals_by_arrival():
    sim = one_lane()
    sim.arrive(0, rows=1)
    sim.arrive(1, rows=1, priority=3)
    sim.arrive(2, rows=1, priority=2)
    sim.arrive(3, rows=1)
    sim.arrive(4, rows=1)

    sim.run()

    assert served(sim) == [0, 3, 4, 2, 1]


def test_a_level_of_priority_is_worth_a_set_time_of_waiting():
    step_ms = PRIORITY_STEP_NS / NS_PER_MS
    sim = one_lane(exec_ms=constant(3 * step_ms))
    sim.arrive(0, rows=1)
    bulk = sim.arrive(1, rows=1, priority=2)
    before = sim.arrive(step_ms, rows=1)
    after = sim.arrive(step_ms + 2, rows=1)

    sim.run()

    assert served(sim) == [0, before, bulk, after]


def test_no_priority_is_starved_by_a_more_important_one_that_saturates_the_lane():
    sim = one_lane()
    for n in range(100):
        sim.arrive(9 * n, rows=1)
    low = sim.arrive(5, rows=1, priority=2)

    sim.run()

    started_ms = sim.launched_at_ns[served(sim).index(low)] / NS_PER_MS
    assert 5 < started_ms <= 5 + 2 * PRIORITY_STEP_NS / NS_PER_MS


def test_requests_with_an_earlier_deadline_or_target_go_first():
    sim = one_lane()
    sim.arrive(0, rows=1)
    sim.arrive(1, rows=1)
    sim.arrive(2, rows=1, target_ms=100)
    sim.arrive(3, rows=1, timeout_ms=90)

    sim.run()

    assert served(sim) == [0, 3, 2, 1]


# Learning


def test_what_launches_are_found_to_take_moves_later_ones_to_another_lane():
    now_ms = {"narrow": 1.0, "wide": 5.0}
    sim = narrow_and_wide(now_ms)

    def slow_down() -> list:
        now_ms["narrow"] = 20.0
        return []

    for n in range(16):
        sim.arrive(100 * n, rows=4)
    sim.at(350, slow_down)

    sim.run()

    lanes = [line.split()[2] for line in sim.starts]
    # Four fast launches, two that were measured before, and the slow ones that outnumber them.
    assert lanes == ["narrow"] * (4 + 7) + ["wide"] * 5


def test_plans_are_not_made_anew_more_often_than_set():
    costs_ms = {0: 2.0, 1: 3.0}
    spec = model(profile(0, (1, 1, 1), name="a"), profile(1, (1, 1, 1), name="b"))
    sim = Simulation(spec, exec_ms=lambda index, _rows: costs_ms[index])
    replan_ms = REPLAN_NS / NS_PER_MS
    sim.arrive(0, rows=1)

    def learn() -> list:
        for _ in range(32):
            sim.costs.record(0, 1, 0, 9 * NS_PER_MS)
        return []

    sim.at(10, learn)
    for at_ms in (11, replan_ms - 1, replan_ms + 1):
        sim.arrive(at_ms, rows=1)

    sim.run()

    assert [line.split()[2] for line in sim.starts] == ["a", "a", "a", "b"]


# How requests end


def test_a_full_queue_rejects_and_what_waits_is_served():
    sim = one_lane(max_queue_requests=2)
    for _ in range(4):
        sim.arrive(0, rows=1)

    sim.run()

    assert sim.log[1] == "0.000 reject 3 QueueFull"
    assert sim.ends_of("complete") == [0, 1, 2]


def test_a_cancelled_request_gives_its_place_up():
    sim = one_lane((1, 4, 4))
    sim.arrive(0, rows=1)
    gone = sim.arrive(1, rows=4)
    sim.arrive(2, rows=4)
    sim.cancel(3, gone)

    sim.run()

    assert sim.log[1:4] == [
        "3.000 cancel 1",
        "10.000 complete 0",
        "10.000 launch p0 rows=4 padded=4 requests=2 idle",
    ]


def test_launches_that_fail_again_and_again_fail_each_of_their_requests_and_no_other():
    sim = one_lane((1, 2, 2), fails=lambda n: n in {1, 2, 3})
    for _ in range(5):
        sim.arrive(0, rows=1)

    sim.run()

    assert sim.ends_of("fail") == [1, 2]
    assert sim.ends_of("complete") == [0, 3, 4]


def test_requests_of_a_lost_lane_move_to_another_that_admits_them_or_are_told():
    sim = Simulation(mission_model(delay_ms=50), exec_ms=constant(10.0))
    sim.arrive(0, rows=128)
    moves = sim.arrive(1, rows=64)
    stuck = sim.arrive(1, rows=128, pin="offline")
    sim.retire(2, lane_id=2)
    sim.arrive(3, rows=1, pin="offline")

    sim.run()

    assert sim.log == [
        "0.000 launch offline rows=128 padded=128 requests=0 idle",
        "2.000 fail 0",
        f"2.000 reject {stuck} RunnerLost",
        f"2.000 launch dynamic rows=32 padded=32 requests={moves} idle",
        "3.000 reject 3 RunnerLost",
        f"12.000 launch dynamic rows=32 padded=32 requests={moves} idle",
        f"22.000 complete {moves}",
    ]


def test_queue_and_execution_times_are_summed_over_requests_and_launches():
    sim = one_lane((1, 2, 2))
    sim.arrive(0, rows=1)
    sim.arrive(4, rows=1)
    sim.arrive(6, rows=1)

    sim.run()

    (lane,) = sim.core.lanes
    assert lane.counters.queue_ns == (0 + 6 + 4) * NS_PER_MS
    assert lane.counters.execution_ns == 20 * NS_PER_MS


def test_deadlines_of_requests_that_ended_do_not_pile_up():
    sim = Simulation(mission_model(), exec_ms=constant(0.001))
    sim.arrive(0, rows=128, timeout_ms=5000)
    sim.arrive(0.0001, rows=128, timeout_ms=5000)
    for i in range(2000):
        sim.arrive(0.01 * i, rows=1, timeout_ms=9000)

    sim.run()  # the invariants bound them

    assert len(sim.ends_of("complete")) == 2002
