"""Semantic segmentation: a class for each pixel, by Semantic FPN or UPerNet on a Twins backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.backbone.network import Twins, fused, layer_groups
from twins.data.formats.masks import IGNORE
from twins.errors import ConfigError, InputError
from twins.heads.fcn import FCNHead
from twins.heads.fpn import FeaturePyramid
from twins.heads.layers import Norm, planar, resize
from twins.heads.semantic_fpn import SemanticFPNHead
from twins.heads.upernet import UPerNetHead
from twins.predictions import Prediction

if TYPE_CHECKING:
    from twins.weights.info import ModelInfo
    from twins.weights.loading import LoadReport

HEADS = ("semantic_fpn", "upernet")
"""The heads, the default first."""
WIDTHS = {"semantic_fpn": 256, "upernet": 512}
"""Channels of the published heads' neck and of UPerNet's inner maps; the other head or part has half as many."""
CHUNK = 1 << 26
"""Logits at an image's own size that are held at a time in decoding."""
AUXILIARY_WEIGHT = 0.4
"""Share of the auxiliary head's loss, as in mmsegmentation's UPerNet."""


class SemanticSegmentation(nn.Module):
    """The published dense networks: a backbone, for Semantic FPN a neck, and a head at the first map's resolution.

    Args:
        backbone: gives four maps.
        info: what the network is and how its images are prepared; its `head` names the head, its `norm` the head's
            norm: `batch`, as published, or `group`, for batches too small for statistics.
        drop_rate: dropout of whole channels before the classifiers; 0.1 as published.

    Attributes:
        load_report: what loading its weights did; `None` where none were loaded.
        class_weights: weight of each class in `losses`, `(K,)`, or `None`.

    Raises:
        ConfigError: an unknown head or norm, no class, or a backbone without all four maps.
    """

    task = "semantic"
    one_graph = True
    load_report: LoadReport | None = None

    def __init__(self, backbone: Twins, info: ModelInfo, *, drop_rate: float = 0.1) -> None:
        super().__init__()
        if backbone.out_indices != (0, 1, 2, 3):
            raise ConfigError(f"a semantic network needs all four maps, found out_indices {backbone.out_indices}")
        if info.num_classes < 1:
            raise ConfigError(f"num_classes must be at least 1, found {info.num_classes}")
        if info.preprocess.fit != "keep":
            raise ConfigError(f"a semantic network sees whole images, with fit=keep, found fit={info.preprocess.fit}")
        if info.head not in HEADS:
            raise ConfigError(f"the head of a semantic network must be {' or '.join(HEADS)}, found {info.head!r}")
        if info.norm not in get_args(Norm):
            raise ConfigError(f"the norm of a head must be {' or '.join(get_args(Norm))}, found {info.norm!r}")
        self.info = info
        self.backbone = backbone
        self.neck: nn.Module | None = None
        self.auxiliary_head: nn.Module | None = None
        classes, norm = info.num_classes, cast(Norm, info.norm)
        width = info.width or WIDTHS[info.head]
        if info.head == "semantic_fpn":
            self.neck = FeaturePyramid(backbone.channels, width)
            self.decode_head: nn.Module = SemanticFPNHead(
                self.neck.channels, backbone.strides, classes, channels=width // 2, drop_rate=drop_rate, norm=norm
            )
        else:
            self.decode_head = UPerNetHead(backbone.channels, classes, channels=width, drop_rate=drop_rate, norm=norm)
            self.auxiliary_head = FCNHead(
                backbone.channels[2], classes, channels=width // 2, drop_rate=drop_rate, norm=norm
            )
        self.class_weights: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """Classes that the network tells apart."""
        return self.info.num_classes

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return `logits` `(B, K, H / 4, W / 4)` and, of UPerNet, `auxiliary` `(B, K, H / 16, W / 16)`.

        Args:
            images: normalised float `(B, C, H, W)`, `H, W >= 32`.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`; see `Twins.forward`. An image's logits are those
                it has alone, and zero outside it.

        Raises:
            InputError: a wrong rank, number of channels or size; in training also `sizes`, where a norm's statistics
                would count what is padded, or one image alone that leaves batch norm one value of a channel.
        """
        maps = [planar(x) for x in self.backbone(images, sizes)]
        if self.training and len(images) == 1:
            self._check_statistics(maps)
        if sizes is None:
            return self._heads(maps)
        if self.training:
            raise InputError("a semantic network is trained on images that fill their batch; crop them to one size")
        alone = [self._heads(_own_part(maps, index, self.backbone.map_sizes(sizes))) for index in range(len(images))]
        shapes = {"logits": maps[0].shape[2:], "auxiliary": maps[2].shape[2:]}
        return {name: torch.cat([_fill_up(one[name], shapes[name]) for one in alone]) for name in alone[0]}

    def _heads(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        result = {"logits": self.decode_head(maps if self.neck is None else self.neck(maps))}
        if self.auxiliary_head is not None:
            result["auxiliary"] = self.auxiliary_head(maps[2])
        return result

    def _check_statistics(self, maps: Sequence[Tensor]) -> None:
        """Refuse one image alone where a map, or what UPerNet pools of it, has one pixel: it has no variance."""
        alone = self.info.head == "upernet" or maps[-1].shape[2:].numel() == 1
        if alone and any(isinstance(module, nn.BatchNorm2d) for module in self.modules()):
            raise InputError(
                "batch norm found a single image in a pass, which leaves it one value of a channel; give a pass more "
                "images (--batch-size, --accumulate) or larger ones (--semantic.crop), or use --semantic.norm group"
            )

    def losses(self, images: Tensor, targets: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the cross-entropy over all pixels, `semantic`, and of UPerNet 0.4 of the auxiliary head's.

        As in mmsegmentation the sum is divided by all pixels, those that are ignored too; so a mask with nothing but
        ignored pixels gives 0.

        Args:
            images: normalised float `(B, C, H, W)`.
            targets: class ids `(B, H, W)`, of any integer type, 255 where ignored.
            sizes: `None`; see `forward`.
        """
        outputs = self(images, sizes)
        result = {"semantic": self._cross_entropy(outputs["logits"], targets)}
        if "auxiliary" in outputs:
            result["auxiliary"] = AUXILIARY_WEIGHT * self._cross_entropy(outputs["auxiliary"], targets)
        return result

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(logits.device, torch.float32)
        logits = resize(logits.float(), targets.shape[1:])
        total = F.cross_entropy(logits, targets.long(), weight=weights, ignore_index=IGNORE, reduction="sum")
        return total / targets.numel()

    def decode(
        self, outputs: dict[str, Tensor], sizes: Tensor | None, originals: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Turn logits into one map of class ids per image, at the user's own size.

        An image's own logits are resized to its size in the network's input, where `sizes` says it, and from there
        to the original, both bilinearly, as mmsegmentation does.

        Args:
            outputs: what `forward` returned.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`: every image fills its batch.
            originals: height and width of each of the users' images in pixels.
        """
        logits = outputs["logits"].detach().float()
        parts = _map_parts(logits, None if sizes is None else self.backbone.map_sizes(sizes)[0])
        result = []
        for index, (part, original) in enumerate(zip(parts, originals, strict=True)):
            way = [original] if sizes is None else [sizes[index].tolist(), original]
            result.append(self.prediction(largest_class(part, way), original))
        return result

    def prediction(self, label_map: Tensor, size: tuple[int, int]) -> Prediction:
        """Return a map of class ids `(H, W)` as a prediction, in as few bytes as the classes need."""
        kind = torch.uint8 if self.num_classes <= 256 else torch.int32
        found = label_map.to(kind).cpu().numpy()
        return Prediction(task=self.task, size=size, names=self.info.names, label_map=found, colours=self.info.colours)

    def set_grad_checkpointing(self, enable: bool = True, *, selective: bool = False) -> None:
        """Compute blocks again in the backward pass, or, `selective`, hidden maps alone; results are the same."""
        self.backbone.set_grad_checkpointing(enable, selective=selective)

    def fuse(self) -> Self:
        """Return a copy for inference, whose backbone is the same function by exact algebra; see `fused`."""
        return fused(self)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters, norms and biases aside, that are trained without weight decay: the PEG."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Return timm's description of layers for layer decay: by stage when `coarse`, else by block."""
        return layer_groups("backbone.", coarse)


def largest_class(logits: Tensor, way: Sequence[Sequence[int]]) -> Tensor:
    """Resize logits `(1, K, h, w)` through some sizes, and return where which class is the largest, int64 `(H, W)`.

    A few classes are resized at a time: what is held does not grow with their number.
    """
    step = max(1, CHUNK // (way[-1][0] * way[-1][1]))
    best: Tensor | None = None
    for first in range(0, logits.shape[1], step):
        part = logits[:, first : first + step]
        for size in way:
            part = resize(part, size)
        value, label = part[0].max(dim=0)
        if best is None:
            best, found = value, label
        else:
            better = value > best
            best, found = torch.where(better, value, best), torch.where(better, label + first, found)
    return found


def _own_part(maps: Sequence[Tensor], index: int, sizes: Sequence[Tensor]) -> list[Tensor]:
    """Cut one image's true part out of each map of a batch."""
    return [_map_parts(x[index : index + 1], size[index : index + 1])[0] for x, size in zip(maps, sizes, strict=True)]


def _map_parts(x: Tensor, sizes: Tensor | None) -> list[Tensor]:
    """Return each image's true part `(1, C, H_i, W_i)` of a map `(B, C, H, W)`."""
    limits = [list(x.shape[2:])] * len(x) if sizes is None else sizes.tolist()
    return [x[i : i + 1, :, :height, :width] for i, (height, width) in enumerate(limits)]


def _fill_up(x: Tensor, size: Sequence[int]) -> Tensor:
    """Pad a map with zeros at the bottom right."""
    return F.pad(x, (0, size[1] - x.shape[3], 0, size[0] - x.shape[2]))
