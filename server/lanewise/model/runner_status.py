"""The status of a runner while it serves: plain data shared by all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunnerMemory:
    """Bytes a runner holds for its own buffers, the weights not counted.

    Attributes:
        pageable_bytes: ordinary host memory.
        pinned_bytes: host memory that the device copies from and to by itself.
        tensor_bytes: inputs and outputs on the device.
        scratch_bytes: what an execution needs on the device besides its tensors.
        graph_bytes: CUDA graphs.
    """

    pageable_bytes: int = 0
    pinned_bytes: int = 0
    tensor_bytes: int = 0
    scratch_bytes: int = 0
    graph_bytes: int = 0

    @property
    def host_bytes(self) -> int:
        return self.pageable_bytes + self.pinned_bytes

    @property
    def device_bytes(self) -> int:
        return self.tensor_bytes + self.scratch_bytes + self.graph_bytes


@dataclass(frozen=True, slots=True)
class GraphCounts:
    """How often a runner launched CUDA graphs, warm-up included, and why not more often.

    Attributes:
        launches: executions that were the launch of a graph captured before.
        misses: executions that were not, by reason; a reason that has not come up is 0.
        held: graphs kept now.
    """

    launches: int
    misses: Mapping[str, int]
    held: int
