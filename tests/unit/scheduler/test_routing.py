"""Which profiles can run a request, which of them should, and how that is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.sim import mission_model, model, profile
from lanewise.errors import NoProfileAdmits, ShapeMismatch, UnknownProfile, UnknownTensor
from lanewise.models import ModelSpec, Profile, RowRange, ShapeRange
from lanewise.scheduler.explanation import explain
from lanewise.scheduler.routing import Eligibility, Router
from lanewise.tensors import DYNAMIC, DType, TensorSpec


def owners(spec: ModelSpec, rows: int) -> list[str]:
    router = Router(spec)
    route = router.route({"X": (rows,)})
    return [spec.profiles[i].name for i in router.eligibility(route.fits, route.rows).owners]


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


def test_a_profile_with_a_higher_minimum_takes_rows_as_guests():
    router = Router(mission_model())
    route = router.route({"X": (1,)})
    assert router.eligibility(route.fits, 1) == Eligibility(owners=(0, 1), guests=(2,))
    assert router.eligibility((0, 2), 2) == Eligibility(owners=(2,), guests=())


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
        "'a' (index 0) admits 'X' [1, 4] to [1, 4]: dimension 1 of 'X' is 20, it admits 4; "
        "'b' (index 1) admits 'X' [1, 8] to [8, 16]: dimension 1 of 'X' is 20, it admits 8 to 16; "
        "send a shape within a range, or add a profile for this one"
    )


def test_zero_rows_are_refused():
    with pytest.raises(NoProfileAdmits, match="0 rows were sent, at least 1 is needed"):
        Router(mission_model()).route({"X": (0,)})


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


def test_an_explanation_says_of_each_profile_why_or_why_not():
    report = explain(Router(mission_model()), {"X": (40,)})
    assert report.admitted
    assert [(c.profile.name, c.admits, c.reason) for c in report.candidates] == [
        ("online", False, "40 rows are more than its 1"),
        ("dynamic", False, "40 rows are more than its 32"),
        ("offline", True, "would pad 40 rows to 128; no profile runs them unpadded"),
    ]
    (launch,) = report.launches
    assert (launch.profile.name, launch.rows, launch.padded_rows) == ("offline", 40, 128)


def test_an_explanation_of_a_split_request_lists_its_launches():
    report = explain(Router(mission_model()), {"X": (260,)})
    assert [(p.profile.name, p.first_row, p.rows, p.padded_rows) for p in report.launches] == [
        ("offline", 0, 128, 128),
        ("offline", 128, 128, 128),
        ("dynamic", 256, 4, 4),
    ]
    assert report.reason.endswith("split into 128 at 'offline' + 128 at 'offline' + 4 at 'dynamic'")


def test_an_explanation_of_a_refused_shape_is_no_error():
    report = explain(Router(model(profile(0, (1, 1, 1), [(4, 4, 4)]))), {"X": (1, 5)})
    assert not report.admitted
    assert report.candidates[0].reason == "dimension 1 of 'X' is 5, it admits 4"
    assert report.launches == ()


def test_an_explanation_honours_the_pin():
    report = explain(Router(mission_model()), {"X": (1,)}, "offline")
    assert [c.reason for c in report.candidates[:2]] == ["the request is pinned to 'offline'"] * 2
    assert report.launches[0].padded_rows == 128
