"""`lanewise bench` against a real server, from its arguments to its report."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from helpers.client_server import serving
from helpers.serving import server_process
from lanewise.bench.recorder import UNANSWERED
from lanewise.cli import main as command
from lanewise.errors import ConfigError

EXEC_MS = 20.0
SLOW = f"""
[[inputs]]
name = "X"
datatype = "FP32"
shape = [-1, 4]

[[outputs]]
name = "Y"
datatype = "FP32"
shape = [-1, 4]
copy_of = "X"

[[profiles]]
name = "one"
tensors.X = {{ min = [1, 4], opt = [1, 4], max = [1, 4] }}

[latency]
default = {{ rows = [1], ms = [{EXEC_MS}] }}
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A server that runs 50 rows a second, one at a time."""
    file = tmp_path_factory.mktemp("models") / "slow.sim.toml"
    file.write_text(SLOW)
    with server_process(file) as server:
        yield server.address


def bench(*arguments):
    """Run the command for a second; its errors are raised."""
    quick = ("--warmup-s", 0.2, "--duration-s", 1)
    done = CliRunner().invoke(command.cli, ["bench", *map(str, (*arguments, *quick))])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def report_of(tmp_path, *arguments):
    file = tmp_path / "report.json"
    done = bench(*arguments, "--report", file)
    return done, json.loads(file.read_text())


def test_a_closed_loop_has_its_requests_in_flight_at_all_times(slow, tmp_path):
    done, report = report_of(tmp_path, slow, "--concurrency", "1,4", "--processes", 2)

    one, four = (load["kinds"][0] for load in report["loads"])
    assert done.exit_code == 0
    assert one["failed"] == four["failed"] == 0
    # The server's rate is the same, so that each of four waits for the three before it.
    assert 30 <= one["answered"] <= 50
    assert 30 <= four["answered"] <= 54
    assert EXEC_MS <= one["p50_ms"] < 2 * EXEC_MS
    assert 3 * EXEC_MS < four["p50_ms"] < 8 * EXEC_MS


def test_in_an_open_loop_the_latency_counts_from_when_a_request_was_due(slow, tmp_path):
    _, report = report_of(tmp_path, slow, "--rate", 100, "--processes", 2)

    (load,) = report["loads"]
    total = load["kinds"][0]
    # Twice what the server can do: none is left out, and the last waits as long as all took.
    assert 70 <= total["answered"] <= 130
    assert total["longest_ms"] > 600
    assert load["course"][0]["p50_ms"] < total["longest_ms"]


def test_requests_past_their_deadline_are_no_goodput(slow, tmp_path):
    _, report = report_of(tmp_path, slow, "--rate", 100, "--timeout-ms", 100)

    (load,) = report["loads"]
    total = load["kinds"][0]
    assert total["failed"] > 20
    assert all(label.startswith("DEADLINE_EXCEEDED") for label in total["failures"])
    assert total["good_per_s"] <= total["answered_per_s"] <= 55


def test_every_kind_of_a_mix_is_told_apart(tmp_path):
    with serving() as server:
        _, report = report_of(
            tmp_path,
            server.address,
            *("--model", "echo", "--rate", 300, "--burst", "4x", "--rows", "1:75%,8:25%"),
        )

    total, one, eight = report["loads"][0]["kinds"]
    assert (one["kind"], eight["kind"]) == ("1 row", "8 rows")
    assert total["answered"] == one["answered"] + eight["answered"] > 0
    assert one["answered"] > eight["answered"] > 0
    assert total["rows_per_s"] == pytest.approx(one["rows_per_s"] + 8 * eight["answered_per_s"])


def test_refusals_are_counted_by_status_and_reason(tmp_path):
    with serving() as server:
        done, report = report_of(
            tmp_path, server.address, "--model", "refuse:QueueFull", "--concurrency", 2
        )

    (load,) = report["loads"]
    total = load["kinds"][0]
    assert done.exit_code == 1
    assert total["answered"] == 0
    assert total["p50_ms"] is None
    assert list(total["failures"]) == ["RESOURCE_EXHAUSTED QueueFull"]
    assert "the server's own words" in load["examples"]["RESOURCE_EXHAUSTED QueueFull"]


@pytest.mark.parametrize("load", [("--concurrency", 3), ("--rate", 10)])
def test_a_server_that_never_answers_ends_the_run_with_all_counted(load, tmp_path):
    with serving() as server:
        done, report = report_of(
            tmp_path, server.address, "--model", "silent", "--grace-s", 0.2, *load
        )

    total = report["loads"][0]["kinds"][0]
    assert done.exit_code == 1
    assert list(total["failures"]) == [UNANSWERED]


def test_a_status_without_reason_is_counted_by_itself(tmp_path):
    with serving() as server:
        _, report = report_of(
            tmp_path, server.address, "--model", "status:UNAVAILABLE", "--concurrency", 2
        )

    total = report["loads"][0]["kinds"][0]
    assert list(total["failures"]) == ["UNAVAILABLE"]
    # What cannot be reached is not asked as fast as it can refuse.
    assert 0 < total["failed"] <= 150


def test_the_report_for_people_names_command_versions_and_picture(tmp_path):
    file = tmp_path / "report.md"
    with serving() as server:
        done = bench(server.address, "--model", "echo", "--concurrency", 2, "--report", file)

    text = file.read_text()
    assert "2 in flight: answered/s" in done.output
    assert "| 2 in flight | all |" in text
    assert "helper 1.2" in text
    assert f"({file.with_suffix('.svg').name})" in text
    assert file.with_suffix(".svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "echo", "--report", "nowhere.txt"), "must end in .md or .json"),
        (("--model", "echo", "--burst", "4x"), "give --rate as well"),
        (("--model", "echo", "--shape", "Z=1"), "the model has: 'X'"),
        ((), "the server's models are 'broken', 'echo'"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_sent(arguments, words):
    with serving() as server, pytest.raises(ConfigError, match=words):
        bench(server.address, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [("--concurrency", "0"), ("--concurrency", "a"), ("--rate", "-1"), ("--burst", "0.5x")],
)
def test_loads_that_are_none_are_refused(arguments):
    done = bench("localhost:1", *arguments)

    assert done.exit_code == 2
    assert arguments[0] in done.output
