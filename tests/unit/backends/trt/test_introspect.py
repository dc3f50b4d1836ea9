from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from helpers.models import profile_entry, tensor
from helpers.trt_models import FakeEngine, FakeTensor, import_tensorrt
from lanewise.backends.trt.binding import make_binding

pytest.importorskip("cuda.bindings")

from lanewise.backends.trt.introspect import describe_engine, plan_engine_profiles
from lanewise.errors import ConfigError
from lanewise.model.spec import RowRange, ShapeRange
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings, ShapeRangeSettings

PLAN = Path("repo/m/1/model.plan")
SETTINGS = Path("repo/m/model.toml")

TENSORS = (
    FakeTensor(
        "X",
        "HALF",
        (DYNAMIC, 3),
        profiles=[[(1, 3), (1, 3), (1, 3)], [(1, 3), (4, 3), (32, 3)]],
    ),
    FakeTensor("Y", "FLOAT", (DYNAMIC, DYNAMIC)),
    FakeTensor(
        "S", "INT64", (2,), profiles=[[(1, 1), (1, 1), (1, 1)], [(1, 1), (4, 6), (32, 8)]],
        is_shape=True,
    ),
)  # fmt: skip


@pytest.fixture(params=["tensorrt_lean", "tensorrt_rtx"])
def binding(request):
    backend = "tensorrt-rtx" if request.param == "tensorrt_rtx" else "tensorrt"
    return make_binding(backend, "T", import_tensorrt(request.param))


def describe(binding, tensors=TENSORS, **kwargs):
    return describe_engine(binding, FakeEngine(binding.module, tensors, {0: 10, 1: 50}, **kwargs))


def settings(*entries):
    return ModelSettings.model_validate(tomllib.loads("\n".join(entries)))


def test_inputs_and_outputs_are_told_apart_in_the_engines_order(binding):
    facts = describe(binding)

    assert facts.inputs == (tensor("X", DType.FP16), tensor("S", DType.INT64, (2,)))
    assert facts.outputs == (tensor("Y", DType.FP32, (DYNAMIC, DYNAMIC)),)
    assert (facts.shape_tensors, facts.host_tensors) == ({"S"}, {"S"})
    assert facts.precision == {DType.FP16, DType.FP32}


def test_profiles_have_shapes_and_for_shape_tensors_values(binding):
    online, dynamic = describe(binding).profiles

    assert online.shapes == {"X": ShapeRangeSettings(min=(1, 3), opt=(1, 3), max=(1, 3))}
    assert dynamic.shapes == {"X": ShapeRangeSettings(min=(1, 3), opt=(4, 3), max=(32, 3))}
    assert dynamic.values == {"S": ShapeRange((1, 1), (4, 6), (32, 8))}


def test_every_profile_has_its_own_device_memory(binding):
    assert [each.device_memory_bytes for each in describe(binding).profiles] == [10, 50]


def test_where_asking_for_one_profile_ends_the_process_all_have_the_largest():
    module = import_tensorrt("tensorrt_lean")
    binding = dataclasses.replace(make_binding("tensorrt", "T", module), version="10.7.0.23")

    assert [each.device_memory_bytes for each in describe(binding).profiles] == [50, 50]
    streaming = describe(binding, streamable_weights_size=9)
    assert [each.device_memory_bytes for each in streaming.profiles] == [10, 50]
    assert streaming.streamable_weight_bytes == 9


def test_a_datatype_that_cannot_be_served_is_refused_by_tensor(binding):
    with pytest.raises(ConfigError, match="tensor 'Y' has TensorRT's datatype INT4"):
        describe(binding, (TENSORS[0], FakeTensor("Y", "INT4", (DYNAMIC, 2))))


class TestServedProfiles:
    def test_are_those_of_the_engine_with_the_one_shape_of_shape_tensors(self, binding):
        plan = plan_engine_profiles(describe(binding), PLAN, settings(), SETTINGS)

        assert (plan.batching, plan.rowwise) == (True, {"X"})
        assert [each.name for each in plan.profiles] == ["p0", "p1"]
        assert [each.rows for each in plan.profiles] == [RowRange(1, 1, 1), RowRange(1, 4, 32)]
        assert plan.profiles[1].ranges["S"] == ShapeRange((2,), (2,), (2,))

    def test_admit_the_values_that_were_built(self, binding):
        plan = plan_engine_profiles(describe(binding), PLAN, settings(), SETTINGS)

        assert [each.values["S"].max for each in plan.profiles] == [(1, 1), (32, 8)]

    def test_are_not_stacked_where_an_output_counts_no_rows_unless_settings_insist(self, binding):
        facts = dataclasses.replace(describe(binding), rowless=frozenset({"Y"}))

        plans = [
            plan_engine_profiles(facts, PLAN, settings(text), SETTINGS)
            for text in ("", "batching = true", "batching = false")
        ]

        assert [each.batching for each in plans] == [False, True, False]

    def test_shape_tensors_have_no_rows_even_where_every_size_is_fixed(self, binding):
        tensors = (
            FakeTensor("X", "HALF", (2, 3), profiles=[[(2, 3)] * 3] * 2),
            FakeTensor("Y", "HALF", (2, DYNAMIC)),
            TENSORS[2],
        )
        facts = describe(binding, tensors)

        plan = plan_engine_profiles(facts, PLAN, settings("batching = true"), SETTINGS)

        assert plan.rowwise == {"X"}

    def test_may_be_named_by_settings_that_repeat_what_was_built(self, binding):
        wanted = settings(
            profile_entry("online"),
            profile_entry("dynamic", X=[(1, 3), (4, 3), (32, 3)], S=[(1, 1), (4, 6), (32, 8)]),
        )

        plan = plan_engine_profiles(describe(binding), PLAN, wanted, SETTINGS)

        assert [each.name for each in plan.profiles] == ["online", "dynamic"]

    def test_do_not_change_the_values_that_were_built(self, binding):
        wanted = settings(profile_entry(), profile_entry(S=[(1, 1), (4, 6), (32, 9)]))

        with pytest.raises(ConfigError) as raised:
            plan_engine_profiles(describe(binding), PLAN, wanted, SETTINGS)

        assert str(raised.value) == (
            f"{SETTINGS}: profiles[1].tensors.S: differs from the plan, in which the values of "
            "this shape tensor have min [1, 1], opt [4, 6], max [32, 8]; leave it out or rebuild "
            "the plan"
        )
