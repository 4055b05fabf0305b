"""The head of RetinaNet (arXiv 1708.02002), in mmdetection's form and with its parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.heads.anchors import RATIOS, anchors_inside, grid_anchors, split_by_anchor
from twins.heads.boxes import clip_boxes, decode_boxes, encode_boxes, gather_rows, suppress_batch, top_rows
from twins.heads.fpn import Levels
from twins.heads.layers import PlainConv, full_precision, init_hidden, init_normal, zero_outside_map
from twins.heads.matching import BACKGROUND, IGNORED, assign
from twins.heads.targets import Target
from twins.ops.private_torch import is_exporting

ANCHOR_SCALE = 4.0
"""Side of the smallest square anchor in multiples of a level's stride, as published."""
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sides of the anchors at each location, in multiples of the smallest."""
PRIOR = 0.01
"""Probability of every class at initialisation."""
CANDIDATES = 1000
"""Pairs of anchor and class that each level passes to suppression."""


class RetinaNetHead(nn.Module):
    """Four 3x3 convolutions before the class logits of each anchor, four before its deltas; shared by all levels.

    It follows mmdetection 2.x and 3.x. Torchvision differs in the anchors (see `grid_anchors`) and the limits of deltas
    (see `decode_boxes`), and divides the losses by the matched anchors of each image instead of the whole batch.

    Args:
        in_channels: channels of the pyramid's levels and of the hidden maps.
        num_classes: `K`.
        anchor_scale: side of the smallest square anchor in multiples of a level's stride.
    """

    def __init__(self, in_channels: int, num_classes: int, *, anchor_scale: float = ANCHOR_SCALE) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.scales = tuple(anchor_scale * octave for octave in OCTAVES)
        self.anchors_per_location = len(RATIOS) * len(OCTAVES)
        self.cls_convs = nn.ModuleList(PlainConv(in_channels, in_channels, 3, activation=True) for _ in range(4))
        self.reg_convs = nn.ModuleList(PlainConv(in_channels, in_channels, 3, activation=True) for _ in range(4))
        self.retina_cls = nn.Conv2d(in_channels, self.anchors_per_location * num_classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(in_channels, self.anchors_per_location * 4, 3, padding=1)
        for module in (*self.cls_convs, *self.reg_convs):
            assert isinstance(module, PlainConv)
            init_hidden(module.conv)
        for layer in (self.retina_cls, self.retina_reg):
            init_normal(layer, 0.01)
        nn.init.constant_(self.retina_cls.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, levels: Levels) -> dict[str, Any]:
        """Return the class logits and deltas of the `N` anchors of all levels.

        Returns:
            `logits` `(B, N, K)`, minus infinity if the anchor's location is outside its image; `deltas` `(B, N, 4)`;
            `anchors` `(N, 4)`; `counts`, the number of anchors of each level, or while exporting a tuple of them,
            which may be open; `sizes`, the images' true sizes `(B, 2)`.
        """
        logits, deltas, anchors = [], [], []
        for number, (x, stride) in enumerate(zip(levels.maps, levels.strides, strict=True)):
            sizes = levels.sizes_at(number)
            logit = split_by_anchor(_run(x, self.cls_convs, self.retina_cls, sizes), self.num_classes)
            if sizes is not None:
                logit = logit.masked_fill(~anchors_inside(x, sizes, self.anchors_per_location)[:, :, None], -math.inf)
            logits.append(logit)
            deltas.append(split_by_anchor(_run(x, self.reg_convs, self.retina_reg, sizes), 4))
            anchors.append(grid_anchors(x, stride, self.scales))
        counts = tuple(part.shape[0] for part in anchors)
        return {
            "logits": torch.cat(logits, dim=1),
            "deltas": torch.cat(deltas, dim=1),
            "anchors": torch.cat(anchors),
            "counts": counts if is_exporting() else torch.tensor(counts, device=levels.image_sizes.device),
            "sizes": levels.image_sizes,
        }

    def losses(self, outputs: dict[str, Any], targets: Sequence[Target], *, padded: bool) -> dict[str, Tensor]:
        """Return the focal loss of the classes and the L1 loss of the boxes, each per matched anchor.

        Args:
            outputs: result of `forward`.
            padded: whether an image may be smaller than the batch.
            targets: objects of each image. Anchors with an intersection over union of at least 0.5 with an object are
                positive, and the best anchors of each object; those below 0.4 with every object are background.
        """
        logits, deltas = full_precision(outputs["logits"]), full_precision(outputs["deltas"])
        anchors = outputs["anchors"]
        matches = []
        for image, target in enumerate(targets):
            eligible = logits[image, :, 0] != -math.inf if padded else None
            matches.append(
                assign(anchors, target, positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0, eligible=eligible)
            )
        total = sum((part >= 0).sum().clamp(min=1) for part in matches)
        box_losses = []
        for delta, part, target in zip(deltas, matches, targets, strict=True):
            rows = torch.where(part >= 0)[0]
            target_deltas = encode_boxes(target["boxes"].to(anchors)[part[rows]], anchors[rows])  # (M, 4)
            box_losses.append(F.l1_loss(delta[rows], target_deltas, reduction="sum"))
        focal = self._focal(logits, matches, targets)
        return {"classification": focal / total, "boxes": torch.stack(box_losses).sum() / total}

    def _focal(self, logits: Tensor, matches: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Return the sum of the focal loss over all classes of all anchors that are not ignored."""
        from torchvision.ops import sigmoid_focal_loss

        total = logits.new_zeros(())
        for logit, part, target in zip(logits, matches, targets, strict=True):
            used = torch.where(part != IGNORED)[0]
            logit, part = logit[used], part[used]
            one_hot = torch.zeros_like(logit)
            rows = torch.where(part != BACKGROUND)[0]
            one_hot[rows, target["labels"].to(part.device)[part[rows]]] = 1
            total = total + sigmoid_focal_loss(logit, one_hot, alpha=0.25, gamma=2.0, reduction="sum")
        return total

    def detections(
        self,
        outputs: dict[str, Any],
        *,
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
        agnostic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the objects of each image in descending order of score, in pixels of the network's input.

        The 1000 highest-scoring pairs of anchor and class of each level are suppressed class by class. Torchvision and
        mmdetection from 2.19 on do the same; earlier versions of mmdetection select anchors instead of pairs.

        Args:
            outputs: result of `forward`.
            score_threshold: probability that an object must exceed.
            iou_threshold: intersection over union above which the lower-scoring of two boxes of a class is suppressed.
            max_detections: largest number of objects per image.
            agnostic: whether boxes of different classes suppress each other too.

        Returns:
            boxes `(B, M, 4)`, scores `(B, M)` and labels `(B, M)`; a score of 0 is padding.
        """
        logits, deltas = full_precision(outputs["logits"]), full_precision(outputs["deltas"])
        parts, first = [], 0
        counts = outputs["counts"]
        for part in torch.split(logits, counts.tolist() if isinstance(counts, Tensor) else list(counts), dim=1):
            best, pairs = top_rows(part.flatten(1), CANDIDATES)  # of (B, N_i * K)
            parts.append((best, pairs + first))
            first += part.shape[1] * self.num_classes
        scores, pairs = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))  # (B, N)
        anchors, labels = pairs // self.num_classes, pairs % self.num_classes
        boxes = clip_boxes(decode_boxes(gather_rows(deltas, anchors), outputs["anchors"][anchors]), outputs["sizes"])
        # suppression sorts logits, because the sigmoids of large logits are all 1
        threshold = math.log(score_threshold / (1 - score_threshold)) if score_threshold else -math.inf
        best, rows = suppress_batch(
            boxes[:, None],
            scores[:, None] if agnostic else self._by_class(scores, labels),
            score_threshold=threshold,
            iou_threshold=iou_threshold,
            max_boxes=max_detections,
        )
        rows = rows % scores.shape[1]
        return gather_rows(boxes, rows), best.sigmoid(), labels.gather(1, rows)

    def _by_class(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the scores `(B, N)` of labels `(B, N)` as `(B, K, N)`, minus infinity for all other classes."""
        classes = torch.arange(self.num_classes, device=labels.device)
        return torch.where(labels[:, None] == classes[:, None], scores[:, None], -math.inf)


def _run(x: Tensor, convs: nn.ModuleList, last: nn.Module, sizes: Tensor | None) -> Tensor:
    """Apply convolutions to a map, which is zeroed outside each image before every convolution."""
    for conv in (*convs, last):
        x = conv(zero_outside_map(x, sizes))
    return x
