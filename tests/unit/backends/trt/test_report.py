from __future__ import annotations

import pytest

from helpers.trt_models import FakeEngine, FakeTensor, import_tensorrt
from lanewise.backends.runner import PlanReport, ProfileNeeds
from lanewise.backends.trt.binding import make_binding
from lanewise.backends.trt.build.plan_header import PlanHeader
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DYNAMIC, DType

pytest.importorskip("cuda.bindings")

from lanewise.backends.trt.backend import report_plan
from lanewise.backends.trt.introspect import describe_engine
from lanewise.backends.trt.runner import DEPTH


@pytest.mark.parametrize("edition", ["tensorrt_lean", "tensorrt_rtx"])
def test_a_report_has_the_builder_the_precision_and_the_needs_of_every_profile(edition):
    backend = "tensorrt-rtx" if edition == "tensorrt_rtx" else "tensorrt"
    binding = make_binding(backend, "T", import_tensorrt(edition))
    x = FakeTensor("X", "HALF", (DYNAMIC, 3), [[(1, 3)] * 3, [(1, 3), (4, 3), (32, 3)]])
    y = FakeTensor("Y", "FLOAT", (DYNAMIC, DYNAMIC))
    s = FakeTensor("S", "INT64", (2,), [[(1, 1)] * 3, [(1, 1), (4, 6), (32, 8)]], is_shape=True)
    engine = FakeEngine(binding.module, [x, y, s], {0: 10, 1: 50})

    report = report_plan(PlanHeader(backend, "1.2.3.4"), describe_engine(binding, engine))

    ones = ShapeRange((1, 1), (1, 1), (1, 1))
    assert report == PlanReport(
        builder=f"{backend} 1.2.3.4",
        precision=frozenset({DType.FP16, DType.FP32}),
        profiles=(
            ProfileNeeds(DEPTH * 1 * 3 * 2, 10, {"S": ones}),
            ProfileNeeds(DEPTH * 32 * 3 * 2, 50, {"S": ShapeRange((1, 1), (4, 6), (32, 8))}),
        ),
    )
    assert report.profiles[1].device_bytes == DEPTH * 192 + 50
