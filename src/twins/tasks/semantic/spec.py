"""Semantic segmentation's `TaskSpec`: images with maps of class ids, random crops, and IoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from twins.bands import AnyImage
from twins.data.base import Derived, ImageSet, LabelMapImages, Splits
from twins.data.checks.scan import CheckReport, check
from twins.data.checks.semantic import LabelMapCheck
from twins.data.config import DataConfig
from twins.data.formats.masks import IGNORE
from twins.data.formats.open import open_label_maps
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.data.transforms.semantic import RandomCrop, WholeImage, check_mask_size, resize_labels
from twins.engine.config import WEIGHT_POWERS, EvalConfig, TrainConfig
from twins.errors import DataError, NotFoundError, few, number_of
from twins.metrics.semantic import Absent, SemanticMetric
from twins.predictions import Prediction
from twins.preprocess import Preprocess, keep_shape
from twins.tasks.contract import Decision
from twins.tasks.inference import InferenceConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.semantic.inference import infer
from twins.tasks.semantic.network import SemanticSegmentation

_MAX_COUNTED_MAPS = 500
"""Maximum number of label maps in which the pixels of classes are counted."""
LEAST_SHARE = 1e-4
"""Least share of the pixels that a class has in the prior."""


class SemanticSpec:
    """Implements `twins.tasks.contract.TaskSpec`."""

    max_report_images = 100
    csv_columns = ("name", "pixels")
    summary_columns = ("class", "share", "others")

    def open(self, config: DataConfig) -> Splits[LabelMapImages]:
        splits = open_label_maps(config)
        return replace(splits, notes=(*splits.notes, *splits.problems))

    def check(self, config: DataConfig) -> CheckReport:
        return check(open_label_maps(config), LabelMapCheck())

    def warnings(self, splits: Splits[LabelMapImages]) -> list[str]:
        """Return nothing: only `twins check` reads all masks."""
        return []

    def preprocess(self, config: TrainConfig, initial: Preprocess) -> Preprocess:
        """Return a resize that keeps the aspect ratio; raises ConfigError if `size` exceeds `semantic.longest`."""
        longest = config.semantic.longest
        return keep_shape(initial, size=config.size, longest=longest, setting="semantic.longest")

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform:
        return RandomCrop(config.semantic, preprocess)

    def eval_transform(self, preprocess: Preprocess) -> Transform:
        """Return the resize of the image; the ground truth keeps its size."""
        return WholeImage(preprocess)

    def shapes(self, images: ImageSet) -> None:
        """Return `None`: training crops have one size, and evaluation takes images in any order."""

    def sides(self, target: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the widths of the regions of one class along every eighth row, without those that span the row."""
        rows = target[4::8]
        ends = np.ones((len(rows), target.shape[1] + 1), dtype=bool)
        ends[:, 1:-1] = rows[:, 1:] != rows[:, :-1]
        widths = np.concatenate([np.zeros(0), *(np.diff(np.flatnonzero(row)) for row in ends)])
        return widths[widths < target.shape[1]] / min(target.shape)

    def prepare_batch(self, config: TrainConfig, batch: Batch, epoch: int, num_classes: int) -> tuple[Tensor, Any]:
        return batch.images, batch.targets

    def loss_targets(self, batch: Batch) -> list[Tensor]:
        """Return each map of class ids at its image's size in the network's input, by nearest neighbours."""
        maps = zip(batch.targets, batch.input_sizes, strict=True)
        return [torch.from_numpy(resize_labels(target.numpy(), size)) for target, size in maps]

    def configure(self, network: TaskNetwork, config: TrainConfig, images: LabelMapImages) -> None:
        """Set the colours, the weights and the prior of the classes."""
        assert isinstance(network, SemanticSegmentation)
        network.info = replace(network.info, colours=images.classes.colours)
        prior = config.semantic.prior_bias and bool(network.new_classifier_biases())
        if config.class_weights == "none" and not prior:
            return
        pixels, map_pixels = count_pixels(images)
        if config.class_weights != "none":
            network.class_weights = balanced_weights(pixels, map_pixels) ** WEIGHT_POWERS[config.class_weights]
        if prior:
            shares = pixels if network.class_weights is None else pixels * network.class_weights.numpy()
            network.set_prior(np.maximum(shares / shares.sum(), LEAST_SHARE))

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> SemanticMetric:
        """Return IoU and accuracy; `full` adds boundary F1."""
        return SemanticMetric(names, absent=absent, boundary=full)

    def relabel(self, images: LabelMapImages, class_ids: Sequence[int | None]) -> ImageSet:
        """Return images with other class ids; those of classes left out are ignored."""
        lookup = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        lookup[: len(class_ids)] = [IGNORE if class_id is None else class_id for class_id in class_ids]
        return Derived(images, change=lookup.__getitem__)

    def left_out(self, images: LabelMapImages, class_ids: Sequence[int | None]) -> str:
        """Return the number of pixels of the classes left out; reads all masks."""
        labels, count = [label for label, class_id in enumerate(class_ids) if class_id is None], 0
        for index in range(len(images)):
            with suppress(DataError, NotFoundError):  # the evaluation reports it
                count += int(np.isin(images.target(index), labels).sum())
        return number_of(count, "pixel")

    def check_pair(self, image: Image, target: NDArray[np.uint8]) -> None:
        check_mask_size(image, target)

    def decision(self, outputs: dict[str, Tensor], prediction: Prediction) -> Decision:
        """Return the class with the most pixels after the first one, which is often background.

        Its value is the mean logit over the positions where it is the highest, as in Seg-Grad-CAM, arXiv 2002.11434.
        """
        assert prediction.label_map is not None
        labels, pixels = np.unique(prediction.label_map, return_counts=True)
        label = int(labels[np.argsort(-pixels)][:2][-1])
        logits = outputs["logits"][0]  # (K, h, w)
        chosen = logits.argmax(dim=0) == label
        value = logits[label][chosen].mean() if bool(chosen.any()) else logits[label].max()
        return Decision(label=label, score=None, value=value)

    def infer(self, network: TaskNetwork, image: AnyImage, inference: InferenceConfig) -> Prediction:
        assert isinstance(network, SemanticSegmentation)
        return infer(network, image, inference)

    def protocol(self, network: TaskNetwork, config: EvalConfig, data: DataConfig) -> dict[str, Any]:
        """Return the settings of masks, and the treatment of absent classes."""
        return {"masks": asdict(data.masks), "absent_classes": config.absent}

    def worst_classes(self, per_class: Sequence[dict[str, Any]], limit: int = 5) -> list[str]:
        """Return a line for each of the classes with the smallest IoU; classes that never occur have none."""
        rows = sorted((row for row in per_class if row["iou"] is not None), key=lambda row: row["iou"])
        return [
            f"class {row['name']}: IoU {100 * row['iou']:.1f} %, {number_of(row['pixels'], 'pixel')}"
            for row in rows[:limit]
        ]

    def csv_rows(self, prediction: Prediction, top: int) -> Iterator[list[Any]]:
        yield from ([name, pixels] for name, pixels in self.counts(prediction).items())

    def summary(self, prediction: Prediction, top: int) -> str:
        """Return the largest classes of the map with their shares of the pixels."""
        return few([f"{name} {share:.1%}" for name, share in _shares(self.counts(prediction))], limit=top)

    def summary_row(self, prediction: Prediction, top: int) -> tuple[str, str, str]:
        """Return the largest class, its share of the pixels, and the next classes with theirs."""
        (name, share), *others = _shares(self.counts(prediction))[:top]
        return name, f"{share:.4f}", ", ".join(f"{name} {share:.4f}" for name, share in others)

    def counts(self, prediction: Prediction) -> dict[str, int]:
        """Return pixels by class name."""
        areas: dict[str, int] = prediction.to_dict()["areas"]
        return areas

    def counts_summary(self, counts: Mapping[str, int]) -> str:
        """Return classes with their shares of all pixels, largest first."""
        return ", ".join(f"{name} {share:.1%}" for name, share in _shares(counts))

    def synthetic_target(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return class ids `(H, W)`: 0 in the left half, 1 in the right."""
        label_map = np.zeros((height, width), dtype=np.uint8)
        label_map[:, width // 2 :] = 1
        return label_map

    def synthetic_targets(self, images: Tensor, num_classes: int) -> Tensor:
        """Return class ids `(B, H, W)`."""
        batch, _, height, width = images.shape
        pixels = torch.arange(batch * height * width, device=images.device)
        return (pixels % num_classes).view(batch, height, width)


SPEC = SemanticSpec()


def _shares(counts: Mapping[str, int]) -> list[tuple[str, float]]:
    """Return classes with their shares of all pixels, largest first."""
    pixels = max(1, sum(counts.values()))
    return sorted(((name, count / pixels) for name, count in counts.items()), key=lambda item: -item[1])


def count_pixels(images: LabelMapImages) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixels of each class, and those of the maps that contain it, `(K,)`, in at most 500 maps.

    Raises:
        DataError: no map holds any class.
    """
    classes = len(images.names)
    pixels, map_pixels = np.zeros(classes), np.zeros(classes)
    for index in range(0, len(images), -(-len(images) // _MAX_COUNTED_MAPS)):
        try:
            counts = np.bincount(images.target(index).ravel(), minlength=IGNORE + 1)[:classes]
        except (DataError, NotFoundError):  # the loader reports it
            continue
        pixels += counts
        map_pixels += np.where(counts > 0, counts.sum(), 0)
    if not pixels.any():
        raise DataError("none of the training masks that were read holds any class; check the masks")
    return pixels, map_pixels


def balanced_weights(pixels: NDArray[np.float64], map_pixels: NDArray[np.float64]) -> Tensor:
    """Return class weights `(K,)` by median frequency balancing (Eigen and Fergus, arXiv 1411.4734, section 6.3).

    The frequency of a class is its share of the pixels in the maps that contain it; its weight is the median frequency
    divided by its own, 0 for a class in no map.

    Args:
        pixels: of each class, `(K,)`.
        map_pixels: of the maps that contain the class, `(K,)`.
    """
    present = pixels > 0
    frequency = np.divide(pixels, map_pixels, out=np.zeros_like(pixels), where=present)
    weights = np.divide(np.median(frequency[present]), frequency, out=np.zeros_like(pixels), where=present)
    return torch.from_numpy(weights).float()
