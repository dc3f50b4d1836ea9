"""Small models on disk, real ONNX and simulated, and arrays to feed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lanewise.model.tensors import DYNAMIC, Array, DType, Shape, TensorSpec, format_shape
from lanewise.settings.model import quote_key

ONNX_TYPES = {
    DType.BOOL: TensorProto.BOOL,
    DType.UINT8: TensorProto.UINT8,
    DType.UINT16: TensorProto.UINT16,
    DType.UINT32: TensorProto.UINT32,
    DType.UINT64: TensorProto.UINT64,
    DType.INT8: TensorProto.INT8,
    DType.INT16: TensorProto.INT16,
    DType.INT32: TensorProto.INT32,
    DType.INT64: TensorProto.INT64,
    DType.FP16: TensorProto.FLOAT16,
    DType.FP32: TensorProto.FLOAT,
    DType.FP64: TensorProto.DOUBLE,
    DType.BF16: TensorProto.BFLOAT16,
    DType.BYTES: TensorProto.STRING,
    DType.FP8_E4M3FN: TensorProto.FLOAT8E4M3FN,
    DType.FP8_E5M2: TensorProto.FLOAT8E5M2,
}


class InstantClock:
    """A clock on which blocking takes no real time; `blocked_ns` lists how long it would have."""

    def __init__(self) -> None:
        self.blocked_ns: list[int] = []

    def now_ns(self) -> int:
        return sum(self.blocked_ns)

    def call_at(self, when_ns, callback):
        raise NotImplementedError("models only block")

    def block_for(self, duration_ns: int) -> None:
        self.blocked_ns.append(duration_ns)


def tensor(
    name: str,
    dtype: DType = DType.FP32,
    shape: Shape = (DYNAMIC, 3),
    rows_name: str = "rows",
) -> TensorSpec:
    return TensorSpec(name, dtype, shape, rows_name)


def save_onnx(
    file: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    constants: Mapping[str, Array] | None = None,
) -> Path:
    """Write an ONNX model; dynamic dimensions 0 are named "rows", others have no name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [_value_info(each) for each in inputs],
        [_value_info(each) for each in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(file))
    return file


def save_onnx_echo(
    file: Path, inputs: Sequence[TensorSpec], unused: Sequence[TensorSpec] = ()
) -> Path:
    """Write an ONNX model with an output echo_X for every input X but the `unused` ones."""
    outputs = [echo_of(each) for each in inputs]
    nodes = [helper.make_node("Identity", [each.name], [f"echo_{each.name}"]) for each in inputs]
    return save_onnx(file, nodes, [*inputs, *unused], outputs)


def save_simulated_echo(
    file: Path,
    inputs: Sequence[TensorSpec],
    unused: Sequence[TensorSpec] = (),
    *,
    checksum: bool = False,
    profiles: str = "",
    latency_ms: float = 0.0,
    more_latency: str = "",
) -> Path:
    """Write a simulated model with an output echo_X for every input X but the `unused` ones.

    Args:
        checksum: adds an output "checksum" of every row.
        profiles: [[profiles]] as text, to be carried by the model.
        latency_ms: of every execution.
        more_latency: lines of [latency] besides the default.
    """
    tables = [_tensor_table("inputs", each) for each in [*inputs, *unused]]
    tables += [
        _tensor_table("outputs", echo_of(each)) + f'copy_of = "{each.name}"\n' for each in inputs
    ]
    if checksum:
        sums = TensorSpec("checksum", DType.INT64, (DYNAMIC,))
        tables.append(_tensor_table("outputs", sums) + "checksum = true\n")
    latency = f"[latency]\ndefault = {{ rows = [1], ms = [{latency_ms}] }}\n{more_latency}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([*tables, profiles, latency]))
    return file


def echo_of(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(f"echo_{spec.name}", spec.dtype, spec.shape)


def profile_entry(name: str = "", delay_ms: float | None = None, **tensors: Sequence[Shape]) -> str:
    """Write an entry of [[profiles]]: profile_entry("online", X=[(1, 3), (1, 3), (1, 3)])."""
    lines = ["[[profiles]]"]
    if name:
        lines.append(f'name = "{name}"')
    if delay_ms is not None:
        lines.append(f"max_queue_delay_ms = {delay_ms}")
    for key, corners in tensors.items():
        low, opt, high = (format_shape(tuple(corner)) for corner in corners)
        lines.append(f"tensors.{quote_key(key)} = {{ min = {low}, opt = {opt}, max = {high} }}")
    return "\n".join(lines) + "\n"


def random_array(dtype: DType, shape: Shape, seed: int = 0) -> Array:
    """Make an array of any bits that the datatype can have, NaNs included."""
    generator = np.random.default_rng(seed)
    if dtype is DType.BYTES:
        texts = [b"", b"plain", "häßlich".encode(), b"with\0zero\0", "日本".encode()]
        array = np.empty(shape, object)
        picks = generator.integers(0, len(texts), array.size)
        array.reshape(-1)[:] = [texts[pick] for pick in picks]
        return array
    count = int(np.prod(shape))
    if dtype is DType.BOOL:
        return generator.integers(0, 2, count).astype(bool).reshape(shape)
    return np.frombuffer(generator.bytes(count * dtype.numpy.itemsize), dtype.numpy).reshape(shape)


def contents(array: Array) -> tuple[str, Shape, object]:
    """Make arrays comparable with ==, bit for bit: datatype, shape, elements."""
    elements = array.reshape(-1).tolist() if array.dtype.hasobject else array.tobytes()
    return str(array.dtype), array.shape, elements


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    shape = [
        ((spec.rows_name or None) if dim == 0 else None) if size == DYNAMIC else size
        for dim, size in enumerate(spec.shape)
    ]
    return helper.make_tensor_value_info(spec.name, ONNX_TYPES[spec.dtype], shape)


def _tensor_table(key: str, spec: TensorSpec) -> str:
    return (
        f'[[{key}]]\nname = "{spec.name}"\ndatatype = "{spec.dtype.value}"\n'
        f"shape = {format_shape(spec.shape)}\n"
    )
