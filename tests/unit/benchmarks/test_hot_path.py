"""The stages of the hot-path benchmark are there, and it runs."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.hot_path import frames, stages
from benchmarks.hot_path.in_process import MODELS, served
from benchmarks.hot_path.requests import send
from benchmarks.hot_path.samples import place_of, read_samples
from benchmarks.hot_path.stopwatch import Stage, Stopwatch, measured
from benchmarks.hot_path.threads import Threads

LISTS = {
    name: value
    for name, value in vars(stages).items()
    if isinstance(value, tuple) and all(isinstance(each, Stage) for each in value)
}
EVERY_STAGE = [stage for stages_ in LISTS.values() for stage in stages_]
ON_A_REQUEST = (*stages.RPC, *stages.COUNT, *stages.LANES, *stages.EXECUTION)


def test_every_place_has_stages():
    assert {"RPC", "COUNT", "LANES", "EXECUTION", "FRONT_END", "ENGINE", "TURNS"} <= LISTS.keys()


@pytest.mark.parametrize("stage", EVERY_STAGE, ids=lambda stage: f"{stage.name}-{stage.attribute}")
def test_every_stage_names_a_function(stage):
    assert callable(stage.function())


def test_a_stage_whose_function_has_moved_is_named():
    stage = Stage("decode", stages, "moved_away")

    with pytest.raises(AttributeError, match=r"'decode': .*stages has no function 'moved_"):
        stage.function()


async def spend(stopwatch: Stopwatch) -> None:
    async with served(MODELS) as (infer, _):
        with measured(ON_A_REQUEST, stopwatch):
            await send(infer, 4, 16)


def test_a_request_passes_every_stage_of_one_process():
    stopwatch = Stopwatch()

    asyncio.run(spend(stopwatch))

    assert {name for name, spent in stopwatch.spent.items() if not spent.calls} == set()


def test_frames_of_a_request_are_counted():
    (found,) = asyncio.run(frames.count(MODELS, [1]))

    assert 20 < found.python < 400
    assert 20 < found.c < 400


def test_threads_tell_what_they_took():
    began = Threads.now()
    sum(range(2_000_000))

    taken = Threads.now().since(began)

    assert taken["event loop"].cpu_ns > 1_000_000


SAMPLES = """
 7
    ffffffff81 finish_task_switch.isra.0 ([kernel.kallsyms])
    ffffffff82 schedule ([kernel.kallsyms])
    ffffffff83 exit_to_user_mode_loop ([kernel.kallsyms])
        f838f __GI___libc_write (/usr/lib/libc.so.6)

 7
    ffffffff84 tcp_sendmsg ([kernel.kallsyms])
    ffffffff85 __sys_sendmsg ([kernel.kallsyms])

 8
        1829 grpc_core::Call::Start(grpc_op const*) (/lib/cygrpc.cpython-311-x86_64.so)
"""


def test_samples_count_for_a_library_or_a_system_call():
    found = [(thread, place_of(stack)) for thread, stack in read_samples(SAMPLES)]

    assert found == [
        (7, "kernel: switched to another thread on the way back to user mode"),
        (7, "kernel: sendmsg"),
        (8, "cygrpc"),
    ]
