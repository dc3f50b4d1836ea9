"""What `lanewise inspect` prints."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from helpers.client_server import serving
from helpers.padded import PADDING, save_padded
from helpers.trt_models import plan_header, save_plan
from lanewise.backends.runner import PlanReport, ProfileNeeds
from lanewise.cli.inspect import inspect_path, inspect_server, print_costs, print_plan
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DType
from lanewise_client import ModelCosts


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def cells(console):
    """Split every printed line at two spaces or more."""
    lines = console.file.getvalue().splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_a_plan_that_cannot_be_loaded_tells_who_built_it_before_the_reason(tmp_path, console):
    file = save_plan(tmp_path, plan_header(b"ftrt") + b"no engine")

    assert not inspect_path(file, None, console)

    shown = console.file.getvalue()
    told = "plan for backend tensorrt, built by version 10.7.0.23; the rest can be read only"
    assert shown.index(told) < shown.index("cannot be served: ")


def test_a_file_that_is_no_plan_tells_nothing_but_the_reason(tmp_path, console):
    assert not inspect_path(save_plan(tmp_path, b"garbage" * 100), None, console)

    shown = console.file.getvalue()
    assert "plan for backend" not in shown
    assert "is not a TensorRT plan" in shown


def test_lengths_and_the_order_of_requests_are_told_if_the_settings_say_something(
    tmp_path, console
):
    scheduling = "[scheduling]\nlatency_target_ms = 50\npriority_levels = 1"

    assert inspect_path(save_padded(tmp_path, f"{scheduling}\n{PADDING}"), None, console)

    lines = console.file.getvalue().splitlines()
    assert lines[-2:] == [
        "tokens is padded, by profile: short to 1, 2, 4, 8, 16; long to 16, 32, 64",
        "latency target 50 ms; priorities 1 to 1, by default 1",
    ]


def test_settings_that_say_nothing_are_not_told(tmp_path, console):
    assert inspect_path(save_padded(tmp_path, padding=""), None, console)

    shown = console.file.getvalue()
    assert "padded, by" not in shown
    assert "priorities" not in shown


def test_an_engine_is_told_with_the_memory_of_its_profiles_and_the_values_of_shape_tensors(console):
    wide = ShapeRange((1, 1), (4, 6), (32, 8))
    engine = PlanReport(
        "tensorrt-rtx 1.6.1.120",
        frozenset({DType.FP32, DType.FP16}),
        (ProfileNeeds(1024, 0, {}), ProfileNeeds(3 << 20, 5 << 20, {"S": wide})),
    )

    print_plan(engine, ["online", "dynamic"], console)

    assert cells(console) == [
        ["plan built by tensorrt-rtx 1.6.1.120; its inputs and outputs are FP16, FP32"],
        ["profile", "inputs", "scratch", "device memory of a lane"],
        ["online", "1 KiB", "-", "1 KiB"],
        ["dynamic", "3 MiB", "5 MiB", "8 MiB"],
        ["profile", "shape tensor", "min values", "opt values", "max values"],
        ["dynamic", "S", "[1, 1]", "[4, 6]", "[32, 8]"],
    ]


def test_an_engine_without_shape_tensors_has_no_table_of_them(console):
    engine = PlanReport("tensorrt 11.4.0.1", frozenset({DType.FP32}), (ProfileNeeds(1, 1, {}),))

    print_plan(engine, ["p0"], console)

    assert "shape tensor" not in console.file.getvalue()


def test_a_lane_on_a_device_is_told_with_its_memory_by_kind_and_its_graphs(console):
    with serving() as server:
        inspect_server(server.address, console)

    assert ["7", "online", "13 B", "14 B", "15 B", "19", "16 B", "17", "18 first_run"] in cells(
        console
    )


def test_the_costs_of_a_running_server_are_told_by_launch_and_by_pair(console):
    with serving() as server:
        inspect_server(server.address, console)

    shown = cells(console)
    assert ["online", "4", "about 2^12", "1.500 ms", "2.000 ms", "0.900 ms", "32"] in shown
    assert ["online", "bulk", "128", "1.25"] in shown


def test_a_model_without_costs_has_no_table_of_them(console):
    print_costs(ModelCosts("m", "1", launches=(), pairs=()), console)

    assert console.file.getvalue() == ""
