"""The default recipe: settings chosen from the data, the weights and the time, each with its reason.

A task's own part is `choose` in its `recipes.py`. Nothing here imports torch.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass, replace
from typing import Any

from twins.backbone.config import PUBLISHED
from twins.data.summary import DataSummary
from twins.engine.config import TrainConfig
from twins.errors import number_of
from twins.tasks.choices import Choice

DEFAULT = "default"
"""Name of the default recipe."""
CHOSEN = frozenset((
    "size", "fit", "crop", "batch_size", "epochs", "eval_every", "workers", "drop_path", "optimizer.lr",
    "optimizer.betas", "optimizer.layer_decay", "schedule.kind", "schedule.warmup_epochs", "schedule.min_lr",
    "augment.hflip", "augment.scale", "augment.rand_augment", "augment.erasing", "augment.shift_pixels",
    "semantic.crop", "semantic.hflip", "semantic.ratio", "semantic.photometric", "semantic.prior_bias", "drop_rate",
    "detection.samples", "detection.anchor_scale", "detection.hflip", "detection.ratio",
))  # fmt: skip
"""Settings that the default recipe chooses, in one task or in several."""
TRAINING_SHARE = 0.75
"""Share of a run's minutes that the measured steps fill; evaluations, saving, and waiting for images take the rest."""
EVALUATION_SHARE = 0.1
"""Share of a run's minutes that its evaluations may take."""
EVALUATION_TIME = 0.4
"""Time of evaluating an image relative to training on it."""
PROBES = 96, 192
"""Shorter sides at which the time of a training step is measured, in pixels."""
SMALLER_GAIN = 0.5
"""Share of the images promised by a smaller side, as the inverse of its pixels, that it must bring."""
WARMUP_SHARE = 0.05
"""Share of a run that is warm-up."""
_SIDED = re.compile(r"(^|[^a-z])(left|right)([^a-z]|$)")


class Chooser:
    """The settings of a run while they are chosen; a setting that was given is kept, and later choices follow it.

    Args:
        config: settings as given, the others at their defaults.
        given: names of the given settings, dotted for those of a group.
        data: summary of the data set.
        measure: function from settings and the `(height, width)` of training images to the measured seconds of a step
            on `probe` of them; it is called only for a run with a time budget.
        loading: function from settings to the measured seconds of loading a training image, in one process.
        probe: images of a measured step.
        square: whether training images are square.
        processes: training processes, among which a batch is shared.
    """

    def __init__(
        self,
        config: TrainConfig,
        given: Collection[str],
        data: DataSummary,
        measure: Callable[[TrainConfig, tuple[int, int]], float],
        *,
        loading: Callable[[TrainConfig], float] = lambda config: 0.0,
        probe: int = 1,
        square: bool = False,
        processes: int = 1,
    ) -> None:
        self.config, self.given, self.data = config, frozenset(given), data
        self.measure, self.loading, self.probe = measure, loading, probe
        self.square, self.processes = square, processes
        self.choices: list[Choice] = []
        self._cost: tuple[float, float, float] | None = None
        self.fresh = config.weights == "none"
        self.published = config.model in PUBLISHED and not self.fresh

    def set(self, setting: str, value: Any, reason: str) -> None:
        """Choose a setting, unless it was given."""
        assert setting in CHOSEN, setting
        if setting in self.given:
            return
        self.config = with_setting(self.config, setting, value)
        self.choices.append(Choice(setting=setting, value=value, reason=reason))

    def images(self, side: int, batch: int) -> float:
        """Return the number of images that the run's time trains on, in batches; infinite without a time budget."""
        minutes = self.config.minutes
        return math.inf if minutes is None else TRAINING_SHARE * 60.0 * minutes / self.seconds(side, batch)

    def seconds(self, side: int, batch: int) -> float:
        """Return the seconds for a training image: of its share of a step, or of loading it if that takes longer.

        A step takes a fixed time, and a time for each pixel: the line through the times of two sizes. Processes share
        the images.
        """
        if self._cost is None:
            (small, less), (large, more) = (self._measured(probe) for probe in PROBES)
            slope = max((more - less) / (large - small), 0.05 * more / large)  # noise must not make pixels free
            loading = self.loading(self.config) / (self._workers()[0] or 1)
            self._cost = max(0.0, more - slope * large), slope / self.probe, loading
        fixed, slope, loading = self._cost
        height, width = self._shape(side)
        share = self.processes if batch >= self.processes else 1
        return max(fixed / batch + slope * height * width / share, loading / share)

    def _measured(self, side: int) -> tuple[int, float]:
        """Return the pixels of a training image and the seconds of a step."""
        height, width = self._shape(side)
        return height * width, self.measure(self.config, (height, width))

    def _batch(self, usual: int) -> int:
        """Return the batch that was given, else a usual one."""
        return self.config.batch_size if "batch_size" in self.given else usual

    def _workers(self) -> tuple[int, str]:
        """Return the number of loader processes, and why."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if "workers" in self.given:
            return self.config.workers, "given"
        if self.data.height * self.data.width <= 64 * 64:
            return 0, "small images"
        return min(4, max(1, cores - 1)), number_of(cores, "core")

    def _shape(self, side: int) -> tuple[int, int]:
        return side, side if self.square else round(side * self.data.aspect)

    def choose_size(self, ideal: int, reason: str, *, smallest: int, least: float, batch: int) -> None:
        """Choose `size`: the ideal one, or the largest at which the run's time trains on at least `least` images.

        Args:
            ideal: shorter side at which the network sees what it has to see, in pixels.
            reason: why that size.
            smallest: smallest shorter side to choose.
            least: images that a run should train on.
            batch: usual batch.
        """
        side = self.affordable(ideal, smallest=smallest, least=least, batch=batch)
        self.set("size", side, self.shortage(side, ideal, batch) if side < ideal else reason)

    def affordable(self, ideal: int, *, smallest: int, least: float, batch: int) -> int:
        """Return the ideal side, or the largest at which the run's time trains on at least `least` images.

        A smaller side must be worth its lost detail: of the images that its saved pixels promise, at least half must
        come. They do not where the fixed time of a step, or loading, takes most of the time. Sides are multiples of 32,
        and the images' own.
        """
        side, batch = ideal, self._batch(batch)
        while side > smallest and (images := self.images(side, batch)) < least:
            smaller = max(smallest, _round_down(side - 1), self.data.shorter if self.data.shorter < side else 0)
            promised, gained = (side / smaller) ** 2 - 1.0, self.images(smaller, batch) / images - 1.0
            if gained < SMALLER_GAIN * promised:
                break
            side = smaller
        return side

    def shortage(self, side: int, ideal: int, batch: int) -> str:
        """Return the reason for a side below the ideal one: how many images the run's time trains on at both."""
        minutes = self.config.minutes
        more, fewer = (self.images(length, self._batch(batch)) for length in (side, ideal))
        return f"{minutes:g} minutes are enough for {more:,.0f} images of this size, at {ideal} pixels for {fewer:,.0f}"

    def choose_batch(self, side: int, *, smallest: int, largest: int, steps: int, passes: float) -> None:
        """Choose `batch_size`, the largest that leaves enough steps, and `epochs`.

        Args:
            side: side of the training images in pixels.
            smallest: smallest batch; a power of two.
            largest: largest batch.
            steps: steps that a run should have.
            passes: most epochs of a run without a given length.
        """
        config, count = self.config, self.data.images

        def images(batch: int) -> float:
            if config.minutes is not None:
                return self.images(side, batch)
            epochs = config.epochs if "epochs" in self.given else passes
            return count * epochs if config.steps is None else math.inf

        batch = smallest
        while 2 * batch <= min(largest, max(count // 2, smallest)) and images(2 * batch) / (2 * batch) >= steps:
            batch *= 2
        unit = config.accumulate * self.processes
        batch = max(unit, batch - batch % unit)
        total = images(self._batch(batch))
        planned = number_of(max(1, round(total / batch)), "step") if math.isfinite(total) else ""
        leaves = "leaves about" if config.minutes or "epochs" in self.given else "leaves up to"
        self.set("batch_size", batch, f"{leaves} {planned}" if planned else "the number of steps is given")
        batch = self.config.batch_size
        if config.minutes is None and config.steps is None:
            longest = max(1, round(min(passes, max(12.0, 3.0 * steps * batch / count))))
            planned = number_of(longest * max(1, count // batch), "step")
            self.set("epochs", float(longest), f"{planned} of {number_of(min(batch, count), 'image')}")
        elif math.isfinite(total):
            self.config = replace(self.config, epochs=float(f"{total / count:.3g}"))

    @property
    def steps(self) -> float:
        """Return the expected steps of the run; a batch has at most all images."""
        batch = min(self.config.batch_size, self.data.images)
        return self.config.steps or max(1.0, self.config.epochs * self.data.images / batch)

    @property
    def passes(self) -> float:
        """Return the expected passes over the training images."""
        return self.steps * min(self.config.batch_size, self.data.images) / self.data.images

    @property
    def repeats(self) -> str:
        """Return the expected passes as a reason."""
        passes = number_of(round(self.passes), "pass", "passes") if self.passes >= 0.5 else "less than one pass"
        return f"{passes} over the images"

    @property
    def shortness(self) -> str:
        """Return that the run is short, as a reason."""
        return f"a short run, of about {number_of(round(self.steps), 'step')}"

    def choose_rate(self, rate: float, batch: int, *, short: int = 20000) -> None:
        """Choose the peak learning rate from that of a batch of `batch` images, and AdamW's second beta.

        A short run has too few steps for a second moment over 1,000 of them.
        """
        factor = math.sqrt(self.config.batch_size / batch)
        peak = float(f"{rate * factor:.2g}")
        self.set("optimizer.lr", peak, f"{self.start}, batches of {self.config.batch_size}")
        if self.steps < short and not self.published:
            self.set("optimizer.betas", (0.9, 0.98), self.shortness)

    @property
    def start(self) -> str:
        """Return what a run starts from, as a reason."""
        if self.config.model not in PUBLISHED:
            return "a small network"
        return "a large network from random weights" if self.fresh else "a large network from trained weights"

    def choose_regularisation(self, layer_decay: float, drop_path: float) -> None:
        """Choose layer-wise decay and stochastic depth: none but for trained weights of a published network."""
        self.set("optimizer.layer_decay", layer_decay if self.published else None, self.start)
        self.set("drop_path", drop_path if self.published else 0.0, self.start)

    def choose_schedule(self, side: int, *, kind: str = "cosine", evaluation: float = EVALUATION_TIME) -> None:
        """Choose warm-up, fall of the rate, evaluations and loader processes.

        Args:
            side: side of the training images in pixels.
            kind: how the rate falls; `poly` is a straight line, unless `schedule.power` is given.
            evaluation: time of evaluating an image relative to training on it.
        """
        config, passes = self.config, self.passes
        settling = "the rate falls to 0, so that the weights settle at the end"
        even = "the rate falls evenly: detectors learn late, when a cosine is near 0"
        self.set("schedule.kind", kind, even if kind == "poly" else settling)
        self.set("schedule.min_lr", 0.0, settling)
        self.set("schedule.warmup_epochs", round(WARMUP_SHARE * self.config.epochs, 3), "a twentieth of the run")
        count = 12.0
        if config.minutes is not None:
            seconds = evaluation * self.seconds(side, config.batch_size) * self.data.val_images
            count = min(20.0, max(2.0, EVALUATION_SHARE * 60.0 * config.minutes / seconds))
        every = max(1.0, round(passes / count)) if passes >= count else float(f"{passes / count:.3g}")
        self.set("eval_every", every, f"about {number_of(round(passes / every), 'evaluation')}")
        self.set("workers", *self._workers())

    def choose_flip(self, setting: str) -> None:
        """Choose the probability of a left-right flip from the names of the classes."""
        reason = mirror_reason(self.data.names)
        self.set(setting, 0.0 if reason else 0.5, reason or "no class name speaks against mirrored images")

    def finish(self) -> tuple[TrainConfig, tuple[Choice, ...]]:
        """Return the settings and what was chosen."""
        return self.config, tuple(self.choices)


def mirror_reason(names: Collection[str]) -> str | None:
    """Return why images must not be mirrored, judged by the class names, or `None`.

    Digits and letters read differently in a mirror; so do numbered classes, such as traffic signs, whose meaning the
    names do not tell; and `left` becomes `right`.
    """
    read = [name for name in names if name.lower() not in ("background", "border")]
    if read and all(len(name) == 1 or name.isdigit() for name in read):
        return "the classes are digits, letters or numbers; give 0.5 if mirrored images keep their class"
    sided = next((name for name in names if _SIDED.search(name.lower())), None)
    return f"class {sided} has a side; give 0.5 if mirrored images keep their class" if sided else None


def side_reason(shorter: int, highest: int) -> str:
    """Return the reason for the images' own size, of which at most `highest` pixels are chosen."""
    return f"images have about {shorter:,} pixels" + (f", at most {highest} are chosen" if shorter > highest else "")


def round_side(side: float, low: int, high: int, most: int) -> int:
    """Return the nearest multiple of 32 within the limits, but not above `most`, unless the lower limit is.

    `most` is the images' own side where enlarged ones take more time and show nothing more.
    """
    return min(high, max(low, min(most, 32 * round(side / 32))))


def _round_down(side: int) -> int:
    """Return the largest multiple of 32 (of 64 above 512) that is at most `side`."""
    step = 64 if side > 512 else 32
    return side // step * step


def with_setting(config: TrainConfig, setting: str, value: Any) -> TrainConfig:
    """Return the settings with one changed, which may be dotted."""
    group, dot, name = setting.partition(".")
    return replace(config, **{group: replace(getattr(config, group), **{name: value}) if dot else value})


def changed_settings(config: TrainConfig) -> frozenset[str]:
    """Return the dotted names of the settings that differ from their defaults."""
    return frozenset(_changed(config, TrainConfig(), ""))


def _changed(value: Any, default: Any, prefix: str) -> list[str]:
    names: list[str] = []
    for item in fields(value):
        mine, other = getattr(value, item.name), getattr(default, item.name)
        if is_dataclass(mine):
            names += _changed(mine, other, f"{prefix}{item.name}.")
        elif mine != other:
            names.append(prefix + item.name)
    return names
