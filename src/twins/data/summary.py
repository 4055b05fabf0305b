"""`DataSummary`: what the default recipe knows of a data set, from a sample of its images; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.base import ImageSet, Splits
from twins.errors import DataError, NotFoundError

MAX_IMAGES = 48
"""Images that are opened to know the usual size."""
MAX_TARGETS = 256
"""Images whose targets are read to know the sizes of their objects."""


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """Sizes and counts of a data set."""

    images: int
    """Training images."""
    val_images: int
    """Held-out images."""
    names: tuple[str, ...]
    """Class names."""
    height: int
    """Median height of the training images in pixels."""
    width: int
    """Median width of the training images in pixels."""
    sides: NDArray[np.float64]
    """Sides of what has to be seen, sorted, relative to the shorter side of their images: of objects, or of regions of
    one class. Empty for tasks that look at whole images."""
    per_image: float
    """Median number of objects in an image; 0 without objects."""

    @property
    def shorter(self) -> int:
        """Return the median shorter side in pixels."""
        return min(self.height, self.width)

    @property
    def aspect(self) -> float:
        """Return the longer side over the shorter one."""
        return max(self.height, self.width) / self.shorter

    def quantile(self, share: float) -> float:
        """Return a quantile of `sides`."""
        return float(np.quantile(self.sides, share))


def summarise(splits: Splits[Any], sides: Callable[[Any], NDArray[np.float64]]) -> DataSummary:
    """Summarise a data set; unreadable images are left out, as a later reader reports them.

    Args:
        splits: training and held-out images.
        sides: function from a target to the sides of what has to be seen, relative to the shorter side of its image.

    Raises:
        DataError: none of the sampled training images can be read.
    """
    images: ImageSet = splits.train
    shapes = [(image.height, image.width) for image in _each(images.load, len(images), MAX_IMAGES)]
    if not shapes:
        raise DataError(f"none of the training images of {splits.source} that were tried can be read; repair them")
    height, width = (int(np.median(side)) for side in zip(*shapes, strict=True))
    found = [sides(target) for target in _each(images.target, len(images), MAX_TARGETS)]
    return DataSummary(
        images=len(images),
        val_images=len(splits.val),
        names=images.names,
        height=height,
        width=width,
        sides=np.sort(np.concatenate([np.zeros(0), *found])),
        per_image=float(np.median([len(values) for values in found])) if found else 0.0,
    )


def _each(read: Callable[[int], Any], count: int, limit: int) -> Iterator[Any]:
    """Yield what `read` returns for at most `limit` indices, spread evenly over `count`."""
    for index in np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)).tolist():
        with suppress(DataError, NotFoundError):
            yield read(index)
