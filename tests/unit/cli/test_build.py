"""`lanewise build`, as a user calls it."""

from __future__ import annotations

import io
import logging
import warnings

import pytest
import structlog
from click.testing import CliRunner
from rich.console import Console

from helpers.models import profile_entry
from helpers.trt_models import bind_rtx, import_tensorrt, save_expand, save_matmul
from lanewise.backends.trt.build.plan_header import read_plan_header
from lanewise.cli.build import ShapeArguments, build
from lanewise.cli.main import cli
from lanewise.errors import ConfigError

THREE = "--min-shapes X:[1,3] --opt-shapes X:[2,3] --max-shapes X:[4,3]"


@pytest.fixture(autouse=True)
def put_logging_back():
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    grpc_level = logging.getLogger("grpc").level
    with warnings.catch_warnings():
        yield
        logging.captureWarnings(False)
    root.handlers = handlers
    root.setLevel(level)
    logging.getLogger("grpc").setLevel(grpc_level)
    structlog.reset_defaults()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `lanewise build` in a folder with the model m.onnx and gets what it prints."""
    bind_rtx()
    monkeypatch.chdir(tmp_path)
    save_matmul(tmp_path / "m.onnx")

    def run_build(arguments):
        done = CliRunner().invoke(cli, ["build", *arguments.split()], catch_exceptions=True)
        if isinstance(done.exception, ConfigError):
            return str(done.exception)
        return done.output

    return run_build


def cells(output):
    """Split every printed line at two spaces or more."""
    return [[c.strip() for c in line.split("  ") if c.strip()] for line in output.splitlines()]


def test_profiles_come_from_the_options(run, tmp_path):
    output = run(f"m.onnx -o m.plan --backend tensorrt-rtx {THREE} {THREE.replace('4', '8')}")

    assert read_plan_header(tmp_path / "m.plan").backend == "tensorrt-rtx"
    rows = cells(output)
    assert ["input", "X", "FP32", "[-1, 3]"] in rows
    assert ["output", "Y", "FP32", "[-1, 300]"] in rows
    assert ["0", "p0", "X", "[1, 3]", "[2, 3]", "[4, 3]"] in rows
    assert ["1", "p1", "X", "[1, 3]", "[2, 3]", "[8, 3]"] in rows
    assert rows[-1][0].startswith("m.plan: ")
    assert rows[-1][0].endswith(f" by {bind_rtx().name}")


def test_values_of_shape_tensors_are_given_like_shapes(run, tmp_path):
    save_expand(tmp_path / "e.onnx")

    output = run(
        "--min-shapes X:[1,1] S:[1,1] --opt-shapes X:[1,1] S:[2,6] --max-shapes X:[1,1] S:[4,8] "
        "e.onnx -o e.plan --backend tensorrt-rtx"
    )

    assert ["shape tensor", "S", "INT64", "[2]"] in cells(output)
    assert ["S (values)", "[1, 1]", "[2, 6]", "[4, 8]"] in cells(output)


@pytest.mark.parametrize("option", ["", " --settings model.toml"])
def test_profiles_come_from_the_settings_beside_the_model(run, tmp_path, option):
    entry = profile_entry("small", X=[(1, 3), (2, 3), (4, 3)])
    (tmp_path / "model.toml").write_text('backend = "tensorrt-rtx"\n' + entry)

    output = run(f"m.onnx -o m.plan{option}")

    assert ["0", "small", "X", "[1, 3]", "[2, 3]", "[4, 3]"] in cells(output)


def test_without_either_they_follow_from_the_model(run):
    output = run("m.onnx -o m.plan --backend tensorrt-rtx")

    assert [row[:2] for row in cells(output) if row and row[0] in "01"] == [
        ["0", "online"],
        ["1", "dynamic"],
    ]


class TestRefusals:
    def test_profiles_from_both_sides(self, run, tmp_path):
        (tmp_path / "model.toml").write_text(profile_entry(X=[(1, 3), (2, 3), (4, 3)]))

        message = run(f"m.onnx -o m.plan --settings model.toml {THREE}")

        assert message.startswith("model.toml: has profiles, and so has the command line")

    def test_profiles_of_the_command_line_say_so(self, run):
        message = run(f"m.onnx -o m.plan --backend tensorrt-rtx {THREE.replace('X', 'Z')}")

        assert message.startswith("command line: profiles[0].tensors.Z: the model has no such")

    def test_an_output_that_cannot_be_written_is_found_before_the_build(self, run):
        message = run("m.onnx -o nowhere/m.plan --backend tensorrt-rtx")

        assert message == "nowhere/m.plan: there is no folder nowhere; create it first"

    def test_a_failed_build_leaves_the_old_plan(self, run, tmp_path):
        (tmp_path / "m.plan").write_bytes(b"old")
        (tmp_path / "m.onnx").write_bytes(b"broken")

        assert "m.onnx: TensorRT-RTX" in run("m.onnx -o m.plan --backend tensorrt-rtx")
        assert (tmp_path / "m.plan").read_bytes() == b"old"

    def test_an_edition_that_only_runs_plans(self, run):
        import_tensorrt("tensorrt_lean")

        assert "has no builder" in run("m.onnx -o m.plan --backend tensorrt")

    def test_a_settings_file_that_is_not_there(self, run):
        assert "none.toml: cannot be read" in run("m.onnx -o m.plan --settings none.toml")


def test_on_a_terminal_progress_is_shown_as_bars_that_go_away(tmp_path):
    bind_rtx()
    screen = io.StringIO()

    build(
        save_matmul(tmp_path / "m.onnx"),
        tmp_path / "m.plan",
        backend="tensorrt-rtx",
        shapes=ShapeArguments(["X:[1,3]"], ["X:[2,3]"], ["X:[4,3]"]),
        settings_file=None,
        console=Console(file=screen, force_terminal=True, width=100),
    )

    assert "Building engine" in screen.getvalue()
    assert "m.plan" in screen.getvalue().splitlines()[-1]
