"""A server process that says, on request, what its threads and stages took.

    python -m benchmarks.hot_path.server engine ADDRESS MODELS    behind a front end
    python -m benchmarks.hot_path.server whole PORT MODELS        over gRPC, in one process

Each line on its stdin is a word: `plain` or `measured` starts a new measurement, `report` makes it
write one line of JSON to stdout.
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

from benchmarks.hot_path.stages import COUNT, ENGINE, EXECUTION, LANES, RPC, TURNS
from benchmarks.hot_path.stopwatch import Stage, Stopwatch, calibrate, measured
from benchmarks.hot_path.threads import Threads
from lanewise.clock import Clock
from lanewise.ipc.server import Server
from lanewise.processes import event_loop
from lanewise.processes.app import App
from lanewise.processes.child import SWITCH_S
from lanewise.rpc.engine_calls import EngineCalls
from lanewise.rpc.transport import rpc_front
from lanewise.scheduler.registry import ModelRegistry
from lanewise.scheduler.results import WhenFinished
from lanewise.settings.server import ServerSettings

STAGES: dict[str, tuple[Stage, ...]] = {
    "engine": (*ENGINE, *COUNT, *LANES, *EXECUTION),
    "whole": (*RPC, *COUNT, *LANES, *EXECUTION, *TURNS),
}


class _Reporter:
    """Answers the words on stdin. Used on one event loop."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self._stages = stages
        self._overhead = calibrate()
        self._measuring = ExitStack()
        self._stopwatch = Stopwatch()
        self._began = (0, 0)
        self._threads = Threads.now()

    def read_word(self) -> None:
        """Read a line and do what it says."""
        match sys.stdin.readline().strip():
            case "plain":
                self._begin()
            case "measured":
                self._begin()
                self._measuring.enter_context(measured(self._stages, self._stopwatch))
            case "report":
                loop_ns, process_ns = (
                    after - before for before, after in zip(self._began, _cpu(), strict=True)
                )
                threads = Threads.now().since(self._threads)
                stages = self._stopwatch.ns_by_stage(self._overhead)
                answer = {
                    "loop_ns": loop_ns,
                    "process_ns": process_ns,
                    "stages_ns": stages,
                    "calls": self._stopwatch.calls_by_stage(),
                    "threads": threads,
                }
                print(json.dumps(answer), flush=True)
            case _:
                asyncio.get_running_loop().remove_reader(sys.stdin)

    def _begin(self) -> None:
        self._measuring.close()
        self._stopwatch = Stopwatch()
        self._began = _cpu()
        self._threads = Threads.now()


def _cpu() -> tuple[int, int]:
    return time.thread_time_ns(), time.process_time_ns()


async def _serve(role: str, place: str, models: Path) -> None:
    asyncio.get_running_loop().add_reader(sys.stdin, _Reporter(STAGES[role]).read_word)
    if role == "whole":
        settings = ServerSettings(models, host="127.0.0.1", grpc_port=int(place), metrics_port=0)
        await App(settings, front=rpc_front(settings)).run()
        return
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + place)
        listener.listen()
        settings = ServerSettings(models, host="127.0.0.1", grpc_port=0, metrics_port=0)

        def front(
            registry: ModelRegistry, _: Clock, when_finished: WhenFinished, engine: EngineCalls
        ) -> Server:
            return Server(registry, when_finished, engine, listener)

        await App(settings, front=front).run()


if __name__ == "__main__":
    if sys.argv[1] == "engine":
        sys.setswitchinterval(SWITCH_S)  # as the engine of a server does
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    event_loop.run(_serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
