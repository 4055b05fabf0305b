"""Image classification: a Twins backbone, its final norm, the mean over the map, and a linear classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.backbone.layers import NORM_EPS
from twins.backbone.network import Twins, init_weights
from twins.errors import ConfigError, InputError
from twins.ops.padding import fill_outside, valid_mask
from twins.predictions import Prediction
from twins.tasks.network import TaskNetwork
from twins.weights.info import ModelInfo


class Classification(TaskNetwork):
    """The published classification network: logits from the mean of the last map after the final norm.

    Args:
        backbone: returns the last map; the published classifiers have no stage norms.
        info: model, task, classes and preprocessing; saved with the weights.
        drop_rate: dropout before the classification layer.

    Attributes:
        label_smoothing: share of each target that `losses` spreads evenly over all classes.
        class_weights: class weights in `losses`, `(K,)`, or `None`.
    """

    task = "classification"

    def __init__(self, backbone: Twins, info: ModelInfo, *, drop_rate: float = 0.0) -> None:
        super().__init__(backbone, info)
        if backbone.out_indices[-1] != 3:
            raise ConfigError(f"a classifier needs the last stage's map, found out_indices {backbone.out_indices}")
        self.num_features = backbone.channels[-1]
        self.norm = nn.LayerNorm(self.num_features, eps=NORM_EPS)
        self.drop = nn.Dropout(drop_rate)
        self.head = _classifier(self.num_features, info.num_classes)
        self.label_smoothing = 0.0
        self.class_weights: Tensor | None = None

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return logits `(B, K)`, or pooled features `(B, C)` without classes.

        Args:
            images: normalised float `(B, C, H, W)`, `H, W >= 32`.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`; see `Twins.forward`.
        """
        return self.forward_head(self.forward_features(images, sizes), sizes)

    def forward_features(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the last map after the final norm, `(B, C, H / 32, W / 32)`."""
        x = self.norm(self.backbone.forward_features(images, sizes).permute(0, 2, 3, 1))
        return fill_outside(x, self.backbone.last_sizes(sizes)).permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, sizes: Tensor | None = None, *, pre_logits: bool = False) -> Tensor:
        """Pool the last normed map `(B, C, H, W)` over each image's positions, and classify it.

        Args:
            x: result of `forward_features`.
            sizes: true sizes of the images in pixels, int `(B, 2)`, or `None`.
            pre_logits: return the pooled features `(B, C)` instead of logits.
        """
        x = self.drop(_mean(x, self.backbone.last_sizes(sizes)))
        return x if pre_logits else self.head(x)

    def losses(self, images: Tensor, targets: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the cross-entropy as `{"classification": scalar}`.

        Args:
            images: normalised float `(B, C, H, W)`.
            targets: class ids `(B,)`, or probabilities `(B, K)` from mixing.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`.

        Raises:
            InputError: probabilities of another shape than the logits.
        """
        logits = self(images, sizes).float()
        if targets.is_floating_point() and targets.shape != logits.shape:
            raise InputError(f"soft targets must be {tuple(logits.shape)}, found {tuple(targets.shape)}")
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        loss = F.cross_entropy(logits, targets, weight=weights, label_smoothing=self.label_smoothing)
        return {"classification": loss}

    def forward_with_losses(
        self, images: Tensor, targets: Tensor, sizes: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and the cross-entropy of class ids `(B,)`; see `TaskNetwork.forward_with_losses`."""
        logits = self(images, sizes)
        return logits, {"classification": F.cross_entropy(logits.float(), targets)}

    def decode(self, outputs: Tensor, sizes: Tensor | None, originals: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Return all classes in descending order of probability; see `TaskNetwork.decode`."""
        return to_predictions(self.info, probabilities(self.info, outputs), originals)

    def get_classifier(self) -> nn.Module:
        """Return the classification layer, or an identity without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, names: Sequence[str] = ()) -> None:
        """Replace the classification layer by a new one with random weights; 0 classes return pooled features."""
        reference = next(self.backbone.parameters())
        self.info = replace(self.info, num_classes=num_classes, names=tuple(names), temperature=1.0)
        self.head = _classifier(self.num_features, num_classes).to(reference)


def probabilities(info: ModelInfo, logits: Tensor) -> Tensor:
    """Return the softmax of logits `(B, K)`, with `info.temperature`."""
    return (logits.detach().float() / info.temperature).softmax(dim=1)


def to_predictions(info: ModelInfo, probabilities: Tensor, originals: Sequence[tuple[int, int]]) -> list[Prediction]:
    """Return predictions of images, whose heights and widths are `originals`, from probabilities `(B, K)`."""
    scores, labels = probabilities.sort(dim=1, descending=True, stable=True)
    return [
        Prediction(task="classification", size=size, names=info.names, labels=label, scores=score)
        for size, label, score in zip(originals, labels.cpu().numpy(), scores.cpu().numpy(), strict=True)
    ]


def _classifier(features: int, num_classes: int) -> nn.Module:
    if num_classes < 0:
        raise ConfigError(f"num_classes must be at least 0, found {num_classes}")
    head = nn.Linear(features, num_classes) if num_classes else nn.Identity()
    init_weights(head)
    return head


def _mean(x: Tensor, sizes: Tensor | None) -> Tensor:
    """Return the mean of `(B, C, H, W)` over each image's positions, without padding."""
    if sizes is None:
        return x.mean(dim=(2, 3))
    sizes = sizes.to(x.device)
    tokens = torch.where(valid_mask(sizes, x.shape[2], x.shape[3])[:, None], x, x.new_zeros(())).sum(dim=(2, 3))
    return tokens / sizes.prod(dim=1, keepdim=True).to(x)


def build(backbone: Twins, info: ModelInfo, *, drop_rate: float) -> Classification:
    """Return a network around a backbone, with a random classification layer; see `twins.create_model`."""
    return Classification(backbone, info, drop_rate=drop_rate)
