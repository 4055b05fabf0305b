"""All that the engine knows of a metric and a source of batches; of a network it knows `TaskNetwork`."""

# ruff: noqa: D102  # members that say what they are by name and type
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from twins.data.loading.batch import Batch
from twins.predictions import Prediction


class Metric(Protocol):
    """Gathers predictions and targets into named numbers; what ranks exchange is its state."""

    def update(self, predictions: Sequence[Prediction], targets: Any) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def merge(self, states: Sequence[dict[str, Tensor]]) -> None: ...
    def compute(self) -> dict[str, float]: ...
    def reset(self) -> None: ...


class Source(Protocol):
    """One process's share of the data."""

    steps_per_epoch: int
    """Optimiser steps in a pass over the training images."""
    train_count: int
    """Training images."""
    val_count: int
    """Images to evaluate on."""

    def train(self, step: int) -> Iterator[Batch]:
        """Yield training batches without end, from optimiser step `step` of the run on."""

    def evaluation(self) -> Iterable[Batch]:
        """Yield this process's share of the evaluation images: over all processes each exactly once."""

    def prepare(self, batch: Batch, epoch: int) -> tuple[Tensor, Any]:
        """Return the images and targets that a training batch is learned from."""

    def path(self, index: int) -> str:
        """Return what to call a training image in messages."""
