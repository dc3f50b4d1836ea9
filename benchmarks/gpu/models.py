"""ResNet-50 and a BERT encoder as ONNX, in FP16 and with random weights, written with numpy alone.

What they compute has no meaning; how much they compute is that of the real ones, and the
weights are scaled so that activations stay near 1, well inside the range of FP16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Profiles = Mapping[str, Mapping[str, Sequence[Sequence[int]]]]
"""Min, opt and max shape, by input name, by profile name."""

IMAGE = (3, 224, 224)
CLASSES = 1000
VOCABULARY = 30522
WIDTH = 384
FEATURES = 768

OPSET = 21
IR_VERSION = 10


def resnet_profiles() -> Profiles:
    """Profiles for one image, for a few and for bulk work."""
    rows = {"online": (1, 1, 1), "dynamic": (1, 4, 32), "offline": (128, 128, 128)}
    return {name: {"X": [(count, *IMAGE) for count in counts]} for name, counts in rows.items()}


def bert_profiles(bulk_rows: int = 128, most_rows: int = 32) -> Profiles:
    """Profiles for one short text, for up to `most_rows` texts, and for `bulk_rows` long ones."""
    shapes = {
        "online": [(1, 8), (1, 32), (1, 32)],
        "dynamic": [(1, 8), (4, 32), (most_rows, 128)],
        "offline": [(bulk_rows, 128)] * 3,
    }
    inputs = ("input_ids", "attention_mask")
    return {name: dict.fromkeys(inputs, corners) for name, corners in shapes.items()}


def save_resnet(folder: Path, profiles: Profiles) -> Path:
    """Write ResNet-50, resnet50.onnx, and its model.toml into `folder`.

    Input X FP16 (rows, 3, 224, 224), output Y FP16 (rows, 1000). Batch normalization is
    folded into the convolutions, as an export for inference does.
    """
    net = _Network("resnet50")
    net.takes("X", TensorProto.FLOAT16, "rows", *IMAGE)
    net.gives("Y", TensorProto.FLOAT16, "rows", CLASSES)
    x = net.add("Relu", _convolve(net, "X", IMAGE[0], 64, kernel=7, stride=2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        middle = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = _bottleneck(net, x, channels, middle, stride)
            channels = 4 * middle
    x = net.add("Flatten", net.add("GlobalAveragePool", x), axis=1)
    weights = net.constant(net.normal(channels, CLASSES, scale=channels**-0.5))
    net.add("Gemm", x, weights, net.constant(net.normal(CLASSES, scale=0.1)), output="Y")
    return _save(net, folder, profiles)


def save_bert(folder: Path, profiles: Profiles, layers: int = 6, heads: int = 12) -> Path:
    """Write a BERT encoder of 384 wide, bert.onnx, and its model.toml into `folder`.

    Inputs input_ids INT64 (rows, tokens) in 0..30521 and attention_mask INT64 (rows, tokens),
    1 for a token and 0 for padding; up to 512 tokens. Output embedding FP16 (rows, 384): the
    mean over the tokens that are not padding.
    """
    net = _Network("bert")
    net.takes("input_ids", TensorProto.INT64, "rows", "tokens")
    net.takes("attention_mask", TensorProto.INT64, "rows", "tokens")
    net.gives("embedding", TensorProto.FLOAT16, "rows", WIDTH)
    mask = net.add("Cast", "attention_mask", to=TensorProto.FLOAT16)
    # 0 where attention may look, -10000 where it may not: as far as FP16 needs to see 0.
    hidden_from = net.add("Mul", net.add("Sub", mask, net.half(1.0)), net.half(10000.0))
    hidden_from = net.add("Unsqueeze", hidden_from, net.integers(1, 2))
    x = _embed(net)
    for _ in range(layers):
        x = _normalize(net, net.add("Add", x, _attend(net, x, hidden_from, heads)))
        inner = net.add("Gelu", _project(net, x, WIDTH, 4 * WIDTH))
        x = _normalize(net, net.add("Add", x, _project(net, inner, 4 * WIDTH, WIDTH)))
    visible = net.add("Unsqueeze", mask, net.integers(-1))
    total = net.add("ReduceSum", net.add("Mul", x, visible), net.integers(1), keepdims=0)
    tokens = net.add("ReduceSum", visible, net.integers(1), keepdims=0)
    # Padding rows have no token at all; they are to be 0, not infinite.
    net.add("Div", total, net.add("Max", tokens, net.half(1.0)), output="embedding")
    return _save(net, folder, profiles)


def ranker_profiles() -> Profiles:
    """Profiles for one row, for up to 64, and for bulk work."""
    rows = {"online": (1, 1, 1), "dynamic": (1, 16, 64), "offline": (128, 128, 128)}
    return {name: {"X": [(count, FEATURES) for count in counts]} for name, counts in rows.items()}


def save_ranker(folder: Path, profiles: Profiles) -> Path:
    """Write a perceptron of 768 features, ranker.onnx, and its model.toml into `folder`.

    Input X FP32 (rows, 768), 3 072 bytes a row; output Y FP32 (rows, 16). It takes so little
    that a server's front is all that counts.
    """
    net = _Network("ranker")
    net.takes("X", TensorProto.FLOAT, "rows", FEATURES)
    net.gives("Y", TensorProto.FLOAT, "rows", 16)
    x = net.add("Cast", "X", to=TensorProto.FLOAT16)
    for width, to in ((FEATURES, FEATURES), (FEATURES, 16)):
        weights = net.constant(net.normal(width, to, scale=width**-0.5))
        x = net.add("Relu", net.add("MatMul", x, weights))
    net.add("Cast", x, output="Y", to=TensorProto.FLOAT)
    return _save(net, folder, profiles)


def images(rows: int, seed: int = 0) -> dict[str, Array]:
    """Make {"X": FP16 (rows, 3, 224, 224)}, all different: coarse patterns of own brightness.

    Pure noise would not do: averaged over an image it is the same for every image.
    """
    draw = np.random.default_rng(seed)
    coarse = draw.normal(0, 1, (rows, IMAGE[0], 7, 7)) + draw.normal(0, 1, (rows, IMAGE[0], 1, 1))
    return {"X": np.kron(coarse, np.ones((1, 1, 32, 32))).astype(np.float16)}


def texts(rows: int, tokens: int, seed: int = 0) -> dict[str, Array]:
    """Make input_ids and attention_mask of random texts, the first as long as `tokens`.

    The others have at least a quarter of it; what follows is padding of token 0.
    """
    draw = np.random.default_rng(seed)
    lengths = draw.integers(max(1, tokens // 4), tokens + 1, rows)
    lengths[0] = tokens
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return {
        "input_ids": draw.integers(1, VOCABULARY, (rows, tokens)) * mask,
        "attention_mask": mask,
    }


@dataclass
class _Network:
    """Nodes and constants of a graph under construction; weights are drawn from seed 0."""

    name: str
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    draw: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def takes(self, name: str, element: int, *shape: int | str) -> None:
        """Declare an input; a dimension that has a name is dynamic."""
        self.inputs.append(helper.make_tensor_value_info(name, element, shape))

    def gives(self, name: str, element: int, *shape: int | str) -> None:
        """Declare an output."""
        self.outputs.append(helper.make_tensor_value_info(name, element, shape))

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node and get the name of its output."""
        name = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: Array) -> str:
        """Add a constant and get its name."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = array
        return name

    def half(self, value: float) -> str:
        """Add a constant FP16 of no dimension."""
        return self.constant(np.array(value, np.float16))

    def integers(self, *values: int) -> str:
        """Add a constant INT64 of one dimension."""
        return self.constant(np.array(values, np.int64))

    def normal(self, *shape: int, scale: float) -> Array:
        """Draw FP16 weights of standard deviation `scale`."""
        return (self.draw.standard_normal(shape, np.float32) * scale).astype(np.float16)


def _convolve(
    net: _Network,
    x: str,
    channels: int,
    filters: int,
    *,
    kernel: int,
    stride: int = 1,
    gain: float = 2.0,
) -> str:
    """Add a convolution; `gain` is what it multiplies the mean square of its input by."""
    scale = (gain / (channels * kernel * kernel)) ** 0.5
    weights = net.constant(net.normal(filters, channels, kernel, kernel, scale=scale))
    bias = net.constant(net.normal(filters, scale=0.02))
    return net.add("Conv", x, weights, bias, strides=[stride] * 2, pads=[kernel // 2] * 4)


def _bottleneck(net: _Network, x: str, channels: int, middle: int, stride: int) -> str:
    y = net.add("Relu", _convolve(net, x, channels, middle, kernel=1))
    y = net.add("Relu", _convolve(net, y, middle, middle, kernel=3, stride=stride))
    y = _convolve(net, y, middle, 4 * middle, kernel=1, gain=0.5)  # the sum grows with each block
    if channels != 4 * middle:
        x = _convolve(net, x, channels, 4 * middle, kernel=1, stride=stride, gain=1.0)
    return net.add("Relu", net.add("Add", x, y))


def _embed(net: _Network) -> str:
    """Add up the vector of each token and that of its position: (rows, tokens, 384)."""
    vectors = net.constant(net.normal(VOCABULARY, WIDTH, scale=1.0))
    positions = net.constant(net.normal(512, WIDTH, scale=0.5))
    tokens = net.add("Shape", "input_ids", start=1, end=2)
    used = net.add("Slice", positions, net.integers(0), tokens, net.integers(0))
    return _normalize(net, net.add("Add", net.add("Gather", vectors, "input_ids"), used))


def _attend(net: _Network, x: str, hidden_from: str, heads: int) -> str:
    """Add self-attention over (rows, tokens, 384); what `hidden_from` lowers gets no weight."""
    size = WIDTH // heads
    split = net.integers(0, 0, heads, size)  # 0 keeps a dimension as it is

    def project_to_heads(order: Sequence[int]) -> str:
        parts = net.add("Reshape", _project(net, x, WIDTH, WIDTH), split)
        return net.add("Transpose", parts, perm=order)

    query, value = project_to_heads((0, 2, 1, 3)), project_to_heads((0, 2, 1, 3))
    key = project_to_heads((0, 2, 3, 1))
    scores = net.add("Mul", net.add("MatMul", query, key), net.half(size**-0.5))
    weights = net.add("Softmax", net.add("Add", scores, hidden_from), axis=-1)
    mixed = net.add("Transpose", net.add("MatMul", weights, value), perm=(0, 2, 1, 3))
    joined = net.add("Reshape", mixed, net.integers(0, 0, WIDTH))
    return _project(net, joined, WIDTH, WIDTH)


def _project(net: _Network, x: str, width: int, to: int) -> str:
    weights = net.constant(net.normal(width, to, scale=width**-0.5))
    return net.add("Add", net.add("MatMul", x, weights), net.constant(net.normal(to, scale=0.1)))


def _normalize(net: _Network, x: str) -> str:
    gain = net.constant(1 + net.normal(WIDTH, scale=0.1))
    return net.add("LayerNormalization", x, gain, net.constant(net.normal(WIDTH, scale=0.1)))


def _save(net: _Network, folder: Path, profiles: Profiles) -> Path:
    constants = [numpy_helper.from_array(array, key) for key, array in net.constants.items()]
    graph = helper.make_graph(net.nodes, net.name, net.inputs, net.outputs, constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{net.name}.onnx"
    onnx.save(model, str(file))
    (folder / "model.toml").write_text(_settings(profiles))
    return file


def _settings(profiles: Profiles) -> str:
    lines = ['backend = "tensorrt-rtx"']
    for profile, tensors in profiles.items():
        lines += ["", "[[profiles]]", f'name = "{profile}"']
        for name, corners in tensors.items():
            low, opt, high = (list(corner) for corner in corners)
            lines.append(f"tensors.{name} = {{ min = {low}, opt = {opt}, max = {high} }}")
    return "\n".join(lines) + "\n"
