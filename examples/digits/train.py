"""Trains the digits classifier on the CPU and writes its model, held-out set and report.

`python examples/digits/train.py` rewrites `models/digits/1/model.onnx`, `heldout.npz` and
`report.json` beside this file. With `--validate` it writes nothing: it trains on four fifths of
the training split and prints the accuracy on the last fifth, which is how settings are to be
chosen, since the held-out images must not choose anything.
"""

import argparse
import hashlib
import json
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import onnxruntime
import onnxscript
import sklearn
import torch
from digits import (
    HELDOUT_PATH,
    PIXEL_MAX,
    FloatArray,
    IntArray,
    PixelArray,
    add_gradients,
    load_heldout,
    to_images,
)
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE: Final = Path(__file__).resolve().parent
MODEL_PATH: Final = HERE / "models" / "digits" / "1" / "model.onnx"
REPORT_PATH: Final = HERE / "report.json"

SPLIT_SEED: Final = 20
TRAIN_SEED: Final = 7
HELDOUT_IMAGES: Final = 450
EPOCHS: Final = 40
BATCH_ROWS: Final = 64
PEAK_LEARNING_RATE: Final = 4e-3
WEIGHT_DECAY: Final = 1e-3
MAX_SHIFT_PIXELS: Final = 3
OPSET: Final = 18
CHECKED_ROWS: Final = (1, 4, 32, 128)
TOLERANCE: Final = 1e-4
MIN_ACCURACY: Final = 0.97


class Split(NamedTuple):
    """Two disjoint sets of grids, uint8 (n, 8, 8) in 0..16, with digits, int64 (n,) in 0..9."""

    train_pixels: PixelArray
    train_labels: IntArray
    test_pixels: PixelArray
    test_labels: IntArray


class Classifier(nn.Module):
    """Ten logits, float32 (n, 10), from images, float32 (n, 3, 28, 28) in 0..1.

    No layer mixes rows or keeps batch statistics, so a row's logits depend on that row alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 48, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(48 * 3 * 3, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, float32 (n, 10); the largest of a row is at the digit it most likely shows."""
        logits: torch.Tensor = self.layers(images)
        return logits


def split_digits() -> Split:
    """The training split and the held-out split of scikit-learn's digits, same for every run."""
    bundle = load_digits()
    pixels = bundle.images.astype(np.uint8)
    if pixels.max() != PIXEL_MAX or not np.array_equal(pixels, bundle.images):
        raise RuntimeError(f"the bundled digits are not whole numbers in 0..{PIXEL_MAX}")
    return stratified_split(pixels, bundle.target.astype(np.int64), HELDOUT_IMAGES)


def stratified_split(pixels: PixelArray, labels: IntArray, test_images: int) -> Split:
    """A split with `test_images` test images and every digit in proportion on both sides."""
    train, test = train_test_split(
        np.arange(len(labels)), test_size=test_images, stratify=labels, random_state=SPLIT_SEED
    )
    return Split(pixels[train], labels[train], pixels[test], labels[test])


def shifted(intensity: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Copies of intensities (n, h, w), each moved by up to `MAX_SHIFT_PIXELS` along both axes."""
    margin = MAX_SHIFT_PIXELS
    padded = np.pad(intensity, ((0, 0), (margin, margin), (margin, margin)))
    height, width = intensity.shape[1:]
    moves = rng.integers(0, 2 * margin + 1, size=(len(intensity), 2))
    crops = [
        image[y : y + height, x : x + width] for image, (y, x) in zip(padded, moves, strict=True)
    ]
    return np.stack(crops)


def train(pixels: PixelArray, labels: IntArray) -> Classifier:
    """A classifier trained on `pixels` and `labels`, in eval mode, same for every run."""
    torch.manual_seed(TRAIN_SEED)
    rng = np.random.default_rng(TRAIN_SEED)
    intensity = to_images(pixels)[:, 0]
    model = Classifier()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=PEAK_LEARNING_RATE,
        epochs=EPOCHS,
        steps_per_epoch=-(-len(labels) // BATCH_ROWS),
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(labels))
        total = 0.0
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            images = torch.from_numpy(add_gradients(shifted(intensity[rows], rng)))
            loss = loss_of(model(images), torch.from_numpy(labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1:2d}/{EPOCHS}: loss {total / len(order):.4f}", flush=True)
    return model.eval()


def torch_logits(model: Classifier, images: FloatArray) -> FloatArray:
    """Logits, float32 (n, 10), of images (n, 3, 28, 28) by PyTorch."""
    with torch.inference_mode():
        logits: FloatArray = model(torch.from_numpy(images)).numpy()
    return logits


def onnx_logits(session: onnxruntime.InferenceSession, images: FloatArray) -> FloatArray:
    """Logits, float32 (n, 10), of images (n, 3, 28, 28) by ONNX Runtime."""
    logits: FloatArray = session.run(["logits"], {"X": images})[0]
    return logits


def accuracy(logits: FloatArray, labels: IntArray) -> float:
    """The share, 0..1, of rows whose largest logit is at their label."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def export(model: Classifier) -> bytes:
    """A self-contained ONNX file's content: `X` [batch, 3, 28, 28] to `logits` [batch, 10].

    Only dimension 0 is dynamic. The content depends on the weights and the exporter alone.
    """
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, 28, 28),),
        input_names=["X"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter returned no program")
    proto = program.model_proto
    strip_traces(proto)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def strip_traces(proto: onnx.ModelProto) -> None:
    """Removes the exporter's notes from `proto`: source paths, stack traces, duplicate shapes."""
    graph = proto.graph
    del graph.value_info[:]
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """A single-threaded ONNX Runtime CPU session on an ONNX file's content."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check_same_logits(
    model: Classifier, session: onnxruntime.InferenceSession, images: FloatArray
) -> dict[str, float]:
    """The largest absolute logit difference of torch and ONNX Runtime, per batch size.

    Raises RuntimeError where it exceeds `TOLERANCE`.
    """
    worst = {}
    for rows in CHECKED_ROWS:
        batch = images[:rows]
        difference = largest_difference(torch_logits(model, batch), onnx_logits(session, batch))
        worst[str(rows)] = check_tolerance(f"torch and ONNX Runtime at {rows} rows", difference)
    return worst


def check_rows_independent(session: onnxruntime.InferenceSession, images: FloatArray) -> float:
    """The largest absolute logit difference of a row in a batch and the same row on its own.

    Raises RuntimeError where it exceeds `TOLERANCE`.
    """
    batch = images[: max(CHECKED_ROWS)]
    alone = np.concatenate([onnx_logits(session, row[np.newaxis]) for row in batch])
    difference = largest_difference(alone, onnx_logits(session, batch))
    return check_tolerance("a row alone and in a batch", difference)


def largest_difference(left: FloatArray, right: FloatArray) -> float:
    """The largest absolute difference of two arrays, which must have the same shape."""
    if left.shape != right.shape:
        raise RuntimeError(f"shapes differ: {left.shape} and {right.shape}")
    return float(np.abs(left - right).max())


def check_tolerance(what: str, difference: float) -> float:
    """`difference` itself; raises RuntimeError unless it is at most `TOLERANCE` (NaN is not)."""
    if not difference <= TOLERANCE:
        raise RuntimeError(f"{what} differ by {difference}, more than {TOLERANCE}")
    return difference


def check_accuracy(runtime: str, logits: FloatArray, labels: IntArray) -> float:
    """The accuracy, 0..1, of `logits`; raises RuntimeError where it is below `MIN_ACCURACY`."""
    share = accuracy(logits, labels)
    print(f"held-out accuracy with {runtime}: {share:.4f} of {len(labels)} images")
    if share < MIN_ACCURACY:
        raise RuntimeError(f"accuracy {share} is below {MIN_ACCURACY}")
    return share


def versions() -> dict[str, str]:
    """The version of Python and of each package that shapes the result."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
        "onnxruntime": onnxruntime.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }


def evaluate(model: Classifier, content: bytes) -> dict[str, Any]:
    """The measured part of the report, on `heldout.npz`; raises RuntimeError on a failed check."""
    images, labels = load_heldout()
    session = open_session(content)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "onnx_bytes": len(content),
        "onnx_sha256": hashlib.sha256(content).hexdigest(),
        "heldout_accuracy": {
            "torch": check_accuracy("torch", torch_logits(model, images), labels),
            "onnxruntime": check_accuracy("ONNX Runtime", onnx_logits(session, images), labels),
        },
        "max_logit_difference_torch_onnxruntime_by_rows": check_same_logits(model, session, images),
        "max_logit_difference_row_alone_and_in_batch": check_rows_independent(session, images),
    }


def build() -> None:
    """Writes the held-out set, the model and the report; the last two only if all checks pass."""
    split = split_digits()
    np.savez_compressed(HELDOUT_PATH, pixels=split.test_pixels, labels=split.test_labels)
    model = train(split.train_pixels, split.train_labels)
    content = export(model)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "machine": platform.machine(),
        "versions": versions(),
        "seeds": {"split": SPLIT_SEED, "train": TRAIN_SEED},
        "images": {"train": len(split.train_labels), "heldout": len(split.test_labels)},
        "epochs": EPOCHS,
        "opset": OPSET,
        **evaluate(model, content),
    }
    MODEL_PATH.parent.mkdir(parents=True, exist_ok=True)
    MODEL_PATH.write_bytes(content)
    REPORT_PATH.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def validate() -> None:
    """Prints the accuracy on a fifth of the training split after training on the rest of it."""
    split = split_digits()
    inner = stratified_split(split.train_pixels, split.train_labels, len(split.train_labels) // 5)
    model = train(inner.train_pixels, inner.train_labels)
    share = accuracy(torch_logits(model, to_images(inner.test_pixels)), inner.test_labels)
    print(f"validation accuracy: {share:.4f} of {len(inner.test_labels)} images")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Train the digits example.")
    parser.add_argument(
        "--validate",
        action="store_true",
        help="write nothing; print the accuracy on a part of the training split",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if arguments.validate:
        validate()
    else:
        build()


if __name__ == "__main__":
    main()
