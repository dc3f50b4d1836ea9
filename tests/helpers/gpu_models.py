"""A model on lanes, beside ONNX Runtime, with numbers to compare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime

from lanewise.backends.repository import find_models, load_model
from lanewise.clock import NS_PER_S, SystemClock
from lanewise.model.tensors import Array
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.results import InferResult
from lanewise.settings.model import read_model_settings

Inputs = Mapping[str, Array]
SubmitAll = Callable[..., list[InferResult]]
"""Submits requests all at once and returns their results, in order."""

FP16_TOLERANCE = 1e-2
"""Of the largest element. Each operation rounds to 11 bits, 5e-4 at most; some fifty in a row add
up to 3.5e-3 like the steps of a random walk, and other kernels round elsewhere."""

DIFFERENT_IMAGES = 32
"""ONNX Runtime takes a second or two for them; larger requests repeat them."""


@contextmanager
def served_on_lanes(file: Path) -> Iterator[SubmitAll]:
    """Serve a model with the settings beside it, warmed up, without gRPC."""
    (source,) = find_models(file)
    settings = read_model_settings(source.settings_file)
    loaded = load_model(source, settings, clock=SystemClock())

    async def start() -> Dispatcher:
        dispatcher = Dispatcher(loaded, SystemClock(), max_queue_requests=1000)
        await dispatcher.warm_up()
        return dispatcher

    async def submit_all(requests: tuple[Inputs, ...]) -> list[InferResult]:
        return await asyncio.gather(*(dispatcher.submit(inputs) for inputs in requests))

    async def stop() -> None:
        await dispatcher.drain(NS_PER_S)
        await dispatcher.close()

    with asyncio.Runner() as runner:
        dispatcher = runner.run(start())
        try:
            yield lambda *requests: runner.run(submit_all(requests))
        finally:
            runner.run(stop())


def run_on_cpu(file: Path, inputs: Inputs) -> Array:
    """Get the only output of a model from ONNX Runtime."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, dict(inputs))
    return output


def assert_close(got: Array, expected: Array) -> None:
    """Compare FP16 outputs, `FP16_TOLERANCE` allowed."""
    assert got.dtype == expected.dtype == np.float16
    wide = expected.astype(np.float64)
    tolerance = FP16_TOLERANCE * np.abs(wide).max()
    np.testing.assert_allclose(got.astype(np.float64), wide, rtol=0, atol=tolerance)


def least_difference(rows: Array) -> float:
    """Get how much the two rows most alike differ, relative to the largest element."""
    wide = rows.astype(np.float64)
    apart = np.abs(wide[:, None] - wide[None, :]).max(axis=2)
    return float(apart[~np.eye(len(rows), dtype=bool)].min() / np.abs(wide).max())
