"""The region proposal network (RPN, arXiv 1506.01497), the first stage of Faster and Mask R-CNN, as in mmdetection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.heads.anchors import RATIOS, anchors_inside, grid_anchors, split_by_anchor
from twins.heads.boxes import clip_boxes, decode_boxes, encode_boxes, gather_rows, suppress_batch, top_rows
from twins.heads.fpn import Levels
from twins.heads.layers import full_precision, init_normal, zero_outside_map
from twins.heads.matching import assign, sample
from twins.heads.targets import Target

ANCHOR_SCALE = 8.0
"""Side of the square anchors in multiples of a level's stride, as published."""
NMS_IOU = 0.7
"""Intersection over union above which the lower-scoring of two proposals of a level is suppressed."""


class RPNOutputs(NamedTuple):
    """Objectness, deltas and anchors of each level."""

    scores: list[Tensor]
    """Objectness logits `(B, N_i)`; minus infinity if the anchor's location is outside its image."""
    deltas: list[Tensor]
    """`(B, N_i, 4)`, see `encode_boxes`."""
    anchors: list[Tensor]
    """`(N_i, 4)`."""


class RPNHead(nn.Module):
    """A 3x3 convolution, then objectness and deltas of each anchor; shared by all levels.

    It follows mmdetection and keeps its parameter names. Torchvision differs in the anchors (see `grid_anchors`), the
    limits of deltas (see `decode_boxes`), the matching (see `match`) and the loss of the boxes, which is L1 here.
    Anchors that reach beyond the image are used too.

    Args:
        in_channels: channels of the pyramid's levels and of the hidden map.
        anchor_scale: side of the square anchors in multiples of a level's stride.

    Attributes:
        samples: anchors of each image in the loss, at most half of them with an object.
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
        """Return objectness, deltas and anchors of each level."""
        outputs = RPNOutputs([], [], [])
        for number, (x, stride) in enumerate(zip(levels.maps, levels.strides, strict=True)):
            sizes = levels.sizes_at(number)
            hidden = F.relu(self.rpn_conv(zero_outside_map(x, sizes)))
            scores = split_by_anchor(self.rpn_cls(hidden), 1)[:, :, 0]
            if sizes is not None:
                scores = scores.masked_fill(~anchors_inside(x, sizes, len(RATIOS)), -math.inf)
            outputs.scores.append(scores)
            outputs.deltas.append(split_by_anchor(self.rpn_reg(hidden), 4))
            outputs.anchors.append(grid_anchors(x, stride, self.scales))
        return outputs

    def propose(
        self, outputs: RPNOutputs, image_sizes: Tensor, *, candidates: int, max_proposals: int
    ) -> tuple[Tensor, Tensor]:
        """Return proposed regions of each image in descending order of score, without gradients.

        Args:
            outputs: result of `forward`.
            image_sizes: true sizes of the images in pixels, `(B, 2)`.
            candidates: number of the highest-scoring anchors of each level that suppression gets.
            max_proposals: largest number of regions per image.

        Returns:
            boxes `(B, P, 4)` inside their images, with `P` at most `max_proposals`, and which of them are valid, bool
            `(B, P)`; the others are padding.
        """
        scores, boxes = [], []
        for score, delta, anchor in zip(*outputs, strict=True):
            best, indices = top_rows(full_precision(score.detach()), candidates)
            scores.append(best)
            boxes.append(decode_boxes(full_precision(gather_rows(delta.detach(), indices)), anchor[indices]))
        all_scores, all_boxes = _stack(scores, -math.inf), clip_boxes(_stack(boxes, 0.0).flatten(1, 2), image_sizes)
        best, rows = suppress_batch(
            all_boxes.reshape(*all_scores.shape, 4),
            all_scores,
            score_threshold=-math.inf,
            iou_threshold=NMS_IOU,
            max_boxes=min(max_proposals, sum(part.shape[1] for part in scores)),
        )
        valid = best > -math.inf
        return torch.where(valid[:, :, None], gather_rows(all_boxes, rows), 0), valid

    def losses(self, outputs: RPNOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the cross-entropy of sampled anchors, `proposal_scores`, and their L1 loss, `proposal_boxes`.

        In eval mode the anchors are not sampled at random, but spread evenly.

        Args:
            outputs: result of `forward`.
            targets: objects of each image. Anchors with an intersection over union of at least 0.7 with an object are
                positive, and the best anchors of an object from 0.3; those below 0.3 with every object are background.
        """
        scores, deltas = (full_precision(torch.cat(part, dim=1)) for part in (outputs.scores, outputs.deltas))
        anchors = torch.cat(outputs.anchors)
        sampled_scores, sampled_deltas, target_scores, target_deltas = [], [], [], []
        for score, delta, target in zip(scores, deltas, targets, strict=True):
            matches = assign(
                anchors,
                target,
                positive_iou=0.7,
                negative_iou=0.3,
                min_positive_iou=0.3,
                eligible=score != -math.inf,
            )
            sampled = sample(matches, self.samples, 0.5, random=self.training)
            positives = sampled[matches[sampled] >= 0]
            sampled_scores.append(score[sampled])
            target_scores.append((matches[sampled] >= 0).to(score))
            sampled_deltas.append(delta[positives])
            target_deltas.append(encode_boxes(target["boxes"].to(anchors)[matches[positives]], anchors[positives]))
        logits, labels = torch.cat(sampled_scores), torch.cat(target_scores)
        total = max(1, len(logits))
        box_loss = F.l1_loss(torch.cat(sampled_deltas), torch.cat(target_deltas), reduction="sum")
        return {
            "proposal_scores": F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / total,
            "proposal_boxes": box_loss / total,
        }


def _stack(levels: Sequence[Tensor], fill: float) -> Tensor:
    """Stack values `(B, N_i, ...)` of each level to `(B, L, N, ...)`; those of smaller levels are padded by `fill`."""
    most = max(part.shape[1] for part in levels)
    pads = ((0, 0) * (part.ndim - 2) + (0, most - part.shape[1]) for part in levels)
    return torch.stack([F.pad(part, pad, value=fill) for part, pad in zip(levels, pads, strict=True)], dim=1)
