"""Boxes: coded against anchors, clipped to images, and suppressed where they overlap. All are xyxy in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

UNIT = (1.0, 1.0, 1.0, 1.0)
MAX_GROWTH = math.log(1000 / 16)
"""Largest change of a side, either way, as a logarithm."""


def encode_boxes(boxes: Tensor, anchors: Tensor, stds: Sequence[float] = UNIT) -> Tensor:
    """Return what turns anchors into boxes: shifts in sides of the anchor, and logarithms of growth, over `stds`."""
    centre, side = _centre_and_side(anchors)
    target, target_side = _centre_and_side(boxes)
    deltas = torch.cat([(target - centre) / side, (target_side / side).log()], dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode_boxes(deltas: Tensor, anchors: Tensor, stds: Sequence[float] = UNIT) -> Tensor:
    """Undo `encode_boxes` on `(..., 4)`.

    As in mmdetection a side grows or shrinks 62.5 times at most (torchvision bounds growth alone).
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
    """Return the best boxes of an image that no better one of their group overlaps, best first, padded to `max_boxes`.

    Args:
        boxes: `(N, 4)`, of non-negative coordinates; those without area are left out.
        scores: `(N,)`; those up to `score_threshold` are left out.
        groups: `(N,)`, ints; boxes of different groups do not suppress each other.
        score_threshold: see `scores`.
        iou_threshold: intersection over union above which the worse box goes.
        max_boxes: boxes that come back, `N` at most.

    Returns:
        numbers of boxes `(max_boxes,)`, and which of them are meant, bool `(max_boxes,)`; the others are padding.
    """
    from torchvision.ops import nms

    able = (scores > score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    apart = torch.where(able[:, None], boxes, 0).max() + 1
    candidates = torch.where(able)[0]
    moved = boxes[candidates] + (groups[candidates] * apart)[:, None]
    kept = torch.zeros_like(able)
    kept[candidates[nms(moved, scores[candidates], iou_threshold)]] = True
    best, numbers = torch.where(kept, scores, -math.inf).topk(max_boxes)
    return numbers, best > -math.inf


def pick(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_boxes: int,
    agnostic: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress candidates in each image of a batch, label by label unless `agnostic`; see `suppress`.

    Returns:
        boxes `(B, M, 4)`, scores `(B, M)` and labels `(B, M)`, the best first, `M` at most `max_boxes`; scores of minus
        infinity are padding.
    """
    max_boxes = min(max_boxes, scores.shape[1])
    groups = torch.zeros_like(labels) if agnostic else labels
    found = [
        suppress(*image, score_threshold=score_threshold, iou_threshold=iou_threshold, max_boxes=max_boxes)
        for image in zip(boxes, scores, groups, strict=True)
    ]
    numbers, meant = (torch.stack(part) for part in zip(*found, strict=True))
    return take(boxes, numbers), torch.where(meant, scores.gather(1, numbers), -math.inf), labels.gather(1, numbers)


def take(x: Tensor, numbers: Tensor) -> Tensor:
    """Return the rows `(B, M, C)` of `(B, N, C)` with the numbers `(B, M)`."""
    return x.take_along_dim(numbers[:, :, None], dim=1)


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
