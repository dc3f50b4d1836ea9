"""Reads the table [samples], and checks it against a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lanewise.backends.padding import fill_value, wanted_instead
from lanewise.errors import ConfigError
from lanewise.model.samples import Sample
from lanewise.model.tensors import DYNAMIC, Array, DType, Shape, TensorSpec, format_shape
from lanewise.settings.model import SampleSettings, SampleValue, quote_key, settings_error


def plan_samples(
    settings: Mapping[str, SampleValue], inputs: Sequence[TensorSpec], settings_file: Path
) -> dict[str, Sample]:
    """Get what the inputs of a model hold when no request has sent anything, by name.

    Args:
        settings: the table [samples].
        inputs: of the model.
        settings_file: where `settings` come from; files are found beside it.

    Raises:
        ConfigError: the settings contradict the model, or a file cannot be used; the message
            lists every problem with its key.
    """
    known = {tensor.name: tensor for tensor in inputs}
    samples: dict[str, Sample] = {}
    problems: list[str] = []
    for name, given in settings.items():
        key = f"samples.{quote_key(name)}"
        tensor = known.get(name)
        if tensor is None:
            listed = ", ".join(f"{each.name} {format_shape(each.shape)}" for each in inputs)
            problems.append(f"{key}: the model has no such input; it has {listed}")
            continue
        try:
            samples[name] = _make(given, tensor, settings_file.parent)
        except ConfigError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise settings_error(settings_file, problems)
    return samples


def _make(given: SampleValue, tensor: TensorSpec, folder: Path) -> Sample:
    """Make a sample; a ConfigError says what is wrong with it, without its key."""
    if isinstance(given, SampleSettings):
        if given.random is not None:
            return _random(given.random, tensor.dtype)
        assert given.file is not None, "it was validated"
        values = _read(folder / given.file, tensor.dtype)
    else:
        values = _convert(given, tensor.dtype)
    if problem := next(_shape_problems(values.shape, tensor), ""):
        raise ConfigError(problem)
    return Sample(tensor.dtype, values)


def _random(limits: tuple[float, ...], dtype: DType) -> Sample:
    low, high = limits
    if dtype in (DType.BYTES, DType.BOOL):
        raise ConfigError(f"random is for numbers; give values for {dtype.value}")
    for limit in limits:
        if wanted := wanted_instead(limit, dtype):
            raise ConfigError(f"random has {limit!r}, but {dtype.value} needs {wanted}")
    return Sample(dtype, None, low, high)


def _convert(given: object, dtype: DType) -> Array:
    """Make an array of a value, or of lists of lists of values that have equal lengths."""
    shape = _list_shape(given)
    flat = []
    for value in _elements(given, len(shape)):
        if isinstance(value, list):
            raise ConfigError("the lists inside it must have the same length")
        if wanted := wanted_instead(value, dtype):
            raise ConfigError(f"is {value!r}, but {dtype.value} needs {wanted}")
        flat.append(fill_value(value, dtype))
    values: Array = np.empty(len(flat), dtype.numpy)
    values[:] = flat
    if values.size != np.prod(shape, dtype=np.int64):
        raise ConfigError("the lists inside it must have the same length")
    return values.reshape(shape)


def _list_shape(given: object) -> Shape:
    shape = []
    while isinstance(given, list):
        shape.append(len(given))
        given = given[0] if given else None
    return tuple(shape)


def _elements(given: object, depth: int) -> Iterator[object]:
    if depth == 0:
        yield given
    elif isinstance(given, list):
        for each in given:
            yield from _elements(each, depth - 1)
    else:
        raise ConfigError("the lists inside it must have the same depth")


def _read(file: Path, dtype: DType) -> Array:
    """Read a .npy file; text is of numpy's types S or U, and BF16 and FP8 come as float32."""
    try:
        with file.open("rb") as opened:
            array: Array = np.lib.format.read_array(opened, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, EOFError) as error:  # of objects, or no such file at all
        raise ConfigError(
            f"{file} is not a .npy file of numbers or text: {error}; write it with numpy.save"
        ) from error
    if dtype is DType.BYTES and array.dtype.kind in "SU":
        texts = [
            each if isinstance(each, bytes) else each.encode() for each in array.ravel().tolist()
        ]
        values: Array = np.empty(len(texts), np.object_)
        values[:] = texts
        return values.reshape(array.shape)
    wanted = dtype.numpy
    if wanted.isbuiltin != 1 and array.dtype == np.float32:
        return array.astype(wanted)
    if array.dtype != wanted:
        needed = (
            "S or U" if dtype is DType.BYTES else wanted if wanted.isbuiltin == 1 else "float32"
        )
        raise ConfigError(f"{file} holds {array.dtype}, but {dtype.value} needs {needed}")
    return array


def _shape_problems(shape: Shape, tensor: TensorSpec) -> Iterator[str]:
    title = f"input '{tensor.name}' {format_shape(tensor.shape)}"
    if len(shape) > len(tensor.shape):
        yield f"has {len(shape)} dimensions, but {title} has {len(tensor.shape)}"
        return
    own = tensor.shape[len(tensor.shape) - len(shape) :]
    for size, known in zip(shape, own, strict=True):
        if size == 0:
            yield f"is {format_shape(shape)}, which holds no value"
        elif known not in (DYNAMIC, size) and size != 1:
            yield f"is {format_shape(shape)}, which does not fit {title}"
