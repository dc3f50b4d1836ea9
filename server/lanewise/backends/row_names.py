"""What models call the dimensions that count rows, and what these names say."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lanewise.model.tensors import TensorSpec

# Names that exporters make up, one for each dimension whose size they do not know: tf2onnx,
# Paddle2ONNX, PyTorch. Two of them may well mean the same.
_MADE_UP = re.compile(r"unk_+\d+|\w*_dim_\d+|\w*_dynamic_axes_\d+", re.ASCII)


def is_given_name(name: str) -> bool:
    """Whether somebody chose `name` for a dimension, so that another name is another dimension.

    Only identifiers are names: several dimensions are called `?` or `-1` that have nothing in
    common.
    """
    return name.isidentifier() and not _MADE_UP.fullmatch(name)


def rows_names(tensors: Iterable[TensorSpec]) -> set[str]:
    """Get the names, made-up ones too, of the dynamic dimensions 0 of `tensors`."""
    return {each.rows_name for each in tensors if each.has_dynamic_rows and each.rows_name}
