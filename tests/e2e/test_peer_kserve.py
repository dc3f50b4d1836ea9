"""KServe's unmodified gRPC client, against a server with the digits model."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from helpers.peers import import_peer
from helpers.serving import DIGITS, server_process

kserve = import_peer("kserve")


@pytest.fixture(scope="module")
def address(each_transport_of_module):
    with server_process(DIGITS) as server:
        yield server.address


def infer_request(rows: int, *, raw: bool, model: str = "digits"):
    images = np.random.default_rng(rows).random((rows, 3, 28, 28), np.float32)
    tensor = kserve.InferInput("X", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=raw)
    return kserve.InferRequest(model, [tensor], request_id="k1")


def test_health(address):
    async def scenario():
        client = kserve.InferenceGRPCClient(address)
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits")
        await client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_infer_with_raw_and_typed_contents(address, raw):
    async def scenario():
        client = kserve.InferenceGRPCClient(address)
        # Among the lanes that fit, costs measured here decide.
        for rows, profiles in (
            (1, {"online", "dynamic", "offline"}),
            (4, {"dynamic", "offline"}),
            (128, {"dynamic", "offline"}),
        ):
            response = await client.infer(infer_request(rows, raw=raw))
            assert response.id == "k1"
            assert response.outputs[0].as_numpy().shape == (rows, 10)
            assert set(response.parameters["profile"].string_param.split(",")) <= profiles
        await client.close()

    asyncio.run(scenario())


def test_errors_are_told(address):
    async def scenario():
        client = kserve.InferenceGRPCClient(address)
        with pytest.raises(Exception, match="no model 'nothing'"):
            await client.infer(infer_request(1, raw=True, model="nothing"))
        await client.close()

    asyncio.run(scenario())
