"""What is known of the cost of launches, and what is guessed from it."""

from __future__ import annotations

import pytest

from lanewise.scheduler.costs.estimate import DRIFT, KEPT_SAMPLES, MIN_BEHIND, Estimate
from lanewise.scheduler.costs.table import MAX_KINDS, CostTable, bucket_of

BUCKET = 4


def table(times: dict[tuple[int, int], int], profile: int = 0) -> CostTable:
    """A table of one profile, told a time for each (rows, bucket)."""
    costs = CostTable()
    for (rows, bucket), took_ns in times.items():
        costs.record(profile, rows, bucket, took_ns)
    return costs


def test_a_bucket_holds_shapes_of_about_as_many_elements():
    assert bucket_of([(3, 224, 224)]) == bucket_of([(3, 192, 224)]) == 17
    assert bucket_of([(4, 4), (4, 4)]) == bucket_of([(32,)]) == 5
    assert bucket_of([()]) == bucket_of([(0,)]) == 0


@pytest.mark.parametrize(
    ("rows", "expected_ns"),
    [(4, 100), (8, 140), (5, 110), (7, 130), (1, 100), (16, 280)],
    ids=["measured", "measured too", "between", "between too", "below all", "above all"],
)
def test_unmeasured_numbers_of_rows_are_on_the_line_between_their_neighbours(rows, expected_ns):
    costs = table({(4, BUCKET): 100, (8, BUCKET): 140})

    assert costs.typical_ns(0, rows, BUCKET) == expected_ns
    assert costs.safe_ns(0, rows, BUCKET) == expected_ns


@pytest.mark.parametrize(
    ("bucket", "expected_ns"),
    [(3, 100), (4, 100), (5, 300), (6, 300), (7, 600), (8, 1200)],
)
def test_unmeasured_shapes_cost_what_the_next_larger_do_and_beyond_in_proportion(
    bucket, expected_ns
):
    costs = table({(1, 4): 100, (1, 6): 300})

    assert costs.typical_ns(0, 1, bucket) == expected_ns


def test_a_profile_of_which_nothing_is_known_costs_more_the_more_rows_there_are():
    costs = table({(1, BUCKET): 100}, profile=1)

    assert 0 < costs.typical_ns(0, 1, BUCKET) < costs.typical_ns(0, 32, BUCKET)


def test_the_typical_time_is_the_median_and_the_safe_one_nearly_the_highest():
    estimate = Estimate()
    for took_ns in range(KEPT_SAMPLES):
        estimate.add(took_ns + 1)

    assert estimate.typical_ns == KEPT_SAMPLES // 2
    assert estimate.safe_ns == 31
    assert estimate.samples_ns == tuple(range(1, KEPT_SAMPLES + 1))


def test_an_outlier_moves_neither_the_median_nor_the_high_quantile_of_many():
    costs = table({(1, BUCKET): 100})
    for _ in range(KEPT_SAMPLES):
        costs.record(0, 1, BUCKET, 100)
    revision = costs.revision

    costs.record(0, 1, BUCKET, 100_000)

    assert costs.typical_ns(0, 1, BUCKET) == costs.safe_ns(0, 1, BUCKET) == 100
    assert costs.revision == revision


def test_only_the_latest_times_count():
    estimate = Estimate()
    for took_ns in [100] * KEPT_SAMPLES + [200] * KEPT_SAMPLES:
        estimate.add(took_ns)

    assert estimate.samples_ns == (200,) * KEPT_SAMPLES
    assert (estimate.typical_ns, estimate.safe_ns) == (200, 200)


def test_the_revision_changes_when_a_median_has_drifted_from_what_plans_were_made_with():
    costs = table({(1, BUCKET): 1000})
    revision = costs.revision
    costs.record(0, 1, BUCKET, 1000)
    for _ in range(KEPT_SAMPLES):
        costs.record(0, 1, BUCKET, round(1000 * (1 + DRIFT)))
    assert costs.revision == revision

    for _ in range(KEPT_SAMPLES):
        costs.record(0, 1, BUCKET, round(1000 * (1 + DRIFT)) + 1)

    assert costs.revision == revision + 1


def test_a_new_kind_of_launch_or_a_pair_changes_the_revision():
    costs = CostTable()
    revisions = [costs.revision]
    costs.record(0, 1, BUCKET, 100)
    revisions.append(costs.revision)
    costs.record(0, 2, BUCKET, 100)
    revisions.append(costs.revision)
    costs.record_beside(0, 1, 1, 1.5)
    revisions.append(costs.revision)

    assert len(set(revisions)) == len(revisions)


def test_no_more_kinds_are_remembered_than_the_limit_and_the_known_go_on_learning():
    costs = table({(rows, BUCKET): 100 for rows in range(1, MAX_KINDS + 1)})

    costs.record(1, 1, BUCKET, 9000)
    for _ in range(KEPT_SAMPLES):
        costs.record(0, 1, BUCKET, 120)

    assert len(list(costs.kinds())) == MAX_KINDS
    assert costs.typical_ns(1, 1, BUCKET) == CostTable().typical_ns(1, 1, BUCKET)
    assert costs.typical_ns(0, 1, BUCKET) == 120


def test_profiles_disturb_each_other_only_as_measured_and_never_speed_each_other_up():
    costs = CostTable()
    costs.record_beside(0, 1, 1, 1.5)
    costs.record_beside(1, 0, 1, 0.9)

    assert costs.beside(0, 1, 4) == 1.5
    assert costs.beside(1, 0, 4) == 1.0
    assert costs.beside(0, 2, 4) == 1.0


@pytest.mark.parametrize(
    ("rows", "slowdown"),
    [(1, 1.1), (4, 1.1), (8, 1.2), (16, 1.3), (64, 1.5), (128, 1.5)],
    ids=["below all", "measured", "between", "between too", "measured too", "above all"],
)
def test_a_lane_disturbs_others_the_more_the_more_rows_it_runs(rows, slowdown):
    costs = CostTable()
    costs.record_beside(0, 1, 64, 1.5)
    costs.record_beside(0, 1, 4, 1.3)
    costs.record_beside(0, 1, 4, 1.1)  # known better now

    assert costs.beside(0, 1, rows) == pytest.approx(slowdown)
    assert costs.slowdowns(((0, 1), (1, rows))) == pytest.approx((slowdown, 1.0))


def test_a_time_too_short_for_the_clock_is_not_nothing():
    costs = table({(1, BUCKET): 0})

    assert costs.typical_ns(0, 1, BUCKET) == costs.safe_ns(0, 1, BUCKET) == 1


def test_the_first_launch_of_a_kind_is_taken_for_one_that_waited_for_none():
    costs = CostTable()
    costs.ahead = {0: 0.4}

    costs.record(0, 1, BUCKET, 60, waited_ns=500)  # 40 of 100 ns passed meanwhile
    costs.record(0, 2, BUCKET, 90, waited_ns=10)  # it could not wait for longer than it did
    costs.record(1, 1, BUCKET, 60, waited_ns=500)  # its lane does nothing ahead

    assert [costs.typical_ns(*kind) for kind, _ in costs.kinds()] == [100, 100, 60]


def test_launches_that_waited_for_the_one_before_them_are_counted_apart():
    costs = table({(8, BUCKET): 100})
    for _ in range(MIN_BEHIND):
        costs.record(0, 8, BUCKET, 55, waited_ns=500)
    costs.record(0, 8, BUCKET, 80, waited_ns=25)  # did not wait for all it can do

    ((_, estimate),) = costs.kinds()
    assert estimate.samples_ns == (100,) * (MIN_BEHIND + 2)
    assert estimate.behind_samples_ns == (55,) * MIN_BEHIND
    assert costs.behind_ns(0, 8, BUCKET) == 55


@pytest.mark.parametrize("wrong", [0.5, 2, 10, 100])
def test_a_lane_that_is_kept_full_unlearns_a_time_that_is_wrong(wrong):
    costs = table({(8, BUCKET): round(wrong * 1000)})
    costs.ahead = {0: 0.4}
    for _ in range(3 * KEPT_SAMPLES):
        costs.record(0, 8, BUCKET, 600, waited_ns=600)

    assert 600 <= costs.typical_ns(0, 8, BUCKET) <= 1200
    assert costs.safe_ns(0, 8, BUCKET) <= 1200
    assert costs.behind_ns(0, 8, BUCKET) == 600


def test_what_a_launch_gains_behind_another_is_guessed_until_some_have_been_there():
    costs = table({(4, BUCKET): 100, (8, BUCKET): 140})
    costs.ahead = {0: 0.4}
    for _ in range(MIN_BEHIND - 1):
        costs.record(0, 8, BUCKET, 55, waited_ns=500)

    assert costs.behind_ns(0, 8, BUCKET) == round(0.6 * 140)
    assert costs.behind_ns(0, 6, BUCKET) == round(0.6 * 120)
    assert costs.behind_ns(1, 8, BUCKET) == costs.typical_ns(1, 8, BUCKET)


def test_the_revision_changes_when_launches_behind_others_have_drifted():
    costs = table({(1, BUCKET): 1000})
    for _ in range(KEPT_SAMPLES):
        costs.record(0, 1, BUCKET, 600, waited_ns=2000)
    revision = costs.revision

    for _ in range(KEPT_SAMPLES):
        costs.record(0, 1, BUCKET, 700, waited_ns=2000)

    assert costs.revision == revision + 1
