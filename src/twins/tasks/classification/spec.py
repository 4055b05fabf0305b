"""Classification's parts: labelled images, timm's augmentation and mixing, top-1 and its kin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from twins.data.base import ImageSet, LabelledImages, Splits, open_classification
from twins.data.checks.classification import CheckReport, check_classification
from twins.data.config import DataConfig
from twins.data.formats.semantic import IMAGE_FOLDERS, MASK_FOLDERS
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.data.transforms.classification import ImageAlone, train_transform
from twins.data.transforms.mixing import mix
from twins.engine.config import TrainConfig
from twins.errors import ConfigError
from twins.factory import TaskNetwork
from twins.metrics.classification import ClassificationMetric
from twins.metrics.semantic import Absent
from twins.preprocess import Preprocess
from twins.tasks.classification.network import Classification

if TYPE_CHECKING:
    from PIL.Image import Image


class ClassificationKit:
    """See `twins.tasks.contract.Kit`."""

    leading = "top1"

    def open(self, config: DataConfig) -> Splits[LabelledImages]:
        """Open `digits` or a folder of class folders."""
        return open_classification(config.data, seed=config.seed, val_share=config.val_share)

    def check(self, config: DataConfig) -> CheckReport:
        """Read every image and report what would spoil a run."""
        report = check_classification(config.data, seed=config.seed, val_share=config.val_share)
        report.notes += _masks_as_classes(report.names)
        return report

    def warnings(self, splits: Splits[LabelledImages]) -> list[str]:
        """Return a sentence for each class that has too few images to be learned or measured, or looks like masks."""
        learn, held_out = Counter(splits.train.labels), Counter(splits.val.labels)
        sentences = _masks_as_classes(splits.train.names)
        for label, name in enumerate(splits.train.names):
            if learn[label] == 0:
                sentences.append(
                    f"class {name} has no training image, so it cannot be learned; add images or remove it"
                )
            elif learn[label] + held_out[label] == 1:
                sentences.append(
                    f"class {name} has one image, which is trained on, so nothing tells how well it is learned; "
                    "add images"
                )
            elif learn[label] == 1:
                sentences.append(f"class {name} has one training image, too few to learn it well; add images")
        return sentences

    def preprocess(self, config: TrainConfig, known: Preprocess) -> Preprocess:
        """Return a square of the run's size, cut or squashed as the run says."""
        return replace(known, size=config.size, crop=config.crop, fit=config.fit)

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform:
        """Return timm's augmentation, or shifts."""
        return ImageAlone(train_transform(config.augment, preprocess))

    def eval_transform(self, preprocess: Preprocess) -> Transform:
        """Return the preparation alone."""
        return ImageAlone(preprocess.levels)

    def shapes(self, images: ImageSet) -> None:
        """Return nothing: training images are cut to one size."""

    def prepare(self, config: TrainConfig, batch: Batch, epoch: int, classes: int) -> tuple[Tensor, Tensor]:
        """Return images and targets, mixed where the settings say so; an odd image out stays as it is."""
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
            num_classes=classes,
            key=(config.seed, epoch, batch.indices[0]),
        )
        if even == len(images):
            return mixed, soft
        alone = torch.nn.functional.one_hot(targets[even:], classes).to(soft)
        alone = alone * (1.0 - augment.smoothing) + augment.smoothing / classes
        return torch.cat([mixed, images[even:]]), torch.cat([soft, alone])

    def set_up(self, network: TaskNetwork, config: TrainConfig, images: LabelledImages) -> None:
        """Set label smoothing, which mixing does itself, and class weights."""
        assert isinstance(network, Classification)
        network.label_smoothing = 0.0 if _mixes(config) else config.augment.smoothing
        if config.class_weights == "balanced":
            network.class_weights = balanced_weights(images)

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> ClassificationMetric:
        """Return accuracy, per-class counts and calibration; all of it is quick."""
        if absent != "left_out":
            raise ConfigError(f"--absent is for semantic networks, found {absent} for classification; leave it out")
        return ClassificationMetric(names)

    def relabel(self, images: LabelledImages, classes: Sequence[int]) -> LabelledImages:
        """Return images whose class `i` is called `classes[i]`."""
        return _Relabelled(images, classes)


class _Relabelled:
    """Labelled images under other class ids."""

    def __init__(self, images: LabelledImages, classes: Sequence[int]) -> None:
        self.images, self.names = images, images.names
        self.labels = [classes[label] for label in images.labels]

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Image:
        return self.images.load(index)

    def target(self, index: int) -> int:
        return self.labels[index]

    def path(self, index: int) -> str:
        return self.images.path(index)


def balanced_weights(images: LabelledImages) -> Tensor:
    """Return each class's weight `(K,)`: the inverse of its number of images, 1 on average over the images."""
    counts = torch.bincount(torch.tensor(images.labels), minlength=len(images.names)).float()
    present = counts > 0
    weights = len(images) / (int(present.sum()) * counts.clamp(min=1))
    return torch.where(present, weights, 0.0)


def _masks_as_classes(names: Sequence[str]) -> list[str]:
    """Return a sentence where the only classes are a folder of images and one of masks."""
    if len(names) != 2 or not set(names) & set(IMAGE_FOLDERS) or not set(names) & set(MASK_FOLDERS):
        return []
    return [
        f"the classes are called {' and '.join(names)}, as the folders of images and their masks are; "
        "to learn the masks, say --task semantic"
    ]


def _mixes(config: TrainConfig) -> bool:
    """Whether training mixes images."""
    return config.augment.mixup > 0 or config.augment.cutmix > 0
