"""`TaskFacts`, a task as plain data; `tasks/<task>/facts.py` fills one in. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from twins.preprocess import Preprocess

ClassTable = Literal["imagenet", "ade20k", "coco"]
_PUBLISHED = tuple(f"twins_{family}_{size}" for family in ("pcpvt", "svt") for size in ("base", "large", "small"))
_NANO = ("twins_pcpvt_nano", "twins_svt_nano")
Value = TypeVar("Value")


def by_published_model(*values: Value) -> dict[str, Value]:
    """Return values by model name, from one value each for PCPVT base, large, small and SVT base, large, small."""
    return dict(zip(_PUBLISHED, values, strict=True))


def by_model(*values: Value) -> dict[str, Value]:
    """Return values by model name, from values in the order of `twins.list_models()`: PCPVT base, large, nano, small,
    then SVT.
    """
    return dict(zip(sorted((*_PUBLISHED, *_NANO)), values, strict=True))


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """One head of a task: how its checkpoints are recognised, and the size of its networks."""

    title: str
    """Name in tables and reports, such as `Semantic FPN`."""
    classifier: str
    """Key of the classification layer's weight. A state dict of our layout has this head if it has this key and a key
    that begins with `marker`."""
    dims: int
    """Dimensions of that weight: 4 for a convolution, 2 for a linear layer."""
    marker: str = ""
    """Prefix of a key that only this head has; empty if `classifier` identifies it."""
    anchors: int = 1
    """Anchors per location: outputs of the classification layer for each class."""
    background: int = 0
    """Background outputs of the classification layer, besides those of the classes."""
    width_key: str = ""
    """Key of a weight with one output for each channel inside the head; it gives the width of a checkpoint without
    metadata. Empty if the width is fixed."""
    width: int = 256
    """Channels inside the published head."""
    pools: bool = False
    """Whether the head pools a map to one position, where batch norm has no statistics if it sees a single image."""
    params: Mapping[str, int] = field(default_factory=dict)
    """Parameters of the whole network by model, with the published number of classes; missing models are counted."""
    gmacs: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Billions of multiply-adds for a 224 x 224 image by model, with and without attention's two products."""
    published_millions: Mapping[str, float] = field(default_factory=dict)
    """Millions of parameters by model, from the paper's tables."""


@dataclass(frozen=True, kw_only=True)
class DemoFacts:
    """The demo of a task: `twins demo --task TASK`."""

    data: str
    """Name of an embedded data set."""
    recipe: str
    """Name of the recipe, which names the data set too."""
    intro: str
    """Message before training."""
    metric: str
    """Metric that is shown at the end."""
    starts_from: str | None = None
    """Task whose demo trains the starting weights."""


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """The constants of a task, known before a network is built or data is read."""

    title: str
    """Name in tables and reports, such as `Object detection`."""
    heads: Mapping[str | None, HeadFacts]
    """Heads by name, the default first. A task with a single head names it `None`."""
    num_classes: int
    """Classes of the published networks."""
    class_table: ClassTable | None
    """Data set whose class names the published networks have."""
    preprocess: Preprocess
    """Preprocessing of the published networks."""
    monitor: str
    """Monitored metric: it selects the best weights; larger is better."""
    metrics: Mapping[str, str]
    """Titles of the main metrics by name; the report shows these, `eval.json` has all."""
    prediction_fields: tuple[str, ...]
    """Fields of `Prediction` that the task fills, besides `task`, `size` and `names`."""
    train_settings: tuple[str, ...] = ()
    """Fields of `TrainConfig` that apply to this task but not to all tasks."""
    network_settings: tuple[str, ...] = ()
    """Arguments of `create_model` that apply to this task: some of `drop_rate`, `norm` and `anchor_scale`."""
    drop_rate: float = 0.0
    """Dropout before the classification layer of the published networks."""
    stage_norms: bool = False
    """Whether the published SVT backbones have stage norms."""
    nano_width: int | None = None
    """Channels inside the heads of the nano networks; `None` for heads of a fixed width."""
    inference: tuple[str, ...] = ()
    """Fields of `InferenceConfig` that apply: some of `scales`, `flip`, `window`, `stride`, `tile` and `overlap`."""
    selection: bool = False
    """Whether `SelectionConfig` applies: the predictions are objects with scores."""
    calibration: bool = False
    """Whether the scores are a softmax over classes, which a temperature can calibrate."""
    detail: int = 0
    """How much annotations of this task say, compared with other tasks: of the tasks that a data set suits, `twins
    check` takes the one with the most."""
    batch_size: int = 4
    """Default images per forward pass in evaluation."""
    one_shape: bool = False
    """Whether all images are resized to squares of one size."""
    in_timm: bool = False
    """Whether timm has the whole network, not only its backbone."""
    bench_size: str = "224"
    """Default input size of `twins bench` in pixels: the side of a square, or height and width as in `800x1333`."""
    demo: DemoFacts | None = None
    """Demo on embedded data, if there is one."""
