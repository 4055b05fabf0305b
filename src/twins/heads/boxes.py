"""Boxes: encoding relative to anchors, clipping and non-maximum suppression (NMS). All boxes are xyxy in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops.private_torch import is_exporting

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


def top_rows(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` highest scores of each row of `(B, N)` and their indices, in descending order.

    There are at most `N`; if `N` is open in a traced graph there are always `count`, padded by minus infinity.
    """
    rows: object = scores.shape[1]  # a symbol if it is open
    if isinstance(rows, int):
        return scores.topk(min(count, rows), dim=1)
    best, indices = F.pad(scores, (0, count), value=-math.inf).topk(count, dim=1)
    return best, torch.where(best > -math.inf, indices, 0)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices of the boxes that non-maximum suppression within groups keeps, in no particular order.

    Args:
        boxes: `(N, 4)`, with area and with non-negative coordinates.
        scores: `(N,)`.
        groups: `(N,)`, non-negative ints; boxes of different groups do not suppress each other.
        iou_threshold: intersection over union above which the lower-scoring box is suppressed.
    """
    from torchvision.ops import nms

    if boxes.is_cuda or is_exporting():  # one call, with groups moved apart; in float64, so that boxes keep their shape
        offset = F.pad(boxes, (0, 0, 0, 1)).max().double() + 1
        apart, apart_scores = boxes + (groups * offset)[:, None], scores.double()
        # torchvision's traced operator wants two boxes at least: here two without area, which are dropped again
        rows = nms(F.pad(apart, (0, 0, 0, 2)), F.pad(apart_scores, (0, 2)), iou_threshold)
        return rows[rows < boxes.shape[0]]
    parts = torch.split(groups.argsort(stable=True), groups.bincount().tolist())
    return torch.cat([part[nms(boxes[part], scores[part], iou_threshold)] for part in parts] or [groups])


def suppress_batch(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, iou_threshold: float, max_boxes: int
) -> tuple[Tensor, Tensor]:
    """Select boxes of each image by non-maximum suppression within groups, in descending order of score.

    Args:
        boxes: `(B, G, N, 4)`, or `(B, 1, N, 4)` if all groups have the same boxes, with non-negative coordinates; boxes
            without area are left out.
        scores: `(B, G, N)`; boxes whose score does not exceed `score_threshold` are left out.
        score_threshold: see `scores`.
        iou_threshold: intersection over union above which the lower-scoring of two boxes of a group is suppressed.
        max_boxes: length of the result, at most `G * N`; shorter selections are padded.

    Returns:
        scores `(B, M)`, minus infinity for padding, and indices `(B, M)` among the `G * N` scores of an image.
    """
    scores = torch.where((boxes[..., 2:] > boxes[..., :2]).all(dim=-1), scores, -math.inf)
    thresholds = iou_threshold, max(score_threshold, torch.finfo(scores.dtype).min)
    if torch.onnx.is_in_onnx_export():
        sets = scores if boxes.shape[1] == 1 else scores.flatten(0, 1)[:, None]
        kept = kept_boxes(boxes.flatten(0, 1), sets, *thresholds).view_as(scores)
    elif is_exporting():
        kept = _kept(boxes, scores, *thresholds)
    else:  # image by image, since the time of one call grows with the square of its boxes
        kept = torch.cat([_kept(boxes[i : i + 1], scores[i : i + 1], *thresholds) for i in range(len(scores))])
    return torch.where(kept, scores, -math.inf).flatten(1).topk(min(max_boxes, scores.shape[1] * scores.shape[2]))


@torch.library.custom_op(
    "twins::kept_boxes",
    mutates_args=(),
    schema="(Tensor boxes, Tensor scores, float iou_threshold, float score_threshold) -> Tensor",
)
def kept_boxes(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """Return which boxes suppression keeps, bool `(B, G, N)`; an operator, which exports to ONNX write as ONNX's own.

    Args:
        boxes: `(B, N, 4)`, the same for all groups of a row.
        scores: `(B, G, N)`.
        iou_threshold: see `suppress`.
        score_threshold: score that a kept box exceeds.
    """
    return _kept(boxes[:, None], scores, iou_threshold, score_threshold)


@kept_boxes.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def _kept(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """Return which boxes suppression keeps, bool `(B, G, N)`; see `suppress_batch`."""
    images, groups, rows = torch.where(scores > score_threshold)
    candidates = boxes.expand(*scores.shape, 4)[images, groups, rows]
    kept = suppress(candidates, scores[images, groups, rows], images * scores.shape[1] + groups, iou_threshold)
    result = torch.zeros_like(scores, dtype=torch.bool)
    return result.index_put((images[kept], groups[kept], rows[kept]), result.new_ones(()))


def gather_rows(x: Tensor, indices: Tensor) -> Tensor:
    """Return the rows `(B, M, C)` of `(B, N, C)` at the indices `(B, M)`."""
    return x.gather(1, indices[:, :, None].expand(-1, -1, x.shape[2]))


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
