"""What happens to an image and its objects between file and network: one view of both, taken once."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from twins.data.objects import Objects, decode_masks, usable
from twins.data.transforms.config import DetectionConfig
from twins.data.transforms.semantic import distort
from twins.errors import DataError
from twins.preprocess import Preprocess, fit_within, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

CROP_SIDES, CROP_RANGE, CROP_LONGEST = (400, 500, 600), (384, 600), 1333
"""The published second way of 3x training: shorter sides before the crop, sides of the crop, most of the longer one."""
MIN_BOX_SIDE = 1.0
"""Pixels of the network's input that an object's box must have each way to be learned from."""


@dataclass(frozen=True)
class View:
    """A part of an image at another size, perhaps mirrored."""

    source: tuple[float, float, float, float]
    """The part, xyxy in the image's pixels."""
    shape: tuple[int, int]
    """Width and height that it is brought to, in pixels."""
    mirrored: bool = False
    """Whether left and right are swapped."""
    upturned: bool = False
    """Whether top and bottom are."""

    def picture(self, image: Picture) -> Picture:
        """Return the part of an image."""
        picture = image.resize(self.shape, Image.Resampling.BILINEAR, box=self.source)
        if self.mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if self.upturned else picture

    def boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return boxes `(R, 4)` in the part's own pixels, clipped to it."""
        left, top, right, bottom = self.source
        width, height = self.shape
        scale = np.array([width / (right - left), height / (bottom - top)] * 2)
        moved = (boxes - (left, top, left, top)) * scale
        if self.mirrored:
            moved = np.stack([width - moved[:, 2], moved[:, 1], width - moved[:, 0], moved[:, 3]], axis=1)
        if self.upturned:
            moved = np.stack([moved[:, 0], height - moved[:, 3], moved[:, 2], height - moved[:, 1]], axis=1)
        return np.asarray(moved.clip(0, (width, height, width, height)))

    def masks(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the nearest pixels of masks `(R, H, W)`: `(R, height, width)`."""
        rows = self._nearest(1, masks.shape[1], upturned=self.upturned)
        columns = self._nearest(0, masks.shape[2], upturned=self.mirrored)
        return masks[:, rows[:, None], columns[None]]

    def _nearest(self, axis: int, count: int, *, upturned: bool) -> NDArray[np.int64]:
        low, high, side = self.source[axis], self.source[axis + 2], self.shape[axis]
        places = (low + (np.arange(side) + 0.5) * (high - low) / side).astype(np.int64).clip(0, count - 1)
        return places[::-1] if upturned else places


class WholeView:
    """The transform of evaluation: the image is resized, the truth stays in the image's own pixels."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, image: Picture, target: Objects) -> tuple[Tensor, Objects]:
        """Return the image as uint8 `(3, h, w)` and the objects; raises DataError for masks of another size."""
        check_masks(image, target)
        return self.preprocess.pixels(image), target


class RandomView:
    """Resize, crop, mirror and colour at random, as the published detectors' trainings do.

    A resize, a crop and another resize are one resampling here, so what is cut away is never computed. Objects of
    which nothing is left, or less than a pixel either way, are left out.
    """

    def __init__(self, config: DetectionConfig, preprocess: Preprocess) -> None:
        self.config, self.preprocess = config, preprocess

    def __call__(self, image: Picture, target: Objects) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the pixels of a view, uint8 `(3, h, w)`, and its objects; see `twins.heads.targets`.

        Raises:
            DataError: masks of another size than the image.
        """
        check_masks(image, target)
        view = self.choose(image)
        picture = view.picture(image)
        if self.config.photometric:
            picture = distort(picture)
        return pixels_of(picture), learnable(target, view, image.size)

    def choose(self, image: Picture) -> View:
        """Draw a view of an image."""
        config = self.config
        if random.random() < config.crop:
            part = _crop_of(image.size)
        elif config.jitter is not None:
            return self._flipped(*self._jittered(image))
        else:
            part = (0, 0, *image.size)
        return self._flipped(part, self._resized(part[2] - part[0], part[3] - part[1]))

    def _resized(self, width: float, height: float) -> tuple[int, int]:
        """Return the size that a part is brought to."""
        size, longest = self.preprocess.size, self.preprocess.longest
        if self.config.shorter:
            return fit_within(width, height, random.choice(self.config.shorter), longest)
        factor = random.uniform(*self.config.ratio)
        return fit_within(width, height, factor * size, factor * longest)

    def _jittered(self, image: Picture) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
        """Return a part, and its size: the image resized by a random factor, cut to the size that evaluation has."""
        assert self.config.jitter is not None
        whole = self.preprocess.kept_size(image)
        resized = self.preprocess.kept_size(image, random.uniform(*self.config.jitter))
        shape = (min(whole[0], resized[0]), min(whole[1], resized[1]))
        x, y = (random.randint(0, have - want) for have, want in zip(resized, shape, strict=True))
        scale = image.width / resized[0], image.height / resized[1]
        source = (x * scale[0], y * scale[1], (x + shape[0]) * scale[0], (y + shape[1]) * scale[1])
        return source, shape

    def _flipped(self, source: tuple[float, float, float, float], shape: tuple[int, int]) -> View:
        mirrored, upturned = random.random() < self.config.hflip, random.random() < self.config.vflip
        return View(source, shape, mirrored, upturned)


def check_masks(image: Picture, objects: Objects) -> None:
    """Raise DataError when objects have masks of another size than their image."""
    if objects.masks is not None and objects.size != (image.height, image.width):
        raise DataError(
            f"the annotations say {objects.size[1]} x {objects.size[0]} pixels, the image has {image.width} x "
            f"{image.height}, so its masks do not fit; mend one of them"
        )


def learnable(objects: Objects, view: View, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return what is learned of an image's objects in a view of it; see `twins.heads.targets.Target`.

    Args:
        objects: as annotated; those without area inside the image are left out.
        view: what the network sees.
        size: width and height of the image in pixels.
    """
    boxes = view.boxes(np.nan_to_num(objects.boxes))
    seen = usable(objects, (size[1], size[0])) & (boxes[:, 2:] - boxes[:, :2] >= MIN_BOX_SIDE).all(axis=1)
    learned = seen & ~objects.crowd
    target = {"crowd": torch.from_numpy(boxes[seen & objects.crowd]).float()}
    if objects.masks is not None:
        chosen = np.flatnonzero(learned)
        masks = np.zeros((len(chosen), *view.shape[::-1]), dtype=bool)
        for place, number in enumerate(chosen.tolist()):  # one by one: whole they can be far larger than their view
            masks[place] = view.masks(decode_masks([objects.masks[number]], objects.size))[0]
        there = masks.any(axis=(1, 2))
        learned[chosen[~there]] = False
        target["masks"] = torch.from_numpy(np.ascontiguousarray(masks[there]))
    target["boxes"] = torch.from_numpy(boxes[learned]).float()
    target["labels"] = torch.from_numpy(objects.labels[learned])
    return target


def _crop_of(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return a random part of an image of some width and height: up to 384 to 600 pixels each way of a smaller image.

    The image is thought of with a shorter side of 400, 500 or 600 pixels, as in the published trainings of 36 epochs
    (DETR's augmentation, arXiv 2005.12872).
    """
    resized = fit_within(*size, random.choice(CROP_SIDES), CROP_LONGEST)
    width, height = (random.randint(min(side, CROP_RANGE[0]), min(side, CROP_RANGE[1])) for side in resized)
    x, y = random.randint(0, resized[0] - width), random.randint(0, resized[1] - height)
    across, down = size[0] / resized[0], size[1] / resized[1]
    return x * across, y * down, (x + width) * across, (y + height) * down
