"""Puts together what an engine tells of itself."""

from __future__ import annotations

from lanewise.backends.report import EngineReport, ProfileNeeds
from lanewise.backends.trt.build.plan_header import PlanHeader
from lanewise.backends.trt.introspect import EngineFacts, EngineProfile
from lanewise.backends.trt.runner import DEPTH
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import element_count


def report_engine(header: PlanHeader, facts: EngineFacts) -> EngineReport:
    """Tell who built an engine, its precision, and what a lane of each profile needs."""
    return EngineReport(
        builder=f"{header.backend} {header.version}",
        precision=facts.precision,
        profiles=tuple(_needs(facts, profile) for profile in facts.profiles),
    )


def _needs(facts: EngineFacts, profile: EngineProfile) -> ProfileNeeds:
    one_buffer = sum(
        element_count(profile.shapes[tensor.name].max) * tensor.dtype.numpy.itemsize
        for tensor in facts.inputs
        if tensor.name in profile.shapes
    )
    return ProfileNeeds(
        input_bytes=DEPTH * one_buffer,
        scratch_bytes=profile.device_memory_bytes,
        values={n: ShapeRange(v.min, v.opt, v.max) for n, v in profile.values.items()},
    )
