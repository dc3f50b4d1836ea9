"""Values that an input is filled with when no request has sent any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lanewise.model.tensors import Array, DType, Shape

SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What an operator says an input may hold.

    Attributes:
        dtype: of the input.
        values: what it holds, of at most the input's rank, dtype as the input's; None for
            random numbers.
        low, high: of random numbers, both of them among integers.
    """

    dtype: DType
    values: Array | None = None
    low: float = 0.0
    high: float = 1.0

    def make(self, shape: Shape) -> Array:
        """Get a new array of `shape`: the values, repeated or cut off in every dimension."""
        if self.values is None:
            return self._draw(shape)
        held = self.values.reshape((1,) * (len(shape) - self.values.ndim) + self.values.shape)
        for axis, size in enumerate(shape):
            if held.shape[axis] != size:
                held = np.take(held, np.arange(size) % held.shape[axis], axis)
        return np.array(held, order="C")

    def _draw(self, shape: Shape) -> Array:
        draw = np.random.default_rng(SEED)
        if self.dtype.numpy.kind in "iub":
            drawn = draw.integers(int(self.low), int(self.high), shape, endpoint=True)
            return np.asarray(drawn).astype(self.dtype.numpy)
        return np.asarray(draw.uniform(self.low, self.high, shape)).astype(self.dtype.numpy)
