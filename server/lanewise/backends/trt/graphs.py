"""CUDA graphs of the shapes that come again, under a memory budget."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Hashable

from lanewise.memory.device import CudaGraph
from lanewise.model.runner_status import GraphCounts

GraphKey = tuple[int, Hashable]
"""The slot whose buffers the graph uses, and the shapes it was captured with."""


class GraphMiss(enum.Enum):
    """Why an execution was not the launch of a graph."""

    DISABLED = "disabled"
    FIRST_RUN = "first_run"
    CAPTURED = "captured"  # captured now, and launched from here on
    NOT_CAPTURABLE = "not_capturable"
    OVER_BUDGET = "over_budget"
    OUT_OF_MEMORY = "out_of_memory"  # or whatever else kept the graph from being launched
    DATA_DEPENDENT = "data_dependent"  # TensorRT asks for memory while it executes


class GraphCache:
    """The graphs of one runner; the least recently used goes when the budget is exceeded.

    Not thread-safe, but for `counts`. No graph may be in use when `put` or `drop_slot` is
    called, other than those of later slots and shapes: a graph is destroyed by CUDA when its
    launches are done.

    Args:
        budget_bytes: device memory for all graphs; 0 for none.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.nbytes = 0
        self.hits = 0
        # Every reason is there from the start: reading while it counts meets no new key.
        self.misses: Counter[GraphMiss] = Counter(dict.fromkeys(GraphMiss, 0))
        self._graphs: OrderedDict[GraphKey, CudaGraph] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def counts(self) -> GraphCounts:
        misses = {reason.value: count for reason, count in self.misses.items()}
        return GraphCounts(self.hits, misses, len(self._graphs))

    def get(self, key: GraphKey) -> CudaGraph | None:
        """Get a graph, now the most recently used; None if there is none."""
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
        return graph

    def put(self, key: GraphKey, graph: CudaGraph) -> bool:
        """Keep a graph, making room for it; return False, and close it, if there is none."""
        if graph.nbytes > self.budget_bytes:
            graph.close()
            return False
        while self._graphs and self.nbytes + graph.nbytes > self.budget_bytes:
            self._drop(next(iter(self._graphs)))
        self._graphs[key] = graph
        self.nbytes += graph.nbytes
        return True

    def drop_slot(self, slot: int) -> None:
        """Close the graphs of a slot: its buffers have moved."""
        for key in [key for key in self._graphs if key[0] == slot]:
            self._drop(key)

    def close(self) -> None:
        while self._graphs:
            self._drop(next(iter(self._graphs)))

    def _drop(self, key: GraphKey) -> None:
        graph = self._graphs.pop(key)
        self.nbytes -= graph.nbytes
        graph.close()
