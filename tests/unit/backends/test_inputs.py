"""Batches made up for warm-up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from helpers.sim import model, profile
from lanewise.backends.inputs import warm_up_batches
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DType, TensorSpec


def test_warm_up_sends_zeros_and_in_shape_tensors_values_that_the_profile_admits():
    plain = profile(0, (1, 4, 8), [(2, 3, 5)])
    only = replace(
        plain,
        ranges={**plain.ranges, "S": ShapeRange((1, 2), (1, 2), (1, 2))},
        values={"S": ShapeRange((1, 1), (4, 6), (32, 8))},
    )
    spec = model(only)
    spec = replace(spec, inputs=(*spec.inputs, TensorSpec("S", DType.INT64, (1, 2))))

    opt, largest = warm_up_batches(spec, only)

    assert [(b.rows, b.pieces["X"][0].shape) for b in (opt, largest)] == [(4, (4, 3)), (8, (8, 5))]
    assert not np.any(opt.pieces["X"][0])
    assert [b.pieces["S"][0].tolist() for b in (opt, largest)] == [[[4, 6]], [[32, 8]]]
    assert opt.pieces["S"][0].dtype == np.int64
