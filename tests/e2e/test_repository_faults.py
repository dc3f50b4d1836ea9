"""Folders and files of a repository that cannot be served: what the server makes of them."""

from __future__ import annotations

import asyncio
import os
import shutil
from urllib.request import urlopen

import grpc
import numpy as np
import pytest

from helpers.models import save_onnx_echo, tensor
from helpers.serving import address_of, running_app
from lanewise_client import AsyncClient, ModelFailed
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.protos.inference_pb2_grpc import GRPCInferenceServiceStub

pytestmark = pytest.mark.usefixtures("each_transport")

X = {"X": np.ones((1, 3), np.float32)}


@pytest.fixture
def repository(tmp_path):
    """A repository at a path that is not UTF-8, with a sound model among what is none."""
    repository = tmp_path / os.fsdecode(b"mod\xe8les")
    save_onnx_echo(tmp_path / "model.onnx", [tensor("X")])
    (repository / "fine" / "1").mkdir(parents=True)
    shutil.copy(tmp_path / "model.onnx", repository / "fine" / "1")
    for stray in ["lost+found", "__pycache__", os.fsdecode(b"caf\xe9/1")]:
        (repository / stray).mkdir(parents=True)
    (repository / "gone").symlink_to("nowhere")
    return repository


def get(app, path):
    with urlopen(f"http://127.0.0.1:{app.metrics_port}{path}", timeout=10) as response:
        return response.status


def test_what_is_no_model_leaves_the_server_ready(repository):
    async def scenario():
        async with (
            running_app(repository) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            assert await client.is_ready()
            assert [each.name for each in await client.models()] == ["fine"]
            np.testing.assert_array_equal((await client.infer("fine", X))["echo_X"], X["X"])
            for path in ["/metrics", "/health/live", "/health/ready"]:
                assert await asyncio.to_thread(get, app, path) == 200

    asyncio.run(scenario())


def test_a_model_that_does_not_load_tells_why_whatever_its_path_is_called(repository):
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"cut off")
    (repository / "linked" / "1").mkdir(parents=True)
    shutil.copy(repository / "fine" / "1" / "model.onnx", repository / "linked" / "1")
    (repository / "linked" / "model.toml").symlink_to("nowhere")

    async def scenario():
        async with (
            running_app(repository, ready_when="fine") as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
            grpc.aio.insecure_channel(address_of(app)) as channel,
        ):
            for name, reason in {"broken": r"model\.onnx", "linked": r"model\.toml"}.items():
                with pytest.raises(ModelFailed, match=reason):
                    await client.infer(name, X)
            index = await GRPCInferenceServiceStub(channel).RepositoryIndex(
                pb.RepositoryIndexRequest()
            )
            assert {each.name for each in index.models} == {"broken", "fine", "linked"}
            assert r"mod\udce8les" in index.models[0].reason
            for path in ["/metrics", "/health/live", "/health/ready"]:
                assert await asyncio.to_thread(get, app, path) == 200

    asyncio.run(scenario())
