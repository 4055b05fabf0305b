"""Matching of anchors and regions to objects, and random sampling of those in the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from twins.heads.targets import Target

BACKGROUND, IGNORED = -1, -2
"""Values of a match without an object: the target is background, or the anchor has no part in the loss."""
CROWD_SHARE = 0.5
"""A background anchor with more than this share of its area inside a crowd box is ignored."""
CHUNK_PAIRS = 1 << 23
"""Maximum number of pairs of box and anchor that are compared at once."""


def assign(
    anchors: Tensor,
    target: Target,
    *,
    positive_iou: float,
    negative_iou: float,
    min_positive_iou: float | None = None,
    eligible: Tensor | None = None,
) -> Tensor:
    """Assign an object of an image to each anchor: its index, `BACKGROUND` or `IGNORED`, int64 `(N,)`.

    Args:
        anchors: `(N, 4)`.
        target: the image's objects; background anchors mostly inside a `crowd` box are ignored.
        positive_iou: minimum intersection over union with which an anchor is matched to the object it overlaps most.
        negative_iou: an anchor whose intersection over union with every object is below it is background.
        min_positive_iou: see `match`.
        eligible: bool `(N,)`; the other anchors are ignored. `None` allows all.
    """
    matches = match(
        anchors,
        target["boxes"].to(anchors),
        positive_iou=positive_iou,
        negative_iou=negative_iou,
        min_positive_iou=min_positive_iou,
        eligible=eligible,
    )
    crowd = target.get("crowd")
    if crowd is not None and len(crowd):
        matches[(matches == BACKGROUND) & _inside_crowd(anchors, crowd.to(anchors))] = IGNORED
    if eligible is not None:
        matches[~eligible] = IGNORED
    return matches


def match(
    anchors: Tensor,
    boxes: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    min_positive_iou: float | None = None,
    eligible: Tensor | None = None,
) -> Tensor:
    """Match anchors `(N, 4)` to boxes `(R, 4)` by overlap, as mmdetection does: int64 `(N,)`, see `assign`.

    With `min_positive_iou` the anchors with the highest IoU with a box are also matched to it, even if they have a
    higher IoU with another box; this IoU must be positive and at least `min_positive_iou`. If an anchor is the best of
    several boxes, the last box gets it. Torchvision gives such an anchor to the box with the highest IoU, and has no
    minimum. Boxes are compared in chunks.
    """
    from torchvision.ops import box_iou

    count = len(anchors)
    best_iou = anchors.new_full((count,), -1.0)
    best_box = torch.zeros(count, dtype=torch.int64, device=anchors.device)
    matched_by_min_iou = torch.full_like(best_box, -1)
    step = max(1, CHUNK_PAIRS // max(1, count))
    for first in range(0, len(boxes), step):
        overlaps = box_iou(boxes[first : first + step], anchors)  # (r, N)
        if eligible is not None:
            overlaps = overlaps.masked_fill(~eligible, -1.0)
        iou, row = overlaps.max(dim=0)
        best_box = torch.where(iou > best_iou, row + first, best_box)
        best_iou = torch.maximum(iou, best_iou)
        if min_positive_iou is not None:
            highest = overlaps.amax(dim=1, keepdim=True)
            rows, columns = torch.where((overlaps == highest) & (highest >= min_positive_iou) & (highest > 0))
            matched_by_min_iou = matched_by_min_iou.scatter_reduce(0, columns, rows + first, "amax")
    matches = torch.where(best_iou >= positive_iou, best_box, IGNORED)
    matches = torch.where(best_iou < negative_iou, BACKGROUND, matches)
    return torch.where(matched_by_min_iou >= 0, matched_by_min_iou, matches)


def sample(matches: Tensor, count: int, share: float, *, random: bool = True) -> Tensor:
    """Return the indices of up to `count` anchors: first those with an object, at most a `share` of `count`.

    They are chosen at random, or spread evenly over the anchors of each kind if not `random`.
    """
    subset = _random_subset if random else spread
    positives = subset(torch.where(matches >= 0)[0], int(count * share))
    return torch.cat([positives, subset(torch.where(matches == BACKGROUND)[0], count - len(positives))])


def spread(items: Tensor, size: int) -> Tensor:
    """Return at most `size` items, spread evenly over all of them."""
    return items if len(items) <= size else items[torch.arange(size, device=items.device) * len(items) // size]


def _random_subset(items: Tensor, size: int) -> Tensor:
    return items if len(items) <= size else items[torch.randperm(len(items), device=items.device)[:size]]


def _inside_crowd(anchors: Tensor, crowd: Tensor) -> Tensor:
    """Return which anchors are mostly inside one crowd box, bool `(N,)`."""
    inside = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    area = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1)
    for box in crowd:
        shared = torch.minimum(anchors[:, 2:], box[2:]) - torch.maximum(anchors[:, :2], box[:2])
        inside |= shared.clamp(min=0).prod(dim=1) > CROWD_SHARE * area
    return inside
