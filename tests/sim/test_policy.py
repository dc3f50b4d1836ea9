"""How the first policy behaves, read off whole logs."""

from __future__ import annotations

from dataclasses import replace

from helpers.sim import Simulation, by_profile, mission_model, model, profile
from lanewise.scheduler.decisions import Expire
from lanewise.scheduler.request import RequestId


def test_idle_device_launches_at_once_in_the_lane_tuned_nearest():
    sim = Simulation(mission_model(), exec_ms=lambda _p, rows: 1.0)
    sim.arrive(0, rows=1)
    sim.arrive(10, rows=4)
    sim.arrive(20, rows=128)

    sim.run()

    assert sim.log == [
        "0.000 launch online rows=1 padded=1 requests=0 idle",
        "1.000 complete 0",
        "10.000 launch dynamic rows=4 padded=4 requests=1 idle",
        "11.000 complete 1",
        "20.000 launch offline rows=128 padded=128 requests=2 idle",
        "21.000 complete 2",
    ]


def test_lanes_of_different_traffic_do_not_wait_for_each_other():
    sim = Simulation(mission_model(), exec_ms=lambda _p, rows: 5.0)
    sim.arrive(0, rows=128)
    sim.arrive(1, rows=1)
    sim.arrive(1, rows=4)

    sim.run()

    assert sim.log[:3] == [
        "0.000 launch offline rows=128 padded=128 requests=0 idle",
        "1.000 launch online rows=1 padded=1 requests=1 preferred",
        "1.000 launch dynamic rows=4 padded=4 requests=2 preferred",
    ]


def test_busy_device_gathers_up_to_the_preferred_rows():
    sim = Simulation(mission_model(delay_ms=50), exec_ms=lambda _p, rows: 20.0)
    sim.arrive(0, rows=1)  # online is busy from here
    for at_ms in (1, 2, 3, 4):
        sim.arrive(at_ms, rows=1)

    sim.run()

    assert sim.log[1] == "4.000 launch dynamic rows=4 padded=4 requests=1,2,3,4 preferred"


def test_busy_device_launches_an_unfilled_batch_after_the_queue_delay_of_its_profile():
    sim = Simulation(mission_model(delay_ms=2.5), exec_ms=lambda _p, rows: 20.0)
    sim.arrive(0, rows=1)
    sim.arrive(1, rows=1)
    sim.arrive(2, rows=1)

    sim.run()

    assert sim.log[1] == "3.500 launch dynamic rows=2 padded=2 requests=1,2 delay"


def test_rows_below_every_minimum_are_padded_to_the_lowest():
    sim = Simulation(model(profile(0, (8, 8, 8)), profile(1, (16, 16, 16))))
    sim.arrive(0, rows=3)

    sim.run()

    assert sim.log[0] == "0.000 launch p0 rows=3 padded=8 requests=0 idle"


def test_a_padded_launch_takes_smaller_requests_along():
    spec = mission_model(delay_ms=50)
    sim = Simulation(spec, exec_ms=by_profile({"online": 9, "dynamic": 9, "offline": 5}, spec))
    sim.arrive(0, rows=128)
    sim.arrive(1, rows=1)  # online
    sim.arrive(1, rows=32)  # dynamic
    sim.arrive(2, rows=28)  # waits for dynamic
    sim.arrive(3, rows=100)  # waits for offline, with 28 rows to spare

    sim.run()

    assert "5.000 launch offline rows=128 padded=128 requests=4,3 preferred" in sim.log


def test_single_rows_fill_a_bulk_lane_that_they_do_not_have_to_pad():
    spec = mission_model(delay_ms=50)
    sim = Simulation(spec, exec_ms=by_profile({"online": 9, "dynamic": 9, "offline": 5}, spec))
    sim.arrive(0, rows=1)
    sim.arrive(0, rows=32)
    for _ in range(127):
        sim.arrive(1, rows=1)
    assert not sim.log
    sim.arrive(2, rows=1)

    sim.run()

    assert sim.log[2].startswith("2.000 launch offline rows=128 padded=128 requests=2,3,4")
    assert sim.log[2].endswith(" full")


def test_a_request_larger_than_every_profile_is_split_and_ends_once():
    sim = Simulation(mission_model(), exec_ms=lambda _p, rows: 1.0)
    big = sim.arrive(0, rows=289)

    sim.run()

    assert sim.log == [
        "0.000 launch offline rows=128 padded=128 requests=0 idle",
        "1.000 launch offline rows=128 padded=128 requests=0 idle",
        "2.000 launch offline rows=33 padded=128 requests=0 idle",
        "3.000 complete 0",
    ]
    parts = [launch.slices[0] for launch in sim.launches]
    assert [(part.first_row, part.rows) for part in parts] == [(0, 128), (128, 128), (256, 33)]
    assert sim.ends[big] == ["complete"]


def test_the_rest_of_a_split_request_runs_in_the_lane_that_suits_it():
    sim = Simulation(mission_model(), exec_ms=lambda _p, rows: 1.0)
    sim.arrive(0, rows=129)

    sim.run()

    assert [line.split()[2] for line in sim.log if "launch" in line] == ["offline", "online"]


def test_a_pinned_request_waits_for_its_lane_while_others_are_idle():
    sim = Simulation(mission_model(delay_ms=1), exec_ms=lambda _p, rows: 8.0)
    sim.arrive(0, rows=1, pin="dynamic")
    sim.arrive(1, rows=1, pin=1)

    sim.run()

    assert [line for line in sim.log if "launch" in line] == [
        "0.000 launch dynamic rows=1 padded=1 requests=0 idle",
        "8.000 launch dynamic rows=1 padded=1 requests=1 idle",
    ]


def test_a_request_whose_deadline_passes_in_the_queue_never_runs():
    sim = Simulation(model(profile(0, (1, 1, 1))), exec_ms=lambda _p, rows: 10.0)
    sim.arrive(0, rows=1)
    sim.arrive(1, rows=1, timeout_ms=5)
    sim.arrive(2, rows=1)

    sim.run()

    assert sim.log == [
        "0.000 launch p0 rows=1 padded=1 requests=0 idle",
        "6.000 expire 1",
        "10.000 complete 0",
        "10.000 launch p0 rows=1 padded=1 requests=2 idle",
        "20.000 complete 2",
    ]


def test_a_full_queue_rejects_and_what_waits_is_served():
    sim = Simulation(model(profile(0, (1, 1, 1))), max_queue_requests=2)
    for _ in range(4):
        sim.arrive(0, rows=1)

    sim.run()

    assert sim.log[1] == "0.000 reject 3 QueueFull"
    assert sim.ends_of("complete") == [0, 1, 2]


def test_a_cancelled_request_gives_its_place_up():
    sim = Simulation(model(profile(0, (1, 4, 4))), exec_ms=lambda _p, rows: 10.0)
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


def test_a_failed_launch_fails_each_of_its_requests_and_no_other():
    sim = Simulation(model(profile(0, (1, 2, 2))), fails=lambda n: n == 1)
    for _ in range(5):
        sim.arrive(0, rows=1)

    sim.run()

    assert sim.ends_of("fail") == [1, 2]
    assert sim.ends_of("complete") == [0, 3, 4]


def test_requests_of_a_lost_lane_move_to_another_that_admits_them_or_are_told():
    sim = Simulation(mission_model(delay_ms=50), exec_ms=lambda _p, rows: 10.0)
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


def test_drain_runs_what_waits_without_delay_and_rejects_the_rest():
    sim = Simulation(mission_model(delay_ms=1000), exec_ms=lambda _p, rows: 5.0)
    sim.arrive(0, rows=1)
    sim.arrive(1, rows=2)
    sim.at(2, lambda: sim.core.drain(sim.now_ns))
    sim.arrive(3, rows=1)

    sim.run()

    assert sim.log == [
        "0.000 launch online rows=1 padded=1 requests=0 idle",
        "2.000 launch dynamic rows=2 padded=2 requests=1 drain",
        "3.000 reject 2 Draining",
        "5.000 complete 0",
        "7.000 complete 1",
    ]


def test_rows_are_padded_to_the_next_count_that_the_lane_executes():
    sim = Simulation(model(profile(0, (1, 4, 32))), row_counts=(1, 4, 8))
    for at_ms, rows in enumerate((1, 3, 5, 9)):
        sim.arrive(100 * at_ms, rows)

    sim.run()

    assert [launch.padded_rows for launch in sim.launches] == [1, 4, 8, 32]


def test_a_busy_lane_with_room_is_given_full_batches_only():
    spec = model(profile(0, (1, 2, 4), delay_ms=1))
    sim = Simulation(spec, exec_ms=lambda _p, _r: 10.0, depth=2)
    sim.arrive(0, rows=4)
    sim.arrive(1, rows=3)
    sim.arrive(5, rows=1)
    sim.arrive(6, rows=4)

    sim.run()

    assert [line for line in sim.log if "launch" in line] == [
        "0.000 launch p0 rows=4 padded=4 requests=0 idle",
        "5.000 launch p0 rows=4 padded=4 requests=1,2 preferred",
        "10.000 launch p0 rows=4 padded=4 requests=3 preferred",
    ]


def test_no_request_is_held_past_its_deadline():
    sim = Simulation(mission_model(delay_ms=5), exec_ms=lambda _p, _r: 50.0)
    sim.arrive(0, rows=128)  # the device is busy, so that others are held
    sim.arrive(1, rows=2, timeout_ms=4)
    sim.arrive(10, rows=2, timeout_ms=400)
    sim.run()

    assert [line for line in sim.log if "dynamic" in line] == [
        "1.000 launch dynamic rows=2 padded=2 requests=1 deadline",
        "51.000 launch dynamic rows=2 padded=2 requests=2 idle",
    ]


def test_bulk_work_that_piles_up_closes_no_other_lane():
    sim = Simulation(mission_model(), exec_ms=lambda _p, _r: 10.0, max_queue_requests=2)
    for _ in range(4):
        sim.arrive(0, rows=128)
    single = sim.arrive(1, rows=1)

    sim.run()

    assert sim.log[1] == "0.000 reject 3 QueueFull"
    assert sim.ends[single] == ["complete"]


def test_a_large_request_takes_turns_with_those_that_came_after_it():
    sim = Simulation(model(profile(0, (1, 2, 2))), exec_ms=lambda _p, _r: 1.0)
    sim.arrive(0, rows=8)
    for _ in range(2):
        sim.arrive(0.5, rows=2)

    sim.run()

    assert [line.split("requests=")[1].split()[0] for line in sim.log if "launch" in line] == list(
        "001200"
    )


def test_a_request_larger_than_a_launch_is_not_cut_to_fill_another():
    sim = Simulation(model(profile(0, (1, 4, 4))), exec_ms=lambda _p, _r: 10.0)
    sim.arrive(0, rows=4)
    sim.arrive(1, rows=2)
    sim.arrive(2, rows=6)

    sim.run()

    assert sim.log[2] == "10.000 launch p0 rows=2 padded=2 requests=1 idle"


def test_what_expired_is_told_before_what_arrives_is_launched():
    sim = Simulation(model(profile(0, (1, 1, 1))), exec_ms=lambda _p, _r: 10.0)
    sim.arrive(0, rows=1)
    late = sim.arrive(1, rows=1, timeout_ms=3)
    core, log = sim.core, []
    sim.at(0, lambda: log.append(core.next_wakeup_ns()) or [])
    sim.run()

    assert sim.ends[late] == ["expire"]
    decisions = core.arrive(
        replace(sim.requests[0], request_id=RequestId(10), deadline_ns=sim.now_ns + 5), sim.now_ns
    )
    assert [type(decision).__name__ for decision in decisions] == ["Launch"]
    waiting = replace(sim.requests[0], request_id=RequestId(11), deadline_ns=sim.now_ns + 5)
    assert core.arrive(waiting, sim.now_ns) == []
    newcomer = replace(sim.requests[0], request_id=RequestId(12))
    assert core.arrive(newcomer, sim.now_ns + 6) == [Expire(RequestId(11))]


def test_queue_and_execution_times_are_summed_over_requests_and_launches():
    sim = Simulation(model(profile(0, (1, 2, 2))), exec_ms=lambda _p, _r: 10.0)
    sim.arrive(0, rows=1)
    sim.arrive(4, rows=1)
    sim.arrive(6, rows=1)

    sim.run()

    (lane,) = sim.core.lanes
    assert lane.counters.queue_ns == (0 + 6 + 4) * 1_000_000
    assert lane.counters.execution_ns == 20 * 1_000_000


def test_deadlines_of_requests_that_ended_do_not_pile_up():
    sim = Simulation(mission_model(), exec_ms=lambda _p, _r: 0.001, max_queue_requests=1000)
    sim.arrive(0, rows=128, timeout_ms=5000)
    sim.arrive(0.0001, rows=128, timeout_ms=5000)
    for i in range(2000):
        sim.arrive(0.01 * i, rows=1, timeout_ms=9000)

    sim.run()  # the invariants bound them

    assert len(sim.ends_of("complete")) == 2002
