"""Merging of objects that a detector found in several views of an image, or in tiles that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from twins.heads.boxes import suppress

BORDER = 2.0
"""Distance in pixels to a tile's border within which a box counts as cut by it."""
AGREEMENT = 0.5
"""Intersection over union, within the pixels that two tiles share, from which two boxes are one object's."""
COVERED = 0.5
"""Share of a cut box inside a whole box from which it is a part of that object, if no other tile found it."""


class Detections(NamedTuple):
    """Objects that were found in an image or a view, a row for each."""

    boxes: Tensor
    """`(N, 4)` xyxy in pixels."""
    scores: Tensor
    """`(N,)` probabilities."""
    labels: Tensor
    """`(N,)` class ids."""
    masks: Tensor | None = None
    """`(N, 28, 28)` probabilities inside the boxes; only in instance segmentation."""


class Merged(NamedTuple):
    """The objects of an image in descending order of score."""

    boxes: Tensor
    """`(M, 4)`."""
    scores: Tensor
    """`(M,)`."""
    labels: Tensor
    """`(M,)`."""
    parts: list[list[int]]
    """The rows of the detections that each object is made of; its mask is the union of theirs."""


def join(detections: Sequence[Detections]) -> Detections:
    """Return the rows of several detections one after another, on the CPU."""
    boxes, scores, labels = (torch.cat(column).cpu() for column in zip(*(each[:3] for each in detections), strict=True))
    masks = [each.masks for each in detections if each.masks is not None]
    return Detections(boxes, scores, labels, torch.cat(masks).cpu() if masks else None)


def merge_views(
    detections: Detections,
    view_rows: Tensor,
    views: int,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_objects: int,
    agnostic: bool,
) -> Merged:
    """Merge the objects of several views: average the boxes and scores of those that NMS takes for one object.

    This is weighted box fusion (arXiv 1910.13302) around the boxes that NMS keeps. A box is the mean of its views'
    boxes, weighted by their scores; a score is the mean over all views, with 0 for a view without the object. The class
    and the mask are those of the surest view.

    Args:
        detections: of all views, in pixels of the image.
        view_rows: the view of each detection, `(N,)`.
        views: number of views.
        score_threshold: mean score that an object must exceed.
        iou_threshold: intersection over union above which two boxes of a class are one object's.
        max_objects: largest number of objects.
        agnostic: whether boxes of different classes can be one object's too.
    """
    boxes, scores, labels, _ = detections
    single = Merged(boxes, scores, labels, [[row] for row in range(len(scores))])
    kept = select(single, score_threshold=0.0, iou_threshold=iou_threshold, max_objects=len(scores), agnostic=agnostic)
    if not kept.parts:
        return kept
    overlaps = box_iou(kept.boxes, boxes)  # (M, N)
    if not agnostic:
        overlaps[kept.labels[:, None] != labels] = 0
    overlaps[torch.arange(len(kept.parts)), [part[0] for part in kept.parts]] = 2  # a kept box belongs to itself
    overlap, owners = overlaps.max(dim=0)
    weights = scores * (overlap >= iou_threshold)
    sums = torch.zeros_like(kept.scores).index_add(0, owners, weights)
    fused = torch.zeros_like(kept.boxes).index_add(0, owners, boxes * weights[:, None]) / sums[:, None]
    surest = weights.new_zeros(len(sums) * views).scatter_reduce(0, owners * views + view_rows, weights, "amax")
    mean = surest.unflatten(0, (-1, views)).mean(dim=1)
    return select(
        Merged(fused, mean, kept.labels, kept.parts),
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_objects=max_objects,
        agnostic=agnostic,
    )


def merge_tiles(
    detections: Detections,
    tile_rows: Tensor,
    tiles: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_objects: int,
    agnostic: bool,
) -> Merged:
    """Merge the objects of overlapping tiles, so that an object on a seam is found once.

    Two tiles see the pixels that they share both, so boxes that agree there are of one object. If tiles show the object
    whole, their boxes and scores are averaged as in `merge_views`; a tile that shows its place whole and did not find
    it counts with a score of 0. Else the object is larger than the overlap, and its parts are joined. A cut box that no
    other tile confirms is left out if it lies in a whole one.

    Args:
        detections: of all tiles, in pixels of the image.
        tile_rows: the tile of each detection, `(N,)`.
        tiles: boxes `(T, 4)` of the tiles, which cover the image.
        score_threshold: mean score that an object must exceed.
        iou_threshold: intersection over union above which NMS removes the lower-scoring of two merged objects.
        max_objects: largest number of objects.
        agnostic: whether objects of different classes suppress each other too.
    """
    is_cut = _is_cut(detections.boxes, tiles)
    cut, showing = is_cut.gather(1, tile_rows[:, None])[:, 0], (~is_cut).sum(dim=1)
    groups = _groups(len(cut), _links(detections, tile_rows, tiles))
    groups = _without_unconfirmed(groups, cut, detections.boxes)
    return select(
        _combine(detections, groups, cut, showing),
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_objects=max_objects,
        agnostic=agnostic,
    )


def select(merged: Merged, *, score_threshold: float, iou_threshold: float, max_objects: int, agnostic: bool) -> Merged:
    """Suppress objects by NMS, and return at most `max_objects` in descending order of score."""
    if not merged.parts:
        return merged
    groups = torch.zeros_like(merged.labels) if agnostic else merged.labels
    boxes, scores = merged.boxes, merged.scores
    candidates = torch.where((scores > score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1))[0]
    rows = candidates[suppress(boxes[candidates], scores[candidates], groups[candidates], iou_threshold)]
    rows = rows[scores[rows].argsort(descending=True)][:max_objects]
    boxes, scores, labels = (x[rows] for x in merged[:3])
    return Merged(boxes, scores, labels, [merged.parts[row] for row in rows.tolist()])


def _is_cut(boxes: Tensor, tiles: Tensor) -> Tensor:
    """Return whether tiles `(T, 4)` do not show boxes `(N, 4)` whole, bool `(N, T)`.

    A box is cut at a border of a tile that it reaches, unless this is the image's border.
    """
    low, high = tiles[:, :2].min(dim=0).values, tiles[:, 2:].max(dim=0).values
    before = (boxes[:, None, :2] < tiles[:, :2] + BORDER) & (tiles[:, :2] > low)
    after = (boxes[:, None, 2:] > tiles[:, 2:] - BORDER) & (tiles[:, 2:] < high)
    return (before | after).any(dim=2)


def _links(detections: Detections, tile_rows: Tensor, tiles: Tensor) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows that two tiles found of one object; a box has at most one partner in another tile."""
    rows = [torch.where(tile_rows == tile)[0] for tile in range(len(tiles))]
    low = torch.maximum(tiles[:, None, :2], tiles[None, :, :2])
    high = torch.minimum(tiles[:, None, 2:], tiles[None, :, 2:])
    for first, second in (low < high).all(dim=2).triu(1).nonzero().tolist():
        if not len(rows[first]) or not len(rows[second]):
            continue
        shared = torch.cat([low[first, second], high[first, second]])
        clipped = (_clip(detections.boxes[rows[tile]], shared) for tile in (first, second))
        agreement = torch.nan_to_num(box_iou(*clipped))  # boxes outside have no area and no overlap
        labels = (detections.labels[rows[tile]] for tile in (first, second))
        agreement[torch.ne(*torch.meshgrid(*labels, indexing="ij"))] = 0
        for row, column in _best_pairs(agreement):
            yield int(rows[first][row]), int(rows[second][column])


def _clip(boxes: Tensor, limits: Tensor) -> Tensor:
    """Clip boxes `(N, 4)` to a rectangle `(4,)`."""
    return torch.minimum(torch.maximum(boxes, limits[:2].repeat(2)), limits[2:].repeat(2))


def _best_pairs(agreement: Tensor) -> Iterator[tuple[int, int]]:
    """Yield row and column of the largest values `(I, J)` in turn, each row and column once; changes `agreement`."""
    while (best := int(agreement.argmax())) >= 0 and agreement.flatten()[best] >= AGREEMENT:
        row, column = divmod(best, agreement.shape[1])
        agreement[row], agreement[:, column] = 0, 0
        yield row, column


def _groups(count: int, links: Iterator[tuple[int, int]]) -> list[list[int]]:
    """Return the connected groups of rows."""
    groups = {row: [row] for row in range(count)}
    for first, second in links:
        if groups[first] is not groups[second]:
            groups[first] += groups[second]
            groups |= dict.fromkeys(groups[second], groups[first])
    return list({id(group): group for group in groups.values()}.values())


def _without_unconfirmed(groups: list[list[int]], cut: Tensor, boxes: Tensor) -> list[list[int]]:
    """Leave out single cut boxes that lie in a whole one: what a detector took a part of an object for."""
    whole = boxes[~cut]
    single = [rows[0] for rows in groups if len(rows) == 1 and cut[rows[0]]]
    if not len(whole) or not single:
        return groups
    sides = torch.minimum(boxes[single, None, 2:], whole[:, 2:]) - torch.maximum(boxes[single, None, :2], whole[:, :2])
    areas = (boxes[single, 2:] - boxes[single, :2]).prod(dim=1)
    covered = sides.clamp(min=0).prod(dim=2).amax(dim=1) >= COVERED * areas
    dropped = {row for row, is_covered in zip(single, covered.tolist(), strict=True) if is_covered}
    return [rows for rows in groups if rows[0] not in dropped]


def _combine(detections: Detections, groups: list[list[int]], cut: Tensor, showing: Tensor) -> Merged:
    """Return an object for each group of rows: the mean of its whole boxes, or the box around its parts.

    Args:
        detections: of all tiles.
        groups: the rows of each object.
        cut: which boxes are cut, bool `(N,)`.
        showing: the number of tiles that show each box whole, `(N,)`.
    """
    if not groups:
        return Merged(*detections[:3], [])
    boxes, scores, parts = [], [], []
    for rows in groups:
        box, score, whole = detections.boxes[rows], detections.scores[rows], ~cut[rows]
        if whole.any():
            weights = score * whole
            surest = rows[int(weights.argmax())]
            boxes.append((box * weights[:, None]).sum(dim=0) / weights.sum())
            scores.append(weights.sum() / torch.maximum(whole.sum(), showing[surest]))
            parts.append([surest])
        else:
            boxes.append(torch.cat([box[:, :2].amin(dim=0), box[:, 2:].amax(dim=0)]))
            scores.append(score.max())
            parts.append(rows)
    labels = detections.labels[[rows[0] for rows in parts]]
    return Merged(torch.stack(boxes), torch.stack(scores), labels, parts)
