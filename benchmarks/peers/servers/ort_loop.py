"""ONNX Runtime called directly in a loop: the model's own time. Prints one JSON object."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime


def main() -> None:
    model, seconds = sys.argv[1], float(sys.argv[2])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rates = {str(rows): measure(session, rows, seconds) for rows in (1, 4, 8, 16, 32)}
    print(json.dumps({"calls_per_s": rates, "onnxruntime": onnxruntime.__version__}))


def measure(session: onnxruntime.InferenceSession, rows: int, seconds: float) -> float:
    """Count the calls a second with so many rows each."""
    images = {"X": np.random.default_rng(0).random((rows, 3, 28, 28), np.float32)}
    for _ in range(20):
        session.run(None, images)
    calls = 0
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        session.run(None, images)
        calls += 1
    return calls / passed


if __name__ == "__main__":
    main()
