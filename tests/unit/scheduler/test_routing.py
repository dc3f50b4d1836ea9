"""Which profiles can run a request, which of them should, and how that is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.sim import mission_costs, mission_model, model, profile
from lanewise.errors import NoProfileAdmits, ShapeMismatch, UnknownProfile, UnknownTensor
from lanewise.model.spec import ModelSpec, Profile, RowRange, ShapeRange
from lanewise.model.tensors import DYNAMIC, DType, TensorSpec
from lanewise.scheduler.explanation import explain
from lanewise.scheduler.lane import Lane, LaneId
from lanewise.scheduler.policy.cost_aware import CostAwarePolicy
from lanewise.scheduler.routing import Router


def explain_of(spec: ModelSpec, shapes, pin=None, *, retired=()):
    """The explanation of a server with one lane a profile, some of which may be retired."""
    lanes = [Lane(LaneId(p.index), p, is_retired=p.index in retired) for p in spec.profiles]
    costs = mission_costs()
    return explain(Router(spec), lanes, CostAwarePolicy(costs), costs, shapes, pin)


def owners(spec: ModelSpec, rows: int) -> list[str]:
    router = Router(spec)
    route = router.route({"X": (rows,)})
    return [spec.profiles[i].name for i in route.owners]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, ["online", "dynamic"]),
        (2, ["dynamic"]),
        (32, ["dynamic"]),
        (33, ["offline"]),
        (128, ["offline"]),
        (129, ["offline"]),
    ],
)
def test_rows_are_owned_by_profiles_that_hold_them_or_else_pad_them_or_else_split_them(
    rows, expected
):
    assert owners(mission_model(), rows) == expected


def test_a_profile_with_a_higher_minimum_owns_rows_that_no_other_is_made_for():
    router = Router(mission_model())
    route = router.route({"X": (1,)})
    assert router.owners(route.fits, 1) == (0, 1)
    assert router.owners((0, 2), 2) == (2,)


def test_rows_are_padded_to_the_lowest_minimum_there_is():
    spec = model(profile(0, (64, 64, 64)), profile(1, (16, 32, 64)), profile(2, (16, 16, 16)))
    assert owners(spec, 3) == ["p1", "p2"]


def test_every_dimension_but_rows_must_lie_within_the_profile():
    spec = model(profile(0, (1, 4, 8), [(4, 8, 16)]), profile(1, (1, 4, 8), [(16, 32, 64)]))
    router = Router(spec)
    assert router.route({"X": (1, 4)}).fits == (0,)
    assert router.route({"X": (1, 16)}).fits == (0, 1)
    assert router.route({"X": (99, 64)}).fits == (1,)


def test_a_pin_leaves_one_profile_by_name_or_index():
    router = Router(mission_model())
    for pin in ("dynamic", 1, "1"):
        assert router.route({"X": (1,)}, pin).fits == (1,)


@pytest.mark.parametrize("pin", ["fast", 3, "3", -1, "-1", ""])
def test_an_unknown_pin_is_refused_with_the_profiles_there_are(pin):
    with pytest.raises(UnknownProfile, match=r"'online' \(index 0\), 'dynamic' \(index 1\)"):
        Router(mission_model()).route({"X": (1,)}, pin)


def test_no_profile_admits_lists_every_range_and_the_offending_dimension():
    spec = model(
        profile(0, (1, 1, 1), [(4, 4, 4)], name="a"), profile(1, (1, 4, 8), [(8, 8, 16)], name="b")
    )
    with pytest.raises(NoProfileAdmits) as caught:
        Router(spec).route({"X": (2, 20)})
    assert caught.value.message == (
        "model 'm': no profile admits 'X' [2, 20]; "
        "dimension 1 of 'X' is 20, admitted are 4 or 8 to 16; "
        "send a shape within a range, or add a profile for this one\n"
        "  'a' (index 0) admits 'X' [1, 4] to [1, 4]: dimension 1 of 'X' is 20, it admits 4\n"
        "  'b' (index 1) admits 'X' [1, 8] to [8, 16]: dimension 1 of 'X' is 20, it admits 8 to 16"
    )


def summary(spec: ModelSpec, shape: tuple[int, ...], pin: str | None = None) -> str:
    with pytest.raises(NoProfileAdmits) as caught:
        Router(spec).route({"X": shape}, pin)
    return caught.value.message.partition("; send a shape")[0]


def test_the_sizes_admitted_are_summed_up_over_the_profiles():
    ranges = [[(1, 4, 8)], [(9, 9, 12)], [(6, 7, 10)], [(20, 20, 30)]]
    spec = model(*(profile(i, (1, 1, 1), item) for i, item in enumerate(ranges)))

    assert summary(spec, (1, 15)) == (
        "model 'm': no profile admits 'X' [1, 15]; "
        "dimension 1 of 'X' is 15, admitted are 1 to 12 or 20 to 30"
    )
    assert summary(spec, (1, 15), "p1") == (
        "model 'm': the request is pinned to profile 'p1', which does not admit 'X' [1, 15]; "
        "dimension 1 of 'X' is 15, admitted are 9 to 12"
    )


def test_sizes_that_profiles_admit_only_apart_are_said_to_be_so():
    spec = model(
        profile(0, (1, 1, 1), [(4, 4, 4), (8, 8, 8)]), profile(1, (1, 1, 1), [(5, 5, 5), (9, 9, 9)])
    )

    assert summary(spec, (1, 4, 9)).endswith(
        "; each of its sizes is admitted, but by no profile all of them"
    )


def test_zero_rows_are_refused_in_one_sentence():
    with pytest.raises(NoProfileAdmits) as caught:
        Router(mission_model()).route({"X": (0,)})
    assert caught.value.message == "model 'm': 0 rows were sent, at least 1 is needed"


def test_a_missing_and_an_extra_input_are_refused_with_the_inputs_there_are():
    router = Router(mission_model())
    with pytest.raises(UnknownTensor, match=r"input 'X' is missing; its inputs are: 'X'"):
        router.route({})
    with pytest.raises(UnknownTensor, match=r"has no input 'Z'; its inputs are: 'X'"):
        router.route({"X": (1,), "Z": (1,)})


def two_inputs(*, batching: bool) -> ModelSpec:
    """X (rows, 3) and T, which every row shares: any number of values."""
    x, t = (TensorSpec("X", DType.FP32, (DYNAMIC, 3)), TensorSpec("T", DType.FP32, (DYNAMIC,)))
    ranges = {"X": ShapeRange((1, 3), (4, 3), (8, 3)), "T": ShapeRange((0,), (1,), (2,))}
    rows = RowRange(1, 4, 8) if batching else RowRange(1, 1, 1)
    rowwise = frozenset({"X"}) if batching else frozenset()
    only = Profile(0, "only", ranges, rows, 0)
    return ModelSpec("m", "1", "simulated", (x, t), (x,), batching, rowwise, (only,))


def test_an_input_that_rows_share_is_part_of_what_must_be_equal():
    router = Router(two_inputs(batching=True))
    route = router.route({"X": (5, 3), "T": (2,)})
    assert (route.rows, route.shapes) == (5, ((3,), (2,)))


def test_without_batching_a_request_is_one_row_of_its_whole_shape_and_may_be_empty():
    router = Router(two_inputs(batching=False))
    route = router.route({"X": (5, 3), "T": (0,)})
    assert (route.rows, route.shapes) == (1, ((5, 3), (0,)))
    with pytest.raises(NoProfileAdmits, match="dimension 0 of 'X' is 9, it admits 1 to 8"):
        router.route({"X": (9, 3), "T": (1,)})


def test_inputs_that_disagree_on_rows_are_refused():
    spec = replace(two_inputs(batching=True), rowwise=frozenset({"X", "T"}))
    with pytest.raises(ShapeMismatch, match="'X' has 2, 'T' has 1"):
        Router(spec).route({"X": (2, 3), "T": (1,)})


@pytest.mark.parametrize("shape", [(2,), (2, 4), (2, 3, 1), ()])
def test_a_shape_the_model_contradicts_is_refused(shape):
    with pytest.raises(ShapeMismatch, match=r"does not match the model's \[-1, 3\]"):
        Router(two_inputs(batching=True)).route({"X": shape, "T": (1,)})


def static(*, batching: bool) -> ModelSpec:
    """X of exactly (8, 3)."""
    x, shape = TensorSpec("X", DType.FP32, (8, 3)), (8, 3)
    rows = RowRange(8, 8, 8) if batching else RowRange(1, 1, 1)
    only = Profile(0, "only", {"X": ShapeRange(shape, shape, shape)}, rows, 0)
    rowwise = frozenset({"X"}) if batching else frozenset()
    return ModelSpec("m", "1", "simulated", (x,), (x,), batching, rowwise, (only,))


@pytest.mark.parametrize(
    ("spec", "shape", "is_hinted"),
    [
        (static(batching=False), (4, 3), True),
        (static(batching=False), (4, 4), False),
        (static(batching=False), (8, 4), False),
        (static(batching=False), (8,), False),
        (static(batching=True), (8, 4), False),
    ],
)
def test_batching_is_suggested_where_rows_alone_contradict_a_static_model(spec, shape, is_hinted):
    with pytest.raises(ShapeMismatch) as caught:
        Router(spec).route({"X": shape})
    assert "does not match the model's [8, 3]" in caught.value.message
    assert "-1" not in caught.value.message, "nothing here can be of any size"
    assert ("`batching = true`" in caught.value.message) == is_hinted


def test_an_explanation_says_of_each_profile_why_or_why_not_and_what_it_would_cost():
    report = explain_of(mission_model(), {"X": (100,)})
    assert report.admitted
    assert [(c.profile.name, c.admits, c.reason) for c in report.candidates] == [
        ("online", True, "takes 1 of 100 rows in about 0.82 ms"),
        ("dynamic", True, "takes 32 of 100 rows in about 2.09 ms"),
        ("offline", True, "runs 100 rows padded to 128 in about 5.42 ms"),
    ]
    (launch,) = report.launches
    assert (launch.profile.name, launch.rows, launch.padded_rows) == ("offline", 100, 128)


def test_an_explanation_of_a_split_request_lists_its_launches():
    report = explain_of(mission_model(), {"X": (260,)})
    assert [(p.profile.name, p.first_row, p.rows, p.padded_rows) for p in report.launches] == [
        ("offline", 0, 128, 128),
        ("offline", 128, 128, 128),
        ("dynamic", 256, 4, 4),
    ]
    assert report.reason.endswith("split into 2 x 128 at 'offline' + 4 at 'dynamic'")


def test_an_explanation_of_a_refused_shape_is_no_error():
    report = explain_of(model(profile(0, (1, 1, 1), [(4, 4, 4)])), {"X": (1, 5)})
    assert not report.admitted
    assert report.candidates[0].reason == "dimension 1 of 'X' is 5, it admits 4"
    assert report.launches == ()


def test_an_explanation_says_why_the_profile_was_chosen():
    reasons = {
        (rows, pin): explain_of(mission_model(), {"X": (rows,)}, pin).reason
        for rows, pin in [(1, None), (1, "dynamic"), (40, None)]
    }
    assert reasons == {
        (1, None): "profile 'online' runs 1 row without padding: "
        "among the 3 that admit it, it costs least",
        (1, "dynamic"): "profile 'dynamic' runs 1 row without padding: the request is pinned to it",
        (40, None): "40 rows cost least when they are split into 32 at 'dynamic' + 8 at 'dynamic'",
    }


def test_an_explanation_honours_the_pin():
    report = explain_of(mission_model(), {"X": (1,)}, "offline")
    assert [c.reason for c in report.candidates[:2]] == ["the request is pinned to 'offline'"] * 2
    assert report.launches[0].padded_rows == 128


def test_an_explanation_leaves_out_lanes_that_are_out_of_service():
    report = explain_of(mission_model(), {"X": (1,)}, retired=(0,))
    assert report.candidates[0].reason == "its lanes are out of service"
    assert [launch.lane_id for launch in report.launches] == [1]
    lost = explain_of(mission_model(), {"X": (1,)}, "online", retired=(0,))
    assert not lost.admitted
    assert lost.reason == "every lane that can run the request is out of service"


def test_more_rows_than_a_thousand_launches_are_refused_at_once():
    with pytest.raises(NoProfileAdmits, match="send at most 128000 rows"):
        Router(mission_model()).route({"X": (2**62,)})
    report = explain_of(mission_model(), {"X": (128_000,)})
    assert report.reason.endswith("split into 1000 x 128 at 'offline'")


def test_a_negative_dimension_is_refused():
    with pytest.raises(ShapeMismatch, match="negative dimension"):
        Router(mission_model()).route({"X": (-1,)})


def test_a_pin_may_be_any_text():
    with pytest.raises(UnknownProfile):
        Router(mission_model()).route({"X": (1,)}, "9" * 5000)
