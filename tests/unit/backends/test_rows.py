"""What shows, before anything is stacked, that rows depend on each other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.log_lines import captured_logs
from helpers.models import InstantClock
from lanewise.backends.onnx_graph import read_graph, without_false_names
from lanewise.backends.repository import find_models, load_model, prove_rows
from lanewise.backends.row_names import is_given_name
from lanewise.backends.rows import find_mixing
from lanewise.settings.model import ModelSettings

N8 = ("N", 8)
EIGHT = numpy_helper.from_array(np.linspace(0.1, 1, 64, dtype=np.float32).reshape(8, 8), "W")
ONES = numpy_helper.from_array(np.ones(8, np.float32), "ones")
ZERO = numpy_helper.from_array(np.int64([0]), "axis0")


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def save(
    folder, nodes, *, shape=N8, out=N8, dtype=TensorProto.FLOAT, out_dtype=None, inputs=("X",)
):
    """Write a model from `inputs`, all of one shape, to Y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name in inputs],
        [helper.make_tensor_value_info("Y", out_dtype or dtype, out)],
        [EIGHT, ONES, ZERO],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file = folder / "m.onnx"
    onnx.save(model, str(file))
    return file


def serve(file, **settings):
    """Load a model as the server does; get it and what was logged of its rows."""
    (source,) = find_models(file)
    wanted = ModelSettings(**settings)
    with captured_logs() as logged:
        loaded = load_model(source, wanted, clock=InstantClock())
        loaded = prove_rows(loaded, source, wanted, clock=InstantClock())
    return loaded, [line for line in logged if "stacked" in line["event"]]


MIXING = {
    "mean": [node("ReduceMean", "X", "M", axes=[0]), node("Sub", "X M", "Y")],
    "softmax": [node("Softmax", "X", "Y", axis=0)],
    "running sum": [node("CumSum", "X axis0", "Y")],
    "running sum from behind": [node("CumSum", "X axis0", "Y", reverse=1)],
    "norm": [node("LpNormalization", "X", "Y", axis=0)],
    "largest": [node("ReduceMax", "X", "M", keepdims=0), node("Div", "X M", "Y")],
    "rank among rows": [
        node("Identity", "X", "X1"),
        node("ArgMax", "X1", "A", axis=0),
        node("Cast", "A", "B", to=TensorProto.FLOAT),
        node("Add", "X B", "Y"),
    ],
}

ROW_BY_ROW = {
    "dense": [node("MatMul", "X W", "H"), node("Softmax", "H", "Y", axis=1)],
    "tiny": [
        node("MatMul", "X W", "H"),
        node("Neg", "H", "G"),
        node("Mul", "G G", "Q"),
        node("Neg", "Q", "R"),
        node("Exp", "R", "Y"),
    ],
}


@pytest.mark.parametrize("nodes", MIXING.values(), ids=MIXING)
def test_a_model_that_mixes_rows_runs_every_request_alone_and_says_why(tmp_path, nodes):
    loaded, (line,) = serve(save(tmp_path, nodes))

    assert not loaded.spec.batching
    assert (line["event"], line["log_level"]) == ("requests are not stacked", "warning")
    assert "output 'Y'" in line["reason"]
    assert "batching = true" in line["hint"]
    assert loaded.spec.batching_reason == line["reason"]


@pytest.mark.parametrize("nodes", ROW_BY_ROW.values(), ids=ROW_BY_ROW)
def test_a_model_of_independent_rows_is_stacked(tmp_path, nodes):
    loaded, (line,) = serve(save(tmp_path, nodes))

    assert loaded.spec.batching
    assert (line["event"], line["log_level"]) == ("requests are stacked", "info")


def test_shapes_that_grow_with_the_rows_beside_them_are_noticed_without_names(tmp_path):
    nodes = [node("Transpose", "T", "Tt", perm=[1, 0]), node("MatMul", "X Tt", "Y")]
    file = save(tmp_path, nodes, shape=(None, 8), out=(None, None), inputs=("X", "T"))

    loaded, (line,) = serve(file)

    assert not loaded.spec.batching
    assert "shapes [1, 1] and [1, 3]" in line["reason"]


def test_a_model_that_runs_one_row_alone_is_not_stacked(tmp_path):
    eight = node("Constant", "", "E", value=numpy_helper.from_array(np.int64([1, 8])))
    # [1, 8], but not so that a reader of the graph could know it.
    shape = [node("Shape", "X", "S"), node("Div", "S S", "D"), node("Mul", "D E", "F")]

    loaded, (line,) = serve(save(tmp_path, [eight, *shape, node("Reshape", "X F", "Y")]))

    assert not loaded.spec.batching
    assert "runs one row, but not 3" in line["reason"]


def test_outputs_that_have_other_rows_than_were_sent_are_not_stacked(tmp_path):
    loaded, _ = serve(save(tmp_path, [node("Concat", "X X", "Y", axis=0)]))

    assert not loaded.spec.batching


def test_settings_that_insist_keep_it_on_with_a_warning(tmp_path):
    loaded, (line,) = serve(save(tmp_path, MIXING["mean"]), batching=True)

    assert loaded.spec.batching
    assert (line["event"], line["log_level"]) == ("requests are stacked", "warning")
    assert "depends on the others" in line["reason"]


def test_turned_off_it_is_not_tried(tmp_path):
    loaded, lines = serve(save(tmp_path, MIXING["mean"]), batching=False)

    assert (loaded.spec.batching, lines) == (False, [])


@pytest.mark.parametrize(
    ("rows", "out"),
    [("unk__214", "unk__215"), ("DynamicDimension.0", "DynamicDimension.3"), ("?", "-1")],
)
def test_rows_that_exporters_name_differently_are_found_by_trial(tmp_path, rows, out):
    nodes = [node("MatMul", "X W", "Y")]

    loaded, _ = serve(save(tmp_path, nodes, shape=(rows, 8), out=(out, 8)))
    mixed, _ = serve(save(tmp_path, MIXING["softmax"], shape=(rows, 8), out=(out, 8)))

    assert (loaded.spec.batching, mixed.spec.batching) == (True, False)


def test_names_that_were_given_say_what_they_count(tmp_path):
    loaded, (line,) = serve(
        save(tmp_path, [node("Identity", "X", "Y")], shape=("boxes", 8), out=("kept", 8))
    )

    assert not loaded.spec.batching
    assert "boxes, kept" in line["reason"]


def test_rows_that_depend_on_data_are_not_found_by_names_that_say_nothing(tmp_path):
    nodes = [node("NonZero", "X", "Z"), node("Transpose", "Z", "Y", perm=[1, 0])]
    file = save(tmp_path, nodes, shape=("unk__1",), out=("unk__2", 1), out_dtype=TensorProto.INT64)

    loaded, (line,) = serve(file)

    assert not loaded.spec.batching
    assert "NonZero" in line["reason"]


def test_a_model_that_cannot_be_tried_is_judged_by_its_names(tmp_path):
    parse = [node("Cast", "X", "Y", to=TensorProto.FLOAT)]

    def load(rows, out):
        kinds = {"dtype": TensorProto.STRING, "out_dtype": TensorProto.FLOAT}
        return serve(save(tmp_path, parse, shape=(rows,), out=(out,), **kinds))

    (same, (told,)), (other, _) = load("N", "N"), load("unk__1", "unk__2")

    assert (same.spec.batching, other.spec.batching) == (True, False)
    assert (told["log_level"], "was not tried" in told["reason"]) == ("warning", True)


def test_random_answers_prove_nothing(tmp_path):
    draw = [node("RandomNormalLike", "X", "R"), node("Add", "X R", "Y")]

    loaded, (line,) = serve(save(tmp_path, draw))

    assert loaded.spec.batching
    assert "another answer each time" in line["reason"]


class TestOfTheFileAlone:
    def test_the_name_of_rows_in_another_dimension(self, tmp_path):
        pairs = [node("Transpose", "X", "T", perm=[1, 0]), node("MatMul", "X T", "Y")]

        named = find_mixing(save(tmp_path, pairs, shape=("batch", 8), out=("batch", "batch")))
        nameless = find_mixing(save(tmp_path, pairs, shape=("?", 8), out=("?", "?")))

        assert named == "dimension 1 of output 'Y' is 'batch', which counts rows"
        assert not nameless

    def test_a_scale_of_the_whole_batch_even_in_an_inner_graph(self, tmp_path):
        quantize = node("DynamicQuantizeLinear", "X", "Q S Z")
        inner = helper.make_graph(
            [quantize, node("DequantizeLinear", "Q S Z", "D")],
            "inner",
            [],
            [helper.make_tensor_value_info("D", TensorProto.FLOAT, N8)],
        )
        yes = node("Constant", "", "yes", value=numpy_helper.from_array(np.bool_(True)))
        both = node("If", "yes", "Y", then_branch=inner, else_branch=inner)

        assert "DynamicQuantizeLinear" in find_mixing(save(tmp_path, [yes, both]))

    @pytest.mark.parametrize("training", [0, 1])
    def test_statistics_of_the_batch(self, tmp_path, training):
        outputs = "Y M V" if training else "Y"
        norm = node("BatchNormalization", "X ones ones ones ones", outputs, training_mode=training)

        assert bool(find_mixing(save(tmp_path, [norm]))) == bool(training)

    def test_files_that_are_no_models_are_left_to_their_backend(self, tmp_path):
        file = save(tmp_path, ROW_BY_ROW["dense"])
        whole = file.read_bytes()
        for content in (b"", b"not a model", whole[:-20], whole[:17], bytes(range(256))):
            file.write_bytes(content)

            assert not find_mixing(file)

    def test_dimensions_of_no_size_are_of_any(self, tmp_path):
        graph = read_graph(save(tmp_path, ROW_BY_ROW["dense"], shape=(0, 8), out=None))

        assert (graph.inputs, graph.outputs) == ({"X": ("", 8)}, {"Y": None})


class TestFalseNames:
    def test_are_taken_off_and_nothing_else_changes(self, tmp_path):
        file = save(tmp_path, ROW_BY_ROW["dense"], shape=("?", 8, "?"), out=("rows", 8, "-1"))
        expected = onnx.load(file)
        for value, dims in ((expected.graph.input[0], (0, 2)), (expected.graph.output[0], (2,))):
            for dim in dims:
                value.type.tensor_type.shape.dim[dim].ClearField("dim_param")

        found = onnx.load_from_string(without_false_names(file))

        for value in (*found.graph.input, *found.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                dim.ClearField("denotation")
        assert found == expected

    def test_a_model_without_any_is_read_as_it_is(self, tmp_path):
        assert without_false_names(save(tmp_path, ROW_BY_ROW["dense"], shape=("N", 8))) is None


@pytest.mark.parametrize("name", ["unk__13", "DynamicDimension.0", "?", "-1", "", "Gemm_Y_dim_0"])
def test_made_up_names_are_no_names(name):
    assert not is_given_name(name)


@pytest.mark.parametrize("name", ["batch", "N", "num_boxes", "s0", "batch_size_1"])
def test_names_that_somebody_gave_are(name):
    assert is_given_name(name)
