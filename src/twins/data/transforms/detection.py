"""Transforms of detection and instance segmentation: one resampling of an image, and its objects in the new pixels."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from twins.data.objects import Objects, Rle, sample_mask, trainable
from twins.data.transforms.config import DetectionConfig
from twins.data.transforms.semantic import distort
from twins.errors import DataError
from twins.preprocess import Preprocess, fit_within, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

CROP_SHORTER, CROP_SIDES, CROP_LONGEST = (400, 500, 600), (384, 600), 1333
"""Random crop of the published 3x schedule, in pixels: shorter sides of the image that is cropped, minimum and maximum
side of the crop, maximum longer side of the image."""
MIN_BOX_SIDE = 1.0
"""Minimum width and height of a box in a training target, in pixels of the network's input."""


@dataclass(frozen=True)
class View:
    """A part of an image, resized and optionally flipped."""

    source: tuple[float, float, float, float]
    """The part, xyxy in the image's pixels."""
    output_size: tuple[int, int]
    """Width and height after the resize, in pixels."""
    hflip: bool = False
    """Whether the result is mirrored left to right."""
    vflip: bool = False
    """Whether the result is mirrored top to bottom."""

    def transform_image(self, image: Picture) -> Picture:
        """Return the view of an image."""
        result = image.resize(self.output_size, Image.Resampling.BILINEAR, box=self.source)
        if self.hflip:
            result = result.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return result.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if self.vflip else result

    def transform_boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return boxes `(R, 4)` in pixels of the view, clipped to it."""
        left, top, right, bottom = self.source
        width, height = self.output_size
        scale = np.array([width / (right - left), height / (bottom - top)] * 2)
        result = (boxes - (left, top, left, top)) * scale
        if self.hflip:
            result = np.stack([width - result[:, 2], result[:, 1], width - result[:, 0], result[:, 3]], axis=1)
        if self.vflip:
            result = np.stack([result[:, 0], height - result[:, 3], result[:, 2], height - result[:, 1]], axis=1)
        return np.asarray(result.clip(0, (width, height, width, height)))

    def transform_mask(self, mask: Rle) -> NDArray[np.bool_]:
        """Return the view of a mask by nearest neighbours, `(height, width)`."""
        height, width = mask["size"]
        rows, columns = self._nearest(1, height, flip=self.vflip), self._nearest(0, width, flip=self.hflip)
        return sample_mask(mask, rows, columns)

    def _nearest(self, axis: int, count: int, *, flip: bool) -> NDArray[np.int64]:
        """Return the nearest of `count` image pixels for each pixel of the view, along axis 0 (x) or 1 (y)."""
        low, high, side = self.source[axis], self.source[axis + 2], self.output_size[axis]
        indices = (low + (np.arange(side) + 0.5) * (high - low) / side).astype(np.int64).clip(0, count - 1)
        return indices[::-1] if flip else indices


class WholeView:
    """The transform of evaluation: resizes the image; the ground truth stays in the pixels of the original."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, image: Picture, target: Objects) -> tuple[Tensor, Objects]:
        """Return the image as uint8 `(3, h, w)` and its objects; raises DataError if they are of another size."""
        check_size(image, target)
        return self.preprocess.pixels(image), target


class RandomView:
    """The transform of training: random resize, crop, flips and photometric distortion, as published for detectors.

    The resizes before and after the crop are one resampling, so pixels outside the crop are never computed. Objects
    outside the view, or with a side of less than one pixel in it, are left out.
    """

    def __init__(self, config: DetectionConfig, preprocess: Preprocess) -> None:
        self.config, self.preprocess = config, preprocess

    def __call__(self, image: Picture, target: Objects) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a random view, uint8 `(3, h, w)`, and its target; see `twins.heads.targets.Target`.

        Raises:
            DataError: the annotations are for another size than the image has.
        """
        check_size(image, target)
        view = self.sample_view(image)
        result = view.transform_image(image)
        if self.config.photometric:
            result = distort(result)
        return pixels_of(result), training_target(target, view, image.size)

    def sample_view(self, image: Picture) -> View:
        """Sample a view of an image."""
        config = self.config
        if random.random() < config.crop:
            source = _sample_crop(image.size)
        elif config.jitter is not None:
            return self._sample_flips(*self._sample_jitter(image))
        else:
            source = (0, 0, *image.size)
        return self._sample_flips(source, self._sample_size(source[2] - source[0], source[3] - source[1]))

    def _sample_size(self, width: float, height: float) -> tuple[int, int]:
        """Sample the width and height to which a part of an image is resized."""
        size, longest = self.preprocess.size, self.preprocess.longest
        if self.config.shorter:
            return fit_within(width, height, random.choice(self.config.shorter), longest)
        factor = random.uniform(*self.config.ratio)
        return fit_within(width, height, factor * size, factor * longest)

    def _sample_jitter(self, image: Picture) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
        """Sample a part of the image and its output size.

        The image is resized by a random factor, then cropped to at most its size in evaluation.
        """
        assert self.config.jitter is not None
        eval_size = self.preprocess.kept_size(image)
        resized = self.preprocess.kept_size(image, random.uniform(*self.config.jitter))
        crop = (min(eval_size[0], resized[0]), min(eval_size[1], resized[1]))
        x, y = (random.randint(0, side - cropped) for side, cropped in zip(resized, crop, strict=True))
        scale = image.width / resized[0], image.height / resized[1]
        source = (x * scale[0], y * scale[1], (x + crop[0]) * scale[0], (y + crop[1]) * scale[1])
        return source, crop

    def _sample_flips(self, source: tuple[float, float, float, float], output_size: tuple[int, int]) -> View:
        hflip, vflip = random.random() < self.config.hflip, random.random() < self.config.vflip
        return View(source, output_size, hflip, vflip)


def check_size(image: Picture, objects: Objects) -> None:
    """Raise DataError if objects are annotated for another size than that of their image, as of a turned copy."""
    if len(objects) and objects.size != (image.height, image.width):
        raise DataError(
            f"the annotations say {objects.size[1]} x {objects.size[0]} pixels, the image has {image.width} x "
            f"{image.height}, so its objects do not fit; fix one of them"
        )


def training_target(objects: Objects, view: View, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the target of a view: the image's objects in the view's pixels; see `twins.heads.targets.Target`.

    Args:
        objects: as annotated; those without area inside the image are left out.
        view: the part of the image that the network gets.
        size: width and height of the image in pixels.
    """
    boxes = view.transform_boxes(np.nan_to_num(objects.boxes))
    visible = trainable(objects, (size[1], size[0])) & (boxes[:, 2:] - boxes[:, :2] >= MIN_BOX_SIDE).all(axis=1)
    in_target = visible & ~objects.crowd
    target = {"crowd": torch.from_numpy(boxes[visible & objects.crowd]).float()}
    if objects.masks is not None:
        indices = np.flatnonzero(in_target)
        masks = np.zeros((len(indices), *view.output_size[::-1]), dtype=bool)
        for row, index in enumerate(indices.tolist()):
            masks[row] = view.transform_mask(objects.masks[index])
        nonempty = masks.any(axis=(1, 2))
        in_target[indices[~nonempty]] = False
        target["masks"] = torch.from_numpy(np.ascontiguousarray(masks[nonempty]))
    target["boxes"] = torch.from_numpy(boxes[in_target]).float()
    target["labels"] = torch.from_numpy(objects.labels[in_target])
    return target


def _sample_crop(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Sample DETR's crop (arXiv 2005.12872), xyxy in pixels of an image with this width and height.

    As in the published 3x schedule (36 epochs), the shorter side of the image is resized to 400, 500 or 600 pixels;
    the sides of the crop are then 384 to 600 pixels, or those of the resized image if smaller.
    """
    resized = fit_within(*size, random.choice(CROP_SHORTER), CROP_LONGEST)
    width, height = (random.randint(min(side, CROP_SIDES[0]), min(side, CROP_SIDES[1])) for side in resized)
    x, y = random.randint(0, resized[0] - width), random.randint(0, resized[1] - height)
    scale_x, scale_y = size[0] / resized[0], size[1] / resized[1]
    return x * scale_x, y * scale_y, (x + width) * scale_x, (y + height) * scale_y
