"""Real plans, built by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import tomllib
from pathlib import Path

import onnx
import pytest
import structlog
from onnx import helper

from helpers.models import profile_entry, save_onnx, save_onnx_echo, tensor
from helpers.trt_models import (
    DIGITS,
    bind_rtx,
    import_tensorrt,
    save_add,
    save_expand,
    save_matmul,
    save_operator,
)
from lanewise.backends.trt.binding import make_binding
from lanewise.backends.trt.build.builder import build_plan
from lanewise.backends.trt.build.plan_header import PlanHeader, read_plan_header
from lanewise.errors import ConfigError
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings

SETTINGS_FILE = Path("repo/m/model.toml")
ONE_TO_FOUR = profile_entry(X=[(1, 3), (2, 3), (4, 3)])


class RecordedProgress:
    """Notes every phase; stops the build after `steps` of them."""

    def __init__(self, steps=None):
        self.events = []
        self.open = []
        self._left = steps

    def start(self, phase, parent, steps):
        assert steps > 0
        self.events.append((phase, parent))
        self.open.append(phase)

    def advance(self, phase, step):
        if self._left is not None:
            self._left -= 1
        return self._left is None or self._left > 0

    def finish(self, phase):
        self.open.remove(phase)


def build(file, *entries, binding=None, progress=None):
    settings = ModelSettings.model_validate(tomllib.loads("\n".join(entries)))
    return build_plan(binding or bind_rtx(), file, settings, SETTINGS_FILE, progress)


def refusal(file, *entries, **kwargs):
    with pytest.raises(ConfigError) as raised:
        build(file, *entries, **kwargs)
    return str(raised.value)


def test_a_plan_with_three_profiles_is_built(tmp_path):
    shape = (3, 28, 28)

    plan = build(
        DIGITS,
        profile_entry("online", X=[(1, *shape), (1, *shape), (1, *shape)]),
        profile_entry("dynamic", X=[(1, *shape), (4, *shape), (32, *shape)]),
        profile_entry("offline", X=[(128, *shape), (128, *shape), (128, *shape)]),
    )

    (tmp_path / "model.plan").write_bytes(plan.data)
    header = read_plan_header(tmp_path / "model.plan")
    assert header == PlanHeader("tensorrt-rtx", bind_rtx().version)
    assert plan.tensors.inputs == (tensor("X", shape=(-1, 3, 28, 28)),)
    assert plan.tensors.outputs == (tensor("logits", shape=(-1, 10)),)
    assert [(each.name, each.shapes["X"].max[0]) for each in plan.profiles] == [
        ("online", 1),
        ("dynamic", 32),
        ("offline", 128),
    ]
    assert len(plan.data) > 100_000


def test_shape_tensors_are_told_from_the_others_and_take_values(tmp_path):
    plan = build(
        save_expand(tmp_path / "m.onnx"),
        profile_entry(X=[(1, 1), (1, 1), (1, 1)], S=[(1, 1), (2, 6), (4, 8)]),
    )

    assert plan.tensors.inputs == (tensor("X", shape=(-1, 1)), tensor("S", DType.INT64, (2,)))
    assert plan.tensors.shape_tensors == {"S"}
    assert plan.profiles[0].values == {"S": ShapeRange((1, 1), (2, 6), (4, 8))}


def test_what_a_profile_leaves_out_is_filled_in_and_logged(tmp_path):
    file = save_onnx_echo(tmp_path / "m.onnx", [tensor("X"), tensor("Z", shape=(2,))])

    with structlog.testing.capture_logs() as entries:
        plan = build(file, profile_entry(Z=[(2,), (2,), (2,)]))

    assert plan.profiles[0].shapes["X"] == ShapeRange((1, 3), (1, 3), (1, 3))
    (warning,) = (each for each in entries if each["event"] == "profile completed")
    assert warning["assumption"].startswith("input 'X' [-1, 3]: a profile leaves it out")


def test_weights_beside_the_model_are_found(tmp_path):
    file = save_matmul(tmp_path / "m.onnx")
    onnx.save(
        onnx.load(str(file)), str(file), save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip

    assert build(file, ONE_TO_FOUR).data

    (tmp_path / "weights.bin").unlink()
    assert "Failed to import initializer: W" in refusal(file, ONE_TO_FOUR)


def test_progress_is_told_phase_by_phase(tmp_path):
    progress = RecordedProgress()

    build(save_matmul(tmp_path / "m.onnx"), ONE_TO_FOUR, progress=progress)

    outermost = [phase for phase, parent in progress.events if parent is None]
    nested = [parent for _, parent in progress.events if parent is not None]
    assert outermost == ["Building engine"]
    assert set(nested) <= {phase for phase, _ in progress.events}
    assert progress.open == []


def test_a_build_can_be_stopped(tmp_path):
    file = save_matmul(tmp_path / "m.onnx")
    progress = RecordedProgress(steps=2)

    message = refusal(file, ONE_TO_FOUR, progress=progress)

    assert message.startswith(f"{file}: TensorRT-RTX {bind_rtx().version} cannot build this model")


def test_progress_that_fails_stops_the_build_and_is_logged(tmp_path):
    class Broken(RecordedProgress):
        def start(self, phase, parent, steps):
            raise ZeroDivisionError("no terminal")

    with structlog.testing.capture_logs() as entries:
        refusal(save_matmul(tmp_path / "m.onnx"), ONE_TO_FOUR, progress=Broken())

    assert "build is stopped: its progress cannot be shown" in [each["event"] for each in entries]


class TestFailures:
    """Each is told with TensorRT's own reason."""

    @pytest.mark.parametrize(
        ("operator", "output"),
        [
            ("NonZero", tensor("Y", DType.INT64, (3, DYNAMIC))),
            ("Det", tensor("Y", shape=(DYNAMIC,))),
        ],
    )
    def test_an_operator_without_a_kernel_is_told_with_its_node(self, tmp_path, operator, output):
        file = save_operator(tmp_path / "m.onnx", operator, output)

        message = refusal(file, profile_entry(X=[(1, 3, 3), (1, 3, 3), (1, 3, 3)]))

        assert message.startswith(
            f"{file}: {bind_rtx().name} cannot read this model: "
            f"node 0 'culprit' ({operator}): UNSUPPORTED_NODE: "
        )

    def test_all_errors_of_the_parser_are_listed(self, tmp_path):
        texts = tensor("X", DType.BYTES, (DYNAMIC,))
        node = helper.make_node("StringNormalizer", ["X"], ["Y"], name="culprit")
        file = save_onnx(tmp_path / "m.onnx", [node], [texts], [tensor("Y", DType.BYTES, (-1,))])

        lines = refusal(file, profile_entry(X=[(1,), (1,), (1,)])).splitlines()

        assert lines[0] == f"{file}: {bind_rtx().name} cannot read this model: "
        assert lines[1].startswith("  the model: UNSUPPORTED_NODE: Assertion failed: convertDtype")
        assert lines[2].startswith("  node 0 'culprit' (StringNormalizer): UNSUPPORTED_NODE: ")

    def test_a_model_that_parses_but_cannot_be_built_has_the_builders_reason(self, tmp_path):
        file = save_add(tmp_path / "m.onnx")

        message = refusal(file, profile_entry(X=[(2, 3)] * 3, Z=[(2, 5)] * 3))

        assert message.startswith(f"{file}: {bind_rtx().name} cannot build this model: ")
        assert "Error Code" in message
        assert "None" not in message

    def test_dimensions_that_are_all_called_a_question_mark_may_differ(self, tmp_path):
        file = save_onnx_echo(tmp_path / "m.onnx", [tensor("X", shape=(DYNAMIC, 3, DYNAMIC))])
        model = onnx.load(file)
        for value in (*model.graph.input, *model.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if not dim.dim_value:
                    dim.dim_param = "?"
        onnx.save(model, file)

        built = build(file, profile_entry(X=[(1, 3, 16), (4, 3, 16), (8, 3, 16)]))

        assert built.data

    @pytest.mark.parametrize("content", [b"", b"not a model at all" * 10])
    def test_a_file_that_is_no_model_is_refused(self, tmp_path, content):
        file = tmp_path / "m.onnx"
        file.write_bytes(content)

        assert refusal(file).startswith(f"{file}: {bind_rtx().name} ")

    def test_a_file_that_is_not_there_is_refused(self, tmp_path):
        assert "is not a file; give the path of an ONNX model" in refusal(tmp_path / "m.onnx")

    def test_profiles_are_refused_in_the_words_of_model_toml(self, tmp_path):
        message = refusal(
            save_matmul(tmp_path / "m.onnx"), profile_entry(X=[(4, 3), (2, 3), (1, 3)])
        )

        assert message.startswith(f"{SETTINGS_FILE}: profiles[0].tensors.X: min <= opt <= max")

    def test_an_edition_without_a_builder_says_which_has_one(self, tmp_path):
        lean = make_binding("tensorrt", "Lean", import_tensorrt("tensorrt_lean"))

        message = refusal(save_matmul(tmp_path / "m.onnx"), binding=lean)

        assert message.startswith(f"Lean {lean.version} runs plans but has no builder")
        assert "pip install 'lanewise[rtx]'" in message


class TestSettings:
    def test_a_plan_can_be_narrowed_to_some_devices(self, tmp_path):
        file = save_matmul(tmp_path / "m.onnx")

        assert build(file, "[tensorrt]", 'compute_capabilities = ["8.9", "12.0"]').data

    def test_a_device_that_cannot_be_built_for_is_refused_with_those_that_can(self, tmp_path):
        file = save_matmul(tmp_path / "m.onnx")

        message = refusal(file, "[tensorrt]", 'compute_capabilities = ["9.0"]')

        assert "tensorrt.compute_capabilities: " in message
        assert "cannot build for 9.0; it can for " in message
        assert "8.6, 8.9, 12.0" in message

    def test_scratch_memory_and_optimization_level_are_handed_on(self, tmp_path):
        file = save_matmul(tmp_path / "m.onnx")

        assert build(file, "[tensorrt]", "workspace_mib = 64", "optimization_level = 0").data
