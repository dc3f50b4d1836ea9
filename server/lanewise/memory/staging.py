"""Stack the rows of several arrays into one, and pad it."""

from __future__ import annotations

from collections.abc import Sequence

from lanewise.errors import ShapeMismatch
from lanewise.tensors import Array, format_shape


def pack_rows(pieces: Sequence[Array], out: Array) -> int:
    """Copy `pieces` into `out` back to back; return once every byte is there.

    Args:
        pieces: each (rows_i, *item_shape), C-contiguous, dtype of `out`. Only read.
        out: (padded_rows, *item_shape) in host memory, C-contiguous. Stays the caller's;
            rows past the returned count are left as they were.

    Returns:
        Rows written, the sum of rows_i. pieces[i] starts where pieces[i - 1] ends.

    Raises:
        ShapeMismatch: an item shape differs, or the rows do not fit. `out` is unchanged.
    """
    for piece in pieces:
        if piece.shape[1:] != out.shape[1:]:
            raise ShapeMismatch(
                f"rows of shape {format_shape(piece.shape[1:])} cannot be stacked "
                f"with rows of shape {format_shape(out.shape[1:])}"
            )
    rows = sum(piece.shape[0] for piece in pieces)
    if rows > out.shape[0]:
        raise ShapeMismatch(f"{rows} rows do not fit into a batch of {out.shape[0]} rows")
    target = as_words(out)
    first = 0
    for piece in pieces:
        target[first : first + piece.shape[0]] = as_words(piece)
        first += piece.shape[0]
    return rows


def pad_rows(out: Array, rows: int) -> None:
    """Fill what follows the first `rows` rows of `out` with zeros, or empty strings."""
    if rows < out.shape[0]:
        as_words(out)[rows:] = b"" if out.dtype.hasobject else 0


def as_words(array: Array) -> Array:
    """View BF16 and FP8 as unsigned integers of their size, leave others as they are.

    numpy 2.4 copies the types of ml_dtypes element by element, 18 times slower.
    """
    if array.dtype.isbuiltin == 1 or array.dtype.hasobject:
        return array
    return array.view(f"u{array.dtype.itemsize}")
