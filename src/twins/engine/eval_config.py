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
