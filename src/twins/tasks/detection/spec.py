"""`TaskSpec` of detection and instance segmentation: images with objects, random views, and average precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from twins.bands import AnyImage
from twins.data.base import AnnotatedImages, Derived, ImageSet, Splits
from twins.data.checks.detection import ObjectCheck
from twins.data.checks.scan import CheckReport, check
from twins.data.config import DataConfig
from twins.data.formats.open import open_objects, open_objects_for_run
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.data.objects import Objects, build_objects, encode_mask
from twins.data.transforms.config import DetectionConfig
from twins.data.transforms.detection import RandomView, View, WholeView, check_size, training_target
from twins.engine.config import EvalConfig, TrainConfig
from twins.errors import ConfigError, DataError, NotFoundError, name_counts, number_of
from twins.heads.roi import RoIHead
from twins.metrics.detection import DetectionMetric
from twins.metrics.semantic import Absent
from twins.predictions import Prediction
from twins.preprocess import Preprocess, keep_shape
from twins.tasks.contract import Decision
from twins.tasks.detection.inference import infer
from twins.tasks.detection.network import object_value
from twins.tasks.inference import InferenceConfig
from twins.tasks.network import TaskNetwork


class DetectionSpec:
    """Implements `twins.tasks.contract.TaskSpec`; `masks` makes it instance segmentation's."""

    max_report_images = 100
    csv_columns = ("label", "name", "score", "x1", "y1", "x2", "y2")
    summary_columns = ("classes", "objects", "surest")

    def __init__(self, *, masks: bool = False) -> None:
        self.masks = masks

    def open(self, config: DataConfig) -> Splits[AnnotatedImages]:
        """Open `scenes` or a folder with COCO, VOC or YOLO annotations; an error if no held-out image has objects."""
        splits = open_objects_for_run(config, masks=self.masks)
        if "val" in splits.parts:
            _check_has_objects(splits)
        return splits

    def check(self, config: DataConfig) -> CheckReport:
        return check(open_objects(config, masks=self.masks), ObjectCheck())

    def warnings(self, splits: Splits[AnnotatedImages]) -> list[str]:
        """Return nothing: opening notes what training leaves out."""
        return []

    def preprocess(self, config: TrainConfig, initial: Preprocess) -> Preprocess:
        """Return a resize that keeps the aspect ratio; raises ConfigError if `size` exceeds `detection.longest`."""
        longest = config.detection.longest
        return keep_shape(initial, size=config.size, longest=longest, setting="detection.longest")

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform:
        return RandomView(config.detection, preprocess)

    def eval_transform(self, preprocess: Preprocess) -> Transform:
        """Return the resize of the image; the ground truth stays in pixels of the original."""
        return WholeView(preprocess)

    def shapes(self, images: AnnotatedImages) -> list[tuple[int, int]] | None:
        """Return each image's height and width if the annotations give all of them, else `None`."""
        shapes = [images.shape(index) for index in range(len(images))]
        annotated = [shape for shape in shapes if shape is not None]
        return annotated if len(annotated) == len(shapes) else None

    def sides(self, target: Objects) -> NDArray[np.float64]:
        """Return the square roots of the areas of the boxes, without crowd regions and boxes of no area."""
        sides = (target.boxes[:, 2:] - target.boxes[:, :2]).clip(min=0).prod(axis=1) ** 0.5
        return sides[(sides > 0) & ~target.crowd] / min(target.size)

    def prepare_batch(self, config: TrainConfig, batch: Batch, epoch: int, num_classes: int) -> tuple[Tensor, Any]:
        return batch.images, batch.targets

    def loss_targets(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Return the objects of each whole image in pixels of the network's input, as in training."""
        images = zip(batch.targets, batch.originals, batch.input_sizes, strict=True)
        return [
            training_target(objects, View((0, 0, width, height), size[::-1]), (width, height))
            for objects, (height, width), size in images
        ]

    def configure(self, network: TaskNetwork, config: TrainConfig, images: AnnotatedImages) -> None:
        """Set the colours of the classes, and the regions per image that a second stage trains on.

        Raises:
            ConfigError: `detection.samples` is set for a detector without a second stage.
        """
        network.info = replace(network.info, colours=images.classes.colours)
        roi_head: RoIHead | None = getattr(network, "roi_head", None)
        if roi_head is not None:
            roi_head.samples = config.detection.samples
        elif config.detection.samples != DetectionConfig().samples:
            raise ConfigError(f"`detection.samples` is for a second stage; {network.info.head} has none")

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> DetectionMetric:
        """Return COCO's average precision; `full` adds error types and each class's best F1."""
        if absent != "left_out":
            raise ConfigError("`absent` is for semantic networks; COCO's AP leaves absent classes out")
        return DetectionMetric(names, masks=self.masks, full=full)

    def relabel(self, images: AnnotatedImages, class_ids: Sequence[int | None]) -> ImageSet:
        return Derived(images, change=partial(_relabel, class_ids=_as_array(class_ids)))

    def left_out(self, images: AnnotatedImages, class_ids: Sequence[int | None]) -> str:
        """Return the number of objects of the classes left out."""
        array, count = _as_array(class_ids), 0
        for index in range(len(images)):
            with suppress(DataError, NotFoundError):  # the evaluation reports it
                count += int((array[images.target(index).labels] < 0).sum())
        return number_of(count, "object")

    def check_pair(self, image: Image, target: Objects) -> None:
        check_size(image, target)

    def decision(self, outputs: dict[str, Any], prediction: Prediction) -> Decision | None:
        """Return the surest object; its value is its own logit, or with masks its score."""
        if not len(prediction):
            return None
        assert prediction.boxes is not None
        label, score = next(_labels_and_scores(prediction))
        x0, y0, x1, y1 = prediction.boxes[0].tolist()
        value = object_value(outputs, label, score, prediction.boxes[0], prediction.size)
        return Decision(label=label, score=score, value=value, box=(x0, y0, x1, y1))

    def infer(self, network: TaskNetwork, image: AnyImage, inference: InferenceConfig) -> Prediction:
        return infer(network, image, inference)

    def protocol(self, network: TaskNetwork, config: EvalConfig, data: DataConfig) -> dict[str, Any]:
        """Return the selection of the predicted objects."""
        return {"selection": asdict(network.selection)}

    def worst_classes(self, per_class: Sequence[dict[str, Any]], limit: int = 5) -> list[str]:
        """Return the classes with the lowest average precision."""
        key = "mask_ap" if per_class and "mask_ap" in per_class[0] else "ap"
        rows = sorted((row for row in per_class if row[key] is not None), key=lambda row: row[key])
        return [
            f"class {row['name']}: AP {100 * row[key]:.1f} %, {number_of(row['objects'], 'object')}"
            for row in rows[:limit]
        ]

    def csv_rows(self, prediction: Prediction, top: int) -> Iterator[list[Any]]:
        """Yield every object, with its track at the end if the video is tracked."""
        assert prediction.boxes is not None
        tracks = None if prediction.tracks is None else prediction.tracks.tolist()
        ends = [[]] * len(prediction.boxes) if tracks is None else [["" if x < 0 else x] for x in tracks]
        rows = zip(_labels_and_scores(prediction), prediction.boxes.tolist(), ends, strict=True)
        for (label, score), box, end in rows:
            yield [label, prediction.name(label), score, *(round(side, 2) for side in box), *end]

    def summary(self, prediction: Prediction, top: int) -> str:
        """Return the number of objects of the `top` most frequent classes, and the highest score."""
        text = name_counts(self.counts(prediction), limit=top)
        return f"{text} (surest {100 * _surest(prediction):.0f} %)" if text else "nothing"

    def summary_row(self, prediction: Prediction, top: int) -> tuple[str, int, str]:
        """Return the numbers of objects by class, the number of all objects, and the highest score."""
        counts = self.counts(prediction)
        surest = f"{_surest(prediction):.4f}" if counts else ""
        return name_counts(counts, limit=top), sum(counts.values()), surest

    def counts(self, prediction: Prediction) -> dict[str, int]:
        """Return the number of objects by class name."""
        return dict(Counter(prediction.name(label) for label, _ in _labels_and_scores(prediction)))

    def counts_summary(self, counts: Mapping[str, int]) -> str:
        """Return the number of objects of each class, over all frames."""
        return f"found: {name_counts(counts) or 'nothing'}"

    def synthetic_target(self, height: int, width: int) -> Objects:
        """Return four objects, one in each quadrant of the image."""
        boxes = [(x, y, x + width // 2, y + height // 2) for y in (0, height // 2) for x in (0, width // 2)]
        masks = []
        for x0, y0, x1, y1 in boxes:
            mask = np.zeros((height, width), dtype=np.bool_)
            mask[y0:y1, x0:x1] = True
            masks.append(encode_mask(mask))
        size, labels = (height, width), [0, 1, 0, 1]
        return build_objects(boxes, labels, size=size, image_id=0, masks=masks if self.masks else None)

    def synthetic_targets(self, images: Tensor, num_classes: int) -> list[dict[str, Tensor]]:
        """Return the same 12 objects for each image: square boxes of many sizes, with discs as masks."""
        return [_synthetic_objects(images, num_classes) for _ in images]


SPEC = DetectionSpec()


def _labels_and_scores(prediction: Prediction) -> Iterator[tuple[int, float]]:
    assert prediction.labels is not None
    assert prediction.scores is not None
    return zip(prediction.labels.tolist(), prediction.scores.tolist(), strict=True)


def _surest(prediction: Prediction) -> float:
    """Return the highest score of at least one object."""
    assert prediction.scores is not None
    return float(prediction.scores.max())


def _synthetic_objects(images: Tensor, num_classes: int, count: int = 12) -> dict[str, Tensor]:
    height, width = images.shape[2:]
    random = torch.Generator().manual_seed(0)
    sides = torch.logspace(-3.5, -1, count, base=2)[:, None] * min(height, width)
    top_left = torch.rand(count, 2, generator=random) * (torch.tensor([width, height]) - sides)
    boxes = torch.cat([top_left, top_left + sides], dim=1)
    rows, columns = (torch.arange(side)[None] + 0.5 for side in (height, width))
    centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, sides / 2
    squared_distances = (rows - centres[:, 1:])[:, :, None] ** 2 + (columns - centres[:, :1])[:, None] ** 2
    labels, masks = torch.arange(count) % num_classes, squared_distances < radii[:, :, None] ** 2
    return {"boxes": boxes.to(images.device), "labels": labels.to(images.device), "masks": masks.to(images.device)}


def _relabel(objects: Objects, class_ids: NDArray[np.int64]) -> Objects:
    """Return objects with other class ids, without those whose new id is negative."""
    labels = class_ids[objects.labels]
    if (labels >= 0).all():
        return replace(objects, labels=labels)
    kept = np.flatnonzero(labels >= 0)
    masks = None if objects.masks is None else tuple(objects.masks[index] for index in kept)
    arrays = {name: getattr(objects, name)[kept] for name in ("boxes", "areas", "crowd")}
    return replace(objects, labels=labels[kept], masks=masks, **arrays)


def _as_array(class_ids: Sequence[int | None]) -> NDArray[np.int64]:
    return np.asarray([-1 if class_id is None else class_id for class_id in class_ids], dtype=np.int64)


def _check_has_objects(splits: Splits[AnnotatedImages]) -> None:
    """Raise DataError if no held-out image has an object besides crowd regions: nothing could be measured.

    Stops at the first object, and at the first unreadable target, which a later reader reports.
    """
    val = splits.val
    for index in range(len(val)):
        try:
            objects = val.target(index)
        except (DataError, NotFoundError):
            return
        if (~objects.crowd).any():
            return
    faults = splits.faults
    left_out = f" ({number_of(len(faults), 'entry', 'entries')} left out, the first: {faults[0]})" if faults else ""
    raise DataError(
        f"none of the {number_of(len(val), 'held-out image')} of {splits.source} has an object to find, so nothing "
        f"could be measured; annotate some, or hold others out by another `seed`{left_out}"
    )
