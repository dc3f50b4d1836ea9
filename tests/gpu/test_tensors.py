"""Which tensors a TensorRT runner takes and gives, against ONNX Runtime or bit for bit."""

from __future__ import annotations

import asyncio

import numpy as np
import onnxruntime
import pytest

from helpers.device import take_all_memory
from helpers.models import InstantClock, contents, random_array, save_onnx_echo, tensor
from helpers.trt_models import (
    save_add,
    save_conversions,
    save_cut,
    save_expand,
    save_repeat,
    save_reshape,
    save_several,
)
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import Batch
from lanewise.clock import NS_PER_S, SystemClock
from lanewise.errors import ExecutionFailed, NoProfileAdmits, ShapeMismatch
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.settings.model import ModelSettings, ProfileSettings, ShapeRangeSettings

DTYPES = (
    DType.BOOL,
    DType.UINT8,
    DType.INT8,
    DType.INT32,
    DType.INT64,
    DType.FP16,
    DType.BF16,
    DType.FP32,
    DType.FP8_E4M3FN,
)

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda each: each.value)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def load():
    """Loads a model, with a profile for each set of (min, opt, max) by input; closes it after."""
    loaded = []

    def load_file(file, *profiles, **settings):
        entries = tuple(
            ProfileSettings(
                tensors={
                    name: ShapeRangeSettings(min=low, opt=opt, max=high)
                    for name, (low, opt, high) in each.items()
                }
            )
            for each in profiles
        )
        (source,) = find_models(file)
        wanted = ModelSettings(backend="tensorrt-rtx", profiles=entries or None, **settings)
        loaded.append(load_model(source, wanted, clock=InstantClock()))
        return loaded[-1]

    yield load_file
    for model in loaded:
        for runner in model.runners:
            runner.close()


def only_runner(model):
    (runner,) = model.runners
    return runner


def run_one(runner, **inputs):
    """Run one request of a model without batching."""
    return runner.run(Batch({name: [array] for name, array in inputs.items()}, 1, 1))


def reference(file, **inputs):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def numbers(rows, columns, seed=0):
    return np.random.default_rng(seed).random((rows, columns), np.float32)


class TestDatatypes:
    @every_dtype
    def test_every_bit_pattern_crosses_unchanged(self, load, tmp_path, dtype):
        x = random_array(dtype, (96, 32))  # 3 072 elements: every pattern of 8 bits, NaNs too
        file = save_onnx_echo(tmp_path / "m.onnx", [tensor("X", dtype, (DYNAMIC, 32))])
        runner = only_runner(load(file, {"X": ((1, 32), (32, 32), (128, 32))}))

        outputs = [
            runner.run(Batch({"X": [x[:50], x[50:]]}, 96, 128))["echo_X"][:96]
            for _ in range(4)  # without a graph, then captured and launched
        ]

        assert {str(each.dtype) for each in outputs} == {str(dtype.numpy)}
        assert [contents(each) for each in outputs] == [contents(x)] * 4

    @every_dtype
    def test_numbers_are_read_and_written_as_what_they_are(self, load, tmp_path, dtype):
        values = [[0, 1, 1], [1, 0, 1]] if dtype is DType.BOOL else [[0, 1, 2], [3, 12, 96]]
        if dtype.numpy.kind != "u" and dtype is not DType.BOOL:
            values = [[-each for each in values[0]], values[1]]
        floats = np.array(values, np.float32)
        file = save_conversions(tmp_path / "m.onnx", dtype)
        limits = ((1, 3), (2, 3), (2, 3))
        runner = only_runner(load(file, {"X": limits, "F": limits}))
        x = floats.astype(dtype.numpy)

        outputs = runner.run(Batch({"X": [x], "F": [floats]}, 2, 2))

        np.testing.assert_array_equal(outputs["numbers"], floats)
        assert outputs["Y"].dtype == dtype.numpy
        np.testing.assert_array_equal(outputs["Y"].astype(np.float32), floats)


def test_several_inputs_and_outputs_of_many_ranks_agree_with_onnx_runtime(load, tmp_path):
    file = save_several(tmp_path / "m.onnx")
    model = load(file)
    assert model.spec.rowwise == {"X", "ids", "image"}
    draw = np.random.default_rng(0)

    def rows_of(rows):
        return {
            "X": numbers(rows, 4, rows),
            "ids": draw.integers(0, 5, rows),
            "image": draw.random((rows, 2, 3, 3)).astype(np.float16),
        }

    parts = [rows_of(rows) for rows in (1, 3, 2)]
    table = numbers(5, 4, seed=9)
    pieces = {name: [part[name] for part in parts] for name in parts[0]} | {"table": [table]}
    (runner,) = (each for each in model.runners if each.profile.name == "dynamic")

    outputs = runner.run(Batch(pieces, rows=6, padded_rows=8))

    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    expected = reference(file, **whole, table=table)
    assert {n: (a.dtype, a.shape[1:]) for n, a in outputs.items()} == {
        n: (a.dtype, a.shape[1:]) for n, a in expected.items()
    }
    for name, array in expected.items():  # one addition or a maximum: nothing to round apart
        np.testing.assert_array_equal(outputs[name][:6], array)


def test_inputs_that_contradict_each_other_fail_that_request_alone(load, tmp_path):
    limits = ((1, 1), (2, 3), (4, 9))
    runner = only_runner(load(save_add(tmp_path / "m.onnx"), {"X": limits, "Z": limits}))

    with pytest.raises(ShapeMismatch, match="do not go together"):
        runner.run(Batch({"X": [numbers(2, 3)], "Z": [numbers(2, 4)]}, 2, 2))

    x = numbers(2, 4)
    np.testing.assert_array_equal(runner.run(Batch({"X": [x], "Z": [x]}, 2, 2))["Y"], x + x)


class TestShapeTensors:
    EXPAND = (((1, 1), (1, 1), (4, 1)), ((1, 1), (4, 6), (4, 8)))

    @pytest.fixture
    def expand(self, load, tmp_path):
        """A runner that broadcasts X to the shape S holds, and its file."""
        file = save_expand(tmp_path / "m.onnx")
        x, s = self.EXPAND
        model = load(file, {"X": x, "S": s})
        assert not model.spec.batching, "Y has not the rows of X"
        assert model.spec.outputs[0].shape == (DYNAMIC, DYNAMIC)
        return only_runner(model), file

    def test_the_values_decide_the_shapes_whether_or_not_a_graph_is_launched(self, expand):
        runner, file = expand
        runner.warm_up()
        sizes = [(4, 6), (2, 3), (4, 8), (1, 1), (3, 5)]
        x = numbers(1, 1)

        for _ in range(5):  # in turn: first runs, captures, launches, in both slots
            for each in sizes:
                s = np.array(each)
                assert contents(run_one(runner, X=x, S=s)["Y"]) == contents(
                    reference(file, X=x, S=s)["Y"]
                )

        assert runner.graph_counts().launches > 0

    def test_values_that_contradict_the_shapes_fail_that_request_alone(self, expand):
        runner, file = expand
        x = numbers(3, 1)

        with pytest.raises(ShapeMismatch, match="do not go together"):
            run_one(runner, X=x, S=np.array([4, 5]))

        s = np.array([3, 5])
        assert contents(run_one(runner, X=x, S=s)["Y"]) == contents(reference(file, X=x, S=s)["Y"])

    def test_ends_of_a_profile_that_contradict_each_other_are_no_obstacle(self, load, tmp_path):
        file = save_reshape(tmp_path / "m.onnx")
        limits = {
            "X": ((1, 6), (2, 6), (4, 6)),
            "S": ((1, 1), (3, 4), (50, 60)),
        }
        runner = only_runner(load(file, limits))
        runner.warm_up()
        x, s = numbers(4, 6), np.array([12, 2])

        assert contents(run_one(runner, X=x, S=s)["Y"]) == contents(x.reshape(12, 2))

    def test_rows_are_stacked_where_the_outputs_have_them(self, load, tmp_path):
        file = save_cut(tmp_path / "m.onnx")
        model = load(file, {"X": ((1, 6), (2, 6), (4, 6)), "E": ((1,), (4,), (6,))})
        assert model.spec.rowwise == {"X"}
        runner = only_runner(model)
        runner.warm_up()
        launches = runner.graph_counts().launches
        pieces = [numbers(1, 6, 1), numbers(2, 6, 2)]

        for end in (4, 6, 3):
            batch = Batch({"X": pieces, "E": [np.array([end], np.int32)]}, 3, 4)
            np.testing.assert_array_equal(
                runner.run(batch)["Y"][:3], np.concatenate(pieces)[:, :end]
            )

        now = runner.graph_counts().launches
        assert now == launches + 2, "4 and 6 are the values of opt and max"

    def test_requests_with_other_values_share_no_launch_and_may_be_refused(self, load, tmp_path):
        file = save_cut(tmp_path / "m.onnx")
        model = load(
            file,
            {"X": ((1, 6), (2, 6), (4, 6)), "E": ((1,), (2,), (3,))},
            {"X": ((1, 6), (2, 6), (4, 6)), "E": ((3,), (4,), (5,))},
        )
        x = numbers(1, 6)

        async def scenario():
            dispatcher = Dispatcher(model, SystemClock(), max_queue_requests=99)
            await dispatcher.warm_up()
            results = await asyncio.gather(
                *(
                    dispatcher.submit({"X": x, "E": np.array([end], np.int32)})
                    for end in (1, 2, 3, 4, 5, 6)
                ),
                return_exceptions=True,
            )
            await dispatcher.drain(NS_PER_S)
            await dispatcher.close()
            return results

        *served, refused = asyncio.run(scenario())
        for end, result in enumerate(served, start=1):
            np.testing.assert_array_equal(result.outputs["Y"], x[:, :end])
        assert isinstance(refused, NoProfileAdmits)
        assert "'E' [6]" in refused.message


class TestDataDependentOutputs:
    LIMITS = ((1, 2), (2, 2), (4, 2))

    @pytest.fixture
    def repeat(self, load, tmp_path):
        """A runner whose output Y is as long as the sum of X, and its file."""
        file = save_repeat(tmp_path / "m.onnx")
        model = load(file, {"X": self.LIMITS})
        assert not model.spec.batching, "the rows of Y are not those of X"
        return only_runner(model), file

    def test_have_the_size_of_each_execution(self, repeat):
        runner, file = repeat
        runner.warm_up()
        held = runner.memory().tensor_bytes

        for total in (5, 0, 70_000, 1, 3_000_000, 12):
            x = np.array([[total, 0]], np.float32)
            expected = reference(file, X=x)
            outputs = run_one(runner, X=x)
            assert {n: contents(a) for n, a in outputs.items()} == {
                n: contents(a) for n, a in expected.items()
            }
            assert runner.memory().tensor_bytes >= held, "buffers never shrink"
            held = runner.memory().tensor_bytes

    def test_are_never_in_a_graph_and_the_reason_is_counted(self, repeat):
        runner, _ = repeat
        for _ in range(5):
            run_one(runner, X=np.ones((2, 2), np.float32))

        counts = runner.graph_counts()
        assert counts.launches == 0
        assert {reason: n for reason, n in counts.misses.items() if n} == {"data_dependent": 5}

    def test_too_large_an_output_fails_that_request_alone_and_is_named(self, repeat):
        runner, _ = repeat

        buffers = take_all_memory()
        try:
            with pytest.raises(ExecutionFailed, match=r"output 'Y', .* needs .* bytes"):
                run_one(runner, X=np.array([[1 << 28, 0]], np.float32))
        finally:
            for buffer in buffers:
                buffer.close()

        outputs = run_one(runner, X=np.array([[1, 2]], np.float32))
        np.testing.assert_array_equal(outputs["Y"], np.full(3, 7, np.float32))
