"""Runs stages in a process of the load generator, and reports every half second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import grpc

from lanewise.bench.loads import Stage, StageEnd, Target
from lanewise.bench.recorder import Recorder
from lanewise.bench.sender import ClosedLoop, OpenLoop, Sender
from lanewise.clock import NS_PER_MS, NS_PER_S

TICK_NS = NS_PER_S // 2
"""How often a process reports."""

CONNECT_S = 10.0
"""How long connecting to the server may take."""

_STEP_NS = 10 * NS_PER_MS
_AFTER_CANCEL_NS = 2 * NS_PER_S

# gRPC would give channels of the same address the same connection.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


def run_stages(pipe: Connection, target: Target) -> None:
    """Connect, and run the stages that come through `pipe`.

    Raises:
        EOFError, BrokenPipeError: the other end of the pipe is closed.
    """
    with ExitStack() as stack:
        try:
            channels = [stack.enter_context(_connected(target)) for _ in range(target.channels)]
        except grpc.FutureTimeoutError:
            pipe.send(f"{target.address}: no connection within {CONNECT_S:g} s; is it serving?")
            return
        pipe.send(None)
        while True:
            _run(pipe, channels, target, pipe.recv())


@contextmanager
def _connected(target: Target) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target.address, options=_OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_S)
        yield channel


def _run(pipe: Connection, channels: list[grpc.Channel], target: Target, stage: Stage) -> None:
    recorder = Recorder(stage, len(target.payloads), target.timeout_ns)
    stubs: list[Any] = [channel.unary_unary(target.method) for channel in channels]
    loop = ClosedLoop if stage.load.rate is None else OpenLoop
    sender: Sender = loop(stubs, target, stage, recorder)
    time.sleep(max(0, stage.begin_ns - time.monotonic_ns()) / NS_PER_S)
    sender.start()
    sender.work_until(stage.measure_ns)
    cpu_ns, began_ns = time.process_time_ns(), time.monotonic_ns()
    tick = 0
    while (until_ns := stage.measure_ns + (tick + 1) * TICK_NS) < stage.end_ns:
        sender.work_until(until_ns)
        pipe.send(recorder.take(tick))
        tick += 1
    sender.work_until(stage.end_ns)
    used_ns, passed_ns = time.process_time_ns() - cpu_ns, time.monotonic_ns() - began_ns
    _drain(sender, stage.end_ns + stage.grace_ns)
    pipe.send(recorder.take(tick))
    pipe.send(StageEnd(used_ns / passed_ns))


def _drain(sender: Sender, give_up_ns: int) -> None:
    _await_none(sender, give_up_ns)
    sender.give_up()
    _await_none(sender, time.monotonic_ns() + _AFTER_CANCEL_NS)


def _await_none(sender: Sender, until_ns: int) -> None:
    while sender.in_flight() and time.monotonic_ns() < until_ns:
        time.sleep(_STEP_NS / NS_PER_S)
