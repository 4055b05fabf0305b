"""Which object each anchor or region is to find, and which of them a step learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from twins.heads.targets import Target

BACKGROUND, IGNORED = -1, -2
"""What an anchor without an object is matched to: nothing, which it is to say, or it does not count."""
CROWDED = 0.5
"""Share of an anchor inside a crowd above which it does not count as background."""
PAIRS = 1 << 23
"""Boxes times anchors whose overlaps are held at a time."""


def assign(
    anchors: Tensor,
    target: Target,
    *,
    high: float,
    low: float,
    least: float | None = None,
    able: Tensor | None = None,
) -> Tensor:
    """Return the object of an image that each anchor is to find, by number, `BACKGROUND` or `IGNORED`: int64 `(N,)`.

    Args:
        anchors: `(N, 4)`.
        target: the image's objects; anchors mostly inside a `crowd` box are no background.
        high: overlap (intersection over union) from which an anchor has its best object.
        low: overlap below which it is background.
        least: see `match`.
        able: which anchors count at all, bool `(N,)`; `None` is all of them.
    """
    matches = match(anchors, target["boxes"].to(anchors), high=high, low=low, least=least, able=able)
    crowd = target.get("crowd")
    if crowd is not None and len(crowd):
        matches[(matches == BACKGROUND) & _inside_crowd(anchors, crowd.to(anchors))] = IGNORED
    if able is not None:
        matches[~able] = IGNORED
    return matches


def match(
    anchors: Tensor, boxes: Tensor, *, high: float, low: float, least: float | None = None, able: Tensor | None = None
) -> Tensor:
    """Match anchors `(N, 4)` to boxes `(R, 4)` by overlap, as mmdetection does: int64 `(N,)`, see `assign`.

    With `least` each box also takes the anchors that overlap it most, if by `least` and at all, from whichever other
    box had them; of several boxes the last (torchvision gives such an anchor to its own best box, and has no
    `least`). A thousand boxes are compared a few at a time.
    """
    from torchvision.ops import box_iou

    count = len(anchors)
    best = anchors.new_full((count,), -1.0)
    number = torch.zeros(count, dtype=torch.int64, device=anchors.device)
    taken = torch.full_like(number, -1)
    step = max(1, PAIRS // max(1, count))
    for first in range(0, len(boxes), step):
        overlaps = box_iou(boxes[first : first + step], anchors)  # (r, N)
        if able is not None:
            overlaps = overlaps.masked_fill(~able, -1.0)
        value, row = overlaps.max(dim=0)
        number = torch.where(value > best, row + first, number)
        best = torch.maximum(value, best)
        if least is not None:
            most = overlaps.amax(dim=1, keepdim=True)
            rows, columns = torch.where((overlaps == most) & (most >= least) & (most > 0))
            taken = taken.scatter_reduce(0, columns, rows + first, "amax")
    matches = torch.where(best >= high, number, IGNORED)
    matches = torch.where(best < low, BACKGROUND, matches)
    return torch.where(taken >= 0, taken, matches)


def sample(matches: Tensor, count: int, share: float) -> Tensor:
    """Draw `count` matches at random, at most a `share` of them with an object: their numbers, those first."""
    found = _draw(torch.where(matches >= 0)[0], int(count * share))
    return torch.cat([found, _draw(torch.where(matches == BACKGROUND)[0], count - len(found))])


def _draw(items: Tensor, most: int) -> Tensor:
    return items if len(items) <= most else items[torch.randperm(len(items), device=items.device)[:most]]


def _inside_crowd(anchors: Tensor, crowd: Tensor) -> Tensor:
    """Return which anchors lie mostly in one crowd box, bool `(N,)`."""
    covered = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    area = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1)
    for box in crowd:
        shared = torch.minimum(anchors[:, 2:], box[2:]) - torch.maximum(anchors[:, :2], box[:2])
        covered |= shared.clamp(min=0).prod(dim=1) > CROWDED * area
    return covered
