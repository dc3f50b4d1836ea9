from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from helpers.gated import GatedRunner
from helpers.sim import model, profile
from lanewise.backends.runner import LoadedModel
from lanewise.backends.self_check import require_agreement
from lanewise.clock import SystemClock
from lanewise.errors import ExecutionFailed
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DType, TensorSpec
from lanewise.scheduler.dispatcher import Dispatcher

PROFILES = (
    profile(0, (1, 1, 1), [(4, 8, 16)], name="one"),
    profile(1, (1, 4, 32), [(4, 8, 16)], name="few"),
    profile(2, (128, 128, 128), [(16, 32, 64)], name="bulk"),
    profile(3, (1, 4, 8), [(100, 100, 100)], name="apart"),
)


class Scaled(GatedRunner):
    """Multiplies its input by a factor of its own, and runs without waiting."""

    def __init__(self, profile, factor=1.0, row_counts=()):
        super().__init__(profile)
        self.factor = factor
        self.row_counts = row_counts

    def run(self, batch):
        self.batches.append(batch)
        return {"Y": self.outputs(batch)["Y"] * np.float32(self.factor)}


def runners(**factors):
    return [Scaled(each, factors.get(each.name, 1.0)) for each in PROFILES]


def test_runners_that_agree_pass_and_are_asked_only_for_shapes_they_admit():
    made = runners()

    require_agreement(model(*PROFILES), made)

    shapes = {
        runner.profile.name: [b.pieces["X"][0].shape for b in runner.batches] for runner in made
    }
    assert shapes == {"one": [(1, 8), (1, 16)], "few": [(1, 8)], "bulk": [(1, 16)], "apart": []}
    assert [batch.padded_rows for batch in made[2].batches] == [128]


def test_shape_tensors_hold_the_opt_values_of_a_profile_if_both_admit_them():
    def with_values(known, low, opt, high):
        ranges = {**known.ranges, "S": ShapeRange((1,), (1,), (1,))}
        return replace(known, ranges=ranges, values={"S": ShapeRange((low,), (opt,), (high,))})

    made = [
        Scaled(with_values(profile(0, (1, 4, 8)), 1, 2, 9)),
        Scaled(with_values(profile(1, (1, 4, 8)), 3, 5, 7)),
        Scaled(with_values(profile(2, (1, 4, 8)), 9, 10, 11)),
    ]
    plain = model(*(runner.profile for runner in made))
    sizes = TensorSpec("S", DType.INT64, (1,))

    require_agreement(replace(plain, inputs=(*plain.inputs, sizes)), made)

    assert [[b.pieces["S"][0].tolist() for b in runner.batches] for runner in made] == [
        [[5]],
        [[5]],
        [],
    ]


def test_rounding_is_no_disagreement():
    require_agreement(model(*PROFILES), runners(few=1.004))


@pytest.mark.parametrize("wrong", ["few", "bulk"])
def test_runners_that_disagree_are_named(wrong):
    with pytest.raises(
        ExecutionFailed, match=f"profiles 'one' and '{wrong}' disagree on output 'Y'"
    ):
        require_agreement(model(*PROFILES), runners(**{wrong: 1.5}))


def test_values_that_are_no_numbers_disagree():
    with pytest.raises(ExecutionFailed, match="disagree"):
        require_agreement(model(*PROFILES), runners(bulk=float("nan")))


def test_labels_may_differ_where_candidates_are_as_good_as_equal():
    spec = model(*PROFILES)
    labels = replace(spec, outputs=(replace(spec.outputs[0], dtype=DType.INT32),))
    require_agreement(labels, runners(few=1.5))


def test_the_smallest_count_that_a_runner_executes_is_used():
    made = runners()
    made[1].row_counts = (4, 32)

    require_agreement(model(*PROFILES), made)

    assert [batch.padded_rows for batch in made[1].batches] == [4]


def test_a_compiled_model_whose_runners_disagree_is_not_ready():
    async def scenario():
        loaded = LoadedModel(model(*PROFILES), tuple(runners(few=2.0)), is_compiled=True)
        dispatcher = Dispatcher(loaded, SystemClock(), max_queue_requests=1)
        with pytest.raises(ExecutionFailed, match="build the plan again"):
            await dispatcher.warm_up()
        await dispatcher.close()

    asyncio.run(scenario())
