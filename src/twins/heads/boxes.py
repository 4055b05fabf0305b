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
    boxes: Tensor, scores: Tensor, groups: Tensor, *, threshold: float, overlap: float, most: int
) -> tuple[Tensor, Tensor]:
    """Return the best boxes of an image that no better one of their group overlaps, best first, padded to `most`.

    Args:
        boxes: `(N, 4)`, of non-negative coordinates; those without area are left out.
        scores: `(N,)`; those up to `threshold` are left out.
        groups: `(N,)`, ints; boxes of different groups do not suppress each other.
        threshold: see `scores`.
        overlap: intersection over union above which the worse box goes.
        most: boxes that come back, `N` at most.

    Returns:
        numbers of boxes `(most,)`, and which of them are meant, bool `(most,)`; the others are padding.
    """
    from torchvision.ops import nms

    able = (scores > threshold) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    apart = torch.where(able[:, None], boxes, 0).max() + 1
    candidates = torch.where(able)[0]
    moved = boxes[candidates] + (groups[candidates] * apart)[:, None]
    kept = torch.zeros_like(able)
    kept[candidates[nms(moved, scores[candidates], overlap)]] = True
    best, numbers = torch.where(kept, scores, -math.inf).topk(most)
    return numbers, best > -math.inf


def pick(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    threshold: float,
    overlap: float,
    most: int,
    agnostic: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress candidates in each image of a batch, label by label unless `agnostic`; see `suppress`.

    Returns:
        boxes `(B, M, 4)`, scores `(B, M)` and labels `(B, M)`, the best first, `M` at most `most`; scores of minus
        infinity are padding.
    """
    most = min(most, scores.shape[1])
    groups = torch.zeros_like(labels) if agnostic else labels
    found = [
        suppress(*image, threshold=threshold, overlap=overlap, most=most)
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
