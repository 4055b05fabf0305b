"""What happens to an image and its mask between file and network: the same to both, in training and in evaluation."""

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
from twins.data.transforms.patches import Patch, Patched
from twins.errors import DataError
from twins.preprocess import Preprocess, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Box = tuple[int, int, int, int]
_TRIES = 10
"""Crops that are tried for one in which no class fills too much, as in mmsegmentation."""


class WholeImage:
    """The transform of evaluation: the image is resized, the truth stays at its own size."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, image: Picture, target: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Return the image as uint8 `(3, h, w)` and class ids `(H, W)`; raises DataError where they do not fit."""
        check_mask_size(image, target)
        return self.preprocess.pixels(image), torch.from_numpy(target)


class RandomCrop:
    """Resize, crop, flip and colour at random, as mmsegmentation's ADE20K recipe does.

    The resize, by `ratio` on top of evaluation's, and the crop are one resampling of the crop's part of the image:
    what would be cut away is never computed. What a small image does not fill is 0 after normalisation, and ignored.
    """

    def __init__(self, config: SemanticConfig, preprocess: Preprocess) -> None:
        self.config, self.preprocess = config, preprocess

    def __call__(self, image: Picture, target: NDArray[np.uint8]) -> tuple[Patched, Tensor]:
        """Return a crop, uint8 `(3, S, S)`, and its class ids `(S, S)`; raises DataError where they do not fit."""
        check_mask_size(image, target)
        config, side = self.config, self.config.crop
        size = self.preprocess.kept_size(image, random.uniform(*config.ratio))
        box, labels = self._choose(target, size)
        scale = image.width / size[0], image.height / size[1]
        source = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
        shape = (box[2] - box[0], box[3] - box[1])
        picture = image.resize(shape, Image.Resampling.BILINEAR, box=source)
        if random.random() < config.hflip:
            picture, labels = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels[:, ::-1]
        if random.random() < config.vflip:
            picture, labels = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM), labels[::-1]
        if config.photometric:
            picture = distort(picture)
        pixels = torch.zeros(side, side, 3, dtype=torch.uint8).permute(2, 0, 1)
        pixels[:, : shape[1], : shape[0]] = pixels_of(picture)
        classes = torch.full((side, side), IGNORE, dtype=torch.uint8)
        classes[: shape[1], : shape[0]] = torch.from_numpy(np.ascontiguousarray(labels))
        return Patched(pixels, _unfilled(shape, side)), classes

    def _choose(self, target: NDArray[np.uint8], size: tuple[int, int]) -> tuple[Box, NDArray[np.uint8]]:
        """Return a crop of the resized image, and the class ids in it."""
        for _ in range(_TRIES):
            box = _random_box(size, self.config.crop)
            labels = _resample(target, size, box)
            counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
            if (counts > 0).sum() > 1 and counts.max() <= self.config.max_share * counts.sum():
                break
            if self.config.max_share >= 1.0:
                break
        return box, labels


def _unfilled(shape: tuple[int, int], side: int) -> tuple[Patch, ...]:
    """Return what a picture of some width and height leaves of a square, which is to be 0."""
    width, height = shape
    right, below = Patch(0, width, height, side - width, None), Patch(height, 0, side - height, side, None)
    return tuple(patch for patch in (right, below) if patch.height and patch.width)


def check_mask_size(image: Picture, target: NDArray[np.uint8]) -> None:
    """Raise DataError when a mask has not the size of its image."""
    if target.shape != (image.height, image.width):
        raise DataError(
            f"the mask has {target.shape[1]} x {target.shape[0]} pixels, its image {image.width} x {image.height}; "
            "save both at the same size"
        )


def distort(image: Picture) -> Picture:
    """Change brightness, contrast, saturation and hue, each at even odds, by mmsegmentation's amounts.

    Brightness is shifted by up to 32 of 255, contrast and saturation are scaled by 0.5 to 1.5, hue is turned by up to
    a tenth of its circle; contrast comes before or after the other two.
    """
    contrast_first = random.random() < 0.5
    if random.random() < 0.5:
        image = _map(image, 1.0, random.uniform(-32, 32))
    if contrast_first and random.random() < 0.5:
        image = _map(image, random.uniform(0.5, 1.5), 0.0)
    saturation = random.uniform(0.5, 1.5) if random.random() < 0.5 else 1.0
    turn = random.randint(-26, 26) if random.random() < 0.5 else 0  # of 256: 18 of OpenCV's 180
    if saturation != 1.0 or turn:
        hue, saturated, value = image.convert("HSV").split()
        hue = hue.point([(value + turn) % 256 for value in range(256)])
        image = Image.merge("HSV", (hue, _map(saturated, saturation, 0.0), value)).convert("RGB")
    if not contrast_first and random.random() < 0.5:
        image = _map(image, random.uniform(0.5, 1.5), 0.0)
    return image


def _map(image: Picture, factor: float, shift: float) -> Picture:
    """Scale and shift the values of every channel, kept within 0..255."""
    table = [min(255, max(0, round(value * factor + shift))) for value in range(256)]
    return image.point(table * len(image.getbands()))


def _random_box(size: tuple[int, int], side: int) -> Box:
    x, y = (random.randint(0, max(0, length - side)) for length in size)
    return x, y, min(x + side, size[0]), min(y + side, size[1])


def _resample(target: NDArray[np.uint8], size: tuple[int, int], box: Box) -> NDArray[np.uint8]:
    """Return the nearest class ids of a crop of the map resized to `size` (width, height)."""
    columns = ((np.arange(box[0], box[2]) + 0.5) * (target.shape[1] / size[0])).astype(np.int64)
    rows = ((np.arange(box[1], box[3]) + 0.5) * (target.shape[0] / size[1])).astype(np.int64)
    return target[rows[:, None], columns[None, :]]
