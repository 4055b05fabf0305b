"""Resampling of 8-bit images on a processor, faster than Pillow's by the instructions that its builds leave out."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from torch import Tensor

Levels = NDArray[np.uint8]
"""Levels of an image `(H, W, 3)`."""


def resize(image: Image, size: tuple[int, int], interpolation: Literal["bicubic", "bilinear", "nearest"]) -> Levels:
    """Resize an RGB image, antialiased; Pillow's result but for a level or two here and there.

    Args:
        image: RGB.
        size: height and width of the result in pixels.
        interpolation: the filter.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as T

    mode = InterpolationMode("nearest-exact" if interpolation == "nearest" else interpolation)
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # channels side by side in memory
    resized: Tensor = T.resize(levels, list(size), interpolation=mode, antialias=True)
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


def resize_and_cut(image: Image, shorter: int, side: int, resampling: Resampling) -> Image:
    """Resize an image's shorter side and cut the centre out, computing little more than that.

    To the bit what Pillow gives for the whole: along a side whose coordinates are exact in Pillow's float32 boxes, as
    they are where 256 pixels come of the shorter one, only the centre is computed; along another all of it.

    Args:
        image: RGB.
        shorter: the shorter side after the resize in pixels.
        side: of the square cut out, at most `shorter`.
        resampling: bilinear or bicubic.
    """
    factor = min(image.size)
    width, height = (shorter if length == factor else int(shorter * length / factor) for length in image.size)
    columns, rows = _along(image.width, width, side), _along(image.height, height, side)
    first, last = rows.seen(image.height)
    strip = image.crop((0, first, image.width, last))
    across = columns.low, 0, columns.high, strip.height
    strip = strip.resize((columns.pixels, strip.height), resampling, box=across)
    strip = strip.crop((columns.skip, 0, columns.skip + side, strip.height))
    down = 0, rows.low - first, side, rows.high - first
    strip = strip.resize((side, rows.pixels), resampling, box=down)
    return strip.crop((0, rows.skip, side, rows.skip + side))


class _Along(NamedTuple):
    """What is resampled along one side."""

    low: float
    high: float
    """The part of the side, in its pixels."""
    pixels: int
    """What it becomes."""
    skip: int
    """Of those, how many lie before the centre."""

    def seen(self, length: int) -> tuple[int, int]:
        """Return the first pixel of the side that the part is computed from, and the one after the last."""
        reach = 2 * max(1.0, (self.high - self.low) / self.pixels) + 1
        return max(0, math.floor(self.low - reach)), min(length, math.ceil(self.high + reach))


def _along(length: int, resized: int, side: int) -> _Along:
    scale, skip = length / resized, round((resized - side) / 2)
    low, high = skip * scale, (skip + side) * scale
    if all(float(np.float32(value)) == value for value in (scale, low, high)):
        return _Along(low, high, side, 0)
    return _Along(0, length, resized, skip)


def move_rows(levels: Levels, shifts: NDArray[np.floating[Any]], fill: tuple[int, int, int]) -> Levels:
    """Return what each row shows at `x + shift`, by the cubic of Pillow's `transform`, which its shears amount to.

    Args:
        levels: `(H, W, 3)`.
        shifts: of each row in pixels `(H,)`.
        fill: what is seen outside the image.
    """
    height, width, _ = levels.shape
    shifts = shifts.clip(-width - 1, width + 1)  # farther out all is fill
    whole = np.floor(shifts).astype(np.int64)
    margin = int(np.abs(whole).max()) + 3
    left, right = levels[:, :1].repeat(margin, axis=1), levels[:, -1:].repeat(margin, axis=1)
    padded = np.concatenate([left, levels, right], axis=1).reshape(height, -1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 3 * (width + 3), axis=1)
    rows = torch.from_numpy(windows[np.arange(height), 3 * (margin - 1 + whole)]).float()  # (H, 3 (W + 3))
    moved = torch.full((height, 3 * width), 1e-4)  # rounding must not take a whole level to the next
    for tap, weight in enumerate(_cubic((shifts - whole).astype(np.float32))):
        moved.addcmul_(rows[:, 3 * tap : 3 * (tap + width)], torch.from_numpy(weight)[:, None])
    seen: Levels = moved.clamp_(0, 255).to(torch.uint8).numpy().reshape(levels.shape)
    first, last = np.ceil(-0.5 - shifts).astype(np.int16), np.ceil(width - 0.5 - shifts).astype(np.int16)
    places = np.arange(width, dtype=np.int16)
    outside = (places < first[:, None]) | (places >= last[:, None])
    np.copyto(seen, np.array(fill, dtype=np.uint8), where=outside[:, :, None])
    return seen


def _cubic(d: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return the weights of the four pixels around a place `d` past the second."""
    return -d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, d**3 - d**2


def shear_x(levels: Levels, factor: float, fillcolor: tuple[int, int, int], **_: Any) -> Levels:
    """Return rows moved in proportion to their height."""
    return move_rows(levels, factor * (np.arange(levels.shape[0]) + 0.5), fillcolor)


def shear_y(levels: Levels, factor: float, fillcolor: tuple[int, int, int], **_: Any) -> Levels:
    """Return columns moved in proportion to their place."""
    return _turned(shear_x(_turned(levels), factor, fillcolor))


def translate_x(levels: Levels, share: float, fillcolor: tuple[int, int, int], **_: Any) -> Levels:
    """Return all moved sideways by a share of the width."""
    return move_rows(levels, np.full(levels.shape[0], share * levels.shape[1]), fillcolor)


def translate_y(levels: Levels, share: float, fillcolor: tuple[int, int, int], **_: Any) -> Levels:
    """Return all moved up or down by a share of the height."""
    return _turned(translate_x(_turned(levels), share, fillcolor))


def sharpen(levels: Levels, factor: float, **_: Any) -> Levels:
    """Return Pillow's `ImageEnhance.Sharpness`: away from a smoothed image, whose border is the image's own."""
    wide = levels.astype(np.int16)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    nine = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    inner = wide[1:-1, 1:-1]
    smooth = ((nine + 4 * inner) * 2 + 13) // 26  # the kernel's thirteenths, rounded
    blended = smooth + np.float32(factor) * (inner - smooth).astype(np.float32)
    sharp = levels.copy()
    sharp[1:-1, 1:-1] = blended.clip(0, 255).astype(np.uint8)
    return sharp


def _turned(levels: Levels) -> Levels:
    return np.ascontiguousarray(levels.transpose(1, 0, 2))
