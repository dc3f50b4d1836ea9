from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from helpers.models import profile_entry, tensor
from lanewise.backends.trt.build.profiles import BuildProfile, NetworkTensors, resolve_profiles
from lanewise.errors import ConfigError
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings

FILE = Path("repo/m/model.toml")
X = tensor("X", shape=(DYNAMIC, 3))
WIDE = tensor("ids", DType.INT64, (DYNAMIC, DYNAMIC))
STATIC = tensor("mask", shape=(2, 3))
SIZES = tensor("sizes", DType.INT64, (2,))
SCALAR = tensor("count", DType.INT32, ())
Y = tensor("Y", shape=(DYNAMIC, DYNAMIC))


def resolve(inputs, *entries, shape_tensors=()):
    settings = ModelSettings.model_validate(tomllib.loads("\n".join(entries)))
    tensors = NetworkTensors(tuple(inputs), (Y,), frozenset(shape_tensors))
    return resolve_profiles(tensors, settings, FILE)


def refusal(inputs, *entries, shape_tensors=()):
    with pytest.raises(ConfigError) as raised:
        resolve(inputs, *entries, shape_tensors=shape_tensors)
    return str(raised.value)


def only(*sizes):
    return ShapeRange(sizes, sizes, sizes)


def test_profiles_are_taken_as_they_are_given():
    resolved = resolve(
        [X, SIZES],
        profile_entry("small", X=[(1, 3), (2, 3), (4, 3)], sizes=[(1, 1), (2, 8), (4, 9)]),
        profile_entry(X=[(8, 3), (8, 3), (8, 3)], sizes=[(-1, 8), (0, 8), (9, 8)]),
        shape_tensors=["sizes"],
    )

    assert resolved.profiles == (
        BuildProfile(
            "small",
            {"X": ShapeRange((1, 3), (2, 3), (4, 3))},
            {"sizes": ShapeRange((1, 1), (2, 8), (4, 9))},
        ),
        BuildProfile("p1", {"X": only(8, 3)}, {"sizes": ShapeRange((-1, 8), (0, 8), (9, 8))}),
    )
    assert resolved.assumptions == ()


class TestDefaults:
    def test_an_input_left_out_keeps_its_static_shape_without_a_word(self):
        resolved = resolve([X, STATIC], profile_entry(X=[(1, 3), (2, 3), (4, 3)]))

        assert resolved.profiles[0].shapes["mask"] == only(2, 3)
        assert resolved.assumptions == ()

    def test_dynamic_dimensions_left_out_are_1_and_that_is_told(self):
        resolved = resolve([X, WIDE], profile_entry(X=[(1, 3), (1, 3), (1, 3)]))

        assert resolved.profiles[0].shapes["ids"] == only(1, 1)
        assert resolved.assumptions == (
            "input 'ids' [-1, -1]: a profile leaves it out and is built for the shape [1, 1] "
            "alone; give it min, opt and max if it varies",
        )

    def test_values_of_shape_tensors_left_out_are_1_and_that_is_told(self):
        resolved = resolve(
            [X, SIZES, SCALAR],
            profile_entry(X=[(1, 3), (2, 3), (4, 3)]),
            shape_tensors=["sizes", "count"],
        )

        assert resolved.profiles[0].values == {"count": only(1), "sizes": only(1, 1)}
        assert [each.partition(": ")[0] for each in resolved.assumptions] == [
            "shape tensor 'sizes' [2]",
            "shape tensor 'count' []",
        ]

    def test_an_assumption_that_holds_for_several_profiles_is_told_once(self):
        entry = profile_entry(X=[(1, 3), (1, 3), (1, 3)])

        assert len(resolve([X, WIDE], entry, entry).assumptions) == 1

    def test_without_entries_the_profiles_follow_from_the_inputs(self):
        resolved = resolve([X, SIZES], shape_tensors=["sizes"])

        assert [(each.name, each.shapes["X"]) for each in resolved.profiles] == [
            ("online", only(1, 3)),
            ("dynamic", ShapeRange((1, 3), (4, 3), (32, 3))),
        ]

    def test_without_entries_profiles_that_cannot_be_guessed_are_asked_for(self):
        assert refusal([WIDE]).startswith(f"{FILE}: profiles: are missing, and cannot be guessed")


class TestProblems:
    """They read the same as those of a model that is served."""

    def test_an_unknown_input_is_told_with_those_there_are(self):
        message = refusal([X], profile_entry(Z=[(1,), (1,), (1,)]))

        assert message == (
            f"{FILE}: profiles[0].tensors.Z: the model has no such input; it has X [-1, 3]"
        )

    @pytest.mark.parametrize(
        ("corners", "problem"),
        [
            ([(4, 3), (2, 3), (1, 3)], "min <= opt <= max is required in every dimension"),
            ([(1,), (1,), (1,)], "has 1 dimensions, but input 'X' [-1, 3] has 2"),
            ([(1, 4), (1, 4), (1, 4)], "has 4 in dimension 1, which is always 3"),
        ],
    )
    def test_shapes_are_checked_against_the_network(self, corners, problem):
        assert problem in refusal([X], profile_entry(X=corners))

    def test_values_are_counted(self):
        message = refusal(
            [X, SIZES],
            profile_entry(X=[(1, 3), (1, 3), (1, 3)], sizes=[(1, 1), (2, 2), (3, 3, 3)]),
            shape_tensors=["sizes"],
        )

        assert message == (
            f"{FILE}: profiles[0].tensors.sizes.max: [3, 3, 3] has 3 values, "
            "but shape tensor 'sizes' [2] has 2"
        )

    def test_values_ascend_from_min_to_max(self):
        message = refusal(
            [SCALAR, X],
            profile_entry(X=[(1, 3), (1, 3), (1, 3)], count=[(1,), (5,), (4,)]),
            shape_tensors=["count"],
        )

        assert message == (
            f"{FILE}: profiles[0].tensors.count: min <= opt <= max is required for every value "
            "of a shape tensor, but value 0 has 1, 5, 4"
        )
