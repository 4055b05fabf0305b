"""Boxes: encoding relative to anchors, clipping and non-maximum suppression (NMS). All boxes are xyxy in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

UNIT = (1.0, 1.0, 1.0, 1.0)
MAX_GROWTH = math.log(1000 / 16)
"""Largest absolute logarithm of a change of a side."""


def encode_boxes(boxes: Tensor, anchors: Tensor, stds: Sequence[float] = UNIT) -> Tensor:
    """Return the deltas `(..., 4)` from anchors to boxes: shift / side of the anchor, and log growth, over `stds`."""
    centre, side = _centre_and_side(anchors)
    target, target_side = _centre_and_side(boxes)
    deltas = torch.cat([(target - centre) / side, (target_side / side).log()], dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode_boxes(deltas: Tensor, anchors: Tensor, stds: Sequence[float] = UNIT) -> Tensor:
    """Invert `encode_boxes` on `(..., 4)`.

    As in mmdetection a side grows or shrinks by a factor of at most 62.5. Torchvision limits only growth.
    """
    deltas = deltas * deltas.new_tensor(stds)
    centre, side = _centre_and_side(anchors)
    centre = centre + deltas[..., :2] * side
    half = side * deltas[..., 2:].clamp(-MAX_GROWTH, MAX_GROWTH).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes `(B, N, 4)` to their images, whose heights and widths are `(B, 2)`."""
    limits = sizes.to(boxes).flip(1).repeat(1, 2)[:, None]  # (B, 1, 4): width, height, width, height
    return torch.minimum(boxes.clamp(min=0), limits)


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, score_threshold: float, iou_threshold: float, max_boxes: int
) -> tuple[Tensor, Tensor]:
    """Select boxes of one image by non-maximum suppression within groups, in descending order of score.

    Args:
        boxes: `(N, 4)`, with non-negative coordinates; boxes without area are left out.
        scores: `(N,)`; boxes whose score does not exceed `score_threshold` are left out.
        groups: `(N,)`, ints; boxes of different groups do not suppress each other.
        score_threshold: see `scores`.
        iou_threshold: intersection over union above which the lower-scoring box is suppressed.
        max_boxes: length of the result, at most `N`; shorter selections are padded.

    Returns:
        indices of the selected boxes, `(max_boxes,)`, and which of them are valid, bool `(max_boxes,)`; the others are
        padding.
    """
    from torchvision.ops import nms

    candidate = (scores > score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    offset = torch.where(candidate[:, None], boxes, 0).max() + 1  # moves groups apart
    candidates = torch.where(candidate)[0]
    shifted = boxes[candidates] + (groups[candidates] * offset)[:, None]
    selected = torch.zeros_like(candidate)
    selected[candidates[nms(shifted, scores[candidates], iou_threshold)]] = True
    best, indices = torch.where(selected, scores, -math.inf).topk(max_boxes)
    return indices, best > -math.inf


def suppress_batch(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_boxes: int,
    agnostic: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress boxes `(B, N, 4)` in each image of a batch, within each label or, if `agnostic`, all; see `suppress`.

    Returns:
        boxes `(B, M, 4)`, scores `(B, M)` and labels `(B, M)` in descending order of score, with `M` at most
        `max_boxes`; a score of minus infinity is padding.
    """
    max_boxes = min(max_boxes, scores.shape[1])
    groups = torch.zeros_like(labels) if agnostic else labels
    selections = [
        suppress(*image, score_threshold=score_threshold, iou_threshold=iou_threshold, max_boxes=max_boxes)
        for image in zip(boxes, scores, groups, strict=True)
    ]
    indices, valid = (torch.stack(part) for part in zip(*selections, strict=True))
    scores = torch.where(valid, scores.gather(1, indices), -math.inf)
    return gather_rows(boxes, indices), scores, labels.gather(1, indices)


def gather_rows(x: Tensor, indices: Tensor) -> Tensor:
    """Return the rows `(B, M, C)` of `(B, N, C)` at the indices `(B, M)`."""
    return x.take_along_dim(indices[:, :, None], dim=1)


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
