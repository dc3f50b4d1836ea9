"""Metadata: the protocol's fields, and the profiles that a server tells as properties.

Profiles are text: `profiles` is how many there are; `profile.<i>.name`,
`profile.<i>.max_queue_delay_ms` and, for each input, `profile.<i>.<input>.min`, `.opt` and
`.max` describe number i, shapes written as "1,3,28,28".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lanewise_client.errors import ServingError
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.results import (
    ModelMetadata,
    ModelStatus,
    Profile,
    ServerMetadata,
    Shape,
    ShapeRange,
    TensorMetadata,
)

_TensorMessage = pb.ModelMetadataResponse.TensorMetadata


def parse_server_metadata(response: pb.ServerMetadataResponse) -> ServerMetadata:
    """Read who answers."""
    return ServerMetadata(response.name, response.version, tuple(response.extensions))


def parse_models(response: pb.RepositoryIndexResponse) -> tuple[ModelStatus, ...]:
    """Read which models there are."""
    return tuple(
        ModelStatus(model.name, model.version, model.state.lower(), model.reason)
        for model in response.models
    )


def parse_model_metadata(response: pb.ModelMetadataResponse) -> ModelMetadata:
    """Read what a model takes and gives.

    Raises:
        ServingError: a property of a profile is missing or cannot be read.
    """
    properties = dict(response.properties)
    inputs = _parse_tensors(response.inputs)
    return ModelMetadata(
        name=response.name,
        versions=tuple(response.versions),
        platform=response.platform,
        inputs=inputs,
        outputs=_parse_tensors(response.outputs),
        profiles=parse_profiles(properties, [tensor.name for tensor in inputs]),
        backend=properties.get("backend", ""),
        batching=_parse_flag(properties.get("batching")),
        properties=properties,
    )


def parse_profiles(
    properties: Mapping[str, str], input_names: Iterable[str]
) -> tuple[Profile, ...]:
    """Read the profiles; empty if the server does not tell any.

    Raises:
        ServingError: a property is missing or cannot be read; the message names it.
    """
    names = list(input_names)
    try:
        count = int(properties.get("profiles", "0"))
        return tuple(_parse_profile(properties, index, names) for index in range(count))
    except KeyError as error:
        raise ServingError(
            f"the server's model metadata lack the property {error}; the server is at fault"
        ) from error
    except ValueError as error:
        raise ServingError(
            f"the server's model metadata have a profile that cannot be read ({error}); "
            "the server is at fault"
        ) from error


def _parse_profile(properties: Mapping[str, str], index: int, inputs: list[str]) -> Profile:
    prefix = f"profile.{index}"
    return Profile(
        index=index,
        name=properties[f"{prefix}.name"],
        ranges={
            name: ShapeRange(
                min=_parse_shape(properties[f"{prefix}.{name}.min"]),
                opt=_parse_shape(properties[f"{prefix}.{name}.opt"]),
                max=_parse_shape(properties[f"{prefix}.{name}.max"]),
            )
            for name in inputs
        },
        max_queue_delay_ms=float(properties[f"{prefix}.max_queue_delay_ms"]),
    )


def _parse_shape(text: str) -> Shape:
    """Read "1,3,28,28"; the empty text is the shape of a scalar."""
    return tuple(int(size) for size in text.split(",")) if text else ()


def _parse_flag(text: str | None) -> bool | None:
    return None if text is None else text.lower() == "true"


def _parse_tensors(tensors: Iterable[_TensorMessage]) -> tuple[TensorMetadata, ...]:
    return tuple(
        TensorMetadata(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors
    )
