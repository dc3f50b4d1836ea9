"""The metadata of a model: tensors, versions, and the profiles as properties."""

from __future__ import annotations

from collections.abc import Iterable

from lanewise.clock import NS_PER_MS
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Shape, TensorSpec, open_sizes
from lanewise_client.protos.inference_pb2 import ModelMetadataResponse


def describe_model(spec: ModelSpec, versions: Iterable[str]) -> ModelMetadataResponse:
    """Build the metadata of one version of a model; `versions` lists all of them."""
    return ModelMetadataResponse(
        name=spec.name,
        versions=versions,
        platform=spec.backend,
        inputs=[_tensor(tensor) for tensor in spec.inputs],
        outputs=[_tensor(tensor) for tensor in spec.outputs],
        properties=_properties(spec),
    )


def _tensor(tensor: TensorSpec) -> ModelMetadataResponse.TensorMetadata:
    return ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.dtype.value, shape=tensor.shape
    )


def _properties(spec: ModelSpec) -> dict[str, str]:
    properties = {
        "backend": spec.backend,
        "batching": "true" if spec.batching else "false",
        "profiles": str(len(spec.profiles)),
    }
    if spec.batching_reason:
        properties["batching_reason"] = spec.batching_reason
    for profile in spec.profiles:
        properties |= _profile_properties(profile)
    return properties


def _profile_properties(profile: Profile) -> dict[str, str]:
    prefix = f"profile.{profile.index}"
    properties = {
        f"{prefix}.name": profile.name,
        f"{prefix}.max_queue_delay_ms": str(profile.max_queue_delay_ns / NS_PER_MS),
    }
    for tensor, shapes in profile.ranges.items():
        properties[f"{prefix}.{tensor}.min"] = _sizes(shapes.min)
        properties[f"{prefix}.{tensor}.opt"] = _sizes(shapes.opt)
        properties[f"{prefix}.{tensor}.max"] = _sizes(open_sizes(shapes.max))
    return properties


def _sizes(shape: Shape) -> str:
    return ",".join(str(size) for size in shape)
