"""Matching of anchors to objects, on cases small enough to check by hand."""

from __future__ import annotations

import pytest
import torch

from twins.heads import matching
from twins.heads.matching import BACKGROUND, IGNORED, assign, match, sample

ANCHORS = torch.tensor(
    [
        [0.0, 0.0, 10.0, 10.0],  # the first box itself
        [0.0, 0.0, 10.0, 7.5],  # intersection over union with it 0.75
        [0.0, 0.0, 10.0, 4.5],  # 0.45
        [0.0, 0.0, 10.0, 2.0],  # 0.2
        [50.0, 50.0, 60.0, 60.0],  # 0.25 with the second box, more than any other
        [80.0, 80.0, 90.0, 90.0],
    ]
)
BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 70.0, 70.0]])


def test_an_anchor_is_matched_by_its_overlap():
    assert match(ANCHORS, BOXES, positive_iou=0.5, negative_iou=0.4).tolist() == [0, 0, IGNORED, -1, -1, -1]


def test_an_object_also_gets_the_anchor_that_overlaps_it_most():
    assert match(ANCHORS, BOXES, positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0)[4] == 1
    assert match(ANCHORS, BOXES, positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.3)[4] == BACKGROUND
    nowhere = torch.tensor([[200.0, 200.0, 210.0, 210.0]])
    assert (match(ANCHORS, nowhere, positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0) == BACKGROUND).all()


def test_an_object_gets_its_best_eligible_anchor():
    eligible = torch.tensor([False, False, True, True, True, True])
    target = {"boxes": BOXES, "labels": torch.zeros(2, dtype=torch.int64)}
    matches = assign(ANCHORS, target, positive_iou=0.7, negative_iou=0.3, min_positive_iou=0.3, eligible=eligible)
    assert matches.tolist() == [IGNORED, IGNORED, 0, BACKGROUND, BACKGROUND, BACKGROUND]


def test_without_objects_every_anchor_is_background():
    assert (
        match(ANCHORS, torch.zeros(0, 4), positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0) == BACKGROUND
    ).all()


def test_anchors_in_a_crowd_are_ignored_unless_they_match_an_object():
    crowd = torch.tensor([[45.0, 45.0, 100.0, 100.0]])
    target = {"boxes": BOXES, "labels": torch.zeros(2, dtype=torch.int64), "crowd": crowd}
    assert assign(ANCHORS, target, positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0).tolist() == [
        0,
        0,
        IGNORED,
        -1,
        1,
        IGNORED,
    ]


@pytest.mark.parametrize("min_positive_iou", [None, 0.0])
def test_matching_in_chunks_equals_matching_at_once(monkeypatch, min_positive_iou):
    torch.manual_seed(0)
    low = torch.rand(340, 2) * 80
    boxes = torch.cat([low, low + 2 + torch.rand(340, 2) * 30], dim=1)
    anchors, boxes = boxes[:300], boxes[300:]
    expected = match(anchors, boxes, positive_iou=0.5, negative_iou=0.4, min_positive_iou=min_positive_iou)
    monkeypatch.setattr(matching, "CHUNK_PAIRS", 300 * 7)
    assert torch.equal(
        match(anchors, boxes, positive_iou=0.5, negative_iou=0.4, min_positive_iou=min_positive_iou), expected
    )
    assert (expected >= 0).sum() > 5


def test_samples_keep_the_share_of_positives_and_follow_the_seed():
    matches = torch.full((1000,), BACKGROUND)
    matches[:50], matches[50:100] = 3, IGNORED
    torch.manual_seed(0)
    sampled = sample(matches, 64, 0.25)
    assert len(sampled.unique()) == 64
    assert (matches[sampled[:16]] == 3).all()
    assert (matches[sampled[16:]] == BACKGROUND).all()
    torch.manual_seed(0)
    assert torch.equal(sample(matches, 64, 0.25), sampled)
    assert not torch.equal(sample(matches, 64, 0.25), sampled)
    matches[4:50] = IGNORED
    assert (matches[sample(matches, 64, 0.25)] >= 0).sum() == 4  # background fills up


def test_without_randomness_the_sample_is_spread_evenly_and_uses_no_random_state():
    matches = torch.full((100,), BACKGROUND)
    matches[10:20] = 0
    state = torch.get_rng_state()
    sampled = sample(matches, 20, 0.25, random=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert sampled[:5].tolist() == [10, 12, 14, 16, 18]
    assert len(sampled) == 20
    assert sampled[5:].diff().max() <= 16  # six background anchors, and the ten with an object between them
