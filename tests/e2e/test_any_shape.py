"""A model with dynamic dimensions, no profiles and a backend that needs none."""

from __future__ import annotations

import asyncio
import io

import numpy as np
from onnx import helper
from rich.console import Console

from helpers.log_lines import captured_logs
from helpers.models import save_onnx, tensor
from helpers.serving import address_of, running_app
from lanewise.cli.inspect import inspect_path, inspect_server
from lanewise.model.tensors import DYNAMIC, DType
from lanewise_client import AsyncClient

SIZES = (1, 64, 65, 3000, 0)


def save(repository):
    x, y = (tensor(name, DType.FP32, (DYNAMIC, DYNAMIC)) for name in "XY")
    nodes = [helper.make_node("Add", ["X", "X"], ["Y"])]
    save_onnx(repository / "m" / "1" / "model.onnx", nodes, [x], [y])


def shown(inspect, *arguments):
    console = Console(file=io.StringIO(), width=200)
    assert inspect(*arguments, console)
    return console.file.getvalue()


def test_is_served_with_any_shape_and_says_so_everywhere(tmp_path):
    async def scenario():
        async with (
            running_app(tmp_path) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            sent = [np.full((rows, size), size, np.float32) for size in SIZES for rows in (1, 40)]
            answers = await asyncio.gather(*(client.infer("m", {"X": x}) for x in sent))
            for x, answer in zip(sent, answers, strict=True):
                assert np.array_equal(answer["Y"], 2 * x)
            metadata = await client.model_metadata("m")
            lanes = await client.lanes("m")
            text = await asyncio.to_thread(shown, inspect_server, address_of(app))
            explained = await client.explain("m", {"X": (40, 5000)})
            return metadata.profiles[0], lanes.lanes[0].profile, text, explained

    save(tmp_path)
    with captured_logs() as logged:
        told, of_lane, text, explained = asyncio.run(scenario())

    assert told.ranges["X"].max == of_lane.ranges["X"].max == (32, -1)
    assert "[32, any]" in text
    assert "[32, any]" in shown(inspect_path, tmp_path, None)
    assert (explained.admitted, explained.rows) == (True, 40)
    (line,) = [line for line in logged if line["event"] == "served with any shape"]
    assert "[[profiles]]" in line["hint"]
    (ready,) = [line for line in logged if line["event"] == "model ready"]
    assert ready["batching"]
