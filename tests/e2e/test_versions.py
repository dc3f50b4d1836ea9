"""A version that is broken, seen by clients of the model: nothing is taken from the others."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from helpers.models import save_onnx_echo, tensor
from helpers.serving import address_of, running_app
from lanewise_client import AsyncClient, ModelFailed

pytestmark = pytest.mark.usefixtures("each_transport")


def test_a_broken_new_version_hides_no_sound_old_one(tmp_path):
    for version in "12":
        save_onnx_echo(tmp_path / "m" / version / "model.onnx", [tensor("X")])
    for version, contents in {"3": b"cut off", "4": None}.items():
        (tmp_path / "m" / version).mkdir()
        if contents is not None:
            (tmp_path / "m" / version / "model.onnx").write_bytes(contents)
    x = np.ones((1, 3), np.float32)

    async def scenario():
        async with (
            running_app(tmp_path) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            assert (await client.infer("m", {"X": x})).model_version == "2"
            assert (await client.infer("m", {"X": x}, version="1")).model_version == "1"
            with pytest.raises(ModelFailed, match=r"version 3 did not load: .*model\.onnx"):
                await client.infer("m", {"X": x}, version="3")
            assert await client.is_ready()
            assert await client.is_model_ready("m")
            assert not await client.is_model_ready("m", "4")
            assert (await client.model_metadata("m")).versions == ("1", "2")
            assert (await client.lanes("m")).version == "2"

    asyncio.run(scenario())
