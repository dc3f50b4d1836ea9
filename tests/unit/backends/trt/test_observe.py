"""What is learnt of outputs by asking for their shapes, with models that are plain functions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.models import tensor

pytest.importorskip("cuda.bindings")

from lanewise.backends.trt.introspect import EngineFacts, EngineProfile
from lanewise.backends.trt.observe import Question, observe_outputs
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ShapeRangeSettings

X = tensor("X")
S = tensor("S", DType.INT64, (2,))
VALUES = {"S": ShapeRange((1, 1), (2, 6), (4, 8))}


def profile(low, opt, high, values=None):
    shapes = {"X": ShapeRangeSettings(min=(low, 3), opt=(opt, 3), max=(high, 3))}
    return EngineProfile(shapes, values or {}, 0)


def facts(*profiles, output=(DYNAMIC, DYNAMIC), inputs=(X,)):
    shape_tensors = frozenset(name for each in profiles for name in each.values)
    outputs = (tensor("Y", shape=output),)
    return EngineFacts(inputs, outputs, shape_tensors, shape_tensors, profiles, 0, 0)


def observe(known, shape):
    """Get the shape and whether it is rowless of output Y, whose shape follows from a question."""
    asked = []

    def ask(question):
        asked.append(question)
        answer = shape(question)
        return None if answer is None else {"Y": answer}

    found = observe_outputs(known, ask)
    (output,) = found.outputs
    assert replace(found, outputs=known.outputs, rowless=frozenset()) == known
    return output.shape, bool(found.rowless), asked


def test_both_ends_of_every_profile_are_asked_for():
    *_, asked = observe(facts(profile(1, 1, 1), profile(2, 4, 8)), lambda q: q.shapes["X"])

    assert asked == [
        Question(0, {"X": (1, 3)}, {}),
        Question(0, {"X": (1, 3)}, {}),
        Question(1, {"X": (2, 3)}, {}),
        Question(1, {"X": (8, 3)}, {}),
    ]


def test_dimensions_that_differ_become_dynamic_whatever_the_engine_says():
    known = facts(profile(1, 1, 1), profile(1, 4, 8), output=(1, 3))

    assert observe(known, lambda q: q.shapes["X"])[:2] == ((DYNAMIC, 3), False)


def test_an_output_with_other_rows_than_the_inputs_is_rowless():
    shape, is_rowless, _ = observe(facts(profile(1, 4, 8)), lambda q: (2 * q.shapes["X"][0], 3))

    assert (shape, is_rowless) == ((DYNAMIC, DYNAMIC), True)


def test_a_size_that_depends_on_the_data_stays_dynamic_and_counts_no_rows():
    shape, is_rowless, _ = observe(facts(profile(1, 4, 8)), lambda _: (DYNAMIC, 3))

    assert (shape, is_rowless) == ((DYNAMIC, DYNAMIC), True)


def test_inputs_that_differ_in_rows_decide_nothing():
    other = EngineProfile(
        {
            "X": ShapeRangeSettings(min=(1, 3), opt=(1, 3), max=(8, 3)),
            "Z": ShapeRangeSettings(min=(5, 3), opt=(5, 3), max=(9, 3)),
        },
        {},
        0,
    )

    assert not observe(facts(other, inputs=(X, tensor("Z"))), lambda _: (7, 3))[1]


class TestWithShapeTensors:
    def test_values_vary_independently_of_shapes(self):
        known = facts(profile(1, 2, 4, VALUES), inputs=(X, S))

        shape, is_rowless, asked = observe(known, lambda q: q.values["S"])

        assert (shape, is_rowless) == ((DYNAMIC, DYNAMIC), True)
        assert len(asked) == 9
        assert Question(0, {"X": (4, 3)}, {"S": (1, 1)}) in asked

    def test_rows_that_follow_the_inputs_may_be_stacked(self):
        known = facts(profile(1, 2, 4, VALUES), inputs=(X, S))

        shape, is_rowless, _ = observe(known, lambda q: (q.shapes["X"][0], q.values["S"][1]))

        assert (shape, is_rowless) == ((DYNAMIC, DYNAMIC), False)

    def test_ends_that_contradict_each_other_tell_nothing(self):
        known = facts(profile(1, 2, 4, VALUES), inputs=(X, S))

        def only_opt(question):
            return (
                (2, 3) if (question.shapes["X"], question.values["S"]) == ((2, 3), (2, 6)) else None
            )

        assert observe(known, only_opt)[:2] == ((DYNAMIC, DYNAMIC), False)
