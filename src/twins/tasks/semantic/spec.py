"""Semantic segmentation's parts: images with maps of class ids, crops, and intersection over union."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from twins.data.base import Derived, ImageSet, MappedImages, Splits
from twins.data.checks.scan import CheckReport, check
from twins.data.checks.semantic import LabelMapCheck
from twins.data.config import DataConfig
from twins.data.formats.masks import IGNORE
from twins.data.formats.open import open_label_maps
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.data.transforms.semantic import RandomCrop, WholeImage, check_mask_size
from twins.engine.config import EvalConfig, TrainConfig
from twins.errors import DataError, number_of
from twins.metrics.semantic import Absent, SemanticMetric
from twins.predictions import Prediction
from twins.preprocess import Preprocess, keep_shape
from twins.tasks.inference import InferenceConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.semantic.inference import look
from twins.tasks.semantic.network import SemanticSegmentation

_COUNTED = 500
"""Most maps that class weights are counted on."""


class SemanticSpec:
    """See `twins.tasks.contract.TaskSpec`."""

    examined = 100
    columns = ("name", "pixels")
    listed = "classes"

    def open(self, config: DataConfig) -> Splits[MappedImages]:
        return open_label_maps(config)

    def check(self, config: DataConfig) -> CheckReport:
        return check(open_label_maps(config), LabelMapCheck())

    def warnings(self, splits: Splits[MappedImages]) -> list[str]:
        """Return nothing: what masks hold is only known when all are read, which `twins check` does."""
        return []

    def preprocess(self, config: TrainConfig, known: Preprocess) -> Preprocess:
        """Return a resize that keeps the image's shape; raises ConfigError where it cannot have the size asked for."""
        longest = config.semantic.longest
        return keep_shape(known, size=config.size, longest=longest, setting="semantic.longest")

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform:
        return RandomCrop(config.semantic, preprocess)

    def eval_transform(self, preprocess: Preprocess) -> Transform:
        """Return the preparation of the image; the truth stays at its own size."""
        return WholeImage(preprocess)

    def shapes(self, images: ImageSet) -> None:
        """Return nothing: training images are cut to one size."""

    def prepare(self, config: TrainConfig, batch: Batch, epoch: int, classes: int) -> tuple[Tensor, Any]:
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

    def relabel(self, images: MappedImages, classes: Sequence[int]) -> ImageSet:
        lookup = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        lookup[: len(classes)] = classes
        return Derived(images, change=lookup.__getitem__)

    def check_pair(self, image: Image, target: NDArray[np.uint8]) -> None:
        check_mask_size(image, target)

    def look(self, network: TaskNetwork, image: Image, inference: InferenceConfig) -> Prediction:
        assert isinstance(network, SemanticSegmentation)
        return look(network, image, inference)

    def protocol(self, network: TaskNetwork, config: EvalConfig, data: DataConfig) -> dict[str, Any]:
        """Return how masks are read, how images are seen, and what absent classes count."""
        seen = asdict(config.inference)
        return {"masks": asdict(data.masks), "inference": seen, "absent_classes": config.absent}

    def weakest(self, rows: Sequence[dict[str, Any]], most: int = 5) -> list[str]:
        seen = sorted((row for row in rows if row["iou"] is not None), key=lambda row: row["iou"])
        return [
            f"class {row['name']}: IoU {100 * row['iou']:.1f} %, {number_of(row['pixels'], 'pixel')}"
            for row in seen[:most]
        ]

    def rows(self, prediction: Prediction, top: int) -> Iterator[list[Any]]:
        yield from ([name, pixels] for name, pixels in self.counts(prediction).items())

    def text(self, prediction: Prediction, top: int) -> str:
        """Return the classes of the map with their shares."""
        return self.total(self.counts(prediction))

    def counts(self, prediction: Prediction) -> dict[str, int]:
        """Return pixels by class."""
        areas: dict[str, int] = prediction.to_dict()["areas"]
        return areas

    def total(self, counts: Mapping[str, int]) -> str:
        """Return classes with their shares of all pixels, the largest first."""
        pixels = max(1, sum(counts.values()))
        ordered = sorted(counts.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {count / pixels:.1%}" for name, count in ordered)

    def example_target(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return class ids `(H, W)`: 0 at the left, 1 at the right."""
        found = np.zeros((height, width), dtype=np.uint8)
        found[:, width // 2 :] = 1
        return found

    def example_batch(self, images: Tensor, classes: int) -> Tensor:
        """Return class ids `(B, H, W)`."""
        batch, _, height, width = images.shape
        pixels = torch.arange(batch * height * width, device=images.device)
        return (pixels % classes).view(batch, height, width)


SPEC = SemanticSpec()


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
