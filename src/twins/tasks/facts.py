"""What a task is, as plain data: `tasks/<task>/facts.py` fills one of these in. Nothing here imports torch."""

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
    """Return values by model, given for PCPVT base, large, small and SVT base, large, small."""
    return dict(zip(_PUBLISHED, values, strict=True))


def by_model(*values: Value) -> dict[str, Value]:
    """Return values by model, given in the order of `twins.list_models()`: of each family base, large, nano, small."""
    return dict(zip(sorted((*_PUBLISHED, *_NANO)), values, strict=True))


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """One head of a task: how a checkpoint tells it, and what its networks cost."""

    title: str
    """What readers know it by."""
    classifier: str
    """Weight of the layer that gives the class scores; a state dict of ours that has it holds this head."""
    dims: int
    """Dimensions of that weight: 4 of a convolution, 2 of a linear layer."""
    marker: str = ""
    """Prefix of a key that only this head has; empty where `classifier` is enough."""
    anchors: int = 1
    """Outputs of that layer for each class: the anchors per location."""
    background: int = 0
    """Outputs of that layer for no class."""
    width_key: str = ""
    """A weight with one output for each channel inside the head, by which a plain file tells the width; empty where it
    is fixed."""
    width: int = 256
    """Channels inside the published head."""
    pools: bool = False
    """Whether it pools a map to one position, where batch norm has no statistics of one image alone."""
    params: Mapping[str, int] = field(default_factory=dict)
    """Parameters of the whole network by model, with the published number of classes; what is missing is counted."""
    gmacs: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Billions of multiply-adds for an image of 224 x 224 by model, with and without attention's two products."""
    published_millions: Mapping[str, float] = field(default_factory=dict)
    """Millions of parameters in the paper's tables by model."""


@dataclass(frozen=True, kw_only=True)
class DemoFacts:
    """What `twins demo` runs for a task."""

    data: str
    """An embedded data set."""
    begins: str
    """What is said before training."""
    metric: str
    """The number that is shown at the end."""
    starts_from: str | None = None
    """Task whose demo trains the weights that this one starts from."""


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """All that is true of a task before any network is built or any data is read."""

    title: str
    """What readers know it by."""
    heads: Mapping[str | None, HeadFacts]
    """Its heads by name, the default first; a task with a single head has no name for it, `None`."""
    num_classes: int
    """Classes of the published networks."""
    class_table: ClassTable | None
    """Whose class names those are."""
    preprocess: Preprocess
    """How the published networks want their images."""
    monitor: str
    """The metric that chooses the best weights; larger is better."""
    metrics: Mapping[str, str]
    """Titles of the metrics that readers are shown first; the others are in `eval.json` alone."""
    holds: tuple[str, ...]
    """Fields that its predictions fill, besides `task`, `size` and `names`."""
    settings: tuple[str, ...] = ()
    """Fields of `TrainConfig` that only some tasks have, and this one does."""
    network_settings: tuple[str, ...] = ()
    """Of `drop_rate`, `norm` and `anchor_scale` of `create_model` those that its networks have."""
    drop_rate: float = 0.0
    """Dropout before the published classification layer."""
    stage_norms: bool = False
    """Whether the stages of its published SVT backbones end in norms."""
    nano_width: int | None = None
    """Channels inside the heads of the nano networks; `None` where heads have a fixed width."""
    inference: bool = False
    """Whether images can be seen at several scales, mirrored, by windows or by tiles: `InferenceConfig`."""
    selection: bool = False
    """Whether predictions are objects that can be selected: `SelectionConfig`."""
    batch_size: int = 4
    """Images per forward pass in evaluation, where nothing else is asked for."""
    one_shape: bool = False
    """Whether every image is brought to one square size."""
    in_timm: bool = False
    """Whether timm has the whole network, not only its backbone."""
    exportable: bool = False
    """Whether `twins.exporting` lays its networks out for other runtimes."""
    bench_size: str = "224"
    """Size of the input that `twins bench` measures at, in pixels: a square's side, or height and width as 800x1333."""
    demo: DemoFacts | None = None
    """Its demo on embedded data."""
