from __future__ import annotations

import numpy as np

from lanewise.memory.host import HostBuffer


def test_a_view_has_the_shape_and_datatype_asked_for():
    view = HostBuffer(np.dtype(np.float32)).view((2, 3))

    assert (view.shape, view.dtype, view.flags.c_contiguous) == ((2, 3), np.float32, True)


def test_a_buffer_grows_only_when_it_is_too_small_and_never_shrinks():
    buffer = HostBuffer(np.dtype(np.int16))
    sizes = [buffer.nbytes]
    for shape in [(2, 3), (1,), (3, 2), (7,), ()]:
        buffer.view(shape)
        sizes.append(buffer.nbytes)

    assert sizes == [0, 12, 12, 12, 14, 14]


def test_smaller_views_use_the_memory_there_is():
    buffer = HostBuffer(np.dtype(np.int64))
    large = buffer.view((4, 4))

    assert np.shares_memory(large, buffer.view((2, 8)))
