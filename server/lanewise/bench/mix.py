"""What the requests of a run are like: rows and shapes, as written on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lanewise.errors import ConfigError
from lanewise.model.tensors import DYNAMIC, DType, Shape, TensorSpec


@dataclass(frozen=True, slots=True)
class RowShare:
    """A number of rows, and its share of all requests; the shares of a mix add up to 1."""

    rows: int
    share: float


@dataclass(frozen=True, slots=True)
class WrittenShape:
    """A shape from the command line; with a datatype for servers that do not declare inputs."""

    shape: Shape
    dtype: DType | None


def parse_rows(text: str) -> tuple[RowShare, ...]:
    """Read `4` or `1:60%,4:35%,128:5%`; shares are weights, with or without the sign.

    Raises:
        ConfigError: a part is no such thing, or a number of rows comes twice.
    """
    weights: dict[int, float] = {}
    for part in text.split(","):
        rows, sign, weight = part.strip().partition(":")
        if not rows.isdecimal() or int(rows) < 1:
            raise ConfigError(
                f"--rows {text}: '{part}' is not ROWS or ROWS:SHARE, such as 4 or 1:60%,128:40%"
            )
        if int(rows) in weights:
            raise ConfigError(f"--rows {text}: {rows} is given twice")
        weights[int(rows)] = _parse_weight(text, part, weight) if sign else 1.0
    total = sum(weights.values())
    return tuple(RowShare(rows, weight / total) for rows, weight in weights.items())


def _parse_weight(text: str, part: str, weight: str) -> float:
    try:
        value = float(weight.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"--rows {text}: the share in '{part}' must be a positive number")
    return value


def parse_shapes(texts: Iterable[str]) -> dict[str, WrittenShape]:
    """Read `NAME=1,3,224,224` or, with a datatype, `NAME:FP32=1,3,224,224`.

    Raises:
        ConfigError: one is no such thing, or a name comes twice.
    """
    shapes: dict[str, WrittenShape] = {}
    for text in texts:
        left, sign, sizes = text.partition("=")
        name, colon, datatype = left.rpartition(":")
        if not colon or datatype not in DType.__members__:
            name, datatype = left, ""  # a name may have a colon of its own
        parts = [size.strip() for size in sizes.split(",") if size.strip()]
        if not sign or not name or not all(part.isdecimal() for part in parts):
            raise ConfigError(
                f"--shape {text}: must be NAME=SIZES or NAME:DATATYPE=SIZES, such as "
                "X=1,3,224,224 or X:FP32=1,3,224,224"
            )
        if name in shapes:
            raise ConfigError(f"--shape {name}=... is given twice; give each input once")
        dtype = DType(datatype) if datatype else None
        shapes[name] = WrittenShape(tuple(int(part) for part in parts), dtype)
    return shapes


def resolve(
    declared: Sequence[TensorSpec], written: Mapping[str, WrittenShape]
) -> tuple[TensorSpec, ...]:
    """Combine what the server declares with the command line; only dimension 0 stays dynamic.

    A server that declares no inputs takes what is written, with its datatypes.

    Raises:
        ConfigError: an input is unknown, or its shape or datatype is.
    """
    if not declared:
        return _resolve_undeclared(written)
    known = {tensor.name for tensor in declared}
    for name in written:
        if name not in known:
            listed = ", ".join(f"'{tensor.name}'" for tensor in declared)
            raise ConfigError(f"--shape {name}=...: no such input; the model has: {listed}")
    return tuple(_resolve_one(tensor, written.get(tensor.name)) for tensor in declared)


def _resolve_undeclared(written: Mapping[str, WrittenShape]) -> tuple[TensorSpec, ...]:
    if not written:
        raise ConfigError(
            "the server does not tell the model's inputs; give each as "
            "--shape NAME:DATATYPE=SIZES, such as X:FP32=1,3,224,224"
        )
    tensors = []
    for name, shape in written.items():
        if shape.dtype is None:
            raise ConfigError(
                f"--shape {name}=...: the server does not tell the datatype; give it as "
                f"{name}:FP32=..."
            )
        tensors.append(TensorSpec(name, shape.dtype, shape.shape))
    return tuple(tensors)


def _resolve_one(declared: TensorSpec, written: WrittenShape | None) -> TensorSpec:
    if written is None:
        if DYNAMIC in declared.shape[1:]:
            sizes = ",".join(str(size) for size in declared.shape)
            raise ConfigError(
                f"input '{declared.name}' has the shape {sizes}, where {DYNAMIC} may be of any "
                f"size; choose one with --shape {declared.name}=..."
            )
        return declared
    fits = len(written.shape) == len(declared.shape) and all(
        size in (DYNAMIC, chosen)
        for size, chosen in zip(declared.shape, written.shape, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"--shape {declared.name}={_listed(written.shape)}: does not fit the model's shape "
            f"{_listed(declared.shape)}"
        )
    return TensorSpec(declared.name, written.dtype or declared.dtype, written.shape)


def _listed(shape: Shape) -> str:
    return ",".join(str(size) for size in shape)
