from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from helpers.sim import model, profile
from lanewise.backends.trt import warm_shapes
from lanewise.backends.trt.warm_shapes import WarmShapes
from lanewise.errors import ExecutionFailed, RunnerLost
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DType, TensorSpec

SPEC = model(profile(0, (1, 4, 8), [(4, 8, 1 << 20)]))


class Spare:
    """Notes the shapes it runs; `when_run` is called for each of them first."""

    def __init__(self, when_run=lambda: None):
        self.ran = []
        self.held = {}
        self.is_closed = False
        self._when_run = when_run

    def run(self, batch):
        self._when_run()
        self.ran.append(batch.pieces["X"][0].shape)
        self.held = {name: pieces[0].tolist() for name, pieces in batch.pieces.items()}

    def close(self):
        self.is_closed = True


class Making:
    """Makes spares, and keeps them; the first of `errors` is raised instead, and dropped."""

    def __init__(self, *errors, when_run=lambda: None):
        self.spares = []
        self.saved = 0
        self._errors = list(errors)
        self._when_run = when_run

    def make(self):
        if self._errors:
            raise self._errors.pop(0)
        self.spares.append(Spare(self._when_run))
        return self.spares[-1]

    def save(self):
        self.saved += 1

    def warm_shapes(self, spec=SPEC, row_counts=(1, 4, 8)):
        return WarmShapes(spec, spec.profiles[0], row_counts, self.make, self.save)


def x(*shape):
    return {"X": shape}


def test_without_compiling_every_shape_is_warm():
    warm = WarmShapes(SPEC, SPEC.profiles[0], (1,), None, lambda: None)
    assert warm.covers(x(1, 5))
    warm.prepare(x(1, 5))


def test_preparing_executes_every_number_of_rows_on_a_spare_that_goes_away():
    making = Making()
    warm = making.warm_shapes()
    assert not warm.covers(x(2, 5))

    warm.prepare(x(2, 5))

    (spare,) = making.spares
    assert (spare.ran, spare.is_closed, making.saved) == ([(1, 5), (4, 5), (8, 5)], True, 1)
    assert warm.covers(x(2, 5))


def test_a_shape_is_warm_whatever_its_rows_and_another_shape_is_not():
    warm = Making().warm_shapes()
    warm.add(x(8, 5))
    assert [warm.covers(x(*shape)) for shape in ((1, 5), (300, 5), (8, 6))] == [True, True, False]


def test_dimension_0_of_an_input_that_is_not_rowwise_counts():
    scale = TensorSpec("S", DType.FP32, (-1,))
    warm = Making().warm_shapes(replace(SPEC, inputs=(*SPEC.inputs, scale)))
    warm.add({"X": (8, 5), "S": (2,)})
    assert warm.covers({"X": (1, 5), "S": (2,)})
    assert not warm.covers({"X": (1, 5), "S": (3,)})


def test_shape_tensors_hold_the_opt_values_of_the_profile():
    sizes = TensorSpec("S", DType.INT64, (2,))
    limits = ShapeRange((1, 1), (2, 4), (8, 8))
    profiles = (replace(SPEC.profiles[0], values={"S": limits}),)
    making = Making()
    warm = making.warm_shapes(replace(SPEC, inputs=(*SPEC.inputs, sizes), profiles=profiles))

    warm.prepare({"X": (1, 5), "S": (2,)})

    assert making.spares[0].held["S"] == [2, 4]


def test_a_warm_shape_is_not_prepared_again():
    making = Making()
    warm = making.warm_shapes()
    for _ in range(2):
        warm.prepare(x(1, 5))
    assert len(making.spares) == 1


def test_a_shape_that_cannot_be_executed_stays_cold_and_its_spare_goes_away():
    def refuse():
        raise ExecutionFailed("too long")

    making = Making(when_run=refuse)
    warm = making.warm_shapes()

    with pytest.raises(ExecutionFailed, match="too long"):
        warm.prepare(x(1, 5))

    assert [spare.is_closed for spare in making.spares] == [True]
    assert not warm.covers(x(1, 5))


def test_a_spare_that_cannot_be_made_does_not_keep_a_later_one_from_it():
    making = Making(ExecutionFailed("too little memory"))
    warm = making.warm_shapes()
    with pytest.raises(ExecutionFailed):
        warm.prepare(x(1, 5))

    warm.prepare(x(1, 5))

    assert warm.covers(x(1, 5))


def test_preparing_the_same_shape_twice_at_a_time_takes_one_spare():
    running, may_end = threading.Event(), threading.Event()

    def hold():
        running.set()
        assert may_end.wait(10)

    making = Making(when_run=hold)
    warm = making.warm_shapes()
    threads = [threading.Thread(target=warm.prepare, args=(x(1, 5),)) for _ in range(2)]
    threads[0].start()
    assert running.wait(10)
    threads[1].start()
    assert not warm.covers(x(1, 5))  # asking waits for neither
    may_end.set()
    for thread in threads:
        thread.join(10)

    assert len(making.spares) == 1
    assert warm.covers(x(1, 5))


def test_stopping_ends_a_preparation_before_its_next_number_of_rows():
    def stop():
        warm.stop()

    making = Making(when_run=stop)
    warm = making.warm_shapes()

    with pytest.raises(RunnerLost, match="closed"):
        warm.prepare(x(1, 5))

    assert [(spare.ran, spare.is_closed) for spare in making.spares] == [([(1, 5)], True)]
    assert not warm.covers(x(1, 5))


def test_the_shape_asked_for_longest_ago_is_forgotten_first():
    warm = Making().warm_shapes()
    for length in range(warm_shapes.MAX_WARM_SHAPES):
        warm.add(x(1, length))
    assert warm.covers(x(1, 0))

    warm.add(x(1, 1 << 19))

    assert [warm.covers(x(1, length)) for length in (0, 1, 2, 1 << 19)] == [True, False, True, True]
