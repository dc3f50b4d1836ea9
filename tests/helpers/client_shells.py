"""Both clients behind one blocking face, so that a test of one is a test of the other."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from lanewise_client import AsyncClient, Client


@dataclass
class BlockingShell:
    """Calls `Client`, a new one each time."""

    address: str
    timeout_s: float | None = 30.0

    def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        with Client(self.address, timeout_s=self.timeout_s) as client:
            return getattr(client, method)(*args, **options)

    def stream(self, model: str, requests: Any, *, timeout_s: float | None = 30.0) -> Any:
        """Yield the results of a stream."""
        with (
            Client(self.address, timeout_s=self.timeout_s) as client,
            closing(client.stream(model, requests, timeout_s=timeout_s)) as results,
        ):
            yield from results


@dataclass
class AsyncioShell:
    """Calls `AsyncClient`, a new one in a new event loop each time."""

    address: str
    timeout_s: float | None = 30.0

    def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        async def call() -> Any:
            async with AsyncClient(self.address, timeout_s=self.timeout_s) as client:
                return await getattr(client, method)(*args, **options)

        return asyncio.run(call())

    def stream(self, model: str, requests: Any, *, timeout_s: float | None = 30.0) -> Any:
        """Yield the results of a stream, one turn of the event loop for each."""
        with asyncio.Runner() as runner:
            results = self._stream(model, requests, timeout_s)
            try:
                while (result := runner.run(anext(results, None))) is not None:  # type: ignore[arg-type]
                    yield result
            finally:
                runner.run(results.aclose())

    async def _stream(self, model: str, requests: Any, timeout_s: float | None) -> Any:
        async with AsyncClient(self.address, timeout_s=self.timeout_s) as client:
            async for result in client.stream(model, requests, timeout_s=timeout_s):
                yield result


SHELLS = {"blocking": BlockingShell, "asyncio": AsyncioShell}
