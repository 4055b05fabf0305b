"""Classification's `TaskSpec`: labelled images, timm's augmentation and mixing, top-1 and related metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from twins.bands import AnyImage
from twins.data.base import Derived, ImageSet, LabelledImages, Splits
from twins.data.checks.classification import ClassIdCheck
from twins.data.checks.scan import CheckReport, check
from twins.data.config import DataConfig
from twins.data.formats.open import open_class_ids
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.data.transforms.classification import ImageAlone, train_transform
from twins.data.transforms.mixing import mix
from twins.engine.config import WEIGHT_POWERS, EvalConfig, TrainConfig
from twins.errors import ConfigError, count_list, number_of
from twins.metrics.classification import ClassificationMetric
from twins.metrics.semantic import Absent
from twins.predictions import Prediction
from twins.preprocess import Preprocess
from twins.tasks.classification.inference import infer
from twins.tasks.classification.network import Classification
from twins.tasks.contract import Decision
from twins.tasks.inference import InferenceConfig
from twins.tasks.network import TaskNetwork


class ClassificationSpec:
    """Implements `twins.tasks.contract.TaskSpec`."""

    max_report_images = 2000
    csv_columns = ("rank", "label", "name", "score")
    summary_columns = ("class", "score", "others")

    def open(self, config: DataConfig) -> Splits[LabelledImages]:
        """Open `digits`, or a folder of class folders or lists, with notes on the images that are left out."""
        splits = open_class_ids(config)
        return replace(splits, notes=(*splits.notes, *splits.problems, *splits.faults))

    def check(self, config: DataConfig) -> CheckReport:
        return check(open_class_ids(config), ClassIdCheck())

    def warnings(self, splits: Splits[LabelledImages]) -> list[str]:
        """Return a sentence for each class with too few images."""
        train, val = Counter(splits.train.labels), Counter(splits.val.labels)
        sentences: list[str] = []
        for label, name in enumerate(splits.train.names):
            if train[label] == 0:
                sentences.append(
                    f"class {name} has no training image, so it cannot be learned; add images or remove it"
                )
            elif train[label] + val[label] == 1:
                sentences.append(
                    f"class {name} has one image, which is used for training, so its accuracy cannot be measured; "
                    "add images"
                )
            elif train[label] == 1:
                sentences.append(f"class {name} has one training image, too few to learn it well; add images")
        return sentences

    def preprocess(self, config: TrainConfig, initial: Preprocess) -> Preprocess:
        """Return preprocessing to a square of the run's size, cropped or squashed by its `fit`."""
        return replace(initial, size=config.size, crop=config.crop, fit=config.fit)

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform:
        return ImageAlone(train_transform(config.augment, preprocess))

    def eval_transform(self, preprocess: Preprocess) -> Transform:
        return ImageAlone(preprocess.pixels)

    def shapes(self, images: ImageSet) -> None:
        """Return `None`: images are resized to one size."""

    def sides(self, target: int) -> NDArray[np.float64]:
        """Return nothing: a classifier looks at whole images."""
        return np.zeros(0)

    def prepare_batch(self, config: TrainConfig, batch: Batch, epoch: int, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return images and targets, mixed if configured; the last image of an odd batch is not mixed."""
        augment, images, targets = config.augment, batch.images, batch.targets
        even = len(images) // 2 * 2
        if not _mixes(config) or not even:
            return images, targets
        mixed, soft = mix(
            images[:even],
            targets[:even],
            mixup=augment.mixup,
            cutmix=augment.cutmix,
            smoothing=augment.smoothing,
            num_classes=num_classes,
            key=(config.seed, epoch, batch.indices[0]),
        )
        if even == len(images):
            return mixed, soft
        last = torch.nn.functional.one_hot(targets[even:], num_classes).to(soft)
        last = last * (1.0 - augment.smoothing) + augment.smoothing / num_classes
        return torch.cat([mixed, images[even:]]), torch.cat([soft, last])

    def loss_targets(self, batch: Batch) -> Tensor:
        return batch.targets

    def configure(self, network: TaskNetwork, config: TrainConfig, images: LabelledImages) -> None:
        """Set label smoothing, unless mixing applies it, and class weights."""
        assert isinstance(network, Classification)
        network.label_smoothing = 0.0 if _mixes(config) else config.augment.smoothing
        if config.class_weights != "none":
            network.class_weights = balanced_weights(images) ** WEIGHT_POWERS[config.class_weights]

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> ClassificationMetric:
        """Return accuracy, per-class counts and calibration; `full` adds nothing, as all are fast."""
        if absent != "left_out":
            raise ConfigError(f"`absent` is for semantic networks, found {absent} for classification; leave it out")
        return ClassificationMetric(names)

    def relabel(self, images: LabelledImages, class_ids: Sequence[int | None]) -> ImageSet:
        if None not in class_ids:
            return Derived(images, change=class_ids.__getitem__)
        return Derived(images, _indices(images, class_ids, left_out=False), class_ids.__getitem__)

    def left_out(self, images: LabelledImages, class_ids: Sequence[int | None]) -> str:
        """Return the number of images of the classes left out."""
        return number_of(len(_indices(images, class_ids, left_out=True)), "image")

    def check_pair(self, image: Image, target: int) -> None:
        """Do nothing: every class fits every image."""

    def decision(self, outputs: Tensor, prediction: Prediction) -> Decision | None:
        """Return the most probable class; `None` for a network without classes."""
        top = next(_top_classes(prediction, 1), None)
        return None if top is None else Decision(label=top[0], score=top[1], value=outputs[0, top[0]])

    def infer(self, network: TaskNetwork, image: AnyImage, inference: InferenceConfig) -> Prediction:
        assert isinstance(network, Classification)
        return infer(network, image, inference)

    def protocol(self, network: TaskNetwork, config: EvalConfig, data: DataConfig) -> dict[str, Any]:
        """Return the temperature of the scores, unless it is 1."""
        temperature = network.info.temperature
        return {} if temperature == 1.0 else {"temperature": temperature}

    def worst_classes(self, per_class: Sequence[dict[str, Any]], limit: int = 5) -> list[str]:
        """Return the classes with the lowest recall."""
        rows = sorted((row for row in per_class if row["support"]), key=lambda row: row["recall"])
        return [f"class {row['name']}: {100 * row['recall']:.1f} % of {row['support']} found" for row in rows[:limit]]

    def csv_rows(self, prediction: Prediction, top: int) -> Iterator[list[Any]]:
        for rank, (label, score) in enumerate(_top_classes(prediction, top), start=1):
            yield [rank, label, prediction.name(label), score]

    def summary(self, prediction: Prediction, top: int) -> str:
        return ", ".join(f"{prediction.name(label)} {score:.1%}" for label, score in _top_classes(prediction, top))

    def summary_row(self, prediction: Prediction, top: int) -> tuple[str, str, str]:
        """Return the most probable class, its score, and the next classes with theirs."""
        (label, score), *others = _top_classes(prediction, top)
        text = ", ".join(f"{prediction.name(label)} {score:.4f}" for label, score in others)
        return prediction.name(label), f"{score:.4f}", text

    def counts(self, prediction: Prediction) -> dict[str, int]:
        """Return 1 for the most probable class."""
        return {prediction.name(label): 1 for label, _ in _top_classes(prediction, 1)}

    def counts_summary(self, counts: Mapping[str, int]) -> str:
        """Return in how many frames each class was the most probable."""
        return f"most probable: {count_list(counts)}"

    def synthetic_target(self, height: int, width: int) -> int:
        return 0

    def synthetic_targets(self, images: Tensor, num_classes: int) -> Tensor:
        """Return class ids `(B,)`."""
        return torch.arange(len(images), device=images.device) % num_classes


SPEC = ClassificationSpec()


def _top_classes(prediction: Prediction, top: int) -> Iterator[tuple[int, float]]:
    assert prediction.labels is not None
    assert prediction.scores is not None
    return zip(prediction.labels[:top].tolist(), prediction.scores[:top].tolist(), strict=True)


def balanced_weights(images: LabelledImages) -> Tensor:
    """Return class weights `(K,)`: the inverse of each class's number of images, with mean 1 over the images."""
    counts = torch.bincount(torch.tensor(images.labels), minlength=len(images.names)).float()
    present = counts > 0
    weights = len(images) / (int(present.sum()) * counts.clamp(min=1))
    return torch.where(present, weights, 0.0)


def _indices(images: LabelledImages, class_ids: Sequence[int | None], *, left_out: bool) -> list[int]:
    return [index for index, label in enumerate(images.labels) if (class_ids[label] is None) == left_out]


def _mixes(config: TrainConfig) -> bool:
    """Whether the settings mix training images."""
    return config.augment.mixup > 0 or config.augment.cutmix > 0
