"""One process of the load generator: takes stages from a pipe and reports on them."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection

from lanewise.bench.loads import Target

SWITCH_S = 0.0005
"""After so long gRPC's thread hands the interpreter lock to the one that sends in time."""


def work(pipe: Connection, target: Target) -> None:
    """Run the stages that come through `pipe` until it is closed.

    Sends None once it is connected, or the error as text; then, for each Stage, a Tally every
    half second and a StageEnd.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    sys.setswitchinterval(SWITCH_S)
    # Read when grpc is imported: with event threads of its own a request costs half as much
    # again (grpcio 1.85).
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from lanewise.bench.stages import run_stages  # noqa: PLC0415

    try:
        run_stages(pipe, target)
    except (EOFError, BrokenPipeError):
        return  # the parent is gone, or closed the pipe
