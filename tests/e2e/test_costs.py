"""A server keeps what launches cost for its next start, and for the simulator."""

from __future__ import annotations

import asyncio
import json

import numpy as np
from click.testing import CliRunner
from structlog.testing import capture_logs

from helpers.serving import DIGITS, address_of, running_app
from lanewise import __main__ as command
from lanewise.scheduler.cost_file import load_costs
from lanewise_client import AsyncClient

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
    costs, _ = serve(tmp_path, requests=10)
    figures = tmp_path / "figures.json"
    file = tmp_path / "digits-1.json"

    done = CliRunner().invoke(
        command.cli,
        ["simulate", str(file), "--mix", "rows=1,rate=50", "--duration-s", "5"]
        + ["--json", str(figures)],
    )

    assert done.exit_code == 0, done.output
    (report,) = json.loads(figures.read_text())
    (kind,) = report["kinds"]
    typical_ms = min(c.typical_ns for c in costs.launches if c.rows == 1) / 1e6
    assert report["requests"] > 100
    assert kind["p50_ms"] >= 0.5 * typical_ms
