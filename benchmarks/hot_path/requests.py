"""What is measured: requests of one row, and closed loops that send them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from lanewise.model.spec import ModelSpec
from lanewise.rpc.methods import UnaryMethod
from lanewise.rpc.services import Services
from lanewise.rpc.status import Status
from lanewise_client.protos import inference_pb2 as pb

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"

Infer = Callable[[], Awaitable[None]]


class _Call:
    """A call without a deadline, over no network."""

    def peer(self) -> str:
        return "unix:"

    def time_remaining(self) -> None:
        return None

    async def write(self, data: bytes) -> None:
        raise AssertionError("ModelInfer streams nothing")


def request_of_one_row(spec: ModelSpec) -> pb.ModelInferRequest:
    """Make a request of zeros, at the opt of the first profile but for its rows."""
    request = pb.ModelInferRequest(model_name=spec.name)
    for tensor in spec.inputs:
        shape = (1, *spec.profiles[0].ranges[tensor.name].opt[1:])
        request.inputs.add(name=tensor.name, datatype=tensor.dtype.value, shape=shape)
        request.raw_input_contents.append(np.zeros(shape, tensor.dtype.numpy).tobytes())
    return request


def infer_with(services: Services, spec: ModelSpec) -> Infer:
    """Get what sends one request, from the bytes of its message to those of its response."""
    (method,) = (each for each in services.methods if each.path == MODEL_INFER)
    assert isinstance(method, UnaryMethod)
    answer, data, call = method.answer, request_of_one_row(spec).SerializeToString(), _Call()

    async def infer() -> None:
        response = await answer(data, call)
        if isinstance(response, Status):
            raise RuntimeError(f"a request failed: {response.text}")  # noqa: TRY004 - no type error

    return infer


@dataclass(frozen=True, slots=True)
class Sent:
    """What requests took: of the time, of the loop's thread and of the whole process."""

    requests: int
    wall_ns: int
    loop_ns: int
    process_ns: int


async def send(infer: Infer, in_flight: int, requests: int) -> Sent:
    """Send so many requests, each as soon as one of `in_flight` has its answer."""
    each = requests // in_flight

    async def one_after_the_other() -> None:
        for _ in range(each):
            await infer()

    began = time.perf_counter_ns(), time.thread_time_ns(), time.process_time_ns()
    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
    ended = time.perf_counter_ns(), time.thread_time_ns(), time.process_time_ns()
    took = (after - before for before, after in zip(began, ended, strict=True))
    return Sent(each * in_flight, *took)
