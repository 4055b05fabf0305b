"""The head of RetinaNet (arXiv 1708.02002), in mmdetection's form and under its names."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.heads.anchors import RATIOS, anchors_inside, grid_anchors, split_by_anchor
from twins.heads.boxes import clip_boxes, decode_boxes, encode_boxes, pick, take
from twins.heads.fpn import Levels
from twins.heads.layers import PlainConv, full_precision, init_normal, zero_outside_map
from twins.heads.matching import BACKGROUND, IGNORED, assign
from twins.heads.targets import Target

ANCHOR_SCALE = 4.0
"""Side of the smallest square anchor in multiples of a level's stride, as published."""
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sides of the anchors at each position, in multiples of the smallest."""
PRIOR = 0.01
"""Probability that a fresh head gives every class everywhere."""
CANDIDATES = 1000
"""Pairs of anchor and class of each level that suppression looks at."""


class RetinaNetHead(nn.Module):
    """Four 3x3 convolutions and a class score for every anchor, and four more and its box; shared by all levels.

    As in mmdetection 2.x and 3.x, where torchvision differs: anchors see `grid_anchors`, boxes see `decode_boxes`, and
    the losses are divided by the matched anchors of the whole batch, not image by image.

    Args:
        in_channels: channels of the pyramid's levels, and width inside.
        num_classes: `K`.
        anchor_scale: side of the smallest square anchor in multiples of a level's stride.
    """

    def __init__(self, in_channels: int, num_classes: int, *, anchor_scale: float = ANCHOR_SCALE) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.scales = tuple(anchor_scale * octave for octave in OCTAVES)
        self.places = len(RATIOS) * len(OCTAVES)
        self.cls_convs = nn.ModuleList(PlainConv(in_channels, in_channels, 3, activation=True) for _ in range(4))
        self.reg_convs = nn.ModuleList(PlainConv(in_channels, in_channels, 3, activation=True) for _ in range(4))
        self.retina_cls = nn.Conv2d(in_channels, self.places * num_classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(in_channels, self.places * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_normal(module, 0.01)
        nn.init.constant_(self.retina_cls.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, levels: Levels) -> dict[str, Tensor]:
        """Return what every anchor of every level says, `N` anchors in all.

        Returns:
            `logits` `(B, N, K)`, minus infinity where an anchor's position is outside its image; `deltas` `(B, N, 4)`;
            `anchors` `(N, 4)`; `counts`, the anchors of each level; `sizes`, the images' true sizes `(B, 2)`.
        """
        logits, deltas, anchors = [], [], []
        for number, (x, stride) in enumerate(zip(levels.maps, levels.strides, strict=True)):
            own = levels.own(number)
            found = split_by_anchor(_run(x, self.cls_convs, self.retina_cls, own), self.num_classes)
            if own is not None:
                found = found.masked_fill(~anchors_inside(x, own, self.places)[:, :, None], -math.inf)
            logits.append(found)
            deltas.append(split_by_anchor(_run(x, self.reg_convs, self.retina_reg, own), 4))
            anchors.append(grid_anchors(x, stride, self.scales))
        return {
            "logits": torch.cat(logits, dim=1),
            "deltas": torch.cat(deltas, dim=1),
            "anchors": torch.cat(anchors),
            "counts": torch.tensor([len(part) for part in anchors], device=levels.image_sizes.device),
            "sizes": levels.image_sizes,
        }

    def losses(self, levels: Levels, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the focal loss of the classes and the L1 loss of the boxes, each per matched anchor.

        Args:
            levels: the pyramid.
            targets: each image's objects. An anchor that overlaps one by half is to find it, as is the anchor that
                overlaps an object most; one that overlaps none by 0.4 is background.
        """
        outputs = self(levels)
        logits, deltas = full_precision(outputs["logits"]), full_precision(outputs["deltas"])
        anchors = outputs["anchors"]
        matches = []
        for number, target in enumerate(targets):
            eligible = None if levels.sizes is None else logits[number, :, 0] > -math.inf
            matches.append(
                assign(anchors, target, positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0, eligible=eligible)
            )
        total = sum((part >= 0).sum().clamp(min=1) for part in matches)
        boxes = []
        for found, part, target in zip(deltas, matches, targets, strict=True):
            rows = torch.where(part >= 0)[0]
            wanted = encode_boxes(target["boxes"].to(anchors)[part[rows]], anchors[rows])  # (M, 4)
            boxes.append(F.l1_loss(found[rows], wanted, reduction="sum"))
        focal = self._focal(logits, matches, targets)
        return {"classification": focal / total, "boxes": torch.stack(boxes).sum() / total}

    def _focal(self, logits: Tensor, matches: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Return the sum of the focal loss over all anchors that count and all classes."""
        from torchvision.ops import sigmoid_focal_loss

        total = logits.new_zeros(())
        for found, part, target in zip(logits, matches, targets, strict=True):
            counted = torch.where(part != IGNORED)[0]
            found, part = found[counted], part[counted]
            wanted = torch.zeros_like(found)
            rows = torch.where(part != BACKGROUND)[0]
            wanted[rows, target["labels"].to(part.device)[part[rows]]] = 1
            total = total + sigmoid_focal_loss(found, wanted, alpha=0.25, gamma=2.0, reduction="sum")
        return total

    def detections(
        self,
        outputs: dict[str, Tensor],
        *,
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
        agnostic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each image's objects, the surest first, in pixels of the network's input.

        Of each level the 1000 surest pairs of anchor and class are taken (as mmdetection from 2.19 on, and
        torchvision; before, mmdetection took anchors), and suppressed class by class.

        Args:
            outputs: what `forward` returned.
            score_threshold: probability that an object must exceed.
            iou_threshold: intersection over union above which the less sure of two boxes of a class goes.
            max_detections: objects of an image.
            agnostic: whether the less sure of two boxes goes whatever their classes.

        Returns:
            boxes `(B, M, 4)`, scores `(B, M)` and labels `(B, M)`; scores of 0 are padding.
        """
        logits, deltas = full_precision(outputs["logits"]), full_precision(outputs["deltas"])
        parts, first = [], 0
        for count in outputs["counts"].tolist():
            scores = logits[:, first : first + count].flatten(1)  # (B, N_i * K)
            best, pairs = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)
            parts.append((best, pairs + first * self.num_classes))
            first += count
        scores, pairs = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        anchors, labels = pairs // self.num_classes, pairs % self.num_classes
        boxes = clip_boxes(decode_boxes(take(deltas, anchors), outputs["anchors"][anchors]), outputs["sizes"])
        threshold = (
            math.log(score_threshold / (1 - score_threshold)) if score_threshold else -math.inf
        )  # of logits: sigmoids run into ties at 1
        boxes, scores, labels = pick(
            boxes,
            scores,
            labels,
            score_threshold=threshold,
            iou_threshold=iou_threshold,
            max_boxes=max_detections,
            agnostic=agnostic,
        )
        return boxes, scores.sigmoid(), labels


def _run(x: Tensor, convs: nn.ModuleList, last: nn.Module, sizes: Tensor | None) -> Tensor:
    """Apply convolutions to a map, each on zeros outside each image."""
    for conv in (*convs, last):
        x = conv(zero_outside_map(x, sizes))
    return x
