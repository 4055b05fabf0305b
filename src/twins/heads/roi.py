"""The second stage of Faster and Mask R-CNN (arXiv 1506.01497, 1703.06870), in mmdetection's form and names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.heads.boxes import clip_boxes, decode_boxes, encode_boxes, pick
from twins.heads.fpn import Levels
from twins.heads.layers import full_precision, init_normal
from twins.heads.mask import MaskHead, mask_loss
from twins.heads.matching import assign, sample
from twins.heads.targets import Target

SIDE, MASK_SIDE = 7, 14
"""Positions that a region is read at, each way: for its class and box, and for its mask."""
STDS = (0.1, 0.1, 0.2, 0.2)
"""Spread of the deltas, by which they are divided."""
POOLED_LEVELS = 4
"""Levels that regions are read from; what is above them proposes only."""
FINEST = 56
"""Side in pixels below which a region is read from the first level; the next begin at twice that each."""


class BoxHead(nn.Module):
    """Two fully connected layers, class scores with background last, and a box for each class.

    As torchvision's and unlike mmdetection's head this one has a box for background too, which nothing reads.

    Args:
        in_channels: channels of the pyramid's levels.
        num_classes: `K`.
        channels: width inside.
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int = 1024) -> None:
        super().__init__()
        widths = (in_channels * SIDE * SIDE, channels)
        self.shared_fcs = nn.ModuleList(nn.Linear(width, channels) for width in widths)
        self.fc_cls = nn.Linear(channels, num_classes + 1)
        self.fc_reg = nn.Linear(channels, (num_classes + 1) * 4)
        for layer in self.shared_fcs:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        init_normal(self.fc_cls, 0.01)
        init_normal(self.fc_reg, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Turn regions `(R, C, 7, 7)` into logits `(R, K + 1)` and deltas `(R, K, 4)`."""
        x = x.flatten(1)
        for layer in self.shared_fcs:
            x = F.relu(layer(x))
        return self.fc_cls(x), self.fc_reg(x).unflatten(1, (-1, 4))[:, :-1]


@dataclass(frozen=True)
class Sampled:
    """Regions of a batch that a step learns from, those with an object first in each image."""

    boxes: Tensor
    """`(R, 4)`."""
    owners: Tensor
    """The image that each belongs to, `(R,)`."""
    labels: Tensor
    """The class that each is to say, `(R,)`; `K` is background."""
    matches: Tensor
    """The number of its object in its image, `(R,)`; meaningless for background."""
    wanted: Tensor
    """The object's box, `(R, 4)`; the region's own for background."""


class RoIHead(nn.Module):
    """Reads every proposed region off the pyramid: its class, its box, and where there is such a head its mask.

    As in mmdetection, where torchvision differs: RoIAlign is aligned by half a pixel and samples as densely as a
    region is large, background is the last class, not the first, and the loss of the boxes is L1.

    Args:
        bbox_head: classes and boxes.
        mask_head: masks, or `None`.

    Attributes:
        samples: regions of each image that a step learns from, at most a quarter of them with an object.
    """

    def __init__(self, bbox_head: BoxHead, mask_head: MaskHead | None = None) -> None:
        super().__init__()
        self.bbox_head = bbox_head
        self.mask_head = mask_head
        self.samples = 512

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.bbox_head.fc_cls.out_features - 1

    def forward(self, levels: Levels, proposals: Tensor, meant: Tensor) -> dict[str, Tensor]:
        """Return what the regions say.

        Args:
            levels: the pyramid.
            proposals: boxes `(B, P, 4)` inside their images.
            meant: which of them are not padding, bool `(B, P)`.

        Returns:
            `proposals` `(B, P, 4)`; `logits` `(B, P, K + 1)`, background last, which padding is with certainty;
            `deltas` `(B, P, K, 4)`; `sizes`, the images' true sizes `(B, 2)`.
        """
        batch, count = meant.shape
        logits, deltas = self.bbox_head(
            pool_regions(levels, proposals.flatten(0, 1), _owners(batch, count, meant), SIDE)
        )
        padding = F.pad(logits.new_full((self.num_classes,), -math.inf), (0, 1))
        return {
            "proposals": proposals,
            "logits": torch.where(meant[:, :, None], logits.unflatten(0, (batch, count)), padding),
            "deltas": deltas.unflatten(0, (batch, count)),
            "sizes": levels.image_sizes,
        }

    def detections(
        self,
        outputs: dict[str, Tensor],
        *,
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
        agnostic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each image's objects, the surest first; see `RetinaNetHead.detections`."""
        scores = full_precision(outputs["logits"]).softmax(dim=2)[:, :, :-1]  # (B, P, K)
        deltas = full_precision(outputs["deltas"])
        boxes = decode_boxes(deltas, outputs["proposals"][:, :, None].to(deltas), STDS).flatten(1, 2)
        labels = torch.arange(scores.shape[2], device=scores.device).expand_as(scores)
        boxes = clip_boxes(boxes, outputs["sizes"])
        scores, labels = scores.flatten(1), labels.flatten(1)
        boxes, scores, labels = pick(
            boxes,
            scores,
            labels,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_boxes=max_detections,
            agnostic=agnostic,
        )
        return boxes, scores.clamp(min=0), labels

    def masks(self, levels: Levels, boxes: Tensor, labels: Tensor, meant: Tensor) -> Tensor:
        """Return the mask logits `(B, M, 28, 28)` of boxes `(B, M, 4)`, each of the class in `labels` `(B, M)`.

        Those that are not `meant`, bool `(B, M)`, are padding: 0, and not computed but where a graph is recorded, which
        has one shape.
        """
        assert self.mask_head is not None
        owners = _owners(len(labels), labels.shape[1], labels)
        if torch.compiler.is_compiling():
            found = self.mask_head(pool_regions(levels, boxes.flatten(0, 1), owners, MASK_SIDE), labels.flatten())
            return found.unflatten(0, labels.shape) * meant[:, :, None, None]
        rows = torch.where(meant.flatten())[0]
        some = self.mask_head(
            pool_regions(levels, boxes.flatten(0, 1)[rows], owners[rows], MASK_SIDE), labels.flatten()[rows]
        )
        return some.new_zeros(len(owners), *some.shape[1:]).index_copy(0, rows, some).unflatten(0, labels.shape)

    def losses(self, levels: Levels, proposals: Tensor, meant: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses over sampled regions: cross-entropy, L1, and of the masks binary cross-entropy.

        Args:
            levels: the pyramid.
            proposals: boxes `(B, P, 4)` inside their images; the objects' own boxes join them.
            meant: which of them are not padding, bool `(B, P)`.
            targets: each image's objects. A region that overlaps one by half is to find it; else it is background.
        """
        sampled = self._sample(proposals, meant, targets)
        logits, deltas = self.bbox_head(pool_regions(levels, sampled.boxes, sampled.owners, SIDE))
        logits, deltas = full_precision(logits), full_precision(deltas)
        objects = torch.where(sampled.labels < self.num_classes)[0]
        total = max(1, len(logits))
        wanted = encode_boxes(sampled.wanted[objects], sampled.boxes[objects], STDS).to(deltas)
        result = {
            "classification": F.cross_entropy(logits, sampled.labels, reduction="sum") / total,
            "boxes": F.l1_loss(deltas[objects, sampled.labels[objects]], wanted, reduction="sum") / total,
        }
        if self.mask_head is not None:
            boxes, owners, labels = (part[objects] for part in (sampled.boxes, sampled.owners, sampled.labels))
            found = self.mask_head(pool_regions(levels, boxes, owners, MASK_SIDE), labels)
            result["masks"] = mask_loss(found, boxes, owners, sampled.matches[objects], targets)
        return result

    @torch.no_grad()
    def _sample(self, proposals: Tensor, meant: Tensor, targets: Sequence[Target]) -> Sampled:
        """Match the regions of each image, its objects' own boxes among them, and draw those to learn from."""
        parts = []
        for number, target in enumerate(targets):
            own = target["boxes"].to(proposals)
            boxes = torch.cat([own, proposals[number][meant[number]]])
            matches = assign(boxes, target, positive_iou=0.5, negative_iou=0.5)
            chosen = sample(matches, self.samples, 0.25)
            boxes, matches = boxes[chosen], matches[chosen]
            labels = torch.full_like(matches, self.num_classes)
            wanted = boxes.clone()
            found = torch.where(matches >= 0)[0]
            labels[found] = target["labels"].to(matches)[matches[found]]
            wanted[found] = own[matches[found]]
            parts.append((boxes, torch.full_like(matches, number), labels, matches, wanted))
        return Sampled(*(torch.cat(part) for part in zip(*parts, strict=True)))


def pool_regions(levels: Levels, boxes: Tensor, owners: Tensor, side: int) -> Tensor:
    """Read regions off the pyramid by RoIAlign (arXiv 1703.06870), each off the level that suits its size.

    With `sizes` each image's own part of each level is read by itself, so that it ends where it ends for the image
    alone.

    Args:
        levels: the pyramid.
        boxes: `(R, 4)` in pixels.
        owners: the image that each belongs to, `(R,)`.
        side: positions each way.

    Returns:
        `(R, C, side, side)`.
    """
    from torchvision.ops import roi_align

    size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    level = (size / FINEST + 1e-6).log2().floor().clamp(0, POOLED_LEVELS - 1)
    pieces, places = [], []
    for number in range(POOLED_LEVELS):
        for x, image in _parts(levels, number):
            rows = torch.where(level == number if image is None else (level == number) & (owners == image))[0]
            owner = owners[rows] if image is None else torch.zeros_like(rows)
            regions = torch.cat([owner[:, None].to(boxes), boxes[rows]], dim=1)
            x = full_precision(x)
            pieces.append(roi_align(x, regions.to(x), (side, side), 1 / levels.strides[number], 0, aligned=True))
            places.append(rows)
    order = torch.cat(places)
    back = torch.zeros_like(owners).scatter(0, order, torch.arange(order.shape[0], device=order.device))  # (R,)
    return torch.cat(pieces).index_select(0, back).to(levels.maps[0])


def _parts(levels: Levels, number: int) -> list[tuple[Tensor, int | None]]:
    """Return a level as a whole, or each image's own part of it with the image's number."""
    x, own = levels.maps[number], levels.own(number)
    if own is None:
        return [(x, None)]
    return [(x[i : i + 1, :, :height, :width], i) for i, (height, width) in enumerate(own.tolist())]


def _owners(batch: int, count: int, like: Tensor) -> Tensor:
    return torch.arange(batch, device=like.device).repeat_interleave(count)
