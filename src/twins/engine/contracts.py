"""All that the engine knows of a task, a metric and a source of batches."""

# ruff: noqa: D102  # members that say what they are by name and type
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from torch import Tensor
from torch.nn import Module, Parameter

from twins.data.loading.batch import Batch
from twins.predictions import Prediction


class Task(Protocol):
    """A network (an `nn.Module`) with its losses and its decoding."""

    info: Any
    """Description that is saved with the weights."""
    backbone: Any
    """What its maps come from."""
    one_graph: bool
    """Whether network and losses compile as one graph; of another the backbone is compiled alone."""

    def __call__(self, images: Tensor, sizes: Tensor | None = None) -> Any: ...
    def losses(self, images: Tensor, targets: Any, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return named, weighted scalars; the engine sums them."""
        ...

    def decode(self, outputs: Any, sizes: Tensor | None, originals: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Return each image's result in the user's own coordinates."""
        ...

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, norms and biases aside."""
        ...

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Return timm's description of the network's layers."""
        ...

    # what the engine uses of nn.Module
    def named_parameters(self) -> Iterator[tuple[str, Parameter]]: ...
    def parameters(self) -> Iterator[Parameter]: ...
    def modules(self) -> Iterator[Module]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...


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
        ...

    def evaluation(self) -> Iterable[Batch]:
        """Yield this process's share of the evaluation images: over all processes each exactly once."""
        ...

    def prepare(self, batch: Batch, epoch: int) -> tuple[Tensor, Any]:
        """Return the images and targets that a training batch is learned from."""
        ...

    def path(self, index: int) -> str:
        """Return what to call a training image in messages."""
        ...
