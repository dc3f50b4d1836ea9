"""Decides whether a model's requests may be stacked, and which inputs count their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lanewise.errors import ConfigError
from lanewise.model.tensors import DYNAMIC, TensorSpec, format_shape
from lanewise.settings.model import settings_error

_Tensors = Sequence[TensorSpec]


def decide_rowwise(
    inputs: _Tensors, outputs: _Tensors, batching: bool | None, settings_file: Path
) -> frozenset[str] | None:
    """Get the names of the inputs whose dimension 0 counts rows; None without batching.

    Where dimension 0 of at least one input is dynamic, those inputs are it. Otherwise the
    model executes a fixed number of rows, and every input that has a dimension 0 is it.

    If `batching` is None, it is on where dimension 0 of at least one input and of every
    output is dynamic, and where the names that the model has for them do not say that they
    count different things. `settings_file` is what messages name.

    Raises:
        ConfigError: batching is asked for, but rows of the outputs could not be told apart.
    """
    dynamic = frozenset(tensor.name for tensor in inputs if tensor.has_dynamic_rows)
    if batching is None:
        names = {
            tensor.rows_name
            for tensor in (*inputs, *outputs)
            if tensor.has_dynamic_rows and tensor.rows_name
        }
        rows_are_rows = all(output.has_dynamic_rows for output in outputs) and len(names) <= 1
        batching = bool(dynamic) and rows_are_rows
    if not batching:
        return None
    if dynamic:
        _require_rows(outputs, DYNAMIC, settings_file)
        return dynamic
    _require_rows(outputs, _fixed_rows(inputs, settings_file), settings_file)
    return frozenset(tensor.name for tensor in inputs if tensor.shape)


def _fixed_rows(inputs: _Tensors, settings_file: Path) -> int:
    """Get the number of rows that all inputs of a model without dynamic rows have."""
    counted = [tensor for tensor in inputs if tensor.shape]
    if not counted:
        raise _refuse("no input has a dimension along which rows could be stacked", settings_file)
    if len({tensor.shape[0] for tensor in counted}) > 1:
        shapes = ", ".join(_describe(tensor) for tensor in counted)
        raise _refuse(f"the inputs differ in dimension 0: {shapes}", settings_file)
    return counted[0].shape[0]


def _require_rows(outputs: _Tensors, rows: int, settings_file: Path) -> None:
    """Check that dimension 0 of every output is dynamic or `rows`."""
    for output in outputs:
        if not output.has_dynamic_rows and output.shape[:1] != (rows,):
            wanted = "not dynamic" if rows == DYNAMIC else f"not the inputs' {rows}"
            raise _refuse(
                f"dimension 0 of output {_describe(output)} is {wanted}, "
                "so its rows cannot be told apart",
                settings_file,
            )


def _refuse(reason: str, settings_file: Path) -> ConfigError:
    return settings_error(
        settings_file,
        [
            f"batching: is true, but {reason}; set it to false, "
            "or export the model with a dynamic dimension 0 in its inputs and outputs"
        ],
    )


def _describe(tensor: TensorSpec) -> str:
    return f"'{tensor.name}' {format_shape(tensor.shape)}"
