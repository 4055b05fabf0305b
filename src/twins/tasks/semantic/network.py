"""Semantic segmentation: a class for each pixel, by Semantic FPN or UPerNet on a Twins backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from twins.backbone.network import Twins
from twins.data.formats.masks import IGNORE
from twins.errors import ConfigError, InputError
from twins.heads.fcn import FCNHead
from twins.heads.fpn import FeaturePyramid
from twins.heads.layers import NormKind, planar, zero_outside_map
from twins.heads.resampling import resize_map
from twins.heads.semantic_fpn import SemanticFPNHead
from twins.heads.upernet import UPerNetHead
from twins.predictions import Prediction
from twins.tasks.network import Features, TaskNetwork
from twins.tasks.semantic.facts import FACTS
from twins.weights.info import ModelInfo

CHUNK = 1 << 26
"""Maximum number of logits, at an image's original size, that decoding has in memory at once."""
AUXILIARY_WEIGHT = 0.4
"""Weight of the auxiliary head's loss, as in mmsegmentation's UPerNet."""


class HeadSettings(NamedTuple):
    """Arguments of the functions in `HEADS`."""

    classes: int
    width: int
    """Channels of Semantic FPN's neck and inside UPerNet; Semantic FPN's and the auxiliary head have half as many."""
    drop_rate: float
    norm: NormKind


class HeadParts(NamedTuple):
    """The modules of a network after its backbone."""

    decode_head: nn.Module
    """Computes logits `(B, K, h, w)` at the first map's resolution from maps and the true sizes on them."""
    neck: nn.Module | None = None
    """Turns the backbone's maps into the inputs of `decode_head`; `None` if these are the backbone's maps."""
    auxiliary_head: nn.Module | None = None
    """Computes logits for an additional loss from the third map and the true sizes on it."""


def _semantic_fpn(backbone: Features, settings: HeadSettings) -> HeadParts:
    classes, width, drop_rate, norm = settings
    neck = FeaturePyramid(backbone.channels, width)
    head = SemanticFPNHead(
        neck.channels, backbone.strides, classes, channels=width // 2, drop_rate=drop_rate, norm=norm
    )
    return HeadParts(head, neck=neck)


def _upernet(backbone: Features, settings: HeadSettings) -> HeadParts:
    classes, width, drop_rate, norm = settings
    head = UPerNetHead(backbone.channels, classes, channels=width, drop_rate=drop_rate, norm=norm)
    auxiliary = FCNHead(backbone.channels[2], classes, channels=width // 2, drop_rate=drop_rate, norm=norm)
    return HeadParts(head, auxiliary_head=auxiliary)


HEADS: dict[str | None, Callable[[Features, HeadSettings], HeadParts]] = {
    "semantic_fpn": _semantic_fpn,
    "upernet": _upernet,
}
"""The function that builds each head of `FACTS`."""


class SemanticSegmentation(TaskNetwork):
    """A semantic segmentation network: backbone, neck (Semantic FPN only), and a head at the first map's resolution.

    Args:
        backbone: returns four maps.
        info: model, task, classes and preprocessing; `info.head` names the head, `info.norm` its norm: `batch`, as
            published, or `group`, for batches that are too small for batch statistics.
        drop_rate: dropout of whole channels before the classification layers; 0.1 as published.

    Attributes:
        class_weights: weight of each class in `losses`, `(K,)`, or `None`.

    Raises:
        ConfigError: an unknown head or norm, no classes, or a backbone without all four maps.
    """

    task = "semantic"

    def __init__(self, backbone: Twins, info: ModelInfo, *, drop_rate: float = 0.1) -> None:
        super().__init__(backbone, info)
        if backbone.out_indices != (0, 1, 2, 3):
            raise ConfigError(f"a semantic network needs all four maps, found out_indices {backbone.out_indices}")
        if info.num_classes < 1:
            raise ConfigError(f"num_classes must be at least 1, found {info.num_classes}")
        if info.preprocess.fit != "keep":
            raise ConfigError(f"a semantic network sees whole images, with fit=keep, found fit={info.preprocess.fit}")
        if info.head not in HEADS:
            heads = " or ".join(map(str, HEADS))
            raise ConfigError(f"the head of a semantic network must be {heads}, found {info.head!r}")
        if info.norm not in get_args(NormKind):
            raise ConfigError(f"the norm of a head must be {' or '.join(get_args(NormKind))}, found {info.norm!r}")
        settings = HeadSettings(
            classes=info.num_classes,
            width=info.width or FACTS.heads[info.head].width,
            drop_rate=drop_rate,
            norm=cast(NormKind, info.norm),
        )
        parts = HEADS[info.head](backbone, settings)
        self.neck = parts.neck
        self.decode_head = parts.decode_head
        self.auxiliary_head = parts.auxiliary_head
        self.class_weights: Tensor | None = None

    @torch.no_grad()
    def set_prior(self, shares: NDArray[np.float64]) -> None:
        """Set the biases of new classification layers, so that at first each class has its share as its probability.

        Args:
            shares: positive, `(K,)`.
        """
        for bias in self.new_classifier_biases():
            bias.copy_(torch.from_numpy(np.log(shares)))

    def new_classifier_biases(self) -> list[nn.Parameter]:
        """Return the biases `(K,)` of the classification layers that were not loaded from weights.

        A head of your own whose layer has none, or one of another size, is left out.
        """
        assert self.info.head is not None
        layers = FACTS.heads[self.info.head].classifier, "auxiliary_head.conv_seg.weight"
        names = {layer.removesuffix("weight") + "bias" for layer in layers}
        return [
            parameter
            for name, parameter in self.named_parameters()
            if name in names
            and parameter.shape == (self.num_classes,)
            and (self.load_report is None or name in self.load_report.initialised)
        ]

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return `logits` `(B, K, H / 4, W / 4)` and, from UPerNet, `auxiliary` `(B, K, H / 16, W / 16)`.

        Args:
            images: normalised float `(B, C, H, W)`, `H, W >= 32`.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`; see `Twins.forward`. An image's logits are the
                same as without the others in the batch, and zero in its padding.

        Raises:
            InputError: a wrong rank, number of channels or size. In training also `sizes`, because the statistics of
                norms would include padding, or a single image that leaves batch norm one value per channel.
        """
        maps = [planar(x) for x in self.backbone(images, sizes)]
        if self.training and len(images) == 1:
            self._check_statistics(maps)
        if sizes is None:
            return self._heads(maps, None)
        if self.training:
            raise InputError("a semantic network is trained on images that fill their batch; crop them to one size")
        map_sizes = self.backbone.map_sizes(sizes.to(images.device))
        outputs = self._heads(maps, map_sizes)
        on_maps = {"logits": map_sizes[0], "auxiliary": map_sizes[2]}
        return {name: zero_outside_map(x, on_maps[name]) for name, x in outputs.items()}

    def _heads(self, maps: Sequence[Tensor], sizes: Sequence[Tensor] | None) -> dict[str, Tensor]:
        inputs = maps if self.neck is None else self.neck(maps, sizes)
        result = {"logits": self.decode_head(inputs, sizes)}
        if self.auxiliary_head is not None:
            result["auxiliary"] = self.auxiliary_head(maps[2], None if sizes is None else sizes[2])
        return result

    def _check_statistics(self, maps: Sequence[Tensor]) -> None:
        """Raise InputError if a single image would leave batch norm one value per channel, which has no variance."""
        one_value = FACTS.heads[self.info.head].pools or maps[-1].shape[2:].numel() == 1
        if one_value and any(isinstance(module, nn.BatchNorm2d) for module in self.modules()):
            raise InputError(
                "batch norm found a single image in a pass, which leaves it one value of a channel; give a pass more "
                'images (`batch_size`, `accumulate`) or larger ones (`semantic.crop`), or use `semantic.norm="group"`'
            )

    def losses(self, images: Tensor, targets: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the mean cross-entropy, `semantic`, and with UPerNet 0.4 of the auxiliary head's, `auxiliary`.

        As in mmsegmentation the sum is divided by the number of all pixels, ignored ones included, so a target with
        only ignored pixels gives 0.

        Args:
            images: normalised float `(B, C, H, W)`.
            targets: class ids `(B, H, W)`, of any integer type; 255 is ignored.
            sizes: must be `None` in training; see `forward`.
        """
        outputs = self(images, sizes)
        result = {"semantic": self._cross_entropy(outputs["logits"], targets)}
        if "auxiliary" in outputs:
            result["auxiliary"] = AUXILIARY_WEIGHT * self._cross_entropy(outputs["auxiliary"], targets)
        return result

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(logits.device, torch.float32)
        logits = resize_map(logits.float(), targets.shape[1:])
        total = F.cross_entropy(logits, targets.long(), weight=weights, ignore_index=IGNORE, reduction="sum")
        return total / targets.numel()

    def forward_with_losses(
        self, images: Tensor, targets: Sequence[Tensor], sizes: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the outputs and the held-out losses, each the mean over the images.

        Args:
            images: as in `forward`.
            targets: class ids `(h, w)` of each image at its size in the network's input; 255 is ignored.
            sizes: as in `forward`.
        """
        outputs = self(images, sizes)
        map_sizes = [None] * 4 if sizes is None else self.backbone.map_sizes(sizes)
        losses = {"semantic": _mean_cross_entropy(_map_parts(outputs["logits"], map_sizes[0]), targets)}
        if "auxiliary" in outputs:
            auxiliary = _mean_cross_entropy(_map_parts(outputs["auxiliary"], map_sizes[2]), targets)
            losses["auxiliary"] = AUXILIARY_WEIGHT * auxiliary
        return outputs, losses

    def decode(
        self, outputs: dict[str, Tensor], sizes: Tensor | None, originals: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Return each image's label map at its original size; see `TaskNetwork.decode`.

        An image's part of the logits is resized bilinearly, first to its true size in the network's input if `sizes` is
        given, then to its original size, as in mmsegmentation.
        """
        map_sizes = None if sizes is None else self.backbone.map_sizes(sizes)[0]
        return decode_logits(self.info, outputs["logits"], map_sizes, sizes, originals)


def decode_logits(
    info: ModelInfo,
    logits: Tensor,
    map_sizes: Tensor | None,
    sizes: Tensor | None,
    originals: Sequence[tuple[int, int]],
) -> list[Prediction]:
    """Return each image's label map from logits `(B, K, h, w)`; see `SemanticSegmentation.decode`.

    Args:
        info: description of the network.
        logits: at the resolution of the first map.
        map_sizes: true sizes on the logits, int `(B, 2)`, or `None` if images fill them.
        sizes: true sizes in pixels, int `(B, 2)`, or `None`: then logits are resized in one step.
        originals: height and width of each user's image in pixels.
    """
    result = []
    for index, (part, original) in enumerate(
        zip(_map_parts(logits.detach().float(), map_sizes), originals, strict=True)
    ):
        steps = [original] if sizes is None else [sizes[index].tolist(), original]
        label_map = resized_argmax(part, partial(_resize_in_steps, steps=steps), chunk_of(original))[0]
        result.append(to_prediction(info, label_map, original))
    return result


def to_prediction(info: ModelInfo, label_map: Tensor, size: tuple[int, int]) -> Prediction:
    """Return a prediction from a label map `(H, W)`."""
    array = label_map.to(label_dtype(info)).cpu().numpy()
    return Prediction(task="semantic", size=size, names=info.names, label_map=array, colours=info.colours)


def label_dtype(info: ModelInfo) -> torch.dtype:
    """Return the type of a label map: uint8, or int32 for more than 256 classes."""
    return torch.uint8 if info.num_classes <= 256 else torch.int32


def chunk_of(shape: Sequence[int]) -> int:
    """Return how many classes of a label map of this height and width are resized at once."""
    return max(1, CHUNK // (shape[0] * shape[1]))


def resized_argmax(logits: Tensor, resize: Callable[[Tensor], Tensor], chunk: int) -> Tensor:
    """Return the argmax over classes of resized logits, int64 `(B, H, W)`.

    Memory does not grow with the number of classes, because logits are resized in chunks of classes.

    Args:
        logits: `(B, K, h, w)`.
        resize: resizes logits `(B, k, h, w)` of some classes to `(B, k, H, W)`.
        chunk: number of classes resized at once.
    """
    highest: Tensor | None = None
    for first in range(0, logits.shape[1], chunk):
        value, label = resize(logits[:, first : first + chunk]).max(dim=1)
        if highest is None:
            highest, label_map = value, label
        else:
            better = value > highest
            highest, label_map = torch.where(better, value, highest), torch.where(better, label + first, label_map)
    return label_map


def _resize_in_steps(logits: Tensor, steps: Sequence[Sequence[int]]) -> Tensor:
    for shape in steps:
        logits = resize_map(logits, shape)
    return logits


def _mean_cross_entropy(parts: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the mean over images of the cross-entropy of logits `(1, K, h, w)`, per pixel as in `losses`."""
    means = []
    for logits, target in zip(parts, targets, strict=True):
        logits = resize_map(logits.float(), target.shape)
        # PyTorch's own sum over a map is not deterministic on GPUs
        pixels = F.cross_entropy(logits, target[None].long(), ignore_index=IGNORE, reduction="none")
        means.append(pixels.sum() / target.numel())
    return torch.stack(means).mean()


def _map_parts(x: Tensor, sizes: Tensor | None) -> list[Tensor]:
    """Return each image's part `(1, C, H_i, W_i)` of a padded map `(B, C, H, W)`."""
    shapes = [list(x.shape[2:])] * len(x) if sizes is None else sizes.tolist()
    return [x[i : i + 1, :, :height, :width] for i, (height, width) in enumerate(shapes)]


def build(backbone: Twins, info: ModelInfo, *, drop_rate: float) -> SemanticSegmentation:
    """Return a network around a backbone, with random weights in its heads; see `twins.create_model`."""
    return SemanticSegmentation(backbone, info, drop_rate=drop_rate)
