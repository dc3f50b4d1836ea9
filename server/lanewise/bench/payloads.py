"""Requests as the bytes that are sent: made once, before the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lanewise.bench.loads import Payload
from lanewise.bench.mix import RowShare
from lanewise.model.tensors import Array, DType, Shape, TensorSpec
from lanewise_client.messages import InferRequest, build_infer


def build_payloads(
    model: str,
    version: str,
    tensors: Sequence[TensorSpec],
    rows: Sequence[RowShare],
    *,
    random: bool,
    seed: int,
) -> tuple[Payload, ...]:
    """Make one request of each kind; those of a kind are all alike.

    Args:
        model: its name.
        version: empty for the server's choice.
        tensors: the inputs; their dimension 0 is the rows if it is DYNAMIC, or if `rows` are
            given.
        rows: empty for the shapes as they are, with 1 row where that is dynamic.
        random: values from a uniform distribution, the same for the same seed; else zeros.
        seed: of the values.
    """
    generator = np.random.default_rng(seed)
    kinds = rows or (RowShare(_own_rows(tensors), 1.0),)
    return tuple(
        Payload(
            name=f"{kind.rows} row{'' if kind.rows == 1 else 's'}",
            rows=kind.rows,
            share=kind.share,
            data=build_infer(
                model, version, InferRequest(_arrays(tensors, kind.rows, random, generator))
            ).SerializeToString(),
        )
        for kind in kinds
    )


def _own_rows(tensors: Sequence[TensorSpec]) -> int:
    first = tensors[0].shape
    return first[0] if first and first[0] > 0 else 1


def _arrays(
    tensors: Sequence[TensorSpec], rows: int, random: bool, generator: np.random.Generator
) -> dict[str, Array]:
    arrays = {}
    for tensor in tensors:
        shape = (rows, *tensor.shape[1:]) if tensor.shape else ()
        arrays[tensor.name] = draw_values(tensor.dtype, shape, generator if random else None)
    return arrays


def draw_values(dtype: DType, shape: Shape, generator: np.random.Generator | None) -> Array:
    """Make values below 1, integers of 0 and 1, or BYTES of numbers; zeros without `generator`."""
    if dtype is DType.BYTES:
        size = int(np.prod(shape))
        numbers = np.zeros(size, int) if generator is None else generator.integers(0, 1000, size)
        return np.array([b"%d" % number for number in numbers], dtype=object).reshape(shape)
    if generator is None:
        return np.zeros(shape, dtype.numpy)
    values = generator.random(shape)
    return (values * 2 if dtype.numpy.kind in "iub" else values).astype(dtype.numpy)
