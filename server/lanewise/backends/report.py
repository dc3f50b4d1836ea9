"""What a compiled engine tells of itself, for people to read: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DType


@dataclass(frozen=True, slots=True)
class ProfileNeeds:
    """What one lane of a profile needs; its outputs and CUDA graphs are small beside it.

    Attributes:
        input_bytes: device memory for the inputs at their maximum, in all the lane's buffers.
        scratch_bytes: device memory for an execution besides inputs and outputs.
        values: by shape tensor among the inputs, the values the profile admits, row-major.
    """

    input_bytes: int
    scratch_bytes: int
    values: Mapping[str, ShapeRange]

    @property
    def device_bytes(self) -> int:
        """Device memory altogether."""
        return self.input_bytes + self.scratch_bytes


@dataclass(frozen=True, slots=True)
class EngineReport:
    """An engine beyond what clients have to know of it.

    Attributes:
        builder: backend and version that built it, such as "tensorrt-rtx 1.6.1.120".
        precision: datatypes of its inputs and outputs on the device.
        profiles: in the order of the model's profiles.
    """

    builder: str
    precision: frozenset[DType]
    profiles: tuple[ProfileNeeds, ...]
