"""`lanewise simulate` from its arguments to what it prints and writes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from helpers.measured import measured_model
from lanewise.cli import main as command
from lanewise.cli.simulate import POLICIES as OFFERED
from lanewise.errors import ConfigError
from lanewise.scheduler.costs.file import save_costs
from lanewise.simulator.policies import DEFAULT_POLICY, POLICIES
from lanewise.simulator.trace import TraceWriter
from lanewise.simulator.traffic import Arrival


@pytest.fixture
def costs(tmp_path):
    path = tmp_path / "costs.json"
    save_costs(path, measured_model({(0, 1): 1.0, (1, 4): 2.0, (2, 128): 10.0}))
    return path


def simulate(*arguments):
    """Run the command; its errors are raised."""
    done = CliRunner().invoke(command.cli, ["simulate", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_the_policies_of_the_command_line_are_all_there_are():
    assert set(OFFERED) == set(POLICIES)
    assert OFFERED[0] == DEFAULT_POLICY


def test_policies_are_compared_on_the_same_traffic(costs, tmp_path):
    figures = tmp_path / "figures.json"

    done = simulate(
        costs,
        *("--policy", "first-fit", "--policy", "triton"),
        *(
            "--mix",
            "name=users,rows=1,rate=50,timeout-ms=20",
            "--mix",
            "name=bulk,rows=128,rate=10",
        ),
        *("--duration-s", 5, "--json", figures),
    )

    first, second = json.loads(figures.read_text())
    assert (first["policy"], second["policy"]) == ("first-fit", "triton")
    assert first["requests"] == second["requests"] > 200
    assert [kind["kind"] for kind in first["kinds"]] == ["bulk", "users"]
    assert first["kinds"][0]["requests"] == second["kinds"][0]["requests"]
    lines = done.output.splitlines()
    assert [line.strip() for line in lines if line[0].isalpha()] == ["In all", "Requests", "Lanes"]
    assert sum("│ users " in line for line in lines) == 2
    assert sum("│ 2 offline " in line for line in lines) == 2


def test_a_recorded_trace_is_simulated(costs, tmp_path):
    model = measured_model({})
    writer = TraceWriter(tmp_path / "trace.jsonl", model.spec)
    for i in range(10):
        writer.write(Arrival(i * 10**9, ((1,),)))
    writer.close()
    figures = tmp_path / "figures.json"

    simulate(costs, tmp_path / "trace.jsonl", "--policy", "first-fit", "--json", figures)

    (report,) = json.loads(figures.read_text())
    assert (report["requests"], report["duration_s"]) == (10, 9.001)
    assert report["kinds"][0]["p50_ms"] == report["kinds"][0]["p999_ms"] == 1.0


def test_the_rate_alone_makes_traffic_for_every_profile(costs):
    done = simulate(costs, "--rate", 100, "--duration-s", 1, "--policy", "first-fit")

    for name in ("online", "dynamic", "offline"):
        assert f"│ {name} " in done.output


def test_a_picture_is_drawn(costs, tmp_path):
    pytest.importorskip("matplotlib", reason="needs lanewise[plots]")

    simulate(costs, "--rate", 100, "--duration-s", 1, "--plot", tmp_path / "x.svg")

    assert "<svg" in (tmp_path / "x.svg").read_text()


def test_without_traffic_the_ways_to_get_some_are_told(costs):
    with pytest.raises(ConfigError, match="give a trace, or --rate, or --mix"):
        simulate(costs)


def test_a_trace_and_made_up_traffic_exclude_each_other(costs, tmp_path):
    with pytest.raises(ConfigError, match="give a trace, or --mix and --rate, not both"):
        simulate(costs, tmp_path / "trace.jsonl", "--rate", 3)


def test_a_trace_of_another_model_is_refused(costs, tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"format":"lanewise-trace","version":1,"model":"o","inputs":["tokens"]}\n')

    with pytest.raises(ConfigError, match="the inputs tokens; the costs are of 'm' with X"):
        simulate(costs, trace)


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_file_without_a_folder_is_refused_before_the_simulation(costs, tmp_path, option):
    file = tmp_path / "missing" / "figures.svg"

    # It would take days.
    with pytest.raises(ConfigError, match=r"cannot be written: .*missing is not a folder"):
        simulate(costs, "--rate", 1e6, "--duration-s", 1e9, option, file)


def test_figures_that_cannot_be_written_are_one_message(costs, tmp_path):
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        simulate(costs, "--rate", 1, "--duration-s", 1, "--json", tmp_path)


def test_a_mix_that_the_model_could_never_run_is_refused(costs):
    with pytest.raises(ConfigError, match="model 'm' has no profile 'night'"):
        simulate(costs, "--mix", "rows=1,pin=night")


@pytest.mark.parametrize(
    ("priorities", "kinds"),
    [((2, 2), ["1 row"]), ((1, 2), ["1 row, priority 1", "1 row, priority 2"])],
)
def test_a_trace_is_reported_with_priorities_if_it_has_several(costs, tmp_path, priorities, kinds):
    writer = TraceWriter(tmp_path / "trace.jsonl", measured_model({}).spec)
    for number, priority in enumerate(priorities):
        writer.write(Arrival(number, ((1,),), priority=priority))
    writer.close()
    figures = tmp_path / "figures.json"

    simulate(costs, tmp_path / "trace.jsonl", "--json", figures)

    (report,) = json.loads(figures.read_text())
    assert [kind["kind"] for kind in report["kinds"]] == kinds
