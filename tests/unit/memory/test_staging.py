from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from helpers.models import contents, random_array
from lanewise.errors import ShapeMismatch
from lanewise.memory.staging import Filling, pack_rows, pad_rows
from lanewise.model.tensors import DType


def test_pieces_are_laid_back_to_back_and_the_rest_is_left_as_it_was():
    out = np.full((5, 2), 9)

    rows = pack_rows([np.array([[1, 1]]), np.array([[2, 2], [3, 3]])], out)

    assert rows == 3
    assert out[:, 0].tolist() == [1, 2, 3, 9, 9]


def test_pieces_without_rows_take_no_place():
    out = np.zeros((1, 2))

    assert pack_rows([np.empty((0, 2)), np.ones((1, 2)), np.empty((0, 2))], out) == 1
    assert out.tolist() == [[1, 1]]


@pytest.mark.parametrize("dtype", DType)
def test_packed_pieces_stand_back_to_back_bit_for_bit(dtype):
    pieces = [random_array(dtype, (rows, 2), seed=rows) for rows in (1, 0, 3)]
    out = np.empty((6, 2), dtype.numpy)

    pad_rows(out, pack_rows(pieces, out))

    cut = np.split(out[:4], [1, 1])
    assert [contents(piece) for piece in cut] == [contents(piece) for piece in pieces]


@pytest.mark.parametrize("dtype", DType)
def test_padding_is_zero_or_empty(dtype):
    out = random_array(dtype, (4, 2)).copy()
    kept = out[:1].copy()

    pad_rows(out, 1)

    blank = np.full((3, 2), b"") if dtype is DType.BYTES else np.zeros((3, 2))
    assert contents(out) == contents(np.concatenate([kept, blank.astype(dtype.numpy)]))


def test_rows_of_another_shape_are_refused_and_nothing_is_written():
    out = np.zeros((4, 2))

    with pytest.raises(ShapeMismatch, match=r"\[3\] cannot be stacked with rows of shape \[2\]"):
        pack_rows([np.ones((1, 2)), np.ones((1, 3))], out)

    assert not out.any()


def test_more_rows_than_fit_are_refused_and_nothing_is_written():
    out = np.zeros((2, 2))

    with pytest.raises(ShapeMismatch, match="3 rows do not fit into a batch of 2 rows"):
        pack_rows([np.ones((1, 2)), np.ones((2, 2))], out)

    assert not out.any()


def test_bfloat16_keeps_its_type():
    out = np.zeros((2, 1), ml_dtypes.bfloat16)

    pack_rows([np.full((2, 1), 1.5, ml_dtypes.bfloat16)], out)

    assert out.dtype == ml_dtypes.bfloat16
    assert out.astype(np.float32).tolist() == [[1.5], [1.5]]


@pytest.mark.parametrize("dtype", DType)
def test_short_rows_are_completed_bit_for_bit(dtype):
    pieces = [random_array(dtype, (rows, length, 2)) for rows, length in ((1, 3), (2, 5), (1, 0))]
    value = b"pad" if dtype is DType.BYTES else 1
    out = random_array(dtype, (5, 5, 2), seed=9).copy()
    last = contents(out[4:])

    assert pack_rows(pieces, out, Filling(1, value)) == 4

    assert contents(out[0, :3]) == contents(pieces[0][0])
    assert contents(out[1:3]) == contents(pieces[1])
    fill = np.full((5, 2), value).astype(dtype.numpy)
    assert contents(out[0, 3:]) == contents(fill[:2])
    assert contents(out[3]) == contents(fill)
    assert contents(out[4:]) == last


@pytest.mark.parametrize("shape", [(1, 6, 2), (1, 5, 1), (1, 5)])
def test_rows_that_are_too_long_or_differ_elsewhere_are_refused(shape):
    with pytest.raises(ShapeMismatch, match="cannot be stacked"):
        pack_rows([np.ones(shape)], np.zeros((2, 5, 2)), Filling(1, 0))
