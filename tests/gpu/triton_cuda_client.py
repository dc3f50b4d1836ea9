"""Runs one request of Triton's client with its CUDA shared memory, and writes what came of it.

    triton_cuda_client.py ADDRESS IMAGES.npy

The images, (n, 3, 28, 28) FP32, go to `digits` in one region; the logits come back in another.
Standard output gets a JSON object. A process of its own: the server cannot open memory of the
process it runs in, and Triton's client wants the versions of gRPC and protobuf to itself.
"""

from __future__ import annotations

import base64
import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import cuda_shared_memory as shm


def main(address: str, images: str) -> None:
    x = np.load(images)
    logits_bytes = len(x) * 10 * 4
    sent = shm.create_shared_memory_region("sent", x.nbytes, 0)
    answered = shm.create_shared_memory_region("answered", logits_bytes, 0)
    try:
        shm.set_shared_memory_region(sent, [x])
        handles = [shm.get_raw_handle(sent), shm.get_raw_handle(answered)]
        with triton.InferenceServerClient(address) as client:
            client.register_cuda_shared_memory("sent", handles[0], 0, x.nbytes)
            client.register_cuda_shared_memory("answered", handles[1], 0, logits_bytes)
            registered = regions_of(client)
            logits = infer(client, x.shape, answered)
            client.unregister_cuda_shared_memory("sent")
            client.unregister_cuda_shared_memory("answered")
            left = regions_of(client)
    finally:
        shm.destroy_shared_memory_region(sent)
        shm.destroy_shared_memory_region(answered)
    came_of_it = {
        "handles_bytes": [len(base64.b64decode(handle)) for handle in handles],
        "registered": registered,
        "left": left,
        "allocated": len(shm.allocated_shared_memory_regions()),
        "logits": logits.tolist(),
    }
    print(json.dumps(came_of_it))


def infer(client, shape: tuple[int, ...], answered) -> np.ndarray:
    x = triton.InferInput("X", list(shape), "FP32")
    x.set_shared_memory("sent", int(np.prod(shape)) * 4)
    logits = triton.InferRequestedOutput("logits")
    logits.set_shared_memory("answered", shape[0] * 10 * 4)
    result = client.infer("digits", [x], outputs=[logits])
    described = result.get_output("logits")
    return shm.get_contents_as_numpy(answered, np.float32, list(described.shape))


def regions_of(client) -> dict[str, int]:
    """The size in bytes of each region that is registered."""
    status = client.get_cuda_shared_memory_status()
    return {each.name: each.byte_size for each in status.regions.values()}


if __name__ == "__main__":
    main(*sys.argv[1:])
