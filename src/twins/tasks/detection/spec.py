"""Detection's and instance segmentation's parts: images with objects, views of both, and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from twins.data.base import Splits
from twins.data.checks.classification import CheckReport
from twins.data.checks.detection import check_detection
from twins.data.config import DataConfig
from twins.data.formats.detection import open_detection
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.data.objects import AnnotatedImages, Objects
from twins.data.transforms.config import DetectionConfig
from twins.data.transforms.detection import RandomView, WholeView
from twins.engine.config import TrainConfig
from twins.errors import ConfigError, DataError, NotFoundError
from twins.factory import TaskNetwork
from twins.metrics.detection import DetectionMetric
from twins.metrics.semantic import Absent
from twins.preprocess import Preprocess, keep_shape
from twins.tasks.detection.network import Detection
from twins.tasks.instance.network import InstanceSegmentation


class DetectionKit:
    """See `twins.tasks.contract.Kit`.

    Args:
        masks: whether objects have masks, as instance segmentation needs them.
    """

    def __init__(self, *, masks: bool = False) -> None:
        self.masks = masks
        self.leading = "mask_ap" if masks else "box_ap"

    def open(self, config: DataConfig) -> Splits[AnnotatedImages]:
        """Open `scenes`, or a folder with images and COCO's, VOC's or YOLO's annotations, with something to find."""
        splits = open_detection(config, masks=self.masks)
        _check_found(splits.val, splits.source)
        return splits

    def check(self, config: DataConfig) -> CheckReport:
        """Read every image and its objects and report what would spoil a run."""
        return check_detection(config, masks=self.masks)

    def warnings(self, splits: Splits[AnnotatedImages]) -> list[str]:
        """Return nothing: what is left out of training is among the notes of opening."""
        return []

    def preprocess(self, config: TrainConfig, known: Preprocess) -> Preprocess:
        """Return a resize that keeps the image's shape; raises ConfigError where it cannot have the size asked for."""
        longest = config.detection.longest
        return keep_shape(known, size=config.size, longest=longest, flag="--detection.longest")

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform:
        """Return random views."""
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
        """Return a batch's images and objects."""
        return batch.images, batch.targets

    def set_up(self, network: TaskNetwork, config: TrainConfig, images: AnnotatedImages) -> None:
        """Set the classes' colours, and how many regions a second stage learns from.

        Raises:
            ConfigError: settings that detectors do not have.
        """
        if config.class_weights != "none":
            raise ConfigError(
                f"--class-weights {config.class_weights} is for classification and semantic, found --task "
                f"{config.task}; leave it out"
            )
        network.info = replace(network.info, colours=images.classes.colours)
        assert isinstance(network, Detection | InstanceSegmentation)
        if network.roi_head is not None:
            network.roi_head.samples = config.detection.samples
        elif config.detection.samples != DetectionConfig().samples:
            raise ConfigError(f"--detection.samples is for a second stage, which {network.info.head} has not")

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> DetectionMetric:
        """Return COCO's average precision; with curves and error types where all is measured."""
        if absent != "left_out":
            raise ConfigError("--absent is for semantic networks; COCO's AP leaves absent classes out")
        return DetectionMetric(names, masks=self.masks, full=full)

    def relabel(self, images: AnnotatedImages, classes: Sequence[int]) -> AnnotatedImages:
        """Return images whose class `i` is called `classes[i]`."""
        return _Relabelled(images, classes)


class _Relabelled:
    """Annotated images under other class ids."""

    def __init__(self, images: AnnotatedImages, labels: Sequence[int]) -> None:
        self.images, self.names, self.classes = images, images.names, images.classes
        self.lookup = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Any:
        return self.images.load(index)

    def target(self, index: int) -> Objects:
        objects = self.images.target(index)
        return replace(objects, labels=self.lookup[objects.labels])

    def shape(self, index: int) -> tuple[int, int] | None:
        return self.images.shape(index)

    def path(self, index: int) -> str:
        return self.images.path(index)


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
        "annotate some, or hold others out with --seed"
    )
