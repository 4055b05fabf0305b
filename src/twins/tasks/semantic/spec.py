"""Semantic segmentation's parts: images with maps of class ids, crops, and intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twins.data.base import ImageSet, Splits
from twins.data.checks.classification import CheckReport
from twins.data.checks.semantic import check_semantic
from twins.data.config import DataConfig
from twins.data.formats.masks import IGNORE
from twins.data.formats.semantic import MappedImages, open_semantic
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.data.transforms.semantic import RandomCrop, WholeImage
from twins.engine.config import TrainConfig
from twins.errors import DataError
from twins.factory import TaskNetwork
from twins.metrics.semantic import Absent, SemanticMetric
from twins.preprocess import Preprocess, keep_shape
from twins.tasks.semantic.network import SemanticSegmentation

_COUNTED = 500
"""Most maps that class weights are counted on."""


class SemanticKit:
    """See `twins.tasks.contract.Kit`."""

    leading = "miou"

    def open(self, config: DataConfig) -> Splits[MappedImages]:
        """Open `scenes`, or a folder with images and masks."""
        return open_semantic(config)

    def check(self, config: DataConfig) -> CheckReport:
        """Read every image and mask and report what would spoil a run."""
        return check_semantic(config)

    def warnings(self, splits: Splits[MappedImages]) -> list[str]:
        """Return nothing: what masks hold is only known when all are read, which `twins check` does."""
        return []

    def preprocess(self, config: TrainConfig, known: Preprocess) -> Preprocess:
        """Return a resize that keeps the image's shape; raises ConfigError where it cannot have the size asked for."""
        longest = config.semantic.longest
        return keep_shape(known, size=config.size, longest=longest, flag="--semantic.longest")

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform:
        """Return random crops."""
        return RandomCrop(config.semantic, preprocess)

    def eval_transform(self, preprocess: Preprocess) -> Transform:
        """Return the preparation of the image; the truth stays at its own size."""
        return WholeImage(preprocess)

    def shapes(self, images: ImageSet) -> None:
        """Return nothing: training images are cut to one size."""

    def prepare(self, config: TrainConfig, batch: Batch, epoch: int, classes: int) -> tuple[Tensor, Any]:
        """Return a batch's images and maps."""
        return batch.images, batch.targets

    def set_up(self, network: TaskNetwork, config: TrainConfig, images: MappedImages) -> None:
        """Set the classes' colours, and their weights."""
        assert isinstance(network, SemanticSegmentation)
        network.info = replace(network.info, colours=images.classes.colours)
        if config.class_weights == "balanced":
            network.class_weights = balanced_pixel_weights(images)

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> SemanticMetric:
        """Return intersection over union; with boundaries where all is measured."""
        return SemanticMetric(names, absent=absent, boundary=full)

    def relabel(self, images: MappedImages, classes: Sequence[int]) -> MappedImages:
        """Return images whose class `i` is called `classes[i]`."""
        return _Relabelled(images, classes)


class _Relabelled:
    """Mapped images under other class ids."""

    def __init__(self, images: MappedImages, classes: Sequence[int]) -> None:
        self.images, self.names, self.classes = images, images.names, images.classes
        self.lookup = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        self.lookup[: len(classes)] = classes

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Any:
        return self.images.load(index)

    def target(self, index: int) -> NDArray[np.uint8]:
        return self.lookup[self.images.target(index)]

    def path(self, index: int) -> str:
        return self.images.path(index)


def balanced_pixel_weights(images: MappedImages) -> Tensor:
    """Return each class's weight `(K,)` by median frequency balancing (Eigen and Fergus, arXiv 1411.4734, section 6.3).

    The frequency of a class is its share of the pixels of the maps that have it; its weight is the median frequency
    over its own. Counted on at most 500 maps; a class that they lack weighs 0.
    """
    classes = len(images.names)
    pixels, inside = np.zeros(classes), np.zeros(classes)
    for index in range(0, len(images), -(-len(images) // _COUNTED)):
        try:
            counts = np.bincount(images.target(index).ravel(), minlength=IGNORE + 1)[:classes]
        except DataError:
            continue
        pixels += counts
        inside += np.where(counts > 0, counts.sum(), 0)
    frequency = np.divide(pixels, inside, out=np.zeros(classes), where=inside > 0)
    present = frequency > 0
    if not present.any():
        raise DataError("no training map holds any class, so classes cannot be weighed; check the masks")
    weights = np.divide(np.median(frequency[present]), frequency, out=np.zeros(classes), where=present)
    return torch.from_numpy(weights).float()
