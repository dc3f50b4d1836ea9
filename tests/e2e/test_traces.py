"""A server records what it was asked for, and the simulator can do with it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from structlog.testing import capture_logs

from helpers.serving import DIGITS, address_of, running_app
from lanewise.clock import NS_PER_S
from lanewise.simulator.trace import TraceFile
from lanewise_client import AsyncClient, InvalidRequest


def test_the_server_records_every_request_that_a_profile_admits(tmp_path):
    async def scenario():
        async with (
            running_app(DIGITS, record_traces=tmp_path / "traces") as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            for rows in (1, 4, 128):
                await client.infer("digits", {"X": np.zeros((rows, 3, 28, 28), np.float32)})
            await client.infer(
                "digits", {"X": np.zeros((1, 3, 28, 28), np.float32)}, profile="dynamic"
            )
            with pytest.raises(InvalidRequest):
                await client.infer("digits", {"X": np.zeros((1, 3, 29, 28), np.float32)})

    asyncio.run(scenario())

    (file,) = (tmp_path / "traces").iterdir()
    trace = TraceFile(file)
    assert (trace.model, trace.inputs) == ("digits", ("X",))
    arrivals = list(trace)
    assert [(one.shapes, one.pin) for one in arrivals] == [
        (((1, 3, 28, 28),), None),
        (((4, 3, 28, 28),), None),
        (((128, 3, 28, 28),), None),
        (((1, 3, 28, 28),), "dynamic"),
    ]
    assert arrivals[0].at_ns == 0
    assert all(29 * NS_PER_S < one.timeout_ns < 31 * NS_PER_S for one in arrivals)


def test_the_urgency_that_a_request_asks_for_is_recorded(tmp_path):
    async def scenario():
        async with (
            running_app(DIGITS, record_traces=tmp_path) as app,
            AsyncClient(address_of(app), timeout_s=None) as client,
        ):
            images = {"X": np.zeros((1, 3, 28, 28), np.float32)}
            await client.infer("digits", images)
            await client.infer("digits", images, priority=1, latency_target_s=0.25)

    asyncio.run(scenario())

    (file,) = tmp_path.iterdir()
    assert [(one.priority, one.target_ns, one.timeout_ns) for one in TraceFile(file)] == [
        (2, None, None),
        (1, NS_PER_S // 4, None),
    ]


def test_a_folder_for_traces_that_cannot_be_written_is_logged_and_the_model_serves(tmp_path):
    (tmp_path / "file").write_text("")

    async def scenario():
        async with (
            running_app(DIGITS, record_traces=tmp_path / "file") as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            assert await client.is_ready()
            await client.infer("digits", {"X": np.zeros((1, 3, 28, 28), np.float32)})

    with capture_logs() as logs:
        asyncio.run(scenario())

    (line,) = [line for line in logs if line["event"] == "no trace is recorded"]
    assert line["reason"].startswith(f"--record-traces {tmp_path / 'file'}: ")
