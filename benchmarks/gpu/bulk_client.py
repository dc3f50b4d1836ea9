"""The client process of `shared_memory.py`: sends bulk in the ways asked for, and reports how fast.

Reads a line of JSON for each measurement from stdin and answers with one on stdout. Knows nothing
of the server but its address, and has no CUDA of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from lanewise_client import AsyncClient, ModelMetadata

Send = Callable[[], Awaitable[object]]

TIMEOUT_S = 60.0


class BulkClient:
    """Sends the same inputs again and again.

    Args:
        client: connected to the server.
        model: what it serves.
        inputs: by name, all with the same rows.
    """

    def __init__(
        self, client: AsyncClient, model: ModelMetadata, inputs: dict[str, np.ndarray[Any, Any]]
    ) -> None:
        self._client = client
        self._model = model
        self._inputs = inputs
        self._rows = len(next(iter(inputs.values())))
        self._by_region: list[Send] = []

    @property
    def request_bytes(self) -> int:
        """Bytes of the inputs of one request."""
        return sum(array.nbytes for array in self._inputs.values())

    async def measure(self, way: str, requests: int, outstanding: int) -> float:
        """Get the rows per second of so many requests, so many of them outstanding."""
        sends = self._senders(way, outstanding)
        for send in sends:
            await send()  # connected and registered, its memory mapped
        left = requests

        async def keep_sending(send: Send) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await send()

        began = time.perf_counter()
        await asyncio.gather(*map(keep_sending, sends))
        return self._rows * requests / (time.perf_counter() - began)

    def _senders(self, way: str, outstanding: int) -> list[Send]:
        if way == "region":
            while len(self._by_region) < outstanding:
                self._by_region.append(self._in_region())
            return self._by_region[:outstanding]
        name = self._model.name
        is_copied = {"copied": True, "wire": False}[way]

        def send() -> Awaitable[object]:
            return self._client.infer(name, self._inputs, shared_memory=is_copied)

        return [send] * outstanding

    def _in_region(self) -> Send:
        """Make a sender whose inputs lie in shared memory once and for all, as do its outputs."""
        room = 64 * (len(self._inputs) + len(self._model.outputs))
        out_bytes = {t.name: 4 * self._rows * _row_elements(t.shape) for t in self._model.outputs}
        memory = self._client.shared_memory(self.request_bytes + sum(out_bytes.values()) + room)
        inputs = {}
        for name, array in self._inputs.items():
            inputs[name] = memory.array(array.shape, array.dtype)
            inputs[name][...] = array
        outputs = {name: memory.array((nbytes,), np.uint8) for name, nbytes in out_bytes.items()}

        def send() -> Awaitable[object]:
            return self._client.infer(
                self._model.name, inputs, outputs=outputs, shared_memory=memory
            )

        return send


def _row_elements(shape: tuple[int, ...]) -> int:
    """Count the elements of a row, dynamic dimensions as the inputs of the models have them."""
    return int(np.prod([128 if size < 0 else size for size in shape[1:]], dtype=np.int64))


async def _serve(address: str, inputs_file: Path) -> None:
    with np.load(inputs_file) as file:
        inputs = dict(file)
    async with AsyncClient(address, timeout_s=TIMEOUT_S) as client:
        (status,) = await client.models()
        bulk = BulkClient(client, await client.model_metadata(status.name), inputs)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            print(json.dumps(await bulk.measure(**order)), flush=True)


def main() -> None:
    """Answer until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("inputs", type=Path, help="an .npz file")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.address, arguments.inputs))


if __name__ == "__main__":
    main()
