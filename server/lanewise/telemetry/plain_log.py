"""Log lines in the formats of `logs`, for a process that must stay small.

structlog brings rich and asyncio with it: 15 MB, for a process that has nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Literal

PlainLevel = Literal["info", "warning", "error"]


class PlainLog:
    """Writes to stderr; see `logs.configure_logging` for the format."""

    def __init__(self, logger: str, log_format: str) -> None:
        self._logger = logger
        self._as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())

    def write(self, level: PlainLevel, event: str, **facts: object) -> None:
        """Write one line; levels below info do not come up here, so that none is dropped."""
        if self._as_json:
            now_s = time.time()
            micros = int(now_s % 1 * 1_000_000)
            stamp = time.strftime(f"%Y-%m-%dT%H:%M:%S.{micros:06}Z", time.gmtime(now_s))
            entry = {**facts, "event": event, "level": level, "logger": self._logger}
            line = json.dumps({**entry, "timestamp": stamp})
        else:
            stamp = time.strftime("%H:%M:%S", time.gmtime())
            line = " ".join(
                [f"{stamp} [{level}] {event}", *(f"{key}={value}" for key, value in facts.items())]
            )
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
