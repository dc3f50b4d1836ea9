"""The profiles of a model whose settings have none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lanewise.errors import ConfigError
from lanewise.model.spec import RowRange
from lanewise.model.tensors import DYNAMIC, NO_LIMIT, Shape, TensorSpec, format_shape
from lanewise.settings.model import (
    ProfileSettings,
    ShapeRangeSettings,
    quote_key,
    settings_error,
)

_ONE_ROW = RowRange(1, 1, 1)
_FEW_ROWS = RowRange(1, 4, 32)
_TEMPLATE_SIZES = RowRange(1, 64, 256)
"""What the template suggests for a dynamic dimension other than 0."""


_ANY_SIZE = RowRange(0, 64, NO_LIMIT)
"""Of a dimension other than rows where the backend needs no limit."""


def derive_profiles(
    inputs: Sequence[TensorSpec],
    settings_file: Path,
    *,
    batching: bool = True,
    needs_limits: bool = True,
) -> tuple[ProfileSettings, ...]:
    """Make the profiles that follow from the shapes of `inputs` alone.

    Without dynamic dimensions this is "default", the one shape there is. If only
    dimensions 0 are dynamic it is "online", one row at a time, and "dynamic", up to 32;
    without `batching`, where both would run one request at a time, it is "default", up to 32.
    If others are, too, it is "any" where the backend does not need limits: up to 32 rows, of
    any size.

    Raises:
        ConfigError: other dimensions are dynamic, and need limits; the message holds profiles to
            paste.
    """
    if not any(tensor.dynamic_dims for tensor in inputs):
        return (_profile("default", inputs, _ONE_ROW),)
    guessless = [tensor for tensor in inputs if any(dim > 0 for dim in tensor.dynamic_dims)]
    if guessless and not needs_limits:
        rows = _FEW_ROWS if batching else RowRange(0, _FEW_ROWS.opt, NO_LIMIT)
        return (_profile("any", inputs, rows, _ANY_SIZE),)
    if guessless:
        raise _ask_for_profiles(guessless, inputs, settings_file)
    if not batching:
        return (_profile("default", inputs, _FEW_ROWS),)
    return (_profile("online", inputs, _ONE_ROW), _profile("dynamic", inputs, _FEW_ROWS))


def _profile(
    name: str, inputs: Sequence[TensorSpec], rows: RowRange, sizes: RowRange = _TEMPLATE_SIZES
) -> ProfileSettings:
    return ProfileSettings(
        name=name, tensors={tensor.name: _range(tensor.shape, rows, sizes) for tensor in inputs}
    )


def _range(shape: Shape, rows: RowRange, sizes: RowRange = _TEMPLATE_SIZES) -> ShapeRangeSettings:
    """Make the range in which dynamic dimensions 0 are `rows` and others `sizes`."""

    def fill(row_count: int, size: int) -> Shape:
        return tuple(
            known if known != DYNAMIC else row_count if dim == 0 else size
            for dim, known in enumerate(shape)
        )

    return ShapeRangeSettings(
        min=fill(rows.min, sizes.min),
        opt=fill(rows.opt, sizes.opt),
        max=fill(rows.max, sizes.max),
    )


def _ask_for_profiles(
    guessless: Sequence[TensorSpec], inputs: Sequence[TensorSpec], settings_file: Path
) -> ConfigError:
    unknown = "; ".join(
        f"input '{tensor.name}' {format_shape(tensor.shape)} has dynamic "
        + ", ".join(f"dimension {dim}" for dim in tensor.dynamic_dims if dim > 0)
        for tensor in guessless
    )
    return settings_error(
        settings_file,
        [
            f"profiles: are missing, and cannot be guessed: {unknown}. "
            "Paste this into the file and put in the sizes that your requests have:\n\n"
            + format_template(inputs)
        ],
    )


def format_template(inputs: Sequence[TensorSpec]) -> str:
    """Write an entry of [[profiles]] that fits `inputs`, with made-up sizes."""
    lines = ["[[profiles]]", 'name = "default"']
    for tensor in inputs:
        if tensor.dynamic_dims:
            sizes = _range(tensor.shape, _FEW_ROWS)
            lines.append(
                f"tensors.{quote_key(tensor.name)} = {{ min = {format_shape(sizes.min)}, "
                f"opt = {format_shape(sizes.opt)}, max = {format_shape(sizes.max)} }}"
            )
    return "\n".join(lines) + "\n"
