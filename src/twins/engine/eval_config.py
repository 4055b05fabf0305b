"""Settings of a measurement. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import arg

from twins.data.config import MaskConfig
from twins.errors import ConfigError
from twins.tasks.inference import InferenceConfig, SelectionConfig


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a network is measured, and where the result is written."""

    out: str | None = None
    """File to write the result to, as JSON."""
    batch_size: int | None = None
    """Images per forward pass; unset is 32, or 4 for a dense network."""
    workers: int = 0
    """Processes that load images."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What computes."""
    compile: bool = False
    """Compile the network with torch.compile: worth its time where many images have one size."""
    size: int | None = None
    """Side of the input in pixels, of a dense network the shorter one, with which the bound on the longer one grows;
    unset is the network's own."""
    crop: float | None = None
    """Share of the resized image's shorter side that a classifier's centre crop keeps; unset is the network's own."""
    padding: Literal["exact", "reference", "unmasked"] | None = None
    """How local attention treats borders; unset is the network's own."""
    seed: int | None = None
    """Chooses what is held out of data without a validation part; unset is as the run did, or 0 without a run."""
    val_share: float | None = None
    """Share held out of data without a validation part; unset is as the run did, or 0.2 without a run."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read; what is at its default is as the run did."""
    inference: Annotated[InferenceConfig, arg(name="")] = field(default_factory=InferenceConfig)
    """How a semantic network looks at an image."""
    selection: Annotated[SelectionConfig, arg(name="")] = field(default_factory=SelectionConfig)
    """Which of the objects that a detector finds are counted; by default as published."""
    results: str | None = None
    """File to write what a detector finds to, as COCO results."""
    absent: Literal["left_out", "zero"] = "left_out"
    """What a class that neither truth nor prediction has counts in a mean over classes: nothing, or 0."""
    max_skipped: float = 0.05
    """Share of unreadable images above which the numbers would mislead."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, found {self.batch_size}")
        if self.workers < 0:
            raise ConfigError(f"`workers` must be at least 0, found {self.workers}")
        if not 0.0 <= self.max_skipped <= 1.0:
            raise ConfigError(f"`max_skipped` must be between 0 and 1, found {self.max_skipped}")
