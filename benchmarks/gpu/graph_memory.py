"""How much device memory CUDA graphs hold, by their number of nodes.

    python benchmarks/gpu/graph_memory.py

`GRAPH_BYTES` and `GRAPH_NODE_BYTES` of `lanewise.memory.device`, by which a lane's graphs are
counted, are read off this: CUDA keeps the memory of graphs that are gone, so each line shows what
its graphs took beyond those of the lines before. The first line is the price of a graph; where
the second takes more, the difference by its other nodes is the price of a node. The free memory
changes in steps of 2 MiB or more, so every line is read off many graphs, each launched once.
"""

from __future__ import annotations

import argparse
import ctypes
from typing import Any

from cuda.bindings import driver

from lanewise.memory.device import (
    GRAPH_BYTES,
    GRAPH_NODE_BYTES,
    Capture,
    CudaGraph,
    Stream,
    free_memory,
)

PARAMETER_BYTES = 256
PTX = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry nothing(.param .b8 parameters[256]) { ret; }
\0"""
"""A kernel that does nothing, with PARAMETER_BYTES of parameters, more than most layers have."""


def load_kernel() -> object:
    """Load the kernel into the context that is current for this thread."""
    module = _value(driver.cuModuleLoadData(PTX))
    return _value(driver.cuModuleGetFunction(module, b"nothing"))


def _value(result: tuple[Any, ...]) -> Any:
    assert result[0] == driver.CUresult.CUDA_SUCCESS, result[0]
    return result[-1]


def capture(kernel: object, nodes: int, stream: Stream) -> CudaGraph:
    """Make a graph of so many launches of `kernel`, one after the other."""
    parameter = (ctypes.c_uint8 * PARAMETER_BYTES)()
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(parameter))
    one = (1, 1, 1)
    with Capture(stream) as captured:
        for _ in range(nodes):
            _value(
                driver.cuLaunchKernel(
                    kernel, *one, *one, 0, stream.number, ctypes.addressof(pointers), 0
                )
            )
    assert captured.graph is not None
    return captured.graph


def measure(kernel: object, nodes: int, graphs: int, stream: Stream) -> float:
    """Get the bytes that one of `graphs` graphs of so many nodes holds."""
    capture(kernel, nodes, stream).launch(stream)  # whatever is allocated once
    stream.synchronize()
    before, _ = free_memory()
    held = [capture(kernel, nodes, stream) for _ in range(graphs)]
    for graph in held:
        graph.launch(stream)
    stream.synchronize()
    after, _ = free_memory()
    for graph in held:
        graph.close()
    return (before - after) / graphs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--total-nodes", type=int, default=50_000, help="in all graphs of a line")
    arguments = parser.parse_args()
    stream = Stream()
    kernel = load_kernel()
    print(f"{'nodes':>6} {'graphs':>7} {'bytes/graph':>12} {'bytes/node':>11}")
    for nodes in (1, 10, 30, 100, 300, 1000):
        graphs = max(20, arguments.total_nodes // nodes) if nodes > 1 else 5000
        nbytes = measure(kernel, nodes, graphs, stream)
        print(f"{nodes:>6} {graphs:>7} {nbytes:>12.0f} {nbytes / nodes:>11.0f}")
    print(f"counted are {GRAPH_BYTES} bytes a graph and {GRAPH_NODE_BYTES} a node")


if __name__ == "__main__":
    main()
