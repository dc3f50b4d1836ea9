"""NVIDIA PyTriton: Triton's own front end and dynamic batcher around a Python function."""

from __future__ import annotations

import os
import sys
import sysconfig

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

MODEL, PORT, HTTP_PORT, METRICS_PORT = sys.argv[1], *map(int, sys.argv[2:5])


def main() -> None:
    # The stub that runs the function is linked with libpython, which may lie beside Python.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])

    @batch
    def infer(X: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803 - the input's name
        return {"logits": session.run(None, {"X": X})[0]}

    config = TritonConfig(grpc_port=PORT, http_port=HTTP_PORT, metrics_port=METRICS_PORT)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="digits",
            infer_func=infer,
            inputs=[Tensor(name="X", dtype=np.float32, shape=(3, 28, 28))],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=128, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
