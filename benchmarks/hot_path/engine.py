"""An engine process that tells what its stages took, on request.

Each line on its stdin is a word: `plain` or `measured` begins anew, `report` has it write one
line of JSON to stdout.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import structlog

from benchmarks.hot_path.stages import COUNT, ENGINE, EXECUTION, LANES
from benchmarks.hot_path.stopwatch import Stopwatch, calibrate, measured
from lanewise import event_loop
from lanewise.app import App
from lanewise.child import SWITCH_S
from lanewise.clock import Clock
from lanewise.config import ServerSettings
from lanewise.link.hub import FrontEnds
from lanewise.metrics import Metrics
from lanewise.regions import RegionCalls
from lanewise.scheduler.registry import ModelRegistry

STAGES = (*ENGINE, *COUNT, *LANES, *EXECUTION)


class _Reporter:
    """Answers the words on stdin. Used on one event loop."""

    def __init__(self) -> None:
        self._overhead = calibrate()
        self._measuring = ExitStack()
        self._stopwatch = Stopwatch()
        self._began = (0, 0)

    def obey(self) -> None:
        """Read a line and do what it says."""
        match sys.stdin.readline().strip():
            case "plain":
                self._begin()
            case "measured":
                self._begin()
                self._measuring.enter_context(measured(STAGES, self._stopwatch))
            case "report":
                loop_ns, process_ns = (
                    after - before for before, after in zip(self._began, _cpu(), strict=True)
                )
                stages = self._stopwatch.ns_by_stage(self._overhead)
                answer = {"loop_ns": loop_ns, "process_ns": process_ns, "stages_ns": stages}
                print(json.dumps(answer), flush=True)
            case _:
                asyncio.get_running_loop().remove_reader(sys.stdin)

    def _begin(self) -> None:
        self._measuring.close()
        self._stopwatch = Stopwatch()
        self._began = _cpu()


def _cpu() -> tuple[int, int]:
    return time.thread_time_ns(), time.process_time_ns()


async def _serve(address: str, models: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + address)
        listener.listen()
        settings = ServerSettings(models, host="127.0.0.1", grpc_port=0, metrics_port=0)

        def front(
            registry: ModelRegistry, _: Clock, metrics: Metrics, regions: RegionCalls
        ) -> FrontEnds:
            return FrontEnds(registry, metrics, regions, listener)

        app = App(settings, front=front)
        asyncio.get_running_loop().add_reader(sys.stdin, _Reporter().obey)
        await app.run()


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_S)  # as the engine of a server does
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    event_loop.run(_serve(sys.argv[1], Path(sys.argv[2])))
