"""Traces hold what was asked for and when, and are read as they were written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from helpers.sim import mission_model
from lanewise.errors import ConfigError
from lanewise.scheduler.request import DEFAULT_TARGET_NS, RequestOptions
from lanewise.simulator import trace
from lanewise.simulator.trace import TraceFile, TraceWriter
from lanewise.simulator.traffic import Arrival, RequestKind, Traffic

HEADER = '{"format":"lanewise-trace","version":1,"model":"m","inputs":["X"]}\n'
DEFINITION = '{"define":0,"shapes":[[1]]}\n'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trace.jsonl"


def request(rows, at_ns, **about):
    options = RequestOptions(**{"target_ns": DEFAULT_TARGET_NS, "priority": 1, **about})
    return {"X": (rows,)}, options, at_ns


def write(path, arrivals):
    writer = TraceWriter(path, mission_model())
    for arrival in arrivals:
        writer.write(arrival)
    writer.close()


def test_a_trace_that_is_written_and_read_is_the_same(path):
    arrivals = [
        Arrival(0, ((1,),)),
        Arrival(5, ((4,),), timeout_ns=20_000_000),
        Arrival(5, ((1,),), target_ns=10, priority=3, pin="online", kind="users"),
        Arrival(9, ((128,),), pin=2),
    ]

    write(path, arrivals)

    trace_file = TraceFile(path)
    assert (trace_file.model, trace_file.inputs) == ("m", ("X",))
    assert list(trace_file) == arrivals
    assert list(trace_file) == arrivals, "it can be read again"


def test_made_up_traffic_survives_a_trace(path):
    spec = mission_model()
    traffic = Traffic(spec, [RequestKind("a", (1, 4, 32), 500.0, timeout_ns=7)], 1.0)

    write(path, traffic)

    assert list(TraceFile(path)) == list(traffic)


def test_the_server_records_times_since_the_first_request_and_no_data(path):
    writer = TraceWriter(path, mission_model())

    writer.record(*request(4, 1_000, deadline_ns=1_500))
    writer.record(*request(4, 1_200, target_ns=30, priority=2, profile="dynamic"))
    writer.record(*request(1, 1_300, deadline_ns=1_100, target_ns=30))
    writer.close()

    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"format": "lanewise-trace", "version": 1, "model": "m", "inputs": ["X"]},
        {"define": 0, "shapes": [[4]]},
        {"at_ns": 0, "shapes": 0, "timeout_ns": 500},
        {"at_ns": 200, "shapes": 0, "target_ns": 30, "priority": 2, "pin": "dynamic"},
        {"define": 1, "shapes": [[1]]},
        {"at_ns": 300, "shapes": 1, "timeout_ns": 0},
    ]


def test_any_number_of_shapes_is_recorded_with_a_bounded_table(path, monkeypatch):
    monkeypatch.setattr(trace, "MAX_SHAPES", 4)
    arrivals = [Arrival(i, ((rows,),)) for i, rows in enumerate([1, 2, 3, 4, 5, 1, 5, 2, 3, 4])]

    write(path, arrivals)

    assert list(TraceFile(path)) == arrivals
    numbers = [json.loads(line).get("define", 0) for line in path.read_text().splitlines()]
    assert max(numbers) == 3


def test_nothing_is_written_to_disk_for_each_single_request(path):
    writer = TraceWriter(path, mission_model())
    header_bytes = path.stat().st_size

    for i in range(100):
        writer.record(*request(1, i))

    assert path.stat().st_size == header_bytes
    writer.close()
    assert len(list(TraceFile(path))) == 100


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_fails_at_the_start():
    with pytest.raises(OSError, match="No space left"):
        TraceWriter(Path("/dev/full"), mission_model())


def test_a_disk_that_is_full_later_on_ends_the_trace_and_no_request(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = TraceWriter(pipe, mission_model())
    os.close(reader)  # from here on, nothing can be written

    with capture_logs() as logs:
        for i in range(100_000):
            writer.record(*request(1, i))
        writer.close()

    assert [line["event"] for line in logs] == ["trace ends: it cannot be written"]


def test_recording_after_the_end_does_nothing(path):
    write(path, [Arrival(0, ((1,),))])
    writer = TraceWriter(path, mission_model())
    writer.close()

    writer.record(*request(1, 5))
    writer.close()

    assert list(TraceFile(path)) == []


def test_a_last_line_that_was_cut_off_is_left_out(path):
    path.write_text(HEADER + DEFINITION + '{"at_ns":1,"shapes":0}\n{"at_ns":2,"sha')

    assert list(TraceFile(path)) == [Arrival(1, ((1,),))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: is not JSON"),
        ("\x00\n", ":1: is not JSON"),
        ('{"format":"other"}\n', "format: is \"other\", but must be 'lanewise-trace'"),
        (HEADER.replace("1", "2"), "version: is 2, but must be 1"),
        (HEADER + "{}\n", "at_ns: is missing"),
        (HEADER + '{"at_ns":1,"shapes":0}\n', ":2: shapes: 0 was not defined before"),
        (HEADER + DEFINITION + '{"at_ns":1.5,"shapes":0}\n', ":3: at_ns: is 1.5"),
        (HEADER + DEFINITION + '{"at_ns":1,"shapes":0,"rows":1}\n', "rows: unknown key"),
        (
            HEADER + DEFINITION + '{"at_ns":2,"shapes":0}\n{"at_ns":1,"shapes":0}\n',
            ":4: earlier than the request before it",
        ),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_the_line_at_fault(path, text, message):
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        list(TraceFile(path))

    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_trace_that_is_not_there_is_refused(path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        TraceFile(path)
