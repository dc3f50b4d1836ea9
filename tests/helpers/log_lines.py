"""What the processes that serve a test have logged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from structlog.testing import capture_logs

from helpers.transports import tested_transport


@contextmanager
def captured_logs() -> Iterator[list[dict[str, Any]]]:
    """As `structlog.testing.capture_logs`; at the end what front-end processes said is added."""
    front_ends = tested_transport.get().front_ends
    before = "" if front_ends is None else front_ends.log
    with capture_logs() as lines:
        yield lines
    if front_ends is not None:
        for line in front_ends.log.removeprefix(before).splitlines():
            entry = json.loads(line)
            lines.append({"log_level": entry["level"], **entry})
