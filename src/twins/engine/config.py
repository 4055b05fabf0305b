"""Settings of `twins.train` and `twins.evaluate`. Nothing here imports torch, so that `--help` is fast."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Suppress, arg

from twins.data.config import BoxConfig, DataConfig, LayoutConfig, MaskConfig
from twins.data.transforms.config import AugmentConfig, DetectionConfig, SemanticConfig
from twins.engine.config_values import build_config, to_lists
from twins.errors import ConfigError, NotFoundError
from twins.files import is_invalid_path
from twins.tasks.inference import InferenceConfig, SelectionConfig

FORMAT = 2
"""Version of `config.yaml`; since version 2 the file ends in `END`, so that a truncated file is detected."""
END = "complete"
"""Last key of `config.yaml`, with the value true."""
MACHINE_FIELDS = (
    "device",
    "workers",
    "accumulate",
    "checkpointing",
    "selective_checkpointing",
    "log_every",
    "save_every",
    "max_skipped",
)
"""Settings that may change with `resume`: they change how a run is computed, not its result."""
OUTPUT_FIELDS = ("quiet", "verbose")
"""Settings that are always those of the call, not of the run that it resumes."""
LENGTHS = ("epochs", "steps", "minutes")
"""Settings of the length of a run; of several, the last one that is set counts."""
RESUME_FIELDS = ("data", "layout", *MACHINE_FIELDS)
"""Settings that `resume` accepts: the data may have moved, and its fingerprint says whether it is the same."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, layer-wise learning rates and gradient clipping."""

    lr: float = 3e-4
    """Peak learning rate; if `lr_batch` is set, for a batch of that many images."""
    lr_batch: int | None = None
    """Reference batch size of `lr`: the peak becomes lr x batch_size / lr_batch; unset: `lr` is not scaled."""
    weight_decay: float = 0.05
    """Decoupled weight decay of weights; norms, biases and positional convolutions have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Beta 1 and beta 2 of AdamW."""
    eps: float = 1e-8
    """Epsilon of AdamW, added to the denominator."""
    layer_decay: float | None = 0.75
    """Layer-wise decay: factor on the learning rate per layer away from the head; unset: one rate for all layers."""
    clip_grad: float | None = 5.0
    """Total norm to which gradients are clipped; unset: no clipping."""

    def __post_init__(self) -> None:
        _check("optimizer.lr", self.lr, self.lr > 0, "above 0")
        _check("optimizer.lr_batch", self.lr_batch, self.lr_batch is None or self.lr_batch > 0, "above 0")
        _check("optimizer.weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _check("optimizer.betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "at least 0 and below 1")
        _check("optimizer.eps", self.eps, self.eps > 0, "above 0")
        decay, clip = self.layer_decay, self.clip_grad
        _check("optimizer.layer_decay", decay, decay is None or 0 < decay <= 1, "above 0 and at most 1")
        _check("optimizer.clip_grad", clip, clip is None or clip > 0, "above 0")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate schedule: a linear warm-up, then a curve down to `min_lr`."""

    kind: Literal["cosine", "poly", "step"] = "cosine"
    """Curve: half a `cosine`, `poly` (1 - share of the run done) ^ power, or `step`, a tenth at each drop."""
    power: float = 1.0
    """Exponent of `poly`; 1 is a straight line."""
    drop_epochs: tuple[float, ...] = (8.0, 11.0)
    """Epochs of the drops of `step`; with `steps` or `minutes`, at the shares drop_epochs / epochs of the run."""
    warmup_epochs: float = 1.0
    """Epochs of warm-up, at most half the run; with `steps` or `minutes`, the share warmup_epochs / epochs of it."""
    warmup_steps: int | None = None
    """Optimiser steps of warm-up, for a run with `steps`; unset: `warmup_epochs` decides."""
    warmup_lr: float = 1e-6
    """Learning rate at the start of the warm-up."""
    min_lr: float = 1e-6
    """Learning rate at the end of the run; with `step`, the lowest one that a drop can reach."""

    def __post_init__(self) -> None:
        _check("schedule.kind", self.kind, self.kind in ("cosine", "poly", "step"), "cosine, poly or step")
        drops = self.drop_epochs
        _check("schedule.drop_epochs", drops, all(epoch > 0 for epoch in drops), "above 0, each")
        _check("schedule.power", self.power, self.power > 0, "above 0")
        steps = self.warmup_steps
        _check("schedule.warmup_steps", steps, steps is None or steps >= 0, "at least 0")
        _check("schedule.warmup_epochs", self.warmup_epochs, self.warmup_epochs >= 0, "at least 0")
        _check("schedule.warmup_lr", self.warmup_lr, self.warmup_lr >= 0, "at least 0")
        _check("schedule.min_lr", self.min_lr, self.min_lr >= 0, "at least 0")


def _fine_tuning_augmentation() -> AugmentConfig:
    """Augmentation for fine-tuning on a small data set."""
    return AugmentConfig(
        scale=(0.5, 1.0), rand_augment="rand-m6-mstd0.5-inc1", erasing=0.1, mixup=0.0, cutmix=0.0, smoothing=0.1
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run; the defaults fine-tune published weights for a short time.

    With `recipe="default"`, as on the command line without `--recipe`, settings that are not given are chosen once the
    data is read.
    """

    data: Annotated[str, arg(metavar="DATA")] = ""
    """Folder with a folder per class, with masks, or with boxes (COCO, VOC, YOLO); or embedded: `digits`, `scenes`."""
    model: str = "twins_svt_small"
    """Name of the model, see `twins models`."""
    recipe: str | None = None
    """Recipe of the other settings: `default` chooses them from the data; `twins recipes` lists the others. In Python,
    a recipe of another name, or none, only says where the settings come from."""
    task: str = "classification"
    """Task to train for: `classification`, `semantic`, `detection` or `instance`."""
    head: str | None = None
    """Head of the network, such as `upernet`; unset: that of the weights, else the task's default."""
    weights: Annotated[str, arg(metavar="NAME|PATH|none")] = "auto"
    """Initial weights: `auto` (the published ones; none for the nano models), `none`, a published name, a file, or a
    run folder, whose best weights are taken."""
    weights_key: Annotated[str | None, arg(metavar="KEY")] = None
    """Where the network stands in a file that holds several, such as `teacher`; unset: the average, if there is one."""
    out: Annotated[str | None, arg(metavar="RUN")] = None
    """Run folder to create; unset: `runs/<model>-<data>-<number>`."""
    resume: Annotated[str | None, arg(metavar="RUN")] = None
    """Run folder to resume; the result is bit-identical to that of a run that was never stopped. On the
    command line, a length is added to what the run has done: `epochs`, `steps` or `minutes`."""
    extend: Annotated[bool, Suppress] = False
    """With `resume`: add `minutes`, `steps` or else `epochs` to what the run has done. The schedule becomes that of a
    run which was planned so long from the beginning."""
    epochs: float = 20.0
    """Passes over the training images; ignored if `steps` or `minutes` is set."""
    steps: int | None = None
    """Length of the run in optimiser steps instead of epochs; ignored if `minutes` is set."""
    minutes: float | None = None
    """Wall-clock minutes of training and evaluation, without the time of stops; the schedule follows it."""
    max_steps: int | None = None
    """Upper limit of optimiser steps; the schedule is shortened with the run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to train on."""
    seed: int = 0
    """Seed of initial weights, validation split, order of images, augmentation and dropout."""
    size: int = 224
    """Side in pixels of the square input; for dense tasks the shorter side of validation images."""
    crop: float = 0.875
    """Share of the resized image's shorter side that the centre crop of a classifier's evaluation keeps."""
    fit: Literal["crop", "squash"] = "crop"
    """How a classifier's evaluation makes images square: centre crop, or resize both sides to `size`."""
    val_share: float = 0.2
    """Share of the images (of each class) to hold out for validation if the data has no validation part."""
    batch_size: int = 64
    """Images per optimiser step, over all processes and accumulated passes; on the command line also `auto`: as many
    as fit in memory."""
    auto_batch: Annotated[bool, Suppress] = False
    """Replace `batch_size` by what fits in memory: on a GPU the most that fit, on a CPU at most `batch_size`."""
    accumulate: int = 1
    """Forward and backward passes per optimiser step (gradient accumulation); more passes need less memory."""
    workers: int = 2
    """Loader processes per training process; 0 loads in the training process."""
    precision: Literal["fp32", "bf16", "bf16-true", "fp16"] = "fp32"
    """`bf16`, `fp16`: autocast; `bf16-true`: a bf16 copy of the weights computes. Master weights and files are fp32."""
    compile: bool = False
    """Compile the network with torch.compile."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time, the same result."""
    selective_checkpointing: bool = False
    """Recompute only the hidden maps of feed-forward parts, the largest activations: less time than all."""
    padding: Literal["exact", "reference", "unmasked"] | None = None
    """How local attention treats borders; unset: as the weights were trained, else `exact`."""
    drop_rate: float | None = None
    """Dropout before the classification layer; unset: as published, 0 for classification, 0.1 for semantic."""
    drop_path: float = 0.1
    """Stochastic depth (drop path) of the last block; it grows linearly from 0 at the first block."""
    ema_decay: float | None = None
    """Decay per step of an EMA of the weights, which is then evaluated and saved as best; unset: no EMA."""
    class_weights: Literal["none", "sqrt", "balanced"] = "none"
    """Class weights in the loss; `balanced`: inverse to a class's number of images, or to its share of pixels; `sqrt`:
    the square root of these."""
    freeze: int = 0
    """Number of stages, from the first, whose weights are frozen, 0 to 4."""
    patience: int | None = None
    """End the run after this many evaluations without improvement; unset: never end early."""
    eval_every: float = 1.0
    """Epochs between evaluations; with `minutes`, none is made shortly before that at the end."""
    save_every: int | None = None
    """Optimiser steps between additional saves of the state; unset: it is saved only at each evaluation."""
    log_every: int = 10
    """Optimiser steps between training rows of `metrics.jsonl`."""
    max_skipped: float = 0.05
    """Largest share of unreadable images in a split; with more of them the run ends."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers, in the run folder: `tensorboard`, `wandb`, `mlflow`, or another that accelerate has."""
    quiet: Annotated[bool, FlagCreatePairsOff] = False
    """Print only problems and the end; `log.txt` has all."""
    verbose: Annotated[bool, FlagCreatePairsOff] = False
    """Print also every training row."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate schedule."""
    augment: AugmentConfig = field(default_factory=_fine_tuning_augmentation)
    """Augmentation for classification."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    """Where the parts of the data are, for folders that no convention fits."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read."""
    boxes: BoxConfig = field(default_factory=BoxConfig)
    """How the classes of boxes are read."""
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    """Augmentation for semantic segmentation, and the norm of its head."""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """Augmentation, anchors and sampling for detection and instance segmentation."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "eval_every", "log_every"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in ("epochs", "minutes", "eval_every"):
            _check(name, getattr(self, name), getattr(self, name) != math.inf, "finite")
        for name in ("minutes", "steps", "max_steps", "save_every", "patience"):
            value = getattr(self, name)
            _check(name, value, value is None or value > 0, "above 0")
        _check("out", self.out, self.out is None or not is_invalid_path(self.out), "a path that a folder can have")
        _check("workers", self.workers, self.workers >= 0, "at least 0")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "at least 0 and below 2^32")
        _check("size", self.size, self.size >= 32, "at least 32")
        _check("crop", self.crop, 0 < self.crop <= 1, "above 0 and at most 1")
        _check("freeze", self.freeze, 0 <= self.freeze <= 4, "between 0 and 4, the number of stages")
        for name in ("drop_rate", "drop_path", "val_share"):
            value = getattr(self, name)
            _check(name, value, value is None or 0 <= value < 1, "at least 0 and below 1")
        _check("max_skipped", self.max_skipped, 0 <= self.max_skipped <= 1, "between 0 and 1")
        _check("ema_decay", self.ema_decay, self.ema_decay is None or 0 < self.ema_decay < 1, "above 0 and below 1")
        for name, choices in _CHOICES.items():
            _check(name, getattr(self, name), getattr(self, name) in choices, f"one of {', '.join(map(str, choices))}")
        if self.quiet and self.verbose:
            raise ConfigError("`quiet` and `verbose` contradict each other; give one of them")
        if self.schedule.warmup_steps is not None and self.steps is None:
            raise ConfigError(
                "`schedule.warmup_steps` is for a run of `steps`; give these, or `schedule.warmup_epochs` instead"
            )
        late = [epoch for epoch in self.schedule.drop_epochs if epoch >= self.epochs]
        if self.schedule.kind == "step" and late:
            raise ConfigError(
                f"`schedule.drop_epochs` must be within `epochs={self.epochs:g}`, found {late[0]:g}; give others"
            )
        if self.batch_size % self.accumulate and self.recipe != "default":  # which has yet to choose the batch
            raise ConfigError(
                f"`batch_size` must be a multiple of `accumulate`, found {self.batch_size} and {self.accumulate}"
            )

    @property
    def output(self) -> Literal["quiet", "normal", "verbose"]:
        """How much the run prints."""
        return "quiet" if self.quiet else "verbose" if self.verbose else "normal"

    @property
    def lr(self) -> float:
        """Peak learning rate of the run, scaled to its batch size if `optimizer.lr_batch` is set."""
        reference = self.optimizer.lr_batch
        return self.optimizer.lr * self.batch_size / reference if reference else self.optimizer.lr

    @property
    def source(self) -> DataConfig:
        """Data set of the run, and how it is read and split."""
        return DataConfig(
            data=self.data,
            seed=self.seed,
            val_share=self.val_share,
            masks=self.masks,
            boxes=self.boxes,
            layout=self.layout,
        )

    def to_yaml(self) -> str:
        """Return the settings as YAML, with the format version."""
        import yaml

        values = {"format": FORMAT, **to_lists(asdict(self)), END: True}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str) -> TrainConfig:
        """Parse the text of `to_yaml`; settings that an older version did not write get their defaults.

        Raises:
            ConfigError: no such YAML, a newer format, a truncated text, an unknown setting, or a value of the wrong
                type or out of range.
        """
        import yaml

        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"the settings are no YAML ({str(error).splitlines()[0]}); fix the file") from error
        if not isinstance(values, dict):
            raise ConfigError(f"the settings must be names with values, found {type(values).__name__}")
        version = values.pop("format", 1)
        if not isinstance(version, int) or version > FORMAT:
            raise ConfigError(f"the settings have format {version}, this twins reads up to {FORMAT}; update it")
        if values.pop(END, False) is not True and version > 1:
            raise ConfigError(f"the settings are cut short: they lack the last line, {END}: true; copy the run again")
        return build_config(cls, values, "")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a network is evaluated, and where the result is written."""

    out: Annotated[str | None, arg(metavar="FILE")] = None
    """JSON file to write the result to."""
    part: Literal["val", "test", "all"] = "val"
    """Part of the data to measure; a set without training part is measured whole if it has no validation part."""
    weights_key: Annotated[str | None, arg(metavar="KEY")] = None
    """Where the network stands in a file that holds several, such as `teacher`; unset: the average, if there is one."""
    batch_size: int | None = None
    """Images per forward pass; unset: 32 for a classifier, 4 for a dense network."""
    workers: int = 0
    """Loader processes; 0 loads in the main process."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    compile: bool = False
    """Compile the network with torch.compile; worth its time if many images have the same size."""
    size: int | None = None
    """Input side in pixels (dense networks: shorter side, the limit scales too); unset: as saved in the weights."""
    crop: float | None = None
    """Share of the shorter side that the centre crop of a classifier keeps; unset: as saved in the weights."""
    padding: Literal["exact", "reference", "unmasked"] | None = None
    """How local attention treats borders; unset: as saved in the weights."""
    seed: int | None = None
    """Seed of the validation split, for data without a validation part; unset: that of the run, or 0 without a run."""
    val_share: float | None = None
    """Share to hold out of data without a validation part; unset: that of the run, or 0.2 without a run."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    """Where the parts of the data are; on the data of a run, a setting that is not given is taken from the run."""
    class_map: Annotated[str | None, arg(metavar="FILE")] = None
    """File with the network's names or ids for classes of the data: JSON or YAML {name in the data: name or id in the
    network}, or CSV with both in each line; null leaves a class out."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read; a setting at its default is taken from the run."""
    boxes: BoxConfig = field(default_factory=BoxConfig)
    """How the classes of boxes are read; a setting at its default is taken from the run."""
    inference: Annotated[InferenceConfig, arg(name="")] = field(default_factory=InferenceConfig)
    """Scales, flip, window and tiles."""
    selection: Annotated[SelectionConfig, arg(name="")] = field(default_factory=SelectionConfig)
    """Score and NMS thresholds of a detector; by default as published."""
    results: Annotated[str | None, arg(metavar="FILE")] = None
    """File to write a detector's predictions to, in COCO's results format."""
    calibrate: bool = False
    """Fit a temperature to a classifier's scores on the measured part, and save it in the weight file of the network,
    which then predicts with it; the order of the classes does not change."""
    absent: Literal["left_out", "zero"] = "left_out"
    """Classes in neither ground truth nor predictions: left out of means over classes, or counted as zero."""
    max_skipped: float = 0.05
    """Largest share of unreadable images; with more of them the evaluation is an error."""

    def __post_init__(self) -> None:
        _check("part", self.part, self.part in ("val", "test", "all"), "val, test or all")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, found {self.batch_size}")
        if self.workers < 0:
            raise ConfigError(f"`workers` must be at least 0, found {self.workers}")
        if not 0.0 <= self.max_skipped <= 1.0:
            raise ConfigError(f"`max_skipped` must be between 0 and 1, found {self.max_skipped}")


def read_config(path: Path) -> TrainConfig:
    """Read a run's `config.yaml`.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: the file cannot be read or parsed; the message names it.
    """
    if not os.path.isfile(path):
        problem = f"holds no {path.name}" if os.path.isdir(path.parent) else "is no folder"
        raise NotFoundError(f"{path.parent} {problem}; give a run folder that twins train has written")
    try:
        return TrainConfig.from_yaml(path.read_text())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is damaged: it holds no text; copy the run folder again") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


def merge_resumed(requested: TrainConfig, saved: TrainConfig) -> TrainConfig:
    """Return the saved settings of a run with the requested changes; settings at their default are not changes.

    Raises:
        ConfigError: a change of a setting that is not in `RESUME_FIELDS`.
    """
    default = TrainConfig()
    changes = {
        f.name: getattr(requested, f.name)
        for f in fields(requested)
        if getattr(requested, f.name) != getattr(default, f.name)
    }
    for name in ("resume", "extend", *(LENGTHS if requested.extend else ()), *OUTPUT_FIELDS):
        changes.pop(name, None)
    unchanged = {name for name, value in changes.items() if value == getattr(saved, name)}
    changed = {"batch_size" if name == "auto_batch" else name for name in set(changes) - unchanged}
    if forbidden := sorted(changed - set(RESUME_FIELDS)):
        forbidden_names, allowed_names = (
            ", ".join(f"`{name}`" for name in names) for names in (forbidden, RESUME_FIELDS)
        )
        longer = "; set `extend=True` to train longer" if set(forbidden) <= set(LENGTHS) else ""
        raise ConfigError(
            f"`resume` continues the run with its settings and cannot change {forbidden_names}; leave it out, or start "
            f"a new run (what can change: {allowed_names}{longer})"
        )
    layout = {name: value for name, value in asdict(requested.layout).items() if value}
    output = {name: getattr(requested, name) for name in OUTPUT_FIELDS}
    changes |= {"resume": requested.resume, "layout": replace(saved.layout, **layout), **output}
    return replace(saved, **changes)


WEIGHT_POWERS = {"sqrt": 0.5, "balanced": 1.0}
"""Power of the balanced weights for each value of `class_weights`."""
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("fp32", "bf16", "bf16-true", "fp16"),
    "padding": (None, "exact", "reference", "unmasked"),
    "class_weights": ("none", *WEIGHT_POWERS),
    "fit": ("crop", "squash"),
}


def _check(name: str, value: object, valid: bool, expected: str) -> None:
    if not valid:
        raise ConfigError(f"`{name}` must be {expected}, found {value}")
