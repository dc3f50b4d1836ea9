"""A bare grpc.aio server that parses requests and answers each with ten zeros: the floor."""

from __future__ import annotations

import asyncio
import os
import sys

# What `lanewise serve` sets, too.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

import grpc.aio

from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.protos import inference_pb2_grpc

LOGITS = bytes(40)


class Echo(inference_pb2_grpc.GRPCInferenceServiceServicer):
    async def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        rows = request.inputs[0].shape[0]
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="logits", datatype="FP32", shape=[rows, 10])
        response.raw_output_contents.append(LOGITS * rows)
        return response


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Echo(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
