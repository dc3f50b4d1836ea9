"""What every runner promises, whatever executes the model."""

from __future__ import annotations

import numpy as np
import pytest

from contract.factories import FACTORIES
from helpers.models import contents, random_array, tensor
from lanewise.backends.runner import Batch
from lanewise.errors import ExecutionFailed, RunnerLost
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings, ProfileSettings, ShapeRangeSettings

every_backend = pytest.mark.parametrize("factory", FACTORIES, ids=lambda each: each.name)
every_computing_backend = pytest.mark.parametrize(
    "factory", [each for each in FACTORIES if each.computes], ids=lambda each: each.name
)
every_starting_backend = pytest.mark.parametrize(
    "factory", [each for each in FACTORIES if each.starts], ids=lambda each: each.name
)
every_dtype = pytest.mark.parametrize(
    ("factory", "dtype"),
    [
        pytest.param(factory, dtype, id=f"{factory.name}-{dtype.value}")
        for factory in FACTORIES
        for dtype in DType
        if dtype in factory.dtypes
    ],
)

X = tensor("X")


def batch_of(padded_rows, **pieces):
    """A batch of the pieces of row-wise inputs, all of which have the same rows."""
    rows = sum(len(piece) for piece in next(iter(pieces.values())))
    return Batch(pieces, rows, padded_rows)


def settings_of(*row_ranges, item=(3,), batching=None):
    """Settings with a profile for input X for each (min, opt, max) rows."""
    profiles = tuple(
        ProfileSettings(
            tensors={"X": ShapeRangeSettings(min=(low, *item), opt=(opt, *item), max=(high, *item))}
        )
        for low, opt, high in row_ranges
    )
    return ModelSettings(profiles=profiles or None, batching=batching)


def load_echo(factory, folder, *, settings=None, inputs=(X,), unused=()):
    settings = settings or settings_of((1, 4, 8))
    return factory.echo(folder, inputs, unused, settings)


def only_runner(model):
    (runner,) = model.runners
    return runner


@every_backend
def test_there_is_a_runner_for_each_profile_in_their_order(factory, tmp_path):
    model = load_echo(factory, tmp_path, settings=settings_of((1, 1, 1), (1, 4, 8), (8, 8, 8)))

    assert [runner.profile for runner in model.runners] == list(model.spec.profiles)
    assert [profile.rows.max for profile in model.spec.profiles] == [1, 8, 8]
    assert model.spec.backend == factory.name


@every_backend
def test_warm_up_needs_nothing_but_the_profile(factory, tmp_path):
    for runner in load_echo(factory, tmp_path, settings=settings_of((1, 1, 1), (2, 4, 8))).runners:
        runner.warm_up()


@every_dtype
def test_rows_come_back_in_order_and_bit_for_bit(factory, dtype, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path, inputs=(tensor("X", dtype),)))
    pieces = [random_array(dtype, (rows, 3), seed=rows) for rows in (2, 1, 3)]

    outputs = runner.run(batch_of(6, X=pieces))

    assert outputs.keys() == {"echo_X"}
    assert contents(outputs["echo_X"]) == contents(np.concatenate(pieces))


@every_dtype
def test_a_lone_request_comes_back_bit_for_bit(factory, dtype, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path, inputs=(tensor("X", dtype),)))
    piece = random_array(dtype, (4, 3))

    outputs = runner.run(batch_of(4, X=[piece]))

    assert contents(outputs["echo_X"]) == contents(piece)


@every_dtype
def test_padding_holds_nothing_of_an_earlier_batch(factory, dtype, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path, inputs=(tensor("X", dtype),)))
    blank = np.full((6, 3), b"") if dtype is DType.BYTES else np.zeros((6, 3))
    runner.run(batch_of(8, X=[random_array(dtype, (4, 3), seed=seed) for seed in (1, 2)]))
    small = random_array(dtype, (2, 3), seed=3)

    outputs = runner.run(batch_of(8, X=[small]))

    padded = np.concatenate([small, blank.astype(dtype.numpy)])
    assert contents(outputs["echo_X"]) == contents(padded)


@every_backend
def test_a_request_without_rows_is_padded_to_a_batch(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))

    outputs = runner.run(batch_of(1, X=[np.empty((0, 3), np.float32)]))

    assert contents(outputs["echo_X"]) == contents(np.zeros((1, 3), np.float32))


@every_backend
def test_every_input_is_stacked_and_every_output_returned(factory, tmp_path):
    third = DType.BYTES if DType.BYTES in factory.dtypes else DType.BOOL
    inputs = (X, tensor("ids", DType.INT64, (DYNAMIC,)), tensor("third", third, (DYNAMIC, 1)))
    profile = ProfileSettings(
        tensors={
            each.name: ShapeRangeSettings(
                min=(1, *each.shape[1:]), opt=(4, *each.shape[1:]), max=(8, *each.shape[1:])
            )
            for each in inputs
        }
    )
    settings = ModelSettings(profiles=(profile,))
    runner = only_runner(load_echo(factory, tmp_path, inputs=inputs, settings=settings))
    pieces = {
        each.name: [random_array(each.dtype, (rows, *each.shape[1:]), rows) for rows in (1, 2)]
        for each in inputs
    }

    outputs = runner.run(Batch(pieces, rows=3, padded_rows=3))

    assert {name: contents(array) for name, array in outputs.items()} == {
        f"echo_{name}": contents(np.concatenate(arrays)) for name, arrays in pieces.items()
    }


@every_backend
def test_an_input_that_is_not_rowwise_is_shared_by_the_batch(factory, tmp_path):
    scale = tensor("scale", DType.FP32, (2,))
    model = load_echo(factory, tmp_path, unused=[scale])
    pieces = {
        "X": [random_array(DType.FP32, (1, 3), seed) for seed in (1, 2)],
        "scale": [np.ones(2, np.float32)],
    }

    outputs = only_runner(model).run(Batch(pieces, rows=2, padded_rows=4))

    assert model.spec.rowwise == {"X"}
    assert contents(outputs["echo_X"][:2]) == contents(np.concatenate(pieces["X"]))


@every_computing_backend
def test_a_shared_input_reaches_every_row(factory, tmp_path):
    runner = only_runner(factory.shift(tmp_path, settings_of((1, 4, 8), item=(2,))))
    pieces = {
        "X": [np.array([[1, 2]], np.float32), np.array([[3, 4]], np.float32)],
        "S": [np.array([10, 20], np.float32)],
    }

    outputs = runner.run(Batch(pieces, rows=2, padded_rows=2))

    assert outputs["Y"].tolist() == [[11, 22], [13, 24]]


@every_backend
def test_outputs_have_the_rows_that_were_executed(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))

    outputs = runner.run(batch_of(5, X=[random_array(DType.FP32, (2, 3))]))

    assert outputs["echo_X"].shape == (5, 3)


@every_computing_backend
def test_an_output_shape_may_depend_on_the_data(factory, tmp_path):
    settings = settings_of((0, 4, 8), item=(), batching=False)
    runner = only_runner(factory.nonzero(tmp_path, settings))

    found = [
        runner.run(Batch({"X": [np.array(elements, np.float32)]}, 1, 1))["Y"]
        for elements in ([0, 5, 0, 7], [0, 0], [1, 1, 1])
    ]

    assert [each.tolist() for each in found] == [[[1, 3]], [[]], [[0, 1, 2]]]
    assert [each.shape for each in found] == [(1, 2), (1, 0), (1, 3)]


@every_backend
def test_shapes_may_change_from_run_to_run_within_the_profile(factory, tmp_path):
    x = tensor("X", DType.FP32, (DYNAMIC, DYNAMIC))
    wide = ProfileSettings(tensors={"X": ShapeRangeSettings(min=(1, 1), opt=(2, 4), max=(4, 16))})
    settings = ModelSettings(profiles=(wide,))
    runner = only_runner(load_echo(factory, tmp_path, inputs=(x,), settings=settings))

    for shape in [(1, 2), (2, 16), (1, 3), (2, 1)]:
        pieces = [random_array(DType.FP32, shape, seed) for seed in (1, 2)]
        outputs = runner.run(batch_of(2 * shape[0], X=pieces))
        assert contents(outputs["echo_X"]) == contents(np.concatenate(pieces))


@every_backend
def test_a_shape_is_warm_once_it_was_warmed_up_or_prepared_whatever_its_rows(factory, tmp_path):
    x = tensor("X", DType.FP32, (DYNAMIC, DYNAMIC))
    wide = ProfileSettings(tensors={"X": ShapeRangeSettings(min=(1, 1), opt=(2, 4), max=(4, 16))})
    settings = ModelSettings(profiles=(wide,))
    runner = only_runner(load_echo(factory, tmp_path, inputs=(x,), settings=settings))

    runner.warm_up()
    runner.prepare({"X": (3, 7)})

    assert all(runner.is_warm({"X": (1, width)}) for width in (4, 16, 7))
    piece = random_array(DType.FP32, (4, 7))
    assert contents(runner.run(batch_of(4, X=[piece]))["echo_X"]) == contents(piece)


@every_backend
@pytest.mark.parametrize("rows", [[4], [2, 2]], ids=["lone", "stacked"])
def test_outputs_stay_as_they_are_after_later_runs_and_after_close(factory, rows, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    pieces = [random_array(DType.FP32, (count, 3), seed) for seed, count in enumerate(rows)]
    before = np.concatenate(pieces)

    kept = runner.run(batch_of(4, X=pieces))["echo_X"]
    for seed in range(3):
        runner.run(batch_of(8, X=[random_array(DType.FP32, (4, 3), 10 + seed)] * 2))
    runner.close()

    assert contents(kept) == contents(before)


@every_backend
def test_outputs_do_not_share_memory_with_the_request(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    piece = np.ones((4, 3), np.float32)

    output = runner.run(batch_of(4, X=[piece]))["echo_X"]

    assert not np.shares_memory(output, piece)


@every_backend
def test_inputs_are_only_read(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    pieces = [np.full((rows, 3), rows, np.float32) for rows in (1, 2)]
    for piece in pieces:
        piece.flags.writeable = False

    runner.run(batch_of(8, X=pieces))
    runner.run(batch_of(2, X=pieces[1:]))

    assert [piece[0, 0] for piece in pieces] == [1, 2]


@every_backend
def test_buffers_only_grow(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    sizes = [runner.memory().host_bytes]

    for rows in (8, 1, 3, 8, 2):
        runner.run(batch_of(8, X=[random_array(DType.FP32, (rows, 3))]))
        sizes.append(runner.memory().host_bytes)

    assert sizes == sorted(sizes)
    assert sizes[-1] >= 8 * 3 * 4


@every_backend
def test_every_execution_is_the_launch_of_a_graph_or_a_miss_where_there_are_graphs(
    factory, tmp_path
):
    runner = only_runner(load_echo(factory, tmp_path))

    def executions():
        counts = runner.graph_counts()
        return None if counts is None else counts.launches + sum(counts.misses.values())

    runner.warm_up()
    before = executions()
    for _ in range(5):
        runner.run(batch_of(4, X=[random_array(DType.FP32, (4, 3))]))

    assert executions() == (None if before is None else before + 5)


@every_backend
def test_warm_batches_can_be_started_where_the_backend_can_start_any(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    runner.warm_up()

    pending = runner.start(batch_of(4, X=[random_array(DType.FP32, (4, 3))]))

    assert (pending is not None) == factory.starts
    if pending is not None:
        pending.result()


@every_starting_backend
def test_a_started_batch_gives_what_a_run_gives_and_no_row_of_an_earlier_one(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    runner.warm_up()
    for seed in range(3 * runner.depth):
        pieces = [random_array(DType.FP32, (1 + seed % 3, 3), seed + i) for i in range(2)]
        batch = batch_of(8, X=pieces)
        pending = runner.start(batch)
        while not pending.is_done():
            pass
        started = pending.result()["echo_X"]
        assert contents(started) == contents(runner.run(batch)["echo_X"])
        assert contents(started[: batch.rows]) == contents(np.concatenate(pieces))


@every_starting_backend
def test_as_many_batches_as_the_runner_is_deep_can_be_started_at_a_time(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    runner.warm_up()
    pieces = [random_array(DType.FP32, (4, 3), seed) for seed in range(runner.depth)]
    pending = [runner.start(batch_of(4, X=[piece])) for piece in pieces]

    assert runner.start(batch_of(4, X=pieces[:1])) is None
    for one, piece in zip(reversed(pending), reversed(pieces), strict=True):  # in any order
        assert contents(one.result()["echo_X"]) == contents(piece)
    assert runner.start(batch_of(4, X=pieces[:1])).result()


@every_starting_backend
def test_the_result_of_a_started_batch_is_kept_by_nobody_else(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    runner.warm_up()
    piece = random_array(DType.FP32, (4, 3))

    kept = runner.start(batch_of(4, X=[piece])).result()["echo_X"]
    for seed in range(2 * runner.depth):
        runner.start(batch_of(4, X=[random_array(DType.FP32, (4, 3), 9 + seed)])).result()
    runner.close()

    assert contents(kept) == contents(piece)


@every_starting_backend
def test_a_started_batch_whose_runner_is_closed_is_lost(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    runner.warm_up()
    pending = runner.start(batch_of(4, X=[random_array(DType.FP32, (4, 3))]))
    runner.close()

    assert pending.is_done()
    with pytest.raises(RunnerLost):
        pending.result()


@every_backend
def test_a_closed_runner_starts_nothing(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    runner.warm_up()
    runner.close()

    assert runner.start(batch_of(4, X=[random_array(DType.FP32, (4, 3))])) is None


@every_backend
def test_each_profile_runs_its_own_rows(factory, tmp_path):
    model = load_echo(factory, tmp_path, settings=settings_of((1, 1, 1), (1, 4, 8), (16, 16, 16)))

    for runner in model.runners:
        runner.warm_up()
        rows = runner.profile.rows.max
        piece = random_array(DType.FP32, (rows, 3), seed=rows)
        assert contents(runner.run(batch_of(rows, X=[piece]))["echo_X"]) == contents(piece)


@every_backend
def test_a_model_without_batching_may_have_a_scalar_input(factory, tmp_path):
    inputs = (tensor("X", DType.FP32, ()), tensor("V", DType.INT32, (2,)))
    model = load_echo(factory, tmp_path, inputs=inputs, settings=ModelSettings())
    runner = only_runner(model)
    pieces = {"X": [np.array(2.5, np.float32)], "V": [np.array([1, 2], np.int32)]}

    runner.warm_up()
    outputs = runner.run(Batch(pieces, rows=1, padded_rows=1))

    assert not model.spec.batching
    assert {name: contents(array) for name, array in outputs.items()} == {
        f"echo_{name}": contents(array) for name, (array,) in pieces.items()
    }


@every_computing_backend
def test_a_failed_batch_leaves_the_runner_sound(factory, tmp_path):
    runner = only_runner(factory.lookup(tmp_path, settings_of((1, 2, 4), item=())))

    with pytest.raises(ExecutionFailed):
        runner.run(batch_of(1, X=[np.array([7])]))

    assert runner.run(batch_of(2, X=[np.array([1, 0])]))["Y"].tolist() == [20, 10]


@every_backend
def test_closing_twice_is_harmless_and_closing_one_runner_leaves_the_others(factory, tmp_path):
    first, second = load_echo(factory, tmp_path, settings=settings_of((1, 1, 1), (1, 1, 1))).runners
    piece = random_array(DType.FP32, (1, 3))

    first.close()
    first.close()

    assert first.memory().host_bytes == 0
    assert contents(second.run(batch_of(1, X=[piece]))["echo_X"]) == contents(piece)


@every_backend
def test_a_closed_runner_is_out_of_service(factory, tmp_path):
    runner = only_runner(load_echo(factory, tmp_path))
    runner.close()

    with pytest.raises(RunnerLost):
        runner.run(batch_of(1, X=[random_array(DType.FP32, (1, 3))]))


@every_computing_backend
def test_outputs_that_cannot_be_cut_into_rows_fail_already_at_warm_up(factory, tmp_path):
    model = factory.find(tmp_path, ModelSettings(batching=True))
    runner = model.runners[-1]

    with pytest.raises(ExecutionFailed, match="batching = false"):
        runner.warm_up()


@every_computing_backend
def test_rows_that_the_model_gives_different_names_are_not_stacked(factory, tmp_path):
    assert not factory.find(tmp_path, ModelSettings()).spec.batching
