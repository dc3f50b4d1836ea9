"""A model that may be padded, on disk, and what it gives for a request that runs alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import helper

from helpers.models import profile_entry, save_onnx, tensor
from lanewise.model.tensors import DYNAMIC, Array, DType

FEATURES = 2

PADDING = """
[padding]
dimension = "tokens"
inputs = { ids = 1, mask = 1, X = 1 }
values = { ids = 7, X = -1.5 }
outputs = { running = 1, echo = 1 }
"""

PROFILES = "\n".join(
    profile_entry(
        name,
        ids=[(1, low), (4, opt), (rows, high)],
        mask=[(1, low), (4, opt), (rows, high)],
        X=[(1, low, FEATURES), (4, opt, FEATURES), (rows, high, FEATURES)],
    )
    for name, rows, low, opt, high in (("short", 4, 1, 8, 16), ("long", 16, 10, 32, 64))
)


def save_padded(
    folder: Path, padding: str = PADDING, profiles: str = PROFILES, *, doubled: bool = False
) -> Path:
    """Write padded.onnx and its model.toml into `folder`.

    Inputs ids INT64 (rows, tokens), mask INT64 (rows, tokens), X FP32 (rows, tokens, 2).
    Outputs `running` (rows, tokens): the sum of the masked ids up to each token; `pooled`
    (rows): the sum of `running` over all tokens in the mask; `echo`: X. Where padding leaks
    in, `pooled` is wrong: ids are padded with 7. With `doubled`, `echo` has X twice.
    """
    tokens = (DYNAMIC, DYNAMIC)
    nodes = [
        helper.make_node("Mul", ["ids", "mask"], ["seen"]),
        helper.make_node("CumSum", ["seen", "one"], ["running"]),
        helper.make_node("Mul", ["running", "mask"], ["inside"]),
        helper.make_node("ReduceSum", ["inside", "one"], ["pooled"], keepdims=0),
        helper.make_node("Concat", ["X", "X"] if doubled else ["X"], ["echo"], axis=1),
    ]
    echo = (DYNAMIC, DYNAMIC, FEATURES)
    (folder / "model.toml").write_text(f'backend = "onnxruntime"\n{padding}\n{profiles}')
    return save_onnx(
        folder / "padded.onnx",
        nodes,
        [
            tensor("ids", DType.INT64, tokens),
            tensor("mask", DType.INT64, tokens),
            tensor("X", DType.FP32, echo),
        ],
        [
            tensor("running", DType.INT64, tokens),
            tensor("pooled", DType.INT64, (DYNAMIC,)),
            tensor("echo", DType.FP32, echo),
        ],
        {"one": np.array([1])},
    )


def make_request(rows: int, length: int, seed: int = 0) -> dict[str, Array]:
    """Make the inputs of a request, all different; some tokens in the middle are masked."""
    draw = np.random.default_rng((seed, rows, length))
    return {
        "ids": draw.integers(1, 1000, (rows, length)),
        "mask": draw.integers(0, 2, (rows, length)),
        "X": draw.standard_normal((rows, length, FEATURES)).astype(np.float32),
    }


def expected_outputs(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Compute what the model gives for a request that is not padded."""
    running = np.cumsum(inputs["ids"] * inputs["mask"], axis=1)
    return {
        "running": running,
        "pooled": (running * inputs["mask"]).sum(axis=1),
        "echo": inputs["X"],
    }
