"""Requests of different lengths over gRPC, to a model that may be padded."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from helpers.padded import expected_outputs, make_request, save_padded
from helpers.serving import address_of, running_app
from lanewise_client import AsyncClient, InvalidRequest

LENGTHS = [3, 5, 9, 16, 17, 33, 50, 64, 1, 2] * 3


@pytest.mark.usefixtures("each_transport")
def test_clients_of_different_lengths_get_what_they_would_get_alone(tmp_path):
    requests = [make_request(1 + i % 3, length, seed=i) for i, length in enumerate(LENGTHS)]

    async def scenario():
        async with (
            running_app(save_padded(tmp_path)) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            return await asyncio.gather(*(client.infer("padded", each) for each in requests))

    results = asyncio.run(scenario())

    for inputs, result in zip(requests, results, strict=True):
        for name, expected in expected_outputs(inputs).items():
            assert result[name].dtype == expected.dtype
            np.testing.assert_array_equal(result[name], expected)


@pytest.mark.usefixtures("each_transport")
def test_a_text_longer_than_any_profile_is_the_clients_mistake(tmp_path):
    async def scenario():
        async with (
            running_app(save_padded(tmp_path)) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            shapes = {name: array.shape for name, array in make_request(2, 9).items()}
            route = await client.explain("padded", shapes)
            with pytest.raises(InvalidRequest) as raised:
                await client.infer("padded", make_request(1, 65))
            return route, str(raised.value)

    route, message = asyncio.run(scenario())

    assert [candidate.admits for candidate in route.candidates] == [True, True]
    assert "dimension 1 of 'ids' is 65, admitted are 1 to 64" in message
    assert "'long' (index 1) admits 'ids' [1, 1] to [16, 64], " in message
