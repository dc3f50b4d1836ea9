"""A process of a server with front ends: `python -m lanewise.processes.child ROLE ARGUMENTS`."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lanewise.errors import ConfigError, RunnerLost
from lanewise.processes import event_loop
from lanewise.processes.arguments import ChildArguments, from_json
from lanewise.processes.signals import leave_at_once, watch_on_main_thread
from lanewise.processes.supervisor import CANNOT_SERVE
from lanewise.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from lanewise.clock import Clock
    from lanewise.ipc.server import Server
    from lanewise.rpc.engine_calls import EngineCalls
    from lanewise.scheduler.registry import ModelRegistry
    from lanewise.scheduler.results import WhenFinished

SWITCH_S: Final = 0.0005
"""After so long the engine's event loop gets the interpreter lock back from a runner's thread.
With the 5 ms that are Python's default it answers 11 600 small requests a second on an H200's
host, with this 14 900 (one run each, 4 front ends on the edge transport)."""

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> None:
    """Run the process that the command line asks for, to its end."""
    role, text = sys.argv[1:]
    child = from_json(text)
    assert isinstance(child, ChildArguments)
    end_with(child.supervisor)
    if role == "front-end" and child.serve.settings.transport == "edge":
        from lanewise.processes.edge import become_edge  # noqa: PLC0415

        become_edge(child)
    _take_signals()
    configure_logging(format=child.serve.log_format, level=child.serve.log_level)
    run = {"engine": _run_engine, "front-end": _run_front_end}[role]
    sys.exit(_status_of(lambda: run(child)))


def end_with(supervisor: int) -> None:
    """Have the kernel kill this process when its supervisor ends, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it had ended before
        os.kill(os.getpid(), signal.SIGKILL)


def _take_signals() -> None:
    """Undo the supervisor's blocking; Ctrl-C, which reaches the whole group, is for it alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT))


def _run_engine(child: ChildArguments) -> None:
    from lanewise.ipc.server import Server  # noqa: PLC0415
    from lanewise.processes.app import App  # noqa: PLC0415

    sys.setswitchinterval(SWITCH_S)
    listener, http = (socket.socket(fileno=fd) for fd in child.fds)

    def front(
        registry: ModelRegistry, _: Clock, when_finished: WhenFinished, engine: EngineCalls
    ) -> Server:
        return Server(registry, when_finished, engine, listener)

    async def run() -> None:
        app = App(child.serve.settings, front=front, http_listener=http)
        status = 0
        try:
            await app.run()
        except (ConfigError, RunnerLost) as error:
            if not app.must_leave_at_once:
                raise
            status = _tell(error)
        if app.must_leave_at_once:
            leave_at_once(status)

    event_loop.run(run())


def _run_front_end(child: ChildArguments) -> None:
    from lanewise.processes.front_end import run_front_end  # noqa: PLC0415
    from lanewise.rpc.transport import aio_transport  # noqa: PLC0415

    settings = child.serve.settings
    transport = aio_transport(settings, shares_port=True)
    event_loop.run(run_front_end(settings, child.engine, transport, watch_on_main_thread))


def _status_of(run: Callable[[], None]) -> int:
    try:
        run()
    except (ConfigError, RunnerLost) as error:
        return _tell(error)
    return 0


def _tell(error: ConfigError | RunnerLost) -> int:
    print(f"lanewise: {error}", file=sys.stderr, flush=True)  # noqa: T201
    return CANNOT_SERVE if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    main()
