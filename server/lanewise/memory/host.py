"""Host memory that is kept from one batch to the next."""

from __future__ import annotations

import numpy as np

from lanewise.model.tensors import Array, Shape, element_count


class HostBuffer:
    """A host array of one datatype that grows when it must and never shrinks.

    Has one owner, who alone may call `view`. `nbytes` may be read from any thread.
    """

    def __init__(self, dtype: np.dtype[np.generic]) -> None:
        self._elements: Array = np.empty(0, dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held. For BYTES tensors the pointers alone: the strings are their senders'."""
        return self._elements.nbytes

    def view(self, shape: Shape) -> Array:
        """Get the buffer as an array of `shape`, C-contiguous, its contents undefined.

        The view and all earlier ones share memory, unless the buffer had to grow: only
        the latest is to be used.
        """
        count = element_count(shape)
        if count > self._elements.size:
            self._elements = np.empty(count, self._elements.dtype)
        return self._elements[:count].reshape(shape)
