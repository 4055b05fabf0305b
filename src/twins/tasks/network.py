"""`TaskNetwork`, the base of all tasks' networks, and `Features`, all that a head may know of a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from twins.backbone.network import fuse_network, layer_groups
from twins.data.loading.batch import normalise_images
from twins.errors import WeightsError
from twins.predictions import Prediction
from twins.tasks.inference import SelectionConfig
from twins.weights.info import ModelInfo
from twins.weights.loading import LoadReport


class Features(Protocol):
    """All that a head may know of a backbone."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, such as (64, 128, 256, 512)."""
        ...

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels per position of each map, such as (4, 8, 16, 32)."""
        ...


def scores_error() -> WeightsError:
    """Return the error for scores that are not finite."""
    return WeightsError(
        "the network's scores are not finite, though its weights are: they are too large, or damaged; use an earlier "
        "checkpoint"
    )


def check_finite_scores(outputs: Any) -> None:
    """Raise WeightsError if outputs are not finite; minus infinity is the score of what is outside an image."""
    for value in outputs.values() if isinstance(outputs, Mapping) else [outputs]:
        if isinstance(value, Tensor) and value.is_floating_point() and bool((value.isnan() | value.isposinf()).any()):
            raise scores_error()


class TaskNetwork(nn.Module):
    """A Twins backbone with the heads, losses and decoding of a task; the networks of all tasks derive from it.

    Args:
        backbone: returns the maps.
        info: model, task, classes and preprocessing; saved with the weights.
    """

    task: str
    """Name of the task."""
    one_graph: bool = True
    """Whether network and losses compile as one graph; if not, only the backbone is compiled."""
    selection: SelectionConfig
    """Selection of the predicted objects; only in tasks with `TaskFacts.selection`."""
    has_losses: bool = True
    """Whether the network computes losses; an exported file does not."""
    load_report: LoadReport | None = None
    """Report on loading the weights; `None` after random initialisation."""

    def __init__(self, backbone: nn.Module, info: ModelInfo) -> None:
        super().__init__()
        self.info = info
        self.backbone: Any = backbone

    @property
    def num_classes(self) -> int:
        """Classes of the classification layer, without background; 0 if the network returns features."""
        return self.info.num_classes

    @property
    def precision(self) -> str:
        """Number format of the weights, such as `float32`."""
        return str(next(self.parameters()).dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def prepare(self, images: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return images and their sizes as `forward` takes them: on the device and in the dtype of the weights.

        Args:
            images: `(B, C, H, W)`: uint8, which is normalised by the network's `Preprocess`, or normalised floats.
            sizes: true sizes in pixels, int `(B, 2)`, or `None` if images fill the batch.
        """
        sizes = None if sizes is None else sizes.to(self.device)
        images = normalise_images(images, sizes, self.info.preprocess, self.device)
        return images.to(next(self.parameters()).dtype), sizes

    def forward_features(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the last map, `(B, C, H / 32, W / 32)`: the features of images, see `Predictor.embed`.

        Args:
            images: normalised float `(B, C, H, W)`.
            sizes: true sizes in pixels, int `(B, 2)`, or `None` if images fill the batch.
        """
        features: Tensor = self.backbone.forward_features(images, sizes)
        return features

    def losses(self, images: Tensor, targets: Any, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the weighted losses by name, scalars; the engine sums them.

        Args:
            images: normalised float `(B, C, H, W)`.
            targets: as `TaskSpec.prepare_batch` returns them.
            sizes: true sizes in pixels, int `(B, 2)`, or `None` if images fill the batch.
        """
        raise NotImplementedError

    def forward_with_losses(
        self, images: Tensor, targets: Any, sizes: Tensor | None = None
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return the outputs of `forward` and the held-out losses by name; the network is in eval mode.

        The losses are those of training without what only regularises it: label smoothing and class weights. They
        depend on no random state. A network overrides this method to compute both in one forward pass.

        Args:
            images: normalised float `(B, C, H, W)`.
            targets: as `TaskSpec.loss_targets` returns them.
            sizes: true sizes in pixels, int `(B, 2)`, or `None` if images fill the batch.
        """
        return self(images, sizes), self.losses(images, targets, sizes)

    def decode(self, outputs: Any, sizes: Tensor | None, originals: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Return each image's prediction in the coordinates of the user's image.

        Args:
            outputs: of `forward`.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`, as passed to `forward`.
            originals: height and width of each user's image in pixels.
        """
        raise NotImplementedError

    def fuse(self) -> Self:
        """Return a copy for inference with an algebraically equal, faster backbone; see `fuse_network`."""
        return fuse_network(self)

    def set_grad_checkpointing(self, enable: bool = True, *, selective: bool = False) -> None:
        """Recompute blocks in the backward pass, or only hidden maps if `selective`; results do not change."""
        self.backbone.set_grad_checkpointing(enable, selective=selective)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay, besides norms and biases: the PEG."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Return timm's description of layers for layer decay: by stage if `coarse`, else by block."""
        return layer_groups("backbone.", coarse)
