"""The first stage of Faster and Mask R-CNN (RPN, arXiv 1506.01497), in mmdetection's form and under its names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.heads.anchors import RATIOS, anchors_inside, grid_anchors, split_by_anchor
from twins.heads.boxes import clip_boxes, decode_boxes, encode_boxes, suppress, take
from twins.heads.fpn import Levels
from twins.heads.layers import full_precision, init_normal, zero_outside_map
from twins.heads.matching import assign, sample
from twins.heads.targets import Target

ANCHOR_SCALE = 8.0
"""Side of the square anchors in multiples of a level's stride, as published."""
OVERLAP = 0.7
"""Intersection over union above which the worse of two proposals of a level goes."""


class RPNOutputs(NamedTuple):
    """What the anchors of each level say."""

    scores: list[Tensor]
    """Logits that there is an object, `(B, N_i)`; minus infinity where an anchor's position is outside its image."""
    deltas: list[Tensor]
    """`(B, N_i, 4)`."""
    anchors: list[Tensor]
    """`(N_i, 4)`."""


class RPNHead(nn.Module):
    """A 3x3 convolution, and for every anchor whether it meets an object, and its box; shared by all levels.

    As in mmdetection, where torchvision differs: anchors see `grid_anchors`, boxes see `decode_boxes`, matching see
    `match`, the loss of the boxes is L1, and anchors that reach beyond the image count.

    Args:
        in_channels: channels of the pyramid's levels, and width inside.
        anchor_scale: side of the square anchors in multiples of a level's stride.

    Attributes:
        samples: anchors of each image that a step learns from, at most half of them with an object.
    """

    def __init__(self, in_channels: int, *, anchor_scale: float = ANCHOR_SCALE) -> None:
        super().__init__()
        self.scales = (anchor_scale,)
        self.samples = 256
        self.rpn_conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(in_channels, len(RATIOS), 1)
        self.rpn_reg = nn.Conv2d(in_channels, len(RATIOS) * 4, 1)
        for layer in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            init_normal(layer, 0.01)

    def forward(self, levels: Levels) -> RPNOutputs:
        """Return what every anchor says, level by level."""
        rated = RPNOutputs([], [], [])
        for number, (x, stride) in enumerate(zip(levels.maps, levels.strides, strict=True)):
            own = levels.own(number)
            hidden = F.relu(self.rpn_conv(zero_outside_map(x, own)))
            scores = split_by_anchor(self.rpn_cls(hidden), 1)[:, :, 0]
            if own is not None:
                scores = scores.masked_fill(~anchors_inside(x, own, len(RATIOS)), -math.inf)
            rated.scores.append(scores)
            rated.deltas.append(split_by_anchor(self.rpn_reg(hidden), 4))
            rated.anchors.append(grid_anchors(x, stride, self.scales))
        return rated

    def propose(
        self, rated: RPNOutputs, sizes: Tensor, *, candidates: int, max_proposals: int
    ) -> tuple[Tensor, Tensor]:
        """Return regions of each image that may hold an object, the surest first; no gradient flows through them.

        Args:
            rated: what `forward` returned.
            sizes: true sizes of the images in pixels, `(B, 2)`.
            candidates: anchors of each level that are looked at.
            max_proposals: regions that come back.

        Returns:
            boxes `(B, P, 4)` inside the image, `P` at most `max_proposals`, and which of them are meant, bool `(B, P)`.
        """
        scores, boxes, levels = [], [], []
        for number, (score, delta, anchor) in enumerate(zip(*rated, strict=True)):
            best, numbers = full_precision(score.detach()).topk(min(candidates, score.shape[1]), dim=1)
            scores.append(best)
            boxes.append(decode_boxes(full_precision(take(delta.detach(), numbers)), anchor[numbers]))
            levels.append(torch.full_like(numbers[0], number))
        all_scores, level = torch.cat(scores, dim=1), torch.cat(levels)
        all_boxes = clip_boxes(torch.cat(boxes, dim=1), sizes)
        max_proposals = min(max_proposals, all_scores.shape[1])
        found = [
            suppress(box, score, level, score_threshold=-math.inf, iou_threshold=OVERLAP, max_boxes=max_proposals)
            for box, score in zip(all_boxes, all_scores, strict=True)
        ]
        chosen, meant = (torch.stack(part) for part in zip(*found, strict=True))
        return torch.where(meant[:, :, None], take(all_boxes, chosen), 0), meant

    def losses(self, rated: RPNOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return `proposal_scores`, the cross-entropy of sampled anchors, and `proposal_boxes`, the L1 loss of theirs.

        Args:
            rated: what `forward` returned.
            targets: each image's objects. An anchor that overlaps one by 0.7 is to find it, as is the anchor that
                overlaps an object most, if by 0.3; one that overlaps none by 0.3 is background.
        """
        scores, deltas = (full_precision(torch.cat(part, dim=1)) for part in (rated.scores, rated.deltas))
        anchors = torch.cat(rated.anchors)
        found_scores, found_deltas, wanted_scores, wanted_deltas = [], [], [], []
        for score, delta, target in zip(scores, deltas, targets, strict=True):
            matches = assign(
                anchors, target, positive_iou=0.7, negative_iou=0.3, min_positive_iou=0.3, eligible=score > -math.inf
            )
            chosen = sample(matches, self.samples, 0.5)
            objects = chosen[matches[chosen] >= 0]
            found_scores.append(score[chosen])
            wanted_scores.append((matches[chosen] >= 0).to(score))
            found_deltas.append(delta[objects])
            wanted_deltas.append(encode_boxes(target["boxes"].to(anchors)[matches[objects]], anchors[objects]))
        found, wanted = torch.cat(found_scores), torch.cat(wanted_scores)
        total = max(1, len(found))
        box = F.l1_loss(torch.cat(found_deltas), torch.cat(wanted_deltas), reduction="sum")
        return {
            "proposal_scores": F.binary_cross_entropy_with_logits(found, wanted, reduction="sum") / total,
            "proposal_boxes": box / total,
        }
