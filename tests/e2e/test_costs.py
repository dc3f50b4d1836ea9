"""A server keeps what launches cost for its next start, and for the simulator."""

from __future__ import annotations

import asyncio
import json

import numpy as np
from click.testing import CliRunner
from structlog.testing import capture_logs

from helpers.serving import DIGITS, address_of, running_app, server_process
from lanewise.cli import main as command
from lanewise.clock import NS_PER_MS
from lanewise.scheduler.costs.file import load_costs
from lanewise_client import AsyncClient, Client

IMAGE = {"X": np.zeros((1, 3, 28, 28), np.float32)}


def serve(folder, requests=0):
    """Serve the digits model with its costs in `folder`; get what it told of them, and the log."""

    async def scenario():
        async with (
            running_app(DIGITS, costs=folder) as app,
            AsyncClient(address_of(app), timeout_s=30) as client,
        ):
            for _ in range(requests):
                await client.infer("digits", IMAGE)
            return await client.costs("digits")

    with capture_logs() as logs:
        costs = asyncio.run(scenario())
    return costs, [line["event"] for line in logs]


def test_the_second_start_begins_with_what_the_first_has_measured(tmp_path):
    first, _ = serve(tmp_path)
    second, logged = serve(tmp_path)

    assert second == first
    assert {cost.profile for cost in first.launches} == {"online", "dynamic", "offline"}
    assert "costs loaded" in logged


def test_what_traffic_has_taught_is_saved_when_the_server_stops(tmp_path):
    costs, _ = serve(tmp_path, requests=10)

    def samples_of_a_row(folder):
        stored = load_costs(folder / "digits-1.json").costs
        return sum(len(e.samples_ns) for kind, e in stored.kinds() if kind[:2] == (0, 1))

    (told,) = [c.samples for c in costs.launches if (c.profile_index, c.rows) == (0, 1)]
    assert samples_of_a_row(tmp_path) == told > 10


def test_the_simulator_runs_on_the_costs_that_a_server_left(tmp_path):
    with server_process(DIGITS, "--costs", str(tmp_path)) as server:
        with Client(server.address, timeout_s=30) as client:
            for _ in range(10):
                client.infer("digits", IMAGE)
            costs = client.costs("digits")
        status, _ = server.stop()
    assert status == 0
    figures = tmp_path / "figures.json"
    traffic = ("--mix", "rows=1,rate=50", "--duration-s", "5")

    done = CliRunner().invoke(
        command.cli,
        ["simulate", str(tmp_path / "digits-1.json"), *traffic, "--json", str(figures)],
    )

    assert done.exit_code == 0, done.output
    (report,) = json.loads(figures.read_text())
    (kind,) = report["kinds"]
    of_a_row_ms = [cost.typical_ns / NS_PER_MS for cost in costs.launches if cost.rows == 1]
    assert kind["requests"] > 100
    assert 0.9 * min(of_a_row_ms) < kind["p50_ms"] < 1.1 * max(of_a_row_ms)


def test_a_folder_that_cannot_be_written_is_logged_and_the_model_serves(tmp_path):
    (tmp_path / "file").write_text("")

    costs, events = serve(tmp_path / "file", requests=1)

    assert costs.launches
    assert events.count("costs cannot be saved") == 2, "after the measuring, and at the end"


def test_a_folder_that_cannot_be_written_at_the_end_does_not_keep_the_server_from_stopping(
    tmp_path,
):
    folder = tmp_path / "costs"

    async def scenario():
        async with running_app(DIGITS, costs=folder):
            folder.rename(tmp_path / "elsewhere")
            folder.write_text("")

    with capture_logs() as logs:
        asyncio.run(scenario())

    events = [line["event"] for line in logs]
    assert events[-2:] == ["costs cannot be saved", "stopped"]
