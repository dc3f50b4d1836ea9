"""A server process under a measurement; see `benchmarks.hot_path.server`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LISTENER = "GRPC_EXPERIMENTS=-event_engine_listener"
"""What `lanewise serve` sets before gRPC is used."""


class Child:
    """A process that measures itself. It runs on the cores this one may use when it is made."""

    def __init__(self, role: str, place: str, models: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.hot_path.server", role, place, str(models)]
        name, _, value = LISTENER.partition("=")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, name: value},
        )

    def say(self, word: str) -> None:
        """Start a measurement: `plain`, or `measured` for the stages."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    async def report(self) -> dict[str, Any]:
        """Get what was taken since."""
        assert self._process.stdout is not None
        self.say("report")
        line = await asyncio.to_thread(self._process.stdout.readline)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Stop it and wait for its end."""
        self._process.terminate()
        self._process.wait()
