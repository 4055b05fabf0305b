"""Transforms of semantic segmentation, which treat an image and its mask alike, and photometric distortion."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from twins.data.formats.masks import IGNORE
from twins.data.transforms.config import SemanticConfig
from twins.data.transforms.deferred_fills import DeferredFill, PixelsWithFills
from twins.errors import DataError
from twins.preprocess import Preprocess, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""
_TRIES = 10
"""Attempts to sample a crop in which no class fills too much, as in mmsegmentation."""


class WholeImage:
    """The transform of evaluation: resizes the image; the mask keeps its size."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, image: Picture, target: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Return the image as uint8 `(3, h, w)` and class ids `(H, W)`; raises DataError for different sizes."""
        check_mask_size(image, target)
        return self.preprocess.pixels(image), torch.from_numpy(target)


class RandomCrop:
    """The transform of training: random resize, crop, flips and distortion, as in mmsegmentation's ADE20K recipe.

    The resize (`ratio` times the size in evaluation) and the crop are one resampling, so pixels outside the crop are
    never computed. Pixels that a small image does not fill are 0 after normalisation, and ignored in the mask.
    """

    def __init__(self, config: SemanticConfig, preprocess: Preprocess) -> None:
        self.config, self.preprocess = config, preprocess

    def __call__(self, image: Picture, target: NDArray[np.uint8]) -> tuple[PixelsWithFills, Tensor]:
        """Return a crop, uint8 `(3, S, S)`, and class ids `(S, S)`; raises DataError for different sizes."""
        check_mask_size(image, target)
        config, side = self.config, self.config.crop
        size = self.preprocess.kept_size(image, random.uniform(*config.ratio))
        box, labels = self._sample_crop(target, size)
        scale = image.width / size[0], image.height / size[1]
        source = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
        width, height = box[2] - box[0], box[3] - box[1]
        crop = image.resize((width, height), Image.Resampling.BILINEAR, box=source)
        if random.random() < config.hflip:
            crop, labels = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels[:, ::-1]
        if random.random() < config.vflip:
            crop, labels = crop.transpose(Image.Transpose.FLIP_TOP_BOTTOM), labels[::-1]
        if config.photometric:
            crop = distort(crop)
        pixels = torch.zeros(side, side, 3, dtype=torch.uint8).permute(2, 0, 1)
        pixels[:, :height, :width] = pixels_of(crop)
        classes = torch.full((side, side), IGNORE, dtype=torch.uint8)
        classes[:height, :width] = torch.from_numpy(np.ascontiguousarray(labels))
        return PixelsWithFills(pixels, _padding_fills(width, height, side)), classes

    def _sample_crop(self, target: NDArray[np.uint8], size: tuple[int, int]) -> tuple[Box, NDArray[np.uint8]]:
        """Sample a crop of the resized image and return its box and class ids."""
        for _ in range(_TRIES):
            box = _sample_box(size, self.config.crop)
            labels = _nearest_labels(target, size, box)
            counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
            if (counts > 0).sum() > 1 and counts.max() <= self.config.max_share * counts.sum():
                break
            if self.config.max_share >= 1.0:
                break
        return box, labels


def _padding_fills(width: int, height: int, side: int) -> tuple[DeferredFill, ...]:
    """Return the zero fills right of and below an image in a square."""
    right, below = (
        DeferredFill(0, width, height, side - width, None),
        DeferredFill(height, 0, side - height, side, None),
    )
    return tuple(fill for fill in (right, below) if fill.height and fill.width)


def check_mask_size(image: Picture, target: NDArray[np.uint8]) -> None:
    """Raise DataError if a mask has another size than its image."""
    if target.shape != (image.height, image.width):
        raise DataError(
            f"the mask has {target.shape[1]} x {target.shape[0]} pixels, its image {image.width} x {image.height}; "
            "save both at the same size"
        )


def distort(image: Picture) -> Picture:
    """Change brightness, contrast, saturation and hue at random, each with probability 0.5, as in mmsegmentation.

    Brightness is shifted by up to 32 of 255, contrast and saturation are scaled by 0.5 to 1.5, and hue is rotated by
    up to a tenth of its circle. Contrast changes at random before or after saturation and hue.
    """
    contrast_first = random.random() < 0.5
    if random.random() < 0.5:
        image = _scale_and_shift(image, 1.0, random.uniform(-32, 32))
    if contrast_first and random.random() < 0.5:
        image = _scale_and_shift(image, random.uniform(0.5, 1.5), 0.0)
    saturation = random.uniform(0.5, 1.5) if random.random() < 0.5 else 1.0
    hue_shift = random.randint(-26, 26) if random.random() < 0.5 else 0  # of 256, like 18 of OpenCV's 180
    if saturation != 1.0 or hue_shift:
        hue, saturated, value = image.convert("HSV").split()
        hue = hue.point([(value + hue_shift) % 256 for value in range(256)])
        image = Image.merge("HSV", (hue, _scale_and_shift(saturated, saturation, 0.0), value)).convert("RGB")
    if not contrast_first and random.random() < 0.5:
        image = _scale_and_shift(image, random.uniform(0.5, 1.5), 0.0)
    return image


def _scale_and_shift(image: Picture, factor: float, shift: float) -> Picture:
    """Scale and shift the values of every channel, and clip them to 0..255."""
    table = [min(255, max(0, round(value * factor + shift))) for value in range(256)]
    return image.point(table * len(image.getbands()))


def _sample_box(size: tuple[int, int], side: int) -> Box:
    x, y = (random.randint(0, max(0, length - side)) for length in size)
    return x, y, min(x + side, size[0]), min(y + side, size[1])


def resize_labels(target: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a map of class ids `(H, W)` at another height and width, by nearest neighbours as in training."""
    return _nearest_labels(target, size[::-1], (0, 0, size[1], size[0]))


def _nearest_labels(target: NDArray[np.uint8], size: tuple[int, int], box: Box) -> NDArray[np.uint8]:
    """Return the class ids of a crop of the mask after a nearest-neighbour resize to `size` (width, height)."""
    columns = ((np.arange(box[0], box[2]) + 0.5) * (target.shape[1] / size[0])).astype(np.int64)
    rows = ((np.arange(box[1], box[3]) + 0.5) * (target.shape[0] / size[1])).astype(np.int64)
    return target[rows[:, None], columns[None, :]]
