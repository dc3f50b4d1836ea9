"""Models that cannot run on zeros or empty strings, served with samples and without."""

from __future__ import annotations

import asyncio

import numpy as np
from onnx import TensorProto, helper

from helpers.log_lines import captured_logs
from helpers.models import save_onnx, tensor
from helpers.serving import address_of, running_app
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.scheduler.registry import ModelState
from lanewise_client import AsyncClient


def save_parse(repository):
    """A model that fails on empty strings."""
    text, number = tensor("X", DType.BYTES, (DYNAMIC,)), tensor("Y", DType.FP32, (DYNAMIC,))
    cast = helper.make_node("Cast", ["X"], ["Y"], to=TensorProto.FLOAT)
    save_onnx(repository / "parse" / "1" / "model.onnx", [cast], [text], [number])


def save_ratio(repository):
    """A model that fails on zeros."""
    x, d, y = (tensor(name, DType.INT64, (DYNAMIC,)) for name in ("X", "D", "Y"))
    divide = helper.make_node("Div", ["X", "D"], ["Y"])
    save_onnx(repository / "ratio" / "1" / "model.onnx", [divide], [x, d], [y])


def test_a_model_that_fails_on_blanks_serves_and_learns_its_costs_from_traffic(tmp_path):
    async def scenario():
        async with (
            running_app(tmp_path) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            parsed = await client.infer("parse", {"X": np.array([b"1.5"], object)})
            ratio = await client.infer("ratio", {"X": np.int64([9]), "D": np.int64([4])})
            costs = app.registry.resolve("ratio").lanes.costs
            return (
                parsed["Y"].tolist(),
                ratio["Y"].tolist(),
                [kind.rows for kind, _ in costs.kinds()],
            )

    save_parse(tmp_path)
    save_ratio(tmp_path)
    with captured_logs() as logged:
        assert asyncio.run(scenario()) == ([1.5], [2], [1])

    warned = [line for line in logged if line["event"] == "not warmed up"]
    assert {line["model"] for line in warned} == {"parse", "ratio"}
    assert all("[samples]" in line["hint"] for line in warned)


def test_with_samples_it_is_warmed_up_and_measured(tmp_path):
    async def scenario():
        async with running_app(tmp_path) as app:
            return len(list(app.registry.resolve("ratio").lanes.costs.kinds()))

    save_ratio(tmp_path)
    (tmp_path / "ratio" / "model.toml").write_text("[samples]\nD = 1\n")
    with captured_logs() as logged:
        assert asyncio.run(scenario()) > 3

    assert not [line for line in logged if line["event"] == "not warmed up"]


def test_samples_that_the_model_cannot_run_refuse_it(tmp_path):
    async def scenario():
        async with running_app(tmp_path) as app:
            return app.registry.resolve("ratio")

    save_parse(tmp_path)
    save_ratio(tmp_path)
    (tmp_path / "ratio" / "model.toml").write_text("[samples]\nX = 1\n")
    model = asyncio.run(scenario())

    assert model.state is ModelState.FAILED
    assert "cannot run the samples in model.toml" in model.reason
