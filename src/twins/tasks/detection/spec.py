"""Detection's and instance segmentation's parts: images with objects, views of both, and average precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from twins.data.base import AnnotatedImages, Derived, ImageSet, Splits
from twins.data.checks.detection import ObjectCheck
from twins.data.checks.scan import CheckReport, check
from twins.data.config import DataConfig
from twins.data.formats.open import open_objects, open_objects_for_run
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.data.objects import Objects, build_objects, encode_mask
from twins.data.transforms.config import DetectionConfig
from twins.data.transforms.detection import RandomView, WholeView
from twins.engine.config import EvalConfig, TrainConfig
from twins.errors import ConfigError, DataError, NotFoundError, count_list, number_of
from twins.heads.roi import RoIHead
from twins.metrics.detection import DetectionMetric
from twins.metrics.semantic import Absent
from twins.predictions import Prediction
from twins.preprocess import Preprocess, keep_shape
from twins.tasks.network import TaskNetwork


class DetectionSpec:
    """See `twins.tasks.contract.TaskSpec`; objects have masks where instance segmentation needs them."""

    examined = 100
    columns = ("label", "name", "score", "x1", "y1", "x2", "y2")
    listed = "objects"

    def __init__(self, *, masks: bool = False) -> None:
        self.masks = masks

    def open(self, config: DataConfig) -> Splits[AnnotatedImages]:
        """Open `scenes`, or a folder with images and COCO's, VOC's or YOLO's annotations, with something to find."""
        splits = open_objects_for_run(config, masks=self.masks)
        _check_found(splits.val, splits.source)
        return splits

    def check(self, config: DataConfig) -> CheckReport:
        return check(open_objects(config, masks=self.masks), ObjectCheck())

    def warnings(self, splits: Splits[AnnotatedImages]) -> list[str]:
        """Return nothing: what is left out of training is among the notes of opening."""
        return []

    def preprocess(self, config: TrainConfig, known: Preprocess) -> Preprocess:
        """Return a resize that keeps the image's shape; raises ConfigError where it cannot have the size asked for."""
        longest = config.detection.longest
        return keep_shape(known, size=config.size, longest=longest, setting="detection.longest")

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform:
        return RandomView(config.detection, preprocess)

    def eval_transform(self, preprocess: Preprocess) -> Transform:
        """Return the preparation of the image; the truth stays in the image's pixels."""
        return WholeView(preprocess)

    def shapes(self, images: AnnotatedImages) -> list[tuple[int, int]] | None:
        """Return each image's height and width, where the annotations say all of them."""
        found = [images.shape(index) for index in range(len(images))]
        known = [shape for shape in found if shape is not None]
        return known if len(known) == len(found) else None

    def prepare(self, config: TrainConfig, batch: Batch, epoch: int, classes: int) -> tuple[Tensor, Any]:
        return batch.images, batch.targets

    def set_up(self, network: TaskNetwork, config: TrainConfig, images: AnnotatedImages) -> None:
        """Set the classes' colours, and how many regions a second stage learns from.

        Raises:
            ConfigError: settings that detectors do not have.
        """
        network.info = replace(network.info, colours=images.classes.colours)
        roi_head: RoIHead | None = getattr(network, "roi_head", None)
        if roi_head is not None:
            roi_head.samples = config.detection.samples
        elif config.detection.samples != DetectionConfig().samples:
            raise ConfigError(f"`detection.samples` is for a second stage; {network.info.head} has none")

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> DetectionMetric:
        """Return COCO's average precision; with curves and error types where all is measured."""
        if absent != "left_out":
            raise ConfigError("`absent` is for semantic networks; COCO's AP leaves absent classes out")
        return DetectionMetric(names, masks=self.masks, full=full)

    def relabel(self, images: AnnotatedImages, classes: Sequence[int]) -> ImageSet:
        return Derived(images, change=partial(_relabelled, labels=np.asarray(classes, dtype=np.int64)))

    def check_pair(self, image: Image, target: Objects) -> None:
        """Do nothing: evaluation has left out what does not fit."""

    def protocol(self, network: TaskNetwork, config: EvalConfig, data: DataConfig) -> dict[str, Any]:
        """Return which objects are counted."""
        return {"selection": asdict(network.selection)}

    def weakest(self, rows: Sequence[dict[str, Any]], most: int = 5) -> list[str]:
        """Return the classes with the lowest average precision."""
        key = "mask_ap" if rows and "mask_ap" in rows[0] else "ap"
        known = sorted((row for row in rows if row[key] is not None), key=lambda row: row[key])
        return [
            f"class {row['name']}: AP {100 * row[key]:.1f} %, {number_of(row['objects'], 'object')}"
            for row in known[:most]
        ]

    def rows(self, prediction: Prediction, top: int) -> Iterator[list[Any]]:
        """Yield every object."""
        assert prediction.boxes is not None
        for (label, score), box in zip(_listed(prediction), prediction.boxes.tolist(), strict=True):
            yield [label, prediction.name(label), score, *(round(side, 2) for side in box)]

    def text(self, prediction: Prediction, top: int) -> str:
        """Return the `top` objects of the highest scores, and how many more there are."""
        listed = list(_listed(prediction))
        text = ", ".join(f"{prediction.name(label)} {score:.1%}" for label, score in listed[:top])
        return f"{text} and {len(listed) - top} more" if len(listed) > top else text or "nothing"

    def counts(self, prediction: Prediction) -> dict[str, int]:
        """Return objects by class."""
        return dict(Counter(prediction.name(label) for label, _ in _listed(prediction)))

    def total(self, counts: Mapping[str, int]) -> str:
        """Return how many objects of each class were found."""
        return f"found: {count_list(counts)}"

    def example_target(self, height: int, width: int) -> Objects:
        """Return four objects, one in each quarter of the image."""
        boxes = [(x, y, x + width // 2, y + height // 2) for y in (0, height // 2) for x in (0, width // 2)]
        masks = []
        for x0, y0, x1, y1 in boxes:
            mask = np.zeros((height, width), dtype=np.bool_)
            mask[y0:y1, x0:x1] = True
            masks.append(encode_mask(mask))
        size, labels = (height, width), [0, 1, 0, 1]
        return build_objects(boxes, labels, size=size, image_id=0, masks=masks if self.masks else None)

    def example_batch(self, images: Tensor, classes: int) -> list[dict[str, Tensor]]:
        """Return the same 12 objects for each image: squares of many sizes, with discs as masks."""
        return [_example_objects(images, classes) for _ in images]


SPEC = DetectionSpec()


def _listed(prediction: Prediction) -> Iterator[tuple[int, float]]:
    assert prediction.labels is not None
    assert prediction.scores is not None
    return zip(prediction.labels.tolist(), prediction.scores.tolist(), strict=True)


def _example_objects(images: Tensor, classes: int, count: int = 12) -> dict[str, Tensor]:
    height, width = images.shape[2:]
    random = torch.Generator().manual_seed(0)
    sides = torch.logspace(-3.5, -1, count, base=2)[:, None] * min(height, width)
    low = torch.rand(count, 2, generator=random) * (torch.tensor([width, height]) - sides)
    boxes = torch.cat([low, low + sides], dim=1)
    rows, columns = (torch.arange(side)[None] + 0.5 for side in (height, width))
    middle, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, sides / 2
    far = (rows - middle[:, 1:])[:, :, None] ** 2 + (columns - middle[:, :1])[:, None] ** 2
    labels, masks = torch.arange(count) % classes, far < radius[:, :, None] ** 2
    return {"boxes": boxes.to(images.device), "labels": labels.to(images.device), "masks": masks.to(images.device)}


def _relabelled(objects: Objects, labels: NDArray[np.int64]) -> Objects:
    return replace(objects, labels=labels[objects.labels])


def _check_found(val: AnnotatedImages, source: str) -> None:
    """Raise DataError where no held-out image has an object to find, so that nothing could be measured.

    Looks until it finds one; what cannot be read is left to whoever reads it.
    """
    for index in range(len(val)):
        try:
            objects = val.target(index)
        except (DataError, NotFoundError):
            return
        if (~objects.crowd).any():
            return
    raise DataError(
        f"none of the {len(val)} held-out images of {source} has an object to find, so nothing could be measured; "
        "annotate some, or hold others out by another `seed`"
    )
