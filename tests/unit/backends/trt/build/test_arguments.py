from __future__ import annotations

import pytest

from lanewise.backends.trt.build.arguments import gather_shapes, parse_profiles, parse_shapes
from lanewise.errors import ConfigError

OPTION = "--min-shapes"


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("X:[1,3,28,28]", {"X": (1, 3, 28, 28)}),
        ("X:[1,3] Y:[8]", {"X": (1, 3), "Y": (8,)}),
        ("  X:[ 1, 3 ]   Y:[-1] ", {"X": (1, 3), "Y": (-1,)}),
        ("scalar:[]", {"scalar": ()}),
        ("input:0:[2]", {"input:0": (2,)}),
        ("a/b.c-d:[2]", {"a/b.c-d": (2,)}),
    ],
)
def test_shapes_are_read(text, shapes):
    assert parse_shapes(text, OPTION) == shapes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no shapes"),
        ("X", "'X' does not begin with NAME:"),
        ("X:1x3", "'X:1x3' does not begin with NAME:"),
        ("X:[1,3", "'X:[1,3' does not begin with NAME:"),
        ("X:[1] Y=[2]", "'Y=[2]' does not begin with NAME:"),
        ("X:[1],Y:[2]", "'X:[1],Y:[2]' does not begin with NAME:"),
        ("X:[1.5]", "'X' has [1.5], but sizes must be integers"),
        ("X:[1,,3]", "'X' has [1,,3], but sizes must be integers"),
        ("X:[1] X:[2]", "names 'X' twice"),
    ],
)
def test_what_is_no_shape_is_told_with_its_option(text, problem):
    with pytest.raises(ConfigError) as raised:
        parse_shapes(text, OPTION)

    assert str(raised.value).startswith(f"{OPTION}: {problem}")


@pytest.mark.parametrize(
    ("arguments", "gathered"),
    [
        (["--min-shapes", "X:[1]", "Y:[2]", "m.onnx"], ["--min-shapes", "X:[1] Y:[2]", "m.onnx"]),
        (["m.onnx", "--opt-shapes", "X:[1,", "3]"], ["m.onnx", "--opt-shapes", "X:[1, 3]"]),
        (["--max-shapes", "X:[1] Y:[2]", "-o", "p"], ["--max-shapes", "X:[1] Y:[2]", "-o", "p"]),
        (["--max-shapes=X:[1]", "Y:[2]", "p"], ["--max-shapes=X:[1] Y:[2]", "p"]),
        (
            ["--min-shapes", "X:[1]", "--opt-shapes", "X:[2]", "--min-shapes", "X:[3]"],
            ["--min-shapes", "X:[1]", "--opt-shapes", "X:[2]", "--min-shapes", "X:[3]"],
        ),
        (["--min-shapes", "X=[1]", "m.onnx"], ["--min-shapes", "X=[1]", "m.onnx"]),
        (["--min-shapes"], ["--min-shapes"]),
        (["m.onnx", "X:[1]"], ["m.onnx", "X:[1]"]),
        ([], []),
    ],
)
def test_shapes_after_an_option_become_one_argument(arguments, gathered):
    assert gather_shapes(arguments) == gathered


def test_every_triple_of_options_is_a_profile():
    profiles = parse_profiles(
        ["X:[1,3] Y:[1]", "X:[8,3]"], ["X:[1,3] Y:[2]", "X:[8,3]"], ["Y:[4] X:[1,3]", "X:[9,3]"]
    )

    assert [each.model_dump()["tensors"] for each in profiles] == [
        {
            "X": {"min": (1, 3), "opt": (1, 3), "max": (1, 3)},
            "Y": {"min": (1,), "opt": (2,), "max": (4,)},
        },
        {"X": {"min": (8, 3), "opt": (8, 3), "max": (9, 3)}},
    ]


def test_without_options_there_are_no_profiles():
    assert parse_profiles([], [], []) == ()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((["X:[1]"], ["X:[1]"], []), "--min-shapes 1, --opt-shapes 1, --max-shapes 0"),
        ((["X:[1]"], ["X:[1] Y:[1]"], ["X:[1]"]), "--min-shapes: does not name input 'Y'"),
        ((["X:[1]"], ["X"], ["X:[1]"]), "--opt-shapes: 'X' does not begin"),
    ],
)
def test_a_profile_that_is_not_whole_is_refused(options, problem):
    with pytest.raises(ConfigError) as raised:
        parse_profiles(*options)

    assert problem in str(raised.value)
