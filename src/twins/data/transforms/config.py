"""Settings of training augmentation. This module imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from twins.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training images are changed; the defaults are the reference's ImageNet recipe."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area in a random crop."""
    ratio: tuple[float, float] = (0.75, 4.0 / 3.0)
    """Smallest and largest aspect ratio of a random crop."""
    hflip: float = 0.5
    """Probability of a left-right flip; use 0 if left and right have a meaning, as in digits."""
    vflip: float = 0.0
    """Probability of an upside-down flip."""
    color_jitter: float = 0.4
    """Strength of random changes of brightness, contrast and saturation; used only if rand_augment is off."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's notation; `none` switches it off."""
    erasing: float = 0.25
    """Probability of random erasing: a rectangle is replaced by noise."""
    mixup: float = 0.8
    """Alpha of mixup; 0 switches it off."""
    cutmix: float = 1.0
    """Alpha of cutmix; 0 switches it off."""
    smoothing: float = 0.1
    """Label smoothing: share of each target that is spread over all classes."""
    shift_pixels: int | None = None
    """If set, images are only shifted, by up to this many pixels: no crop, flip, colour change or erasing."""
    repeats: int = 1
    """Repeated augmentation: copies of each image in an epoch, each augmented differently; 1 is off."""

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "erasing"):
            _check_range("augment", name, getattr(self, name), 0.0, 1.0)
        _check_range("augment", "smoothing", self.smoothing, 0.0, 0.999)
        for name in ("mixup", "cutmix", "color_jitter"):
            _check_range("augment", name, getattr(self, name), 0.0, 100.0)
        for name in ("scale", "ratio"):
            _check_pair("augment", name, getattr(self, name))
        if self.shift_pixels is not None and self.shift_pixels < 0:
            raise ConfigError(f"`augment.shift_pixels` must be at least 0, found {self.shift_pixels}")
        if self.repeats < 1:
            raise ConfigError(f"`augment.repeats` must be at least 1, found {self.repeats}")


@dataclass(frozen=True, kw_only=True)
class SemanticConfig:
    """How training images and their masks are changed, and the head's norm; the defaults are the ADE20K recipe."""

    crop: int = 512
    """Side of the random square crop in pixels; smaller images are padded."""
    ratio: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest factor of a random resize, relative to the size in evaluation."""
    longest: int = 2048
    """Maximum of the longer side in pixels, before the random factor."""
    max_share: float = 0.75
    """Largest share of a crop that one class may fill; up to ten crops are tried. 1 uses the first."""
    hflip: float = 0.5
    """Probability of a left-right flip; use 0 if left and right have a meaning."""
    vflip: float = 0.0
    """Probability of an upside-down flip."""
    photometric: bool = True
    """Whether brightness, contrast, saturation and hue change at random."""
    norm: Literal["batch", "group"] = "batch"
    """Norm of the head: `batch`, as published (synchronised between GPUs), or `group`, for small batches."""
    prior_bias: bool = False
    """Whether a new classification layer starts with each class's share of the pixels as its probability, not with
    equal ones; a short training otherwise spends long on predicting the most frequent class everywhere. RetinaNet's
    prior (arXiv 1708.02002, section 4.1) for many classes."""

    def __post_init__(self) -> None:
        for name in ("max_share", "hflip", "vflip"):
            _check_range("semantic", name, getattr(self, name), 0.0, 1.0)
        if self.crop < 32:
            raise ConfigError(f"`semantic.crop` must be at least 32 pixels, found {self.crop}")
        if self.longest < 32:
            raise ConfigError(f"`semantic.longest` must be at least 32 pixels, found {self.longest}")
        _check_pair("semantic", "ratio", self.ratio)
        if self.norm not in ("batch", "group"):
            raise ConfigError(f"`semantic.norm` must be batch or group, found {self.norm!r}")


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """How training images and their objects are changed, and the anchors; the defaults are the 1x schedule's."""

    shorter: tuple[int, ...] = ()
    """Sizes of the shorter side in pixels, one of which is used at random; empty uses `ratio`."""
    ratio: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest factor of a random resize, relative to the size in evaluation."""
    longest: int = 1333
    """Maximum of the longer side in pixels."""
    crop: float = 0.0
    """Probability of a random crop before the resize, as in the published 3x schedule (0.5)."""
    jitter: tuple[float, float] | None = None
    """Large-scale jitter (arXiv 2012.07177: 0.1 2.0): smallest and largest factor of a random resize, cropped to the
    size in evaluation; unset is off."""
    hflip: float = 0.5
    """Probability of a left-right flip; use 0 if left and right have a meaning."""
    vflip: float = 0.0
    """Probability of an upside-down flip."""
    photometric: bool = False
    """Whether brightness, contrast, saturation and hue change at random."""
    anchor_scale: float | None = None
    """Side of the smallest anchors in multiples of a map's stride; smaller for smaller objects. Unset is as published:
    4 for retinanet, 8 for the others."""
    samples: int = 512
    """Regions of each image in the loss of Faster and Mask R-CNN's second stage; fewer take less time."""

    def __post_init__(self) -> None:
        for name in ("crop", "hflip", "vflip"):
            _check_range("detection", name, getattr(self, name), 0.0, 1.0)
        if self.samples < 4:
            raise ConfigError(f"`detection.samples` must be at least 4, found {self.samples}")
        for side in (*self.shorter, self.longest):
            if side < 32:
                raise ConfigError(f"`detection.shorter` and `detection.longest` must be at least 32, found {side}")
        for name, pair in (("ratio", self.ratio), ("jitter", self.jitter)):
            if pair is not None:
                _check_pair("detection", name, pair)
        if self.shorter and self.ratio != (1.0, 1.0):
            raise ConfigError("`detection.shorter` and `detection.ratio` both resize; leave one of them out")
        if self.jitter is not None and (self.shorter or self.crop or self.ratio != (1.0, 1.0)):
            raise ConfigError(
                "`detection.jitter` goes with neither `detection.shorter`, `detection.ratio` nor `detection.crop`"
            )
        if self.anchor_scale is not None and not 0 < self.anchor_scale < math.inf:
            raise ConfigError(f"`detection.anchor_scale` must be above 0, found {self.anchor_scale}")


def _check_pair(group: str, name: str, pair: tuple[float, float]) -> None:
    if not 0.0 < pair[0] <= pair[1] <= 100.0:
        values = " ".join(f"{value:g}" for value in pair)
        raise ConfigError(f"`{group}.{name}` must be two ascending numbers above 0 and at most 100, found {values}")


def _check_range(group: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"`{group}.{name}` must be between {low:g} and {high:g}, found {value}")
