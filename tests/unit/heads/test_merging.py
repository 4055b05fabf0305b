"""Objects of overlapping tiles and of several views are merged: each object is found exactly once."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from twins.heads.merging import Detections, join, merge_tiles, merge_views
from twins.tasks.inference import InferenceConfig
from twins.tasks.views import tiles_of

SELECTION = {"score_threshold": 0.0, "iou_threshold": 0.5, "max_objects": 1000, "agnostic": False}


def detections(boxes, scores=None, labels=None) -> Detections:
    boxes = torch.as_tensor(np.reshape(boxes, (-1, 4)), dtype=torch.float64)
    scores = torch.linspace(0.9, 0.5, len(boxes)) if scores is None else torch.tensor(scores)
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.as_tensor(labels)
    return Detections(boxes, scores.double(), labels)


def seen_in(tile, truth: Detections) -> Detections:
    """What a perfect detector finds in a tile: the part of each object that lies in it."""
    low, high = torch.tensor(tile[:2]).repeat(2), torch.tensor(tile[2:]).repeat(2)
    boxes = torch.minimum(torch.maximum(truth.boxes, low), high)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return Detections(boxes[visible], truth.scores[visible], truth.labels[visible])


def merged_by_tiles(truth: Detections, width: int, height: int, tile: int, overlap: int, **selection):
    tiles = tiles_of(width, height, InferenceConfig(tile=tile, overlap=overlap))
    parts = [seen_in(each, truth) for each in tiles]
    rows = torch.arange(len(tiles)).repeat_interleave(torch.tensor([len(part.scores) for part in parts]))
    return merge_tiles(join(parts), rows, torch.tensor(tiles), **(SELECTION | selection))


def random_truth(random, width: int, height: int, largest: float, most_overlap: float) -> Detections:
    """Objects of up to `largest` pixels; of one class none overlaps another by more than `most_overlap`."""
    boxes, labels = np.empty((0, 4)), np.empty(0, dtype=np.int64)
    for _ in range(int(random.integers(0, 25))):
        corner, side = random.uniform(0, (width - 2, height - 2)), random.uniform(2, largest, 2)
        box, label = np.minimum([*corner, *(corner + side)], [width, height] * 2), random.integers(3)
        overlaps = box_iou(torch.tensor(box)[None], torch.tensor(boxes[labels == label])).numpy()
        if overlaps.max(initial=0) <= most_overlap:
            boxes, labels = np.vstack([boxes, box]), np.append(labels, label)
    order = np.sort(random.uniform(0.1, 1, len(boxes)))[::-1].copy()
    return detections(boxes, order, labels)


@pytest.mark.parametrize(("larger", "most_overlap"), [(False, 0.3), (True, 0.0)], ids=["within the overlap", "larger"])
def test_each_object_is_found_once_with_its_whole_box(larger, most_overlap):
    on_seams = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        width, height = (int(side) for side in random.integers(40, 400, 2))
        tile = int(random.integers(32, 130))
        overlap = int(random.integers(8, tile // 2))
        largest = 2.5 * tile if larger else overlap
        truth = random_truth(random, width, height, largest, most_overlap)
        merged = merged_by_tiles(truth, width, height, tile, overlap)
        assert merged.boxes.shape == truth.boxes.shape, (seed, width, height, tile, overlap)
        torch.testing.assert_close(merged.boxes, truth.boxes, atol=1e-9, rtol=0)
        torch.testing.assert_close(merged.scores, truth.scores, atol=1e-12, rtol=0)
        assert torch.equal(merged.labels, truth.labels)
        on_seams += sum(len(part) for part in merged.parts) - len(merged.parts)
    assert (on_seams > 50) == larger  # an object within the overlap is taken from one tile


def test_touching_objects_of_one_class_stay_apart():
    columns = [(x, 10, x + 16, 40) for x in range(0, 192, 16)]
    merged = merged_by_tiles(detections(columns), 192, 60, tile=64, overlap=20)
    torch.testing.assert_close(merged.boxes, detections(columns).boxes)


def test_an_object_inside_another_of_its_class_is_kept():
    truth = detections([(4, 4, 150, 50), (55, 20, 70, 40)])
    for tile, overlap in ((64, 20), (80, 40), (100, 16)):
        assert len(merged_by_tiles(truth, 160, 60, tile=tile, overlap=overlap).boxes) == 2


def test_a_box_has_one_partner_in_another_tile_and_it_is_the_one_that_agrees_most():
    tiles = torch.tensor([[0, 0, 60, 50], [40, 0, 100, 50]])
    found = detections([(20, 10, 60, 40), (25, 14, 60, 40), (40, 14, 80, 40), (40, 10, 90, 40)])
    merged = merge_tiles(found, torch.tensor([0, 0, 1, 1]), tiles, **(SELECTION | {"iou_threshold": 1.0}))
    assert sorted(map(sorted, merged.parts)) == [[0, 3], [1, 2]]


def test_a_part_that_no_other_tile_confirms_is_left_out_only_inside_a_whole_object():
    tiles = torch.tensor([[0, 0, 60, 50], [40, 0, 100, 50]])
    whole, part, elsewhere = (42, 10, 80, 40), (50, 20, 60, 28), (50, 41, 60, 49)
    found = detections([whole, part, elsewhere], labels=[0, 1, 1])  # the part looks like another class
    merged = merge_tiles(found, torch.tensor([1, 0, 0]), tiles, **SELECTION)
    assert sorted(merged.parts) == [[0], [2]]


def test_the_tiles_that_show_an_object_whole_are_averaged():
    tiles = torch.tensor([[0, 0, 60, 50], [20, 0, 80, 50], [40, 0, 100, 50]])
    found = detections([(44, 10, 54, 20), (45, 10, 55, 20), (72, 10, 79, 20)], [0.6, 0.3, 0.8])
    # the third tile shows the first object too and did not find it; the second tile cuts the second object
    merged = merge_tiles(found, torch.tensor([0, 1, 2]), tiles, **SELECTION)
    torch.testing.assert_close(merged.scores, torch.tensor([0.8, 0.9 / 3], dtype=torch.float64))
    assert merged.parts == [[2], [0]]
    torch.testing.assert_close(merged.boxes[1], torch.tensor([133 / 3, 10, 163 / 3, 20], dtype=torch.float64))
    assert merge_tiles(found, torch.tensor([0, 1, 2]), tiles, **(SELECTION | {"score_threshold": 0.5})).parts == [[2]]


@pytest.mark.parametrize("most", [1, 3])
def test_the_surest_objects_of_the_image_are_kept_not_of_each_tile(most):
    boxes = [(x, y, x + 10, y + 10) for x, y in product(range(5, 180, 20), range(5, 90, 20))]
    truth = detections(boxes)
    merged = merged_by_tiles(truth, 200, 100, tile=48, overlap=16, max_objects=most)
    torch.testing.assert_close(merged.boxes, truth.boxes[:most])


def test_without_objects_nothing_is_merged():
    empty = detections(np.empty((0, 4)))
    assert merged_by_tiles(empty, 200, 100, tile=48, overlap=16).parts == []
    assert merged_views(join([empty, empty]), [], 2).parts == []


def merged_views(found: Detections, view_rows, views: int, **settings):
    return merge_views(found, torch.tensor(view_rows, dtype=torch.long), views, **(SELECTION | settings))


def test_boxes_and_scores_of_an_object_are_averaged_over_the_views():
    boxes = [(0, 0, 10, 10), (1, 0, 11, 10), (50, 50, 60, 60), (2, 0, 12, 10)]
    found = detections(boxes, [0.4, 0.8, 0.6, 0.3])
    merged = merged_views(found, [0, 1, 1, 1], 3)  # the third view shows nothing, and the second one object twice
    assert merged.parts == [[1], [2]]
    torch.testing.assert_close(merged.scores, torch.tensor([(0.4 + 0.8) / 3, 0.6 / 3], dtype=torch.float64))
    left = (0.4 * 0 + 0.8 * 1 + 0.3 * 2) / 1.5
    torch.testing.assert_close(merged.boxes[0], torch.tensor([left, 0, left + 10, 10], dtype=torch.float64))
    assert merged.boxes[1].tolist() == [50, 50, 60, 60]
    assert merged_views(found, [0, 1, 1, 1], 3, score_threshold=0.3).parts == [[1]]
    assert merged_views(found, [0, 1, 1, 1], 3, max_objects=1).parts == [[1]]


def test_views_merge_classes_only_if_asked():
    found = detections([(0, 0, 10, 10), (0, 0, 10, 10)], [0.8, 0.4], [2, 1])
    assert merged_views(found, [0, 1], 2).parts == [[0], [1]]
    agnostic = merged_views(found, [0, 1], 2, agnostic=True)
    assert (agnostic.labels.tolist(), agnostic.parts) == ([2], [[0]])
    torch.testing.assert_close(agnostic.scores, torch.tensor([0.6], dtype=torch.float64))


def test_without_suppression_equal_boxes_of_the_views_stay():
    found = detections([(0, 0, 10, 10), (0, 0, 10, 10), (0.1, 0.7, 3.3, 9.1)], [0.8, 0.4, 0.2])
    merged = merged_views(found, [0, 1, 1], 2, iou_threshold=1.0)
    assert merged.parts == [[0], [1], [2]]
    torch.testing.assert_close(merged.boxes, found.boxes)
    torch.testing.assert_close(merged.scores, found.scores / 2)
