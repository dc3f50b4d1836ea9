"""What is particular to ONNX Runtime; the promises of all runners are in tests/contract."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.models import InstantClock, save_onnx, save_onnx_echo, tensor
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch
from lanewise.errors import ConfigError, ExecutionFailed, MalformedContents
from lanewise.model.spec import RowRange
from lanewise.model.tensors import DYNAMIC, NO_LIMIT, DType
from lanewise.settings.model import ModelSettings, OnnxRuntimeSettings


def load(file, settings=None):
    (source,) = find_models(file)
    return load_model(source, settings or ModelSettings(), clock=InstantClock())


def count_threads():
    """Count the threads of this process, those of libraries included; Linux only."""
    return len(list(Path("/proc/self/task").iterdir()))


def save_text_echo(folder):
    return save_onnx_echo(folder / "m.onnx", [tensor("X", DType.BYTES, (DYNAMIC,))])


def test_symbolic_and_nameless_dimensions_are_dynamic(tmp_path):
    wide = tensor("X", DType.FP32, (DYNAMIC, DYNAMIC, 4))
    model = load(save_onnx_echo(tmp_path / "m.onnx", [wide]))

    assert model.spec.inputs[0].shape == wide.shape
    assert [(each.name, each.rows) for each in model.spec.profiles] == [("any", RowRange(1, 4, 32))]
    assert model.spec.profiles[0].ranges["X"].max == (32, NO_LIMIT, 4)
    assert model.runners[0].memory().host_bytes == 4 * 32 * 64 * 4, "as for the opt"


def test_padding_needs_limits(tmp_path):
    wide = tensor("X", DType.FP32, (DYNAMIC, DYNAMIC))
    settings = ModelSettings.model_validate({"padding": {"inputs": {"X": 1}}})

    with pytest.raises(ConfigError, match=r"'X' \[-1, -1\] has dynamic dimension 1"):
        load(save_onnx_echo(tmp_path / "m.onnx", [wide]), settings)


def test_a_model_gets_the_threads_of_its_settings(tmp_path):
    file = save_onnx_echo(tmp_path / "m.onnx", [tensor("X")])
    started = []
    kept = []
    for threads in (1, 4):
        before = count_threads()
        kept.append(load(file, ModelSettings(onnxruntime=OnnxRuntimeSettings(threads=threads))))
        started.append(count_threads() - before)

    assert started == [0, 3]  # the thread that calls run() works too


def test_text_that_is_not_utf8_is_the_senders_fault(tmp_path):
    runner = load(save_text_echo(tmp_path)).runners[1]

    with pytest.raises(MalformedContents, match=r"input 'X': .* element 1 is not"):
        runner.run(Batch({"X": [np.array([b"good", b"\xff"], object)]}, 2, 2))

    good = np.array([b"good"], object)
    assert runner.run(Batch({"X": [good]}, 1, 1))["echo_X"].tolist() == [b"good"]


def test_bfloat16_and_text_outputs_may_stand_side_by_side(tmp_path):
    file = save_onnx(
        tmp_path / "m.onnx",
        [
            helper.make_node("Cast", ["X"], ["half"], to=TensorProto.BFLOAT16),
            helper.make_node("Cast", ["X"], ["text"], to=TensorProto.STRING),
            helper.make_node("ReduceSum", ["X"], ["sum"], keepdims=0),
        ],
        [tensor("X", DType.FP32, (2,))],
        [
            tensor("half", DType.BF16, (2,)),
            tensor("text", DType.BYTES, (2,)),
            tensor("sum", DType.FP32, ()),
        ],
    )

    outputs = load(file).runners[0].run(Batch({"X": [np.array([1, 2.5], np.float32)]}, 1, 1))

    assert outputs["half"].dtype == DType.BF16.numpy
    assert outputs["half"].astype(np.float32).tolist() == [1, 2.5]
    assert outputs["text"].tolist() == [b"1", b"2.5"]
    assert outputs["sum"].shape == ()
    assert outputs["sum"] == 3.5


def test_a_bfloat16_input_may_stand_beside_text(tmp_path):
    file = save_onnx(
        tmp_path / "m.onnx",
        [
            helper.make_node("Cast", ["X"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Identity", ["T"], ["text"]),
        ],
        [tensor("X", DType.BF16, (1,)), tensor("T", DType.BYTES, (1,))],
        [tensor("wide", DType.FP32, (1,)), tensor("text", DType.BYTES, (1,))],
    )
    pieces = {"X": [np.array([1.5], DType.BF16.numpy)], "T": [np.array([b"t"], object)]}

    outputs = load(file).runners[0].run(Batch(pieces, 1, 1))

    assert {name: array.tolist() for name, array in outputs.items()} == {
        "wide": [1.5],
        "text": [b"t"],
    }


def test_text_inputs_beside_bfloat16_outputs_are_refused_at_load(tmp_path):
    inputs = [tensor("T", DType.BYTES, (1,)), tensor("X", DType.BF16, (1,))]

    with pytest.raises(ConfigError, match="string inputs beside BF16 or FP8 outputs"):
        load(save_onnx_echo(tmp_path / "m.onnx", inputs))


def test_a_file_that_is_no_onnx_is_refused_with_its_path(tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(b"not a model")

    with pytest.raises(ConfigError, match=r"m\.onnx: ONNX Runtime cannot load it: "):
        load(file)


def test_a_tensor_type_that_no_request_can_carry_is_refused_with_its_name(tmp_path):
    sequence = helper.make_tensor_sequence_value_info("S", TensorProto.FLOAT, [3])
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [3])
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["X"], ["S"])], "g", [x], [sequence]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(ConfigError, match=r"output 'S' is a seq\(tensor\(float\)\), which cannot"):
        load(tmp_path / "m.onnx")


def test_a_failure_carries_the_reason_of_onnx_runtime(tmp_path):
    runner = load(save_onnx_echo(tmp_path / "m.onnx", [tensor("X")])).runners[0]

    with pytest.raises(
        ExecutionFailed, match=r"ONNX Runtime failed: .*index: 1 Got: 4 Expected: 3"
    ):
        runner.run(Batch({"X": [np.zeros((1, 4), np.float32)]}, 1, 1))


def test_failures_are_not_also_written_to_the_terminal(tmp_path, capfd):
    file = save_onnx(
        tmp_path / "m.onnx",
        [helper.make_node("Gather", ["table", "X"], ["Y"])],
        [tensor("X", DType.INT64, (1,))],
        [tensor("Y", DType.FP32, (1,))],
        {"table": np.zeros(2, np.float32)},
    )
    runner = load(file).runners[0]

    with pytest.raises(ExecutionFailed):
        runner.run(Batch({"X": [np.array([5])]}, 1, 1))

    assert capfd.readouterr().err == ""


class TestUnknownRank:
    @staticmethod
    def save(folder):
        graph = helper.make_graph(
            [helper.make_node("Relu", ["X"], ["Y"])],
            "g",
            [helper.make_tensor_value_info("X", TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        file = folder / "m.onnx"
        onnx.save(model, str(file))
        return file

    def test_is_no_scalar(self, tmp_path):
        with pytest.raises(ConfigError, match="input 'X' has no rank in the model"):
            load(self.save(tmp_path))

    def test_is_that_of_the_profiles(self, tmp_path):
        entry = "[[profiles]]\ntensors.X = { min = [1, 3], opt = [4, 3], max = [32, 3] }\n"
        settings = ModelSettings.model_validate(tomllib.loads(entry))

        model = load(self.save(tmp_path), settings)

        x = np.ones((2, 3), np.float32)
        assert model.spec.inputs[0].shape == (DYNAMIC, DYNAMIC)
        assert np.array_equal(model.runners[0].run(Batch({"X": [x]}, 1, 1))["Y"], x)


def test_a_dimension_exported_as_0_is_dynamic(tmp_path):
    model = load(save_onnx_echo(tmp_path / "m.onnx", [tensor("X", DType.FP32, (0, 3))]))

    assert (model.spec.inputs[0].shape, model.spec.batching) == ((DYNAMIC, 3), True)
