"""Numpy-only helpers of the digits example: 8x8 pixel grids in, model input images out.

Training, the demo client and the tests all go through `to_images`, so the model meets exactly
the preprocessing it was trained with. Nothing here needs PyTorch, ONNX or scikit-learn.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
PixelArray = npt.NDArray[np.uint8]

PIXEL_SIDE: Final = 8
"""Rows and columns of a source grid."""
PIXEL_MAX: Final = 16
"""Value of a fully inked source pixel; 0 is blank paper."""
IMAGE_SIDE: Final = 28
"""Rows and columns of a model input image."""
HELDOUT_PATH: Final = Path(__file__).resolve().parent / "heldout.npz"
"""Held-out grids (`pixels`) and their digits (`labels`), written by `train.py`."""


def to_images(pixels: PixelArray) -> FloatArray:
    """Model input images, float32 of shape (n, 3, 28, 28) in NCHW order, every value in 0..1.

    `pixels` is uint8 of shape (n, 8, 8), ink per pixel from 0 (blank) to 16 (full); n may be 0.
    A wrong dtype or shape, or a value above 16, raises ValueError.

    Channel 0 is the ink intensity (0 blank, 1 full), upscaled bilinearly. Channels 1 and 2 are
    its horizontal and vertical gradients, see `add_gradients`. The channels differ on purpose:
    a mix-up of channel order or memory layout on the way to the model changes its answers,
    which three equal channels would hide.

    The result is elementwise arithmetic only (no BLAS), and each image depends on its own
    grid alone: the same grid gives the same bits in any batch.
    """
    _check_pixels(pixels)
    return add_gradients(_upscale(pixels.astype(np.float32) / np.float32(PIXEL_MAX)))


def add_gradients(intensity: FloatArray) -> FloatArray:
    """Three-channel images, float32 (n, 3, h, w) in 0..1, from intensities (n, h, w) in 0..1.

    Channel 0 is `intensity` itself, channel 1 its horizontal gradient and channel 2 its vertical
    one. A gradient is half the difference of the next and the previous pixel (the border pixel
    stands in for its missing neighbour), in -0.5..0.5 per pixel, plus 0.5: flat areas read 0.5.
    """
    padded = np.pad(intensity, ((0, 0), (1, 1), (1, 1)), mode="edge")
    half = np.float32(0.5)
    horizontal = half + half * (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])
    vertical = half + half * (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])
    return np.stack((intensity, horizontal, vertical), axis=1)


def load_heldout() -> tuple[FloatArray, IntArray]:
    """Held-out images, float32 (n, 3, 28, 28) in 0..1, and their digits, int64 (n,) in 0..9.

    They come from `heldout.npz` beside this file and took no part in training.
    """
    with np.load(HELDOUT_PATH, allow_pickle=False) as data:
        pixels: PixelArray = data["pixels"]
        labels: IntArray = data["labels"]
    return to_images(pixels), labels


def _check_pixels(pixels: PixelArray) -> None:
    """Nothing; raises ValueError unless `pixels` is uint8 (n, 8, 8) with values in 0..16."""
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXEL_SIDE, PIXEL_SIDE):
        raise ValueError(
            f"expected uint8 pixels of shape (n, {PIXEL_SIDE}, {PIXEL_SIDE}), "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )
    if pixels.size and int(pixels.max()) > PIXEL_MAX:
        raise ValueError(f"expected pixels in 0..{PIXEL_MAX}, got {int(pixels.max())}")


def _upscale(grids: FloatArray) -> FloatArray:
    """Bilinear enlargements, float32 (n, 28, 28), of float32 (n, 8, 8) grids, same value range."""
    low, high, weight = _sample_points()
    rows = grids[:, low, :] + weight[:, None] * (grids[:, high, :] - grids[:, low, :])
    images = rows[:, :, low] + weight * (rows[:, :, high] - rows[:, :, low])
    return np.clip(images, np.float32(0.0), np.float32(1.0))


def _sample_points() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], FloatArray]:
    """Per output pixel, the two source indices around it and the weight (0..1) of the second.

    Pixel centres are aligned (the half-pixel convention) and the border is clamped.
    """
    centres = (np.arange(IMAGE_SIDE) + 0.5) * PIXEL_SIDE / IMAGE_SIDE - 0.5
    centres = np.clip(centres, 0.0, PIXEL_SIDE - 1)
    low = np.floor(centres).astype(np.intp)
    high = np.minimum(low + 1, PIXEL_SIDE - 1)
    return low, high, (centres - low).astype(np.float32)
