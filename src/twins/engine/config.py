"""Settings of a training run and of a measurement. Nothing here imports torch: the command line answers at once."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import arg

from twins.data.config import DataConfig, MaskConfig
from twins.data.transforms.config import AugmentConfig, DetectionConfig, SemanticConfig
from twins.errors import ConfigError, NotFoundError, nearest
from twins.files import too_long
from twins.tasks.inference import InferenceConfig, SelectionConfig

FORMAT = 2
"""Version of `config.yaml`; from 2 on it ends in `END`, without which it was cut short."""
END = "complete"
"""Last name in `config.yaml`, with the value true."""
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
"""What may be given anew with `resume`: it changes how a run is computed, not what it is."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and how its steps are bounded."""

    lr: float = 3e-4
    """Peak learning rate, for a batch of `lr_batch` images where that is set."""
    lr_batch: int | None = None
    """Images that `lr` is meant for: the rate used is lr x batch_size / lr_batch; unset uses `lr` as it is."""
    weight_decay: float = 0.05
    """Decoupled weight decay of weights; norms, biases and positional convolutions have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two running means."""
    eps: float = 1e-8
    """Added to AdamW's denominator."""
    layer_decay: float | None = 0.75
    """Factor on the learning rate for each layer further from the classifier; unset is one rate for all."""
    clip_grad: float | None = 5.0
    """Largest norm of all gradients together; unset does not clip."""

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
    """The learning rate over the run: a linear warm-up, then a curve down to a floor."""

    kind: Literal["cosine", "poly", "step"] = "cosine"
    """The curve: half a cosine, `(1 - share of the run done) ^ power`, or steps down to a tenth each."""
    power: float = 1.0
    """Exponent of `poly`; 1 is a straight line."""
    drop_epochs: tuple[float, ...] = (8.0, 11.0)
    """Epochs at which the rate of `step` falls; as shares of `epochs` they also hold for a run given otherwise."""
    warmup_epochs: float = 1.0
    """Epochs of warm-up; as a share of `epochs` it also holds for a run given in minutes. At most half the run."""
    warmup_steps: int | None = None
    """Optimiser steps of warm-up, where `steps` gives the run's length; unset takes `warmup_epochs`."""
    warmup_lr: float = 1e-6
    """Learning rate that the warm-up begins at."""
    min_lr: float = 1e-6
    """Learning rate that the curve ends at."""

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


def _mild() -> AugmentConfig:
    """Augmentation that suits fine-tuning on a small set."""
    return AugmentConfig(
        scale=(0.5, 1.0), rand_augment="rand-m6-mstd0.5-inc1", erasing=0.1, mixup=0.0, cutmix=0.0, smoothing=0.1
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training run is; the defaults are a short fine-tuning of published weights."""

    data: Annotated[str, arg(metavar="DATA")] = ""
    """Folder with one folder per class (or with train and val in it), with images and masks, or with images and boxes
    (COCO, VOC or YOLO); or an embedded set: `digits`, `scenes`."""
    model: str = "twins_svt_small"
    """Name of the network."""
    recipe: str | None = None
    """Name of the recipe that these settings came from: a record, see `twins recipes`."""
    task: str = "classification"
    """What is learned: `classification`, `semantic`, `detection` or `instance`."""
    head: str | None = None
    """Which of the task's heads; unset is its default."""
    weights: Annotated[str, arg(metavar="NAME|PATH|none")] = "auto"
    """Where training starts: `auto` (published weights; none for the nanos), `none`, a published name or a file."""
    out: Annotated[str | None, arg(metavar="RUN")] = None
    """Run folder; unset is `runs/<model>-<data>-<number>`."""
    resume: Annotated[str | None, arg(metavar="RUN")] = None
    """Run folder to go on with, exactly where it was stopped."""
    epochs: float = 20.0
    """Passes over the training images; not used where `minutes` or `steps` is set."""
    steps: int | None = None
    """Optimiser steps of the run, instead of epochs; not used where `minutes` is set."""
    minutes: float | None = None
    """Wall-clock budget in minutes, counted over stops, evaluations included; the schedule follows it."""
    max_steps: int | None = None
    """Most optimiser steps, where that ends the run sooner."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What computes."""
    seed: int = 0
    """Chooses the initial weights, the order of images, augmentation and dropout."""
    size: int = 224
    """Side of the square that images are brought to, in pixels; of dense tasks, their shorter side in evaluation."""
    crop: float = 0.875
    """Share of the resized image's side that a classifier's evaluation keeps."""
    fit: Literal["crop", "squash"] = "crop"
    """How a classifier's evaluation makes an image square: cut the centre out, or resize both sides."""
    val_share: float = 0.2
    """Share (of each class) that is held out where the data has no folder for validation."""
    batch_size: int = 64
    """Images per optimiser step, over all processes and accumulated passes."""
    accumulate: int = 1
    """Passes that an optimiser step is split in, to need less memory."""
    workers: int = 2
    """Processes that load images, for each training process; 0 loads in the training process."""
    precision: Literal["fp32", "bf16", "bf16-true", "fp16"] = "fp32"
    """Number format of the forward pass. `bf16-true` computes with a bf16 copy of the weights, gradients too; what the
    optimiser moves, averages and files hold stays in fp32 with all."""
    compile: bool = False
    """Compile the network with torch.compile."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time, the same result."""
    selective_checkpointing: bool = False
    """Recompute the hidden maps of feed-forward parts alone, which are the largest, in less time than all."""
    padding: Literal["exact", "reference", "unmasked"] | None = None
    """How local attention treats borders; unset is what the weights were trained with, else `exact`."""
    drop_rate: float | None = None
    """Dropout before the classifier; unset is as published: 0 for classification, 0.1 for semantic."""
    drop_path: float = 0.1
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    ema_decay: float | None = None
    """Decay per step of an EMA of the weights, which is then what is evaluated and kept as best."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each class in the loss by the inverse of its number of images, or of its share of pixels."""
    freeze: int = 0
    """Stages, from the first, whose weights stay as they are."""
    patience: int | None = None
    """Evaluations without improvement after which the run ends; unset never ends early."""
    eval_every: float = 1.0
    """Epochs between evaluations."""
    save_every: int | None = None
    """Optimiser steps between whole states, besides the one at each evaluation."""
    log_every: int = 10
    """Optimiser steps between training rows of `metrics.jsonl`."""
    max_skipped: float = 0.05
    """Largest share of unreadable images in a split; more of them end the run."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers that accelerate knows, such as `tensorboard`."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the run."""
    augment: AugmentConfig = field(default_factory=_mild)
    """How a classifier's training images are changed."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read."""
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    """How training images and masks are changed, and the norm of a semantic head."""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """How training images and objects are changed, and a detector's anchors."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "eval_every", "log_every"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in ("minutes", "steps", "max_steps", "save_every", "patience"):
            value = getattr(self, name)
            _check(name, value, value is None or value > 0, "above 0")
        _check("out", self.out, self.out is None or not too_long(self.out), "a path that a folder can have")
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
        if self.schedule.warmup_steps is not None and self.steps is None:
            raise ConfigError(
                "`schedule.warmup_steps` is for a run of `steps`; give these, or `schedule.warmup_epochs` instead"
            )
        late = [epoch for epoch in self.schedule.drop_epochs if epoch >= self.epochs]
        if self.schedule.kind == "step" and late:
            raise ConfigError(
                f"`schedule.drop_epochs` must lie within `epochs={self.epochs:g}`, found {late[0]:g}; give others"
            )
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"`batch_size` must be a multiple of `accumulate`, found {self.batch_size} and {self.accumulate}"
            )

    @property
    def lr(self) -> float:
        """Peak learning rate that this run uses, scaled to its batch."""
        reference = self.optimizer.lr_batch
        return self.optimizer.lr * self.batch_size / reference if reference else self.optimizer.lr

    @property
    def source(self) -> DataConfig:
        """Which data the run has, and how it is read."""
        return DataConfig(data=self.data, seed=self.seed, val_share=self.val_share, masks=self.masks)

    def to_yaml(self) -> str:
        """Return the settings as YAML, with the format's version."""
        import yaml

        values = {"format": FORMAT, **_plain(asdict(self)), END: True}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str) -> TrainConfig:
        """Read what `to_yaml` wrote; what an older version did not write has its default.

        Raises:
            ConfigError: not such a text, a newer format, a text cut short, an unknown setting, or a value of the wrong
                kind or out of range.
        """
        import yaml

        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"the settings are no YAML ({str(error).splitlines()[0]}); mend the file") from error
        if not isinstance(values, dict):
            raise ConfigError(f"the settings must be names with values, found {type(values).__name__}")
        version = values.pop("format", 1)
        if not isinstance(version, int) or version > FORMAT:
            raise ConfigError(f"the settings have format {version}, this twins reads up to {FORMAT}; update it")
        if values.pop(END, False) is not True and version > 1:
            raise ConfigError(f"the settings are cut short: they lack the last line, {END}: true; copy the run again")
        return _build(cls, values, "")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a network is measured, and where the result is written."""

    out: Annotated[str | None, arg(metavar="FILE")] = None
    """File to write the result to, as JSON."""
    batch_size: int | None = None
    """Images per forward pass; unset is 32, or 4 for a dense network."""
    workers: int = 0
    """Processes that load images."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    compile: bool = False
    """Compile the network with torch.compile: worth its time where many images have one size."""
    size: int | None = None
    """Side of the input in pixels, for a dense network the shorter side, with which the bound on the longer side grows;
    unset is the network's own."""
    crop: float | None = None
    """Share of the resized image's shorter side that a classifier's centre crop keeps; unset is the network's own."""
    padding: Literal["exact", "reference", "unmasked"] | None = None
    """How local attention treats borders; unset is the network's own."""
    seed: int | None = None
    """Seed of the split of data without a validation part; unset is the run's, or 0 without a run."""
    val_share: float | None = None
    """Share held out of data without a validation part; unset is the run's, or 0.2 without a run."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read; a setting at its default is the run's."""
    inference: Annotated[InferenceConfig, arg(name="")] = field(default_factory=InferenceConfig)
    """Inference settings of a semantic network."""
    selection: Annotated[SelectionConfig, arg(name="")] = field(default_factory=SelectionConfig)
    """Score and NMS thresholds of a detector; by default as published."""
    results: Annotated[str | None, arg(metavar="FILE")] = None
    """File to write a detector's objects to, as COCO results."""
    absent: Literal["left_out", "zero"] = "left_out"
    """Classes that neither the truth nor the predictions have: left out of a mean over classes, or counted as zero."""
    max_skipped: float = 0.05
    """Share of unreadable images above which the numbers would mislead."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, found {self.batch_size}")
        if self.workers < 0:
            raise ConfigError(f"`workers` must be at least 0, found {self.workers}")
        if not 0.0 <= self.max_skipped <= 1.0:
            raise ConfigError(f"`max_skipped` must be between 0 and 1, found {self.max_skipped}")


def read_config(path: Path) -> TrainConfig:
    """Read a run's `config.yaml`.

    Raises:
        NotFoundError: there is none.
        ConfigError: it cannot be understood; names the file.
    """
    if not os.path.isfile(path):
        what = f"holds no {path.name}" if os.path.isdir(path.parent) else "is no folder"
        raise NotFoundError(f"{path.parent} {what}; give a run folder that twins train has written")
    try:
        return TrainConfig.from_yaml(path.read_text())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is damaged: it holds no text; copy the run folder again") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


def merge_resumed(given: TrainConfig, saved: TrainConfig) -> TrainConfig:
    """Return a stopped run's settings with what was given anew, as far as that is allowed to change.

    Raises:
        ConfigError: a setting that makes it another run; settings left at their default count as not given.
    """
    default = TrainConfig()
    anew = {f.name: getattr(given, f.name) for f in fields(given) if getattr(given, f.name) != getattr(default, f.name)}
    anew.pop("resume", None)
    same = {name for name, value in anew.items() if value == getattr(saved, name)}
    if wrong := sorted(set(anew) - set(MACHINE_FIELDS) - same):
        changed, allowed = (", ".join(f"`{name}`" for name in names) for names in (wrong, MACHINE_FIELDS))
        raise ConfigError(
            f"`resume` goes on with the run as it was and cannot change {changed}; leave it out, or start a new run "
            f"(what can change: {allowed})"
        )
    return replace(saved, resume=given.resume, **anew)


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("fp32", "bf16", "bf16-true", "fp16"),
    "padding": (None, "exact", "reference", "unmasked"),
    "class_weights": ("none", "balanced"),
    "fit": ("crop", "squash"),
}


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise ConfigError(f"`{name}` must be {wanted}, found {value}")


def _plain(value: Any) -> Any:
    """Turn tuples into lists, which YAML can say."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    assert is_dataclass(cls)
    known = get_type_hints(cls)
    if unknown := sorted(map(str, set(values) - set(known))):
        raise ConfigError(f"there is no setting {prefix}{unknown[0]}{nearest(unknown[0], known)}")
    built = {}
    for name, value in values.items():
        if is_dataclass(known[name]) and isinstance(value, dict):
            built[name] = _build(known[name], value, f"{name}.")
            continue
        built[name] = tuple(value) if isinstance(value, list) else value
        if not _is_kind(built[name], known[name]):
            raise ConfigError(
                f"{prefix}{name} has a value of the wrong kind, {value!r}; it must be {_say(known[name])}"
            )
    return cls(**built)


def _is_kind(value: object, kind: Any) -> bool:
    """Whether a value is of a field's type; a whole number is a number, and choices are left to their own check."""
    inside = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(_is_kind(value, one) for one in inside)
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) for choice in inside)
    if get_origin(kind) is tuple:
        each = inside[:1] * len(value) if isinstance(value, tuple) and inside[-1] is Ellipsis else inside
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_is_kind, value, each))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _say(kind: Any) -> str:
    """Return a field's type in words."""
    inside = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_say(one) for one in inside)
    if get_origin(kind) is tuple:
        return "a list" if inside[-1] is Ellipsis else f"a list of {len(inside)} values"
    words = {float: "a number", int: "a whole number", bool: "true or false", NoneType: "null"}
    return "names with values" if is_dataclass(kind) else words.get(kind, "text")
