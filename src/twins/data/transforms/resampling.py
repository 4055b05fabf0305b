"""Resampling of uint8 images on a CPU, faster than Pillow, whose builds leave out the newer vector instructions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

Pixels = NDArray[np.uint8]
"""An image `(H, W, 3)`."""


def resize_pixels(
    image: Image, size: tuple[int, int], interpolation: Literal["bicubic", "bilinear", "nearest"]
) -> Pixels:
    """Resize an RGB image with antialiasing; a few values differ from Pillow's result by 1 or 2.

    Args:
        image: RGB.
        size: height and width of the result in pixels.
        interpolation: the filter.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as T

    mode = InterpolationMode("nearest-exact" if interpolation == "nearest" else interpolation)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # channels-last in memory
    resized: Tensor = T.resize(pixels, list(size), interpolation=mode, antialias=True)
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


def shift_rows(pixels: Pixels, shifts: NDArray[np.floating[Any]], fill: tuple[int, int, int]) -> Pixels:
    """Shift each row by its own number of pixels, by the cubic interpolation of Pillow's `transform`.

    The result at `x` is the row's value at `x + shift`. Pillow computes shears and translations with sixteen taps per
    pixel; four along the row are equivalent.

    Args:
        pixels: `(H, W, 3)`.
        shifts: pixels of each row, `(H,)`.
        fill: RGB colour outside the image.
    """
    height, width, _ = pixels.shape
    shifts = shifts.clip(-width - 1, width + 1)  # beyond that only fill is visible
    floors = np.floor(shifts).astype(np.int64)
    margin = int(np.abs(floors).max()) + 3
    left, right = pixels[:, :1].repeat(margin, axis=1), pixels[:, -1:].repeat(margin, axis=1)
    padded = np.concatenate([left, pixels, right], axis=1).reshape(height, -1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 3 * (width + 3), axis=1)
    rows = torch.from_numpy(windows[np.arange(height), 3 * (margin - 1 + floors)]).float()  # (H, 3 (W + 3))
    interpolated = torch.full((height, 3 * width), 1e-4)  # so that rounding errors do not lower an integer value by 1
    for tap, weight in enumerate(_cubic((shifts - floors).astype(np.float32))):
        interpolated.addcmul_(rows[:, 3 * tap : 3 * (tap + width)], torch.from_numpy(weight)[:, None])
    shifted: Pixels = interpolated.clamp_(0, 255).to(torch.uint8).numpy().reshape(pixels.shape)
    first, last = np.ceil(-0.5 - shifts).astype(np.int16), np.ceil(width - 0.5 - shifts).astype(np.int16)
    columns = np.arange(width, dtype=np.int16)
    outside = (columns < first[:, None]) | (columns >= last[:, None])
    np.copyto(shifted, np.array(fill, dtype=np.uint8), where=outside[:, :, None])
    return shifted


def _cubic(d: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return the weights of four neighbouring pixels for a position `d` after the second of them."""
    return -d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, d**3 - d**2


def shear_x(pixels: Pixels, factor: float, fillcolor: tuple[int, int, int], **_: Any) -> Pixels:
    """Shift rows in proportion to their index."""
    return shift_rows(pixels, factor * (np.arange(pixels.shape[0]) + 0.5), fillcolor)


def shear_y(pixels: Pixels, factor: float, fillcolor: tuple[int, int, int], **_: Any) -> Pixels:
    """Shift columns in proportion to their index."""
    return _transposed(shear_x(_transposed(pixels), factor, fillcolor))


def translate_x(pixels: Pixels, share: float, fillcolor: tuple[int, int, int], **_: Any) -> Pixels:
    """Shift an image horizontally by a share of its width."""
    return shift_rows(pixels, np.full(pixels.shape[0], share * pixels.shape[1]), fillcolor)


def translate_y(pixels: Pixels, share: float, fillcolor: tuple[int, int, int], **_: Any) -> Pixels:
    """Shift an image vertically by a share of its height."""
    return _transposed(translate_x(_transposed(pixels), share, fillcolor))


def sharpen(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    """Blend an image with its smoothed copy as Pillow's `ImageEnhance.Sharpness` does; the border is unchanged."""
    wide = pixels.astype(np.int16)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    nine = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    inner = wide[1:-1, 1:-1]
    smooth = ((nine + 4 * inner) * 2 + 13) // 26  # kernel weights 1/13 and 5/13, rounded
    blended = smooth + np.float32(factor) * (inner - smooth).astype(np.float32)
    sharp = pixels.copy()
    sharp[1:-1, 1:-1] = blended.clip(0, 255).astype(np.uint8)
    return sharp


def _transposed(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels.transpose(1, 0, 2))
