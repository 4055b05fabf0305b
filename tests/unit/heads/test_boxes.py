"""Encoding of boxes, and suppression compared with the plain algorithm."""

from __future__ import annotations

import torch
from torchvision.ops import box_iou

from twins.heads.boxes import clip_boxes, decode_boxes, encode_boxes, suppress, suppress_batch


def random_boxes(count: int, side: float = 100.0) -> torch.Tensor:
    low = torch.rand(count, 2, dtype=torch.float64) * side * 0.7
    return torch.cat([low, low + 1 + torch.rand(count, 2, dtype=torch.float64) * side * 0.3], dim=1)


def test_decoding_inverts_encoding():
    torch.manual_seed(0)
    boxes, anchors = random_boxes(50), random_boxes(50)
    for stds in ((1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)):
        torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors, stds), anchors, stds), boxes)


def test_growth_and_shrinkage_of_a_box_are_limited():
    anchor = torch.tensor([[10.0, 10.0, 20.0, 20.0]])
    wide, narrow = (decode_boxes(torch.tensor([[0.0, 0.0, size, size]]), anchor)[0] for size in (50.0, -50.0))
    torch.testing.assert_close(wide[2] - wide[0], torch.tensor(625.0))
    torch.testing.assert_close(narrow[2] - narrow[0], torch.tensor(0.16), rtol=1e-4, atol=0)


def test_boxes_are_clipped_to_the_size_of_their_own_image():
    boxes = torch.tensor([[-5.0, -5.0, 300.0, 300.0]]).expand(2, 1, 4)
    clipped = clip_boxes(boxes, torch.tensor([[20, 30], [40, 10]]))
    assert clipped[:, 0].tolist() == [[0, 0, 30, 20], [0, 0, 10, 40]]


def test_suppression_is_greedy_within_each_group():
    torch.manual_seed(1)
    boxes, scores, groups = random_boxes(120), torch.rand(120, dtype=torch.float64), torch.randint(0, 3, (120,))
    expected: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        rivals = [other for other in expected if groups[other] == groups[index]]
        free = not rivals or box_iou(boxes[index : index + 1], boxes[rivals]).max() <= 0.4
        if scores[index] > 0.2 and free:
            expected.append(index)
    assert 10 < len(expected) < 100
    by_group = torch.where(groups == torch.arange(3)[:, None], scores, -torch.inf)
    settings = {"score_threshold": 0.2, "iou_threshold": 0.4}
    best, rows = suppress_batch(boxes[None, None], by_group[None], **settings, max_boxes=120)
    assert (rows[best > -torch.inf] % 120).tolist() == expected
    assert torch.equal(rows[best > -torch.inf] // 120, groups[expected])
    _, rows = suppress_batch(boxes[None, None], by_group[None], **settings, max_boxes=5)
    assert (rows[0] % 120).tolist() == expected[:5]
    above = torch.where(scores > 0.2)[0]
    kept = above[suppress(boxes[above], scores[above], groups[above], 0.4)]
    assert sorted(kept.tolist()) == sorted(expected)


def test_groups_do_not_suppress_each_other_however_many_and_wherever_they_are():
    groups = torch.arange(80).repeat_interleave(2)
    overlap = torch.tensor([[1000.0, 1000.0, 1003.0, 1003.0], [1001.001, 1000.0, 1004.001, 1003.0]])  # IoU 0.4995
    boxes, scores = overlap.repeat(80, 1), torch.rand(160)
    assert len(suppress(boxes, scores, groups, 0.5)) == 160
    assert len(suppress(boxes, scores, groups, 0.499)) == 80
    assert suppress(boxes[:0], scores[:0], groups[:0], 0.5).tolist() == []


def test_without_a_detection_the_result_is_only_padding():
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 4.0, 4.0]])  # one without area, one below the threshold
    scores = torch.tensor([0.9, 0.1])
    best, _ = suppress_batch(
        boxes[None, None], scores[None, None], score_threshold=0.5, iou_threshold=0.5, max_boxes=100
    )
    assert best.tolist() == [[-torch.inf, -torch.inf]]
