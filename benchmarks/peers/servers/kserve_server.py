"""KServe's Python model server around ONNX Runtime."""

from __future__ import annotations

import sys
from typing import Any

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

MODEL, PORT, HTTP_PORT = sys.argv[1], *map(int, sys.argv[2:4])


class Digits(Model):
    def __init__(self) -> None:
        super().__init__("digits")
        self.load()

    def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            MODEL, options, providers=["CPUExecutionProvider"]
        )
        self.ready = True
        return True

    async def predict(
        self, payload: InferRequest, headers: Any = None, response_headers: Any = None
    ) -> InferResponse:
        (logits,) = self.session.run(None, {"X": payload.inputs[0].as_numpy()})
        output = InferOutput("logits", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return InferResponse(payload.id, "digits", [output])


if __name__ == "__main__":
    ModelServer(http_port=HTTP_PORT, grpc_port=PORT, workers=1, enable_latency_logging=False).start(
        [Digits()]
    )
