"""Requests go to the profiles that admit the values of their shape tensors."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from helpers.gated import GatedRunner
from helpers.sim import model, profile
from lanewise.backends.runner import LoadedModel
from lanewise.clock import NS_PER_S, SystemClock
from lanewise.errors import NoProfileAdmits
from lanewise.model.spec import ModelSpec, ShapeRange
from lanewise.model.tensors import DType, TensorSpec
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.routing import Router, admit_values


def with_sizes(*limits: tuple[tuple[int, int], tuple[int, int]]) -> ModelSpec:
    """A model with a profile for each (min, max) of the two values of shape tensor S."""
    profiles = []
    for index, (low, high) in enumerate(limits):
        known = profile(index, (1, 4, 8))
        ranges = {**known.ranges, "S": ShapeRange((2,), (2,), (2,))}
        values = {"S": ShapeRange(low, low, high)}
        profiles.append(replace(known, ranges=ranges, values=values))
    plain = model(*profiles)
    sizes = TensorSpec("S", DType.INT64, (2,))
    return replace(plain, inputs=(*plain.inputs, sizes))


def request(*sizes: int) -> dict[str, np.ndarray]:
    return {"X": np.zeros(2, np.float32), "S": np.array(sizes)}


def admit(spec: ModelSpec, inputs: dict[str, np.ndarray]) -> tuple[int, ...]:
    route = Router(spec).route({name: array.shape for name, array in inputs.items()})
    return admit_values(route, spec, inputs).fits


SMALL_AND_LARGE = (((1, 1), (4, 4)), ((4, 1), (32, 8)))


@pytest.mark.parametrize(
    ("sizes", "fits"),
    [((1, 1), (0,)), ((4, 4), (0, 1)), ((5, 1), (1,)), ((32, 8), (1,))],
)
def test_profiles_that_do_not_admit_the_values_are_left_out(sizes, fits):
    assert admit(with_sizes(*SMALL_AND_LARGE), request(*sizes)) == fits


def test_profiles_that_are_left_out_do_not_own_the_request():
    spec = with_sizes(*SMALL_AND_LARGE)
    route = Router(spec).route({"X": (2,), "S": (2,)})

    assert route.owners == (0, 1)
    assert admit_values(route, spec, request(5, 1)).owners == (1,)


def test_values_that_no_profile_admits_are_refused_with_what_each_admits():
    with pytest.raises(NoProfileAdmits) as raised:
        admit(with_sizes(*SMALL_AND_LARGE), request(3, 5))

    assert raised.value.message == (
        "model 'm': no profile that admits the request's shapes admits the values of its shape "
        "tensors, 'S' [3, 5]; send values within a range, or add a profile for these"
        "\n  'p0' (index 0): value 1 of 'S' is 5, it admits 1 to 4"
        "\n  'p1' (index 1): value 0 of 'S' is 3, it admits 4 to 32"
    )


def test_a_model_without_shape_tensors_keeps_its_route():
    spec = model(profile(0, (1, 4, 8)))
    route = Router(spec).route({"X": (2,)})

    assert admit_values(route, spec, {"X": np.zeros(2, np.float32)}) is route


def test_a_launch_has_one_set_of_values_and_refused_ones_never_reach_a_runner():
    async def scenario():
        spec = with_sizes(((1, 1), (4, 4)))
        runner = GatedRunner(spec.profiles[0])
        dispatcher = Dispatcher(
            LoadedModel(spec, (runner,)), SystemClock(), max_queue_requests=9, costs=CostTable()
        )
        await dispatcher.warm_up()
        runner.release(9)
        sizes = [(1, 1), (2, 2), (1, 1), (9, 9)]
        results = await asyncio.gather(
            *(dispatcher.submit(request(*each)) for each in sizes), return_exceptions=True
        )
        await dispatcher.drain(NS_PER_S)
        await dispatcher.close()
        return results, runner.batches

    results, batches = asyncio.run(scenario())

    assert [isinstance(each, NoProfileAdmits) for each in results] == [False, False, False, True]
    launched = sorted((b.pieces["S"][0].tolist(), b.rows) for b in batches)
    assert sum(rows for _, rows in launched) == 6
    assert {tuple(values) for values, _ in launched} == {(1, 1), (2, 2)}
    assert all(rows == 2 for values, rows in launched if values == [2, 2])
