"""Stack the rows of several arrays into one, and pad it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lanewise.errors import ShapeMismatch
from lanewise.model.samples import Sample
from lanewise.model.tensors import Array, Piece, format_shape


@dataclass(frozen=True, slots=True)
class Filling:
    """How rows are completed that are shorter than they should be in one dimension.

    Attributes:
        dim: which it is, rows being dimension 0.
        value: what follows their data there.
    """

    dim: int
    value: bytes | bool | int | float


def pack_rows(pieces: Sequence[Piece], out: Array, filling: Filling | None = None) -> int:
    """Copy `pieces` into `out` back to back; return once every byte is there.

    Args:
        pieces: one at least, each (rows_i, *item_shape) in host memory, C-contiguous, dtype
            of `out`. Only read.
        filling: lets pieces be shorter than `out` in its dimension.
        out: (padded_rows, *item_shape) in host memory, C-contiguous. Stays the caller's;
            rows past the returned count are left as they were.

    Returns:
        Rows written, the sum of rows_i. pieces[i] starts where pieces[i - 1] ends.

    Raises:
        ShapeMismatch: an item shape differs, or the rows do not fit. `out` is unchanged.
    """
    arrays: list[Array] = []
    rows = 0
    for piece in pieces:
        assert isinstance(piece, np.ndarray), "this piece is for the device alone"
        arrays.append(piece)
        rows += piece.shape[0]
        if piece.shape[1:] != out.shape[1:] and not _can_fill(piece, out, filling):
            raise ShapeMismatch(
                f"rows of shape {format_shape(piece.shape[1:])} cannot be stacked "
                f"with rows of shape {format_shape(out.shape[1:])}"
            )
    if rows > out.shape[0]:
        raise ShapeMismatch(f"{rows} rows do not fit into a batch of {out.shape[0]} rows")
    words = as_words(out)
    if filling is None:
        if words is not out:
            arrays = [as_words(array) for array in arrays]
        np.concatenate(arrays, out=words[:rows])
        return rows
    first = 0
    for array in arrays:
        place_rows(array, out, first, filling)
        first += array.shape[0]
    return rows


def place_rows(piece: Array, out: Array, first: int, filling: Filling | None = None) -> None:
    """Copy `piece` to where row `first` of `out` begins, and complete what is too short.

    Takes what `pack_rows` takes, and does not check it.
    """
    target = as_words(out)[first : first + piece.shape[0]]
    if filling is None or piece.shape[1:] == out.shape[1:]:
        target[...] = as_words(piece)
        return
    before, length = (slice(None),) * filling.dim, piece.shape[filling.dim]
    target[(*before, slice(None, length))] = as_words(piece)
    target[(*before, slice(length, None))] = as_words(np.array(filling.value, out.dtype))


def _can_fill(piece: Array, out: Array, filling: Filling | None) -> bool:
    """Whether rows of `piece` differ from those of `out` only in being shorter where they may."""
    if filling is None or piece.ndim != out.ndim:
        return False
    dim = filling.dim
    longer = (*piece.shape[1:dim], out.shape[dim], *piece.shape[dim + 1 :])
    return piece.shape[dim] <= out.shape[dim] and longer == out.shape[1:]


def pad_rows(out: Array, rows: int, sample: Sample | None = None) -> None:
    """Fill what follows the first `rows` rows of `out` with the sample, zeros or empty strings."""
    if rows >= out.shape[0]:
        return
    if sample is not None:
        padding = sample.make((out.shape[0] - rows, *out.shape[1:]))
        as_words(out)[rows:] = as_words(padding)
    else:
        as_words(out)[rows:] = b"" if out.dtype.hasobject else 0


def as_words(array: Array) -> Array:
    """View BF16 and FP8 as unsigned integers of their size, leave others as they are.

    numpy 2.4 copies the types of ml_dtypes element by element, 18 times slower.
    """
    if array.dtype.isbuiltin == 1 or array.dtype.hasobject:
        return array
    return array.view(f"u{array.dtype.itemsize}")
