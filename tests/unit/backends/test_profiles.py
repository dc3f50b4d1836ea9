from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from helpers.models import profile_entry, tensor
from lanewise.backends.profiles import CarriedProfiles, plan_profiles
from lanewise.errors import ConfigError
from lanewise.model.spec import RowRange, ShapeRange
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings

FILE = Path("repo/m/model.toml")
ENGINE = Path("repo/m/1/model.plan")

X = tensor("X", DType.FP32, (DYNAMIC, 3))
Y = tensor("Y", DType.FP32, (DYNAMIC, 2))
FIXED_X = tensor("X", DType.FP32, (8, 3))
FIXED_Y = tensor("Y", DType.FP32, (8, 2))
WIDE = tensor("ids", DType.INT64, (DYNAMIC, DYNAMIC))


def parse(text):
    return ModelSettings.model_validate(tomllib.loads(text))


def plan(*entries, inputs=(X,), outputs=(Y,), carried=None, top=""):
    if carried is not None:
        carried = CarriedProfiles(parse("\n".join(carried)).profiles, ENGINE)
    return plan_profiles(inputs, outputs, parse("\n".join([top, *entries])), FILE, carried)


def problems(*entries, file=FILE, **kwargs):
    with pytest.raises(ConfigError) as raised:
        plan(*entries, **kwargs)
    message = str(raised.value)
    assert message.startswith(f"{file}: ")
    lines = message.removeprefix(f"{file}: ").split("\n")
    return [line.strip() for line in lines if not line.endswith(" problems")]


def names_and_rows(planned):
    return [(each.name, each.rows) for each in planned.profiles]


class TestBatching:
    def test_is_on_by_itself_if_inputs_and_outputs_have_dynamic_rows(self):
        planned = plan(inputs=(X, tensor("S", shape=(4,))))

        assert (planned.batching, planned.rowwise) == (True, {"X"})

    @pytest.mark.parametrize(
        ("inputs", "outputs"),
        [
            ((FIXED_X,), (Y,)),
            ((X,), (Y, FIXED_Y)),
            ((X,), (tensor("Y", shape=()),)),
        ],
        ids=["static input", "one static output", "scalar output"],
    )
    def test_is_off_by_itself_otherwise(self, inputs, outputs):
        planned = plan(inputs=inputs, outputs=outputs)

        assert (planned.batching, planned.rowwise) == (False, frozenset())

    def test_can_be_turned_off(self):
        planned = plan(top="batching = false")

        assert (planned.batching, planned.rowwise) == (False, frozenset())

    def test_of_a_fixed_number_of_rows_counts_them_in_every_input_that_has_any(self):
        inputs = (FIXED_X, tensor("Z", shape=(8,)), tensor("S", shape=()))

        planned = plan(inputs=inputs, outputs=(FIXED_Y,), top="batching = true")

        assert planned.rowwise == {"X", "Z"}
        assert names_and_rows(planned) == [("default", RowRange(8, 8, 8))]

    @pytest.mark.parametrize(
        ("inputs", "outputs", "reason"),
        [
            ((X,), (FIXED_Y,), "dimension 0 of output 'Y' [8, 2] is not dynamic, so its rows"),
            (
                (FIXED_X,),
                (tensor("Y", shape=(4, 2)),),
                "dimension 0 of output 'Y' [4, 2] is not the inputs' 8, so its rows",
            ),
            (
                (FIXED_X, tensor("Z", shape=(4,))),
                (Y,),
                "the inputs differ in dimension 0: 'X' [8, 3], 'Z' [4]",
            ),
            (
                (tensor("S", shape=()),),
                (Y,),
                "no input has a dimension along which rows could be stacked",
            ),
        ],
    )
    def test_is_refused_where_rows_cannot_be_told_apart(self, inputs, outputs, reason):
        (problem,) = problems(inputs=inputs, outputs=outputs, top="batching = true")

        assert problem.startswith(f"batching: is true, but {reason}")


class TestDerivedProfiles:
    def test_a_model_without_dynamic_dimensions_has_its_one_shape(self):
        planned = plan(inputs=(FIXED_X,), outputs=(FIXED_Y,))

        (profile,) = planned.profiles
        assert (profile.index, profile.name, profile.rows) == (0, "default", RowRange(1, 1, 1))
        assert profile.ranges == {"X": ShapeRange((8, 3), (8, 3), (8, 3))}

    def test_dynamic_rows_alone_give_an_online_and_a_dynamic_profile(self):
        planned = plan(inputs=(X, tensor("S", shape=(4,))), top="max_queue_delay_ms = 1.5")

        static = ShapeRange((4,), (4,), (4,))
        assert [(each.index, each.name, each.rows) for each in planned.profiles] == [
            (0, "online", RowRange(1, 1, 1)),
            (1, "dynamic", RowRange(1, 4, 32)),
        ]
        assert [each.ranges for each in planned.profiles] == [
            {"X": ShapeRange((1, 3), (1, 3), (1, 3)), "S": static},
            {"X": ShapeRange((1, 3), (4, 3), (32, 3)), "S": static},
        ]
        assert {each.max_queue_delay_ns for each in planned.profiles} == {1_500_000}

    def test_without_batching_one_profile_takes_every_size_and_a_launch_is_one_row(self):
        planned = plan(top="batching = false")

        assert names_and_rows(planned) == [("default", RowRange(1, 1, 1))]
        assert planned.profiles[0].ranges == {"X": ShapeRange((1, 3), (4, 3), (32, 3))}

    def test_other_dynamic_dimensions_ask_for_profiles_with_a_template_that_works(self):
        inputs = (WIDE, tensor("mask.1", shape=(DYNAMIC, 4)), tensor("S", shape=(2,)))

        with pytest.raises(ConfigError) as raised:
            plan(inputs=inputs)
        explanation, template = str(raised.value).split("\n\n")

        assert explanation == (
            f"{FILE}: profiles: are missing, and cannot be guessed: "
            "input 'ids' [-1, -1] has dynamic dimension 1. "
            "Paste this into the file and put in the sizes that your requests have:"
        )
        (profile,) = plan(template, inputs=inputs).profiles
        assert profile.ranges["ids"] == ShapeRange((1, 1), (4, 64), (32, 256))
        assert profile.ranges["mask.1"] == ShapeRange((1, 4), (4, 4), (32, 4))


class TestProfilesOfTheSettings:
    def test_keep_their_order_and_get_names_and_delays_where_they_have_none(self):
        planned = plan(
            profile_entry(X=[(1, 3), (1, 3), (1, 3)]),
            profile_entry("bulk", 20.0, X=[(128, 3), (128, 3), (128, 3)]),
            top="max_queue_delay_ms = 2.5",
        )

        assert [
            (each.index, each.name, each.rows, each.max_queue_delay_ns) for each in planned.profiles
        ] == [
            (0, "p0", RowRange(1, 1, 1), 2_500_000),
            (1, "bulk", RowRange(128, 128, 128), 20_000_000),
        ]

    def test_may_leave_out_inputs_without_dynamic_dimensions(self):
        planned = plan(
            profile_entry(X=[(1, 3), (1, 3), (1, 3)]), inputs=(X, tensor("S", shape=(4,)))
        )

        assert planned.profiles[0].ranges["S"] == ShapeRange((4,), (4,), (4,))

    def test_run_the_rows_that_all_rowwise_inputs_admit(self):
        planned = plan(
            profile_entry(X=[(1, 3), (8, 3), (16, 3)], ids=[(2, 1), (4, 8), (6, 9)]),
            profile_entry(X=[(1, 3), (8, 3), (16, 3)], ids=[(9, 1), (9, 8), (32, 9)]),
            inputs=(X, WIDE),
        )

        assert [each.rows for each in planned.profiles] == [RowRange(2, 4, 6), RowRange(9, 9, 16)]

    def test_without_batching_count_a_request_as_one_row(self):
        planned = plan(profile_entry(X=[(0, 3), (4, 3), (9, 3)]), top="batching = false")

        assert planned.profiles[0].rows == RowRange(1, 1, 1)

    @pytest.mark.parametrize(
        ("entry", "problem"),
        [
            (
                profile_entry(X=[(4, 3), (2, 3), (8, 3)]),
                "profiles[0].tensors.X: min <= opt <= max is required in every dimension, "
                "but dimension 0 has 4, 2, 8",
            ),
            (
                profile_entry(X=[(1, 3), (4, 3), (2, 3)]),
                "profiles[0].tensors.X: min <= opt <= max is required in every dimension, "
                "but dimension 0 has 1, 4, 2",
            ),
            (
                profile_entry(X=[(1,), (1, 3), (1, 3)]),
                "profiles[0].tensors.X.min: [1] has 1 dimensions, but input 'X' [-1, 3] has 2",
            ),
            (
                profile_entry(X=[(1, 3), (1, 3), (1, 4)]),
                "profiles[0].tensors.X.max: [1, 4] has 4 in dimension 1, "
                "which is always 3 in input 'X' [-1, 3]",
            ),
            (
                profile_entry(X=[(0, 3), (1, 3), (1, 3)]),
                "profiles[0].tensors.X.min: [0, 3] has 0 in dimension 0; rows must be 1 or more",
            ),
            (
                profile_entry(X=[(1, 3)] * 3, Q=[(1,)] * 3),
                "profiles[0].tensors.Q: the model has no such input; it has X [-1, 3]",
            ),
            (
                profile_entry(),
                "profiles[0].tensors.X: is missing; input 'X' [-1, 3] has dynamic dimensions "
                "and needs min, opt and max",
            ),
            (
                profile_entry("7", X=[(1, 3)] * 3),
                "profiles[0].name: '7' would be taken for an index; add a letter",
            ),
            (
                profile_entry("a,b", X=[(1, 3)] * 3),
                "profiles[0].name: 'a,b' has a comma, which separates names in responses",
            ),
        ],
    )
    def test_are_refused_if_impossible(self, entry, problem):
        assert problems(entry) == [problem]

    def test_are_refused_with_a_negative_size_even_without_batching(self):
        entry = profile_entry(X=[(-1, 3), (1, 3), (1, 3)])

        assert problems(entry, top="batching = false") == [
            "profiles[0].tensors.X.min: [-1, 3] has -1 in dimension 0; a size must be 0 or more"
        ]

    def test_are_refused_if_their_inputs_have_no_rows_in_common(self):
        entry = profile_entry(X=[(1, 3), (2, 3), (4, 3)], ids=[(8, 1), (8, 1), (8, 1)])

        assert problems(entry, inputs=(X, WIDE)) == [
            "profiles[0].tensors: no number of rows (dimension 0) suits all inputs: X 1-4, ids 8-8"
        ]

    def test_are_refused_if_two_have_one_name_even_a_default_one(self):
        shapes = [(1, 3)] * 3

        assert problems(profile_entry("p1", X=shapes), profile_entry(X=shapes)) == [
            "profiles[1].name: 'p1' is the name of profiles[0] too"
        ]

    def test_are_refused_with_all_their_problems_at_once(self):
        found = problems(profile_entry("3"), profile_entry("", X=[(1, 3), (1, 3), (1, 9)]))

        assert [problem.split(":")[0] for problem in found] == [
            "profiles[0].name",
            "profiles[0].tensors.X",
            "profiles[1].tensors.X.max",
        ]


class TestCarriedProfiles:
    carried = (
        profile_entry("small", X=[(1, 3), (1, 3), (4, 3)]),
        profile_entry(X=[(8, 3), (8, 3), (8, 3)]),
    )

    def test_are_all_used_in_order(self):
        planned = plan(carried=self.carried)

        assert names_and_rows(planned) == [
            ("small", RowRange(1, 1, 4)),
            ("p1", RowRange(8, 8, 8)),
        ]

    def test_can_be_renamed_and_get_another_delay_by_position(self):
        planned = plan(
            profile_entry(delay_ms=0.0),
            profile_entry("full", X=[(8, 3), (8, 3), (8, 3)]),
            carried=self.carried,
            top="max_queue_delay_ms = 9.0",
        )

        assert [(each.name, each.max_queue_delay_ns) for each in planned.profiles] == [
            ("small", 0),
            ("full", 9_000_000),
        ]

    def test_cannot_get_other_shapes(self):
        entry = profile_entry(X=[(1, 3), (2, 3), (4, 3)], Q=[(1,)] * 3)

        assert problems(entry, carried=self.carried) == [
            "profiles[0].tensors.X: differs from the plan, which was built with "
            "min [1, 3], opt [1, 3], max [4, 3]; leave it out or rebuild the plan",
            "profiles[0].tensors.Q: the model's inputs are X",
        ]

    def test_cannot_become_more(self):
        (problem,) = problems(*[profile_entry()] * 3, carried=self.carried)

        assert problem.startswith("profiles: has 3 entries, but the plan was built with 2, ")

    def test_cannot_take_the_name_of_another(self):
        assert problems(profile_entry("p1"), carried=self.carried) == [
            "profiles[1].name: 'p1' is the name of profiles[0] too"
        ]

    def test_are_refused_with_the_file_of_the_engine(self):
        assert problems(carried=[profile_entry("1", X=[(1, 3)] * 3)], file=ENGINE) == [
            "profiles[0].name: '1' would be taken for an index; add a letter"
        ]
